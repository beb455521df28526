"""Layout of TensorBoard's Custom Scalars page: questions about a run, each with the charts that answer it."""

from __future__ import annotations

from typing import NamedTuple

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


Chart = Lines | Bands

LAYOUT: dict[str, tuple[Chart, ...]] = {
    "Is it learning?": (
        Lines("Score (0 random, 1 expert)", ("^evaluation/(sampled_)?score$",)),
        Lines(
            "Return: training, deterministic and sampled policy, random actions",
            ("^(episode|evaluation)/(sampled_)?return$", f"^{RANDOM_RETURN}$"),
        ),
        Lines("Success rate", ("^(episode|evaluation)/(sampled_)?success$",)),
        Lines("Episode length", ("^episode/length$",)),
        Lines("The environment's own metrics", ("^evaluation/(?!(sampled_)?(score|return|success)$)",)),
    ),
    "Are both sides balanced?": (
        Lines("Push ratio discrete : continuous", ("^gradient_scaling/balance_ratio", f"^{BALANCED}$")),
        Bands(
            "Gradient norms: raw with their range, EMA",
            tuple(Band(tag, f"{tag}_min", f"{tag}_max") for tag in _RAW_NORMS)
            + tuple(Band(tag, tag, tag) for tag in _EMA_NORMS),
        ),
        Lines("Weights used", (r"^gradient_scaling/\w+_weight_used$",)),
        Lines("Scales", (r"^gradient_scaling/\w+_scale$",)),
        Lines("Fraction of updates at a bound", (r"^gradient_scaling/\w+_clamped$",)),
        Lines("Effective norms (weight × EMA)", (r"^gradient_scaling/\w+_effective_norm$",)),
        Lines("Angle between the gradients (cosine)", ("^gradient_scaling/gradient_cosine$",)),
        Lines("Share of each side's gradient that is signal", (r"^gradient_scaling/\w+_signal_share$",)),
        Lines("How far each side's policy moves (KL divergence)", ("^loss/kl_(discrete|continuous)$",)),
    ),
    "Is the critic healthy?": (
        Lines("Explained variance per component", ("^value/explained_variance",)),
        Lines("Clipped fraction per component", ("^value/clipped_fraction",)),
        Lines("Value loss", ("^loss/value$",)),
        Lines("Mean value per component, in the critic's units", ("^value/mean/",)),
        Lines("Mean value per component, in raw units", ("^value/raw_mean/",)),
    ),
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
    "Which component drives?": (
        Lines("Advantage weight per component", ("^advantage_weighting/weight/",)),
        Lines("Reward factor per component", ("^reward_normalization/factor/",)),
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
        Lines("Seconds per iteration", ("^time/(?!steps_per_second$)",)),
    ),
}

BANDS = tuple(
    band for charts in LAYOUT.values() for chart in charts if isinstance(chart, Bands) for band in chart.bands
)
