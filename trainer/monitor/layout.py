"""Layout of TensorBoard's Custom Scalars page: questions about a run, each with the charts that answer it.

TensorBoard gives a colour to a run, not to a tag. So no chart has more than two tags of a run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

_REFERENCE = "reference/"
"""Of constant lines: nothing to draw a chart for where there is nothing to compare with them."""
RANDOM_RETURN = "reference/random_return"
BALANCED = "reference/balanced"
MIN_DISCRETE_ENTROPY = "reference/min_entropy_threshold"
MIN_CONTINUOUS_ENTROPY = "reference/min_continuous_entropy"

_RAW_NORMS = ("gradient_scaling/discrete_norm_raw", "gradient_scaling/continuous_norm_raw")
_EMA_NORMS = ("gradient_scaling/discrete_grad_norm", "gradient_scaling/continuous_grad_norm")

SPREAD = _RAW_NORMS
"""Tags drawn as a band between their `_min` and `_max` of the iteration; for `MetricLog(spread=…)`."""


class Lines(NamedTuple):
    """A chart of all tags that match a regular expression. TensorBoard anchors them at the start only."""

    title: str
    patterns: tuple[str, ...]


class Band(NamedTuple):
    """A line with a margin around it: three tags."""

    value: str
    lower: str
    upper: str


class Bands(NamedTuple):
    """A chart of lines with margins. Drawn only if all three series of a band have the same steps."""

    title: str
    bands: tuple[Band, ...]


class Each(NamedTuple):
    """A chart for every name, or every two, that the `(.+)` of `pattern` finds in a run's tags."""

    title: str
    pattern: str
    together: int = 2


Chart = Lines | Bands

LAYOUT: dict[str, tuple[Chart, ...]] = {
    "Is it learning?": (
        Lines(
            "Score (0 random, 1 expert): deterministic, sampled policy", ("^evaluation/(sampled_)?score$",)
        ),
        Lines(
            "Return of the deterministic policy, and of random actions",
            ("^evaluation/return$", f"^{RANDOM_RETURN}$"),
        ),
        Lines(
            "Return of the training episodes, and of the sampled policy",
            ("^episode/return$", "^evaluation/sampled_return$"),
        ),
        Lines("Success rate: deterministic and sampled policy", ("^evaluation/(sampled_)?success$",)),
        Lines("Success rate of the training episodes", ("^episode/success$",)),
        Lines("Episode length", ("^episode/length$",)),
    ),
    "Are both sides balanced?": (
        Lines("Push ratio discrete : continuous", ("^gradient_scaling/balance_ratio$", f"^{BALANCED}$")),
        Lines(
            "Push ratio before weighting, and by the averages that the weights are made of",
            ("^gradient_scaling/balance_ratio_(before|ema)$",),
        ),
        Bands(
            "Gradient norms with their range in an iteration",
            tuple(Band(tag, f"{tag}_min", f"{tag}_max") for tag in _RAW_NORMS),
        ),
        Lines("Gradient norms, running averages", tuple(f"^{tag}$" for tag in _EMA_NORMS)),
        Lines("Weights used", (r"^gradient_scaling/\w+_weight_used$",)),
        Lines("Scales", (r"^gradient_scaling/\w+_scale$",)),
        Lines("Fraction of updates at a bound", (r"^gradient_scaling/\w+_clamped$",)),
        Lines("Effective norms (weight × EMA)", (r"^gradient_scaling/\w+_effective_norm$",)),
        Lines("Angle between the gradients (cosine)", ("^gradient_scaling/gradient_cosine$",)),
        Lines("Share of each side's gradient that is signal", (r"^gradient_scaling/\w+_signal_share$",)),
        Lines("Norm of that signal", (r"^gradient_scaling/\w+_signal_norm$",)),
        Lines("How far each side's policy moves (KL divergence)", ("^loss/kl_(discrete|continuous)$",)),
    ),
    "Is the critic healthy?": (Lines("Value loss", ("^loss/value$",)),),
    "Is exploration collapsing?": (
        Lines(
            "Discrete entropy, threshold of its guard", ("^entropy/discrete$", f"^{MIN_DISCRETE_ENTROPY}$")
        ),
        Lines(
            "Continuous entropy, threshold of its guard",
            ("^entropy/continuous$", f"^{MIN_CONTINUOUS_ENTROPY}$"),
        ),
        Lines("Collapse guards", (r"^entropy/\w+_guard_active$",)),
        Lines("Coefficient", ("^entropy/coefficient$",)),
    ),
    "Are the updates sound?": (
        Lines("KL divergence", ("^loss/kl$",)),
        Lines("Clipped ratios", ("^loss/clip_fraction_",)),
        Lines("Gradient norm before clipping", ("^optimizer/gradient_norm$",)),
        Lines("Skipped updates", ("^optimizer/skipped$",)),
        Lines("Learning rate", ("^optimizer/learning_rate$",)),
    ),
    "How fast?": (
        Lines("Environment steps per second", ("^time/steps_per_second$",)),
        Lines("Seconds per iteration: collecting and learning", ("^time/(collect|update)$",)),
        Lines("Seconds of an evaluation", ("^time/evaluate$",)),
    ),
}

