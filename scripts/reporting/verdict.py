"""What the runs of an environment say, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from equipoise.scripts.reporting.charts import rounded
from equipoise.scripts.reporting.groups import Environment, Group
from equipoise.scripts.reporting.tables import interval
from equipoise.scripts.studies.intervals import FEWEST

_AMONG = " of those that ran more than once"


def verdict(environment: Environment) -> str:
    measured = [group for group in environment.groups if environment.interval(group) is not None]
    if not measured:
        return '<p class="verdict">No run has finished: there may be curves, but there are no scores.</p>'
    best, others, among = measured[0], measured[1:], ""
    repeated = [group for group in measured if len(group.finished) > 1]
    if repeated and best.name != environment.reference and best not in repeated:  # one run may be lucky
        best, others, among = repeated[0], [group for group in measured if group is not repeated[0]], _AMONG
    value = f"{interval(environment.interval(best))} ({many(len(best.finished), 'run')})"
    name = f"<b>{escape(best.name)}</b>"
    if others:
        text = (
            f"{name} has the highest {environment.title}{among}: {value}. "
            f"{_differences(environment, best, others)}"
        )
    else:
        text = f"{name} has a {environment.title} of {value}."
    if (random := environment.random_return) is not None and "normalized_score" not in environment.score:
        text += f" Random actions get {rounded(random)}."
    return f'<p class="verdict">{text}</p>'


def _differences(environment: Environment, best: Group, others: Sequence[Group]) -> str:
    """Whether the best group is better than those that it was compared with."""
    rivals = [g.name for g in others] if environment.reference == best.name else [environment.reference]
    key = {name: name if environment.reference == best.name else best.name for name in rivals}
    compared = {name: environment.compared.get(key[name]) for name in rivals}
    shown = [name for name, found in compared.items() if found is not None and found.shows_a_difference]
    if shown and len(shown) == len(rivals) > 1:
        return "That is more than chance against each of the others."
    if shown:
        rest = len(rivals) - len(shown)
        text = f"That is more than chance against {', '.join(map(escape, shown))}"
        return f"{text}; against {many(rest, 'other')} it may be chance." if rest else f"{text}."
    few = min(len(group.finished) for group in (best, *others)) < FEWEST
    advice = f" To tell takes at least {FEWEST} runs of each." if few else ""
    return f"The difference may be chance.{advice}"


def many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
