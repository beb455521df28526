"""Runs that differ by their seed alone are a group; what else differs gives the group its name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from equipoise.scripts.reporting.charts import STYLES
from equipoise.scripts.reporting.runs import Run
from equipoise.scripts.studies.intervals import Floats, Interval, iqm_interval
from equipoise.scripts.studies.report import Comparison, compare
from equipoise.trainer.configuration.resuming import EXACT

_OF_A_RUN = {"seed", "resume", "init_from", *EXACT} - {"trainer.total_env_steps"}
"""Settings in which runs of one group may differ: how they are watched, and where they were computed."""
_FIRST = ("preset", "experiment")
"""Settings that choose many others: where one of them tells groups apart, it is what they are called by."""
_LONG_FRACTION = re.compile(r"-?\d+\.\d{6,}(e-?\d+)?|-?\d\.\d{4,}e-?\d+")


@dataclass(frozen=True)
class Group:
    name: str
    runs: list[Run]
    settings: Mapping[str, str]
    """Those that differ between the groups of its environment, as text."""

    def values(self, field: str) -> Floats:
        """A number of the summaries of the finished runs, which all have it or are left out."""
        found = [getattr(run.summary, field) for run in self.finished]
        return np.array([x for x in found if isinstance(x, int | float)], float)

    @property
    def push_ratio(self) -> float | None:
        """Push of the discrete over that of the continuous side: the geometric mean; None: unknown."""
        ratios = self.values("balance_ratio")
        ratios = ratios[ratios > 0]
        return float(np.exp(np.log(ratios).mean())) if len(ratios) else None

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]


@dataclass(frozen=True)
class Environment:
    """The groups of one environment, best first, or as a study has ordered them where none has finished."""

    name: str
    groups: list[Group]
    score: str
    """The field of summaries by which they are ranked."""
    compared: Mapping[str, Comparison]
    """Group -> that it is better than the reference; or, where the reference is the best, the other way."""
    reference: str
    styles: Mapping[str, int]
    """Group -> how it is drawn: alike in all environments, where there are few names in all."""

    @property
    def title(self) -> str:
        """What the score is called."""
        policy = " of the sampled policy" if self.score.startswith("sampled_") else ""
        return ("score" if "normalized_score" in self.score else "return") + policy

    @property
    def success(self) -> str:
        """The success rate of the policy that the score is of."""
        return "sampled_success_rate" if self.score.startswith("sampled_") else "success_rate"

    @property
    def random_return(self) -> float | None:
        """Of random actions; the mean over the runs, each of which has measured it."""
        known = [run.summary.random_return_mean for run in self.runs if run.summary is not None]
        found = [value for value in known if value is not None]
        return sum(found) / len(found) if found else None

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    def interval(self, group: Group, field: str | None = None) -> Interval | None:
        values = group.values(field or self.score)
        return iqm_interval([values]) if len(values) else None


def environments(runs: Sequence[Run], baseline: str | None = None) -> list[Environment]:
    """Groups by environment, compared with the group `baseline`, or else with the best one.

    The correction for many comparisons is over all of the report: against a baseline one for each other
    group; against the best, which is known only afterwards, every pair of groups. A single run says nothing
    of chance, so groups of one are compared with none.
    """
    parts = {
        env: _groups([run for run in runs if run.env == env]) for env in sorted({run.env for run in runs})
    }
    scores = {env: _score(groups) for env, groups in parts.items()}
    pairs = {}
    for env, groups in parts.items():
        measured = [group for group in groups if len(group.values(scores[env])) > 1]
        for one in measured:
            for other in measured:
                if one is not other and baseline in (None, other.name):
                    pairs[env, one.name, other.name] = [one.values(scores[env])], [other.values(scores[env])]
    compared = compare(_once(pairs))
    found = [_environment(env, groups, scores[env], baseline, compared) for env, groups in parts.items()]
    every = {name: i for i, name in enumerate(dict.fromkeys(name for e in found for name in e.styles))}
    return [replace(e, styles=every) for e in found] if len(every) <= STYLES else found


def _once(pairs: Mapping[tuple[str, str, str], Any]) -> dict[tuple[str, str, str], Any]:
    """Each pair in the direction of the better group: the two directions are one comparison."""
    kept: dict[tuple[str, str, str], Any] = {}
    for (env, one, other), (ours, theirs) in pairs.items():
        if (env, other, one) not in pairs or (_middle(ours), one) > (_middle(theirs), other):
            kept[env, one, other] = ours, theirs
    return kept


def _middle(strata: Sequence[Floats]) -> float:
    return iqm_interval(strata).value


def _environment(
    env: str,
    groups: list[Group],
    score: str,
    baseline: str | None,
    compared: Mapping[tuple[str, str, str], Comparison],
) -> Environment:
    def height(group: Group) -> float:
        values = group.values(score)
        return iqm_interval([values]).value if len(values) else -np.inf

    ranked = sorted(groups, key=lambda group: -height(group))
    reference = baseline if baseline in {group.name for group in groups} else ranked[0].name
    against = {}
    for (where, one, other), found in compared.items():
        if where == env and reference in (one, other):
            against[other if one == reference else one] = found
    styles = {group.name: min(i, STYLES) for i, group in enumerate(ranked)}
    return Environment(env, ranked, score, against, reference, styles)


def _groups(runs: Sequence[Run]) -> list[Group]:
    flat = {run.folder: _flat(run.config) for run in runs}
    every = dict.fromkeys(key for settings in flat.values() for key in settings if key not in _OF_A_RUN)
    differ = [key for key in every if len({flat[run.folder].get(key) for run in runs}) > 1]
    named = all(run.group is not None for run in runs)
    telling = _telling(runs, flat, differ)
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        key = (run.group,) if named else tuple(flat[run.folder].get(key) for key in telling)
        groups.setdefault(key, []).append(run)
    short = [short_fractions([value or "–" for value in values]) for values in zip(*groups, strict=True)]
    values = zip(*short, strict=True) if short else [()]
    names = [of_one[0] if named else _name(telling, of_one, runs[0]) for of_one in values]
    return [
        Group(name, members, {key: flat[members[0].folder].get(key, "–") for key in differ})
        for name, members in zip(names, groups.values(), strict=True)
    ]


def _telling(runs: Sequence[Run], flat: Mapping[Any, Mapping[str, str]], differ: Sequence[str]) -> list[str]:
    """The fewest of the settings, in their order, that tell apart whatever all of them tell apart."""
    order = sorted(differ, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    chosen: list[str] = []

    def parts(keys: Sequence[str]) -> int:
        return len({tuple(flat[run.folder].get(key) for key in keys) for run in runs})

    for key in order:
        if parts([*chosen, key]) > parts(chosen):
            chosen.append(key)
    return chosen


def short_fractions(values: Sequence[str]) -> list[str]:
    """Four digits of fractions, of which a search draws eighteen; all where another value has the same."""
    short = {value: f"{float(value):.4g}" if _LONG_FRACTION.fullmatch(value) else value for value in values}
    alike = Counter(short.values())
    return [short[value] if alike[short[value]] == 1 else value for value in values]


def _name(keys: Sequence[str], values: Sequence[str], run: Run) -> str:
    if not keys:
        return str(run.config.get("preset") or "all runs")
    last = [key.rpartition(".")[2] for key in keys]
    short = [key if last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]
    parts = zip(keys, short, values, strict=True)
    return ", ".join(value if key == "preset" else f"{name}={value}" for key, name, value in parts)


def _flat(settings: Mapping[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return found


def _score(groups: Sequence[Group]) -> str:
    """The field of summaries that all finished runs have: the score, or else the return."""
    finished = [run.summary for group in groups for run in group.finished]
    names = {summary.score_name for summary in finished if summary is not None}
    if len(names) == 1:
        return names.pop()
    scored = all(s is not None and s.normalized_score is not None for s in finished)
    return "normalized_score" if finished and scored else "return_mean"