DETAILS = (
    Each(
        "Its own",
        "^(?:episode|evaluation)/(?!(?:(?:sampled_)?(?:score|return|success)|length)$)(.+)$",
        together=1,
    ),
    Each("Advantage weight", "^advantage_weighting/weight/(.+)$"),
    Each("Reward factor", "^reward_normalization/factor/(.+)$"),
    Each("Explained variance", "^value/explained_variance/(.+)$"),
    Each("Clipped fraction", "^value/clipped_fraction/(.+)$"),
    Each("Mean value in the critic's units", "^value/mean/(.+)$"),
    Each("Mean value in raw units", "^value/raw_mean/(.+)$"),
)
"""What has names of the environment's: its own metrics, and what there is of each reward component."""

OF_THE_SIMULATOR: dict[str, tuple[Chart, ...]] = {
    "Does the simulator's derivative help?": (
        Lines("Share of it in the continuous side's gradient", ("^pathwise/share$",)),
        Lines(
            "Share that is signal, of both estimates, and of both the same",
            (r"^pathwise/(signal_share_\w+|agreement)$",),
        ),
        Lines("Share of the critic's derivative that counts", ("^pathwise/critic_share/.+$",)),
        Lines("Gain of one standard deviation", ("^pathwise/gain_of_one_std$",)),
        Lines("Parameters at the bound of the trust region", ("^pathwise/clip_fraction$",)),
    ),
}
"""For runs that differentiate their environment."""

BANDS = tuple(
    band for charts in LAYOUT.values() for chart in charts if isinstance(chart, Bands) for band in chart.bands
)


def layout_of(tags: Collection[str], env: str = "") -> dict[str, Sequence[Chart]]:
    """The charts that a run of the environment `env` can fill, if it has these tags.

    TensorBoard merges the layouts of all runs. So what is one environment's alone has a heading of its own,
    and all others are there from the beginning: TensorBoard 2.21.0 loses the charts that a run adds to a
    heading which the first run has not (findings/tensorboard_third_layout_loses_charts.sh).
    """
    tags = [tag for tag in tags if not tag.startswith(_REFERENCE)]
    own: dict[str, list[Chart]] = {title: _drawn(charts, tags) for title, charts in OF_THE_SIMULATOR.items()}
    own[f"{env} in detail".strip()] = [chart for each in DETAILS for chart in _charts(each, tags)]
    found = {title: _drawn(charts, tags) for title, charts in LAYOUT.items()}
    return {**found, **{title: charts for title, charts in own.items() if charts}}


def _drawn(charts: Sequence[Chart], tags: Collection[str]) -> list[Chart]:
    return [chart for chart in charts if _has_points(chart, tags)]


def _has_points(chart: Chart, tags: Collection[str]) -> bool:
    wanted = chart.patterns if isinstance(chart, Lines) else [f"^{band.value}$" for band in chart.bands]
    return any(re.match(pattern, tag) for pattern in wanted for tag in tags)


def _charts(each: Each, tags: Collection[str]) -> list[Lines]:
    found = sorted({match[1] for tag in tags if (match := re.match(each.pattern, tag))})
    groups = (found[i : i + each.together] for i in range(0, len(found), each.together))
    return [
        Lines(
            f"{each.title}: {', '.join(names)}",
            tuple(each.pattern.replace("(.+)", re.escape(name)) for name in names),
        )
        for names in groups
    ]
