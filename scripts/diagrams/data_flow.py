"""How the data flows through one iteration, drawn from one table."""

from __future__ import annotations

from typing import NamedTuple

from equipoise.scripts.diagrams.svg import Drawing


class Step(NamedTuple):
    title: str
    room: str
    gives: str
    """What goes on to the next step."""
    kind: str = "path"


BANDS: tuple[tuple[str, tuple[Step, ...]], ...] = (
    (
        "Collect: T steps in N environments, once an iteration",
        (
            Step("observation", "envs/", "[N, O]", "wing"),
            Step("policy acts", "policy/", "[N, H], [N, P]", "wing"),
            Step("native action", "spaces.py", "Dict, Tuple, …"),
            Step("environments step", "envs/", "rewards [N, K]", "wing"),
            Step("rollout", "rollout.py", "[T, N, …]"),
        ),
    ),
    (
        "Prepare: from the rollout to samples, once an iteration",
        (
            Step("rewards stage", "stages/", "[T, N, K]", "stage"),
            Step("values", "policy/", "[T, N, V]", "wing"),
            Step("GAE", "advantage.py", "[T, N, K]"),
            Step("advantages stage", "stages/", "[T, N]", "stage"),
            Step("minibatches", "minibatches.py", "[B, …]"),
        ),
    ),
    (
        "Update: for every epoch and minibatch",
        (
            Step("forward", "policy/", "heads", "wing"),
            Step("two surrogates", "losses.py", "terms"),
            Step("losses stages", "stages/", "terms", "stage"),
            Step("side gradients", "gradients.py", "norms"),
            Step("gradients stage", "stages/", "weights", "stage"),
            Step("clip and step", "learner.py", ""),
        ),
    ),
    (
        "Record: once an iteration",
        (
            Step("metrics", "metric_log.py", "numbers"),
            Step("log and dashboard", "monitor/", "", "wing"),
            Step("evaluation", "evaluation.py", "return, score"),
            Step("checkpoint", "system/", "", "wing"),
        ),
    ),
)
WIDTH, BAND = 1120.0, 112.0
BOX, LABEL = (136.0, 44.0), 70.0
"""Size of a box at most, and the room between two of them."""
TINTS = ("#f7fafc", "#f8fbf8", "#fcfaf5", "#f8f8f8")


def data_flow() -> str:
    """The SVG."""
    drawing = Drawing(WIDTH, len(BANDS) * (BAND + 18) + 32, "How the data flows through one iteration")
    for index, (title, steps) in enumerate(BANDS):
        top = 8 + index * (BAND + 18)
        drawing.band(top, BAND, TINTS[index])
        drawing.write((24, top + 22), title, size=14, anchor="start", bold=True)
        y = top + 72
        room = (WIDTH - 32) / len(steps)
        box = (min(BOX[0], room - LABEL), BOX[1])
        centres = [16 + room * (i + 0.5) for i in range(len(steps))]
        for step, x in zip(steps, centres, strict=True):
            drawing.box((x, y), box, [step.title], step.kind, step.room)
        for step, x, following in zip(steps, centres, centres[1:], strict=False):
            if step.gives:
                start, end = x + box[0] / 2, following - box[0] / 2
                drawing.straight((start, y), (end, y))
                drawing.write(((start + end) / 2 - 3, y - 7), step.gives, size=10, fill="#333")
        if index + 1 < len(BANDS):
            drawing.straight((WIDTH / 2, top + BAND), (WIDTH / 2, top + BAND + 18))
    legend = "pink: a stage, yours if you like · yellow: a folder · green: one file of trainer/"
    drawing.write((24, drawing.height - 12), legend, anchor="start", fill="#555")
    return drawing.text()
