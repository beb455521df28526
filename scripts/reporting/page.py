"""The page of a report: one file of HTML that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from equipoise import __version__
from equipoise.scripts.reporting import tables
from equipoise.scripts.reporting.charts import STYLES, Level, Line, band, chart, sample
from equipoise.scripts.reporting.films import Film, choose
from equipoise.scripts.reporting.groups import Environment
from equipoise.scripts.reporting.runs import Run
from equipoise.scripts.reporting.verdict import many, verdict

_HERE = Path(__file__).parent

_SCALING = "gradient_scaling/"
_SIDES = (
    (f"{_SCALING}balance_ratio", "Push ratio, discrete : continuous", "1: as their base weights ask."),
    (f"{_SCALING}gradient_cosine", "Angle between the gradients", "Cosine; below 0 the sides disagree."),
    (
        f"{_SCALING}discrete_weight_used",
        "Weight of the discrete side",
        "What scaling makes of its base weight.",
    ),
    (f"{_SCALING}continuous_weight_used", "Weight of the continuous side", "The same of the other side."),
    (
        "loss/kl_discrete",
        "Moves of the discrete side",
        "KL divergence; near 0 it learns nothing.",
    ),
    ("loss/kl_continuous", "Moves of the continuous side", "The same of the other side."),
)
_LOGARITHMIC = (f"{_SCALING}balance_ratio", "loss/kl_discrete", "loss/kl_continuous")


def page(title: str, environments: Sequence[Environment], command: str) -> str:
    """HTML. `command`: what made it."""
    runs = [run for environment in environments for run in environment.runs]
    films = choose(environments)
    links = "".join(f'<li><a href="#env{i}">{escape(e.name)}</a></li>' for i, e in enumerate(environments))
    contents = f'<nav aria-label="environments"><ul>{links}</ul></nav>' if len(environments) > 1 else ""
    sections = [_section(i, e, films[e.name]) for i, e in enumerate(environments)]
    samples = "".join(f'<span class="n{style}">{sample(style)}</span>' for style in range(STYLES + 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<header><div><h1>{escape(title)}</h1><p class="quiet">{escape(_counted(environments, runs))}</p></div>
<button id="theme" type="button" hidden></button></header>
{contents}
<main>
{"".join(sections)}
<details><summary>How to read this page</summary>{_asset("reading.html")}</details>
{_origin(runs, command)}
</main>
<div id="samples" hidden>{samples}</div>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


def _counted(environments: Sequence[Environment], runs: Sequence[Run]) -> str:
    states = Counter(run.status for run in runs)
    groups = sum(len(environment.groups) for environment in environments)
    return " · ".join(
        [
            many(len(runs), "run") + (f" in {groups} groups" if groups > 1 else ""),
            "all finished"
            if set(states) == {"finished"}
            else ", ".join(f"{n} {s}" for s, n in states.items()),
            f"{datetime.now():%d %B %Y, %H:%M}",
        ]
    )


def _section(number: int, environment: Environment, films: Sequence[Film]) -> str:
    parts = {
        "Is it learning?": ("charts", _learning(environment)),
        "Are both sides balanced?": ("charts", _balance(environment)),
        "How it acts": ("films", [_film(film) for film in films]),
    }
    figures = [
        f'<h3>{title}</h3><div class="{kind}">{"".join(drawn)}</div>'
        for title, (kind, drawn) in parts.items()
        if drawn
    ]
    return f"""
<section id="env{number}" aria-labelledby="head{number}">
<h2 id="head{number}">{escape(environment.name)}</h2>
{verdict(environment)}
{tables.results(environment)}
{"".join(figures)}
{tables.settings(environment)}
{tables.runs(environment)}
</section>"""


def _learning(environment: Environment) -> list[str]:
    random = environment.random_return
    levels = [Level("random actions", random)] if random is not None else []
    ends = [Level("random actions", 0.0), Level("expert", 1.0)]
    scored = "normalized_score" in environment.score
    evaluated = [
        (
            environment.score,
            environment.title.capitalize(),
            "Evaluations, with the closing one.",
            ends if scored else levels,
        ),
        (environment.success, "Success rate", "Of the same evaluations.", []),
    ]
    trained = [
        ("episode/return", "Return of the training episodes", "The policy as it explores.", levels),
        ("episode/length", "Length of the training episodes", "In steps of the environment.", []),
    ]
    drawn = [
        [(_lines(environment, tag, curve), title, note, levels) for tag, title, note, levels in charts]
        for curve, charts in (("evaluations", evaluated), ("curve", trained))
    ]
    in_order = [found for pair in zip(*drawn, strict=True) for found in pair]
    return [chart(title, note, lines, levels) for lines, title, note, levels in in_order if lines]


def _balance(environment: Environment) -> list[str]:
    drawn: list[str] = []
    if not (_lines(environment, "loss/kl_discrete") and _lines(environment, "loss/kl_continuous")):
        return drawn  # there is one side only
    for tag, title, note in _SIDES:
        log = tag in _LOGARITHMIC
        levels = [Level("equal", 1.0)] if tag.endswith("balance_ratio") else []
        if lines := _lines(environment, tag, log=log):
            drawn.append(chart(title, note, lines, levels, log))
    return drawn


def _lines(environment: Environment, name: str, curve: str = "curve", log: bool = False) -> list[Line]:
    """A line for each group that has any values. `curve`: the method of a run that has them, by `name`."""
    bands = (
        band(group.name, environment.styles[group.name], [getattr(r, curve)(name) for r in group.runs], log)
        for group in environment.groups
    )
    return [line for line in bands if line is not None]


def _film(film: Film) -> str:
    name = f"{film.group.name}, seed {film.run.seed}"
    if film.data is None:
        shown = f"<p>There is no room for it here: <code>{escape(str(film.run.film))}</code></p>"
    else:
        size = f'width="{film.width}" height="{film.height}"'
        shown = f'<img src="{film.url}" {size} alt="film of an episode: {escape(name)}">'
    button = '<button class="film" type="button" hidden>Pause</button>' if film.data else ""
    return f"<figure><figcaption><span>{escape(name)}</span>{button}</figcaption>{shown}</figure>"


def _origin(runs: Sequence[Run], command: str) -> str:
    ended = [run.summary for run in runs if run.summary is not None]
    versions = Counter(", ".join(f"{k} {v}" for k, v in s.versions.items() if v) or "unknown" for s in ended)
    commits = Counter(s.git_revision or "none" for s in ended)
    devices = Counter(s.device or "unknown" for s in ended)

    def listed(counts: Mapping[str, int]) -> str:
        several = len(counts) > 1
        lines = (escape(text) + f" ({many(n, 'run')})" * several for text, n in sorted(counts.items()))
        return "<br>".join(lines) or "unknown: no run has ended"

    return f"""
<h2>Where the numbers come from</h2>
<dl><dt>this page</dt><dd><code>{escape(command)}</code>, equipoise {__version__}</dd>
<dt>commit of the runs</dt><dd>{listed(commits)}</dd><dt>versions</dt><dd>{listed(versions)}</dd>
<dt>device</dt><dd>{listed(devices)}</dd></dl>"""
