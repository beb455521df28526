"""What others have published on the field's benchmarks, and with what."""

from __future__ import annotations

from dataclasses import dataclass

HYAR = "HyAR (Li et al., ICLR 2022, table 2)"
HPPO = "HPPO as run for HyAR's table 2"
CHDP = "CHDP (AAAI 2026)"
H_PPO = "H-PPO (DI-engine), 5 M steps"


@dataclass(frozen=True)
class Published:
    value: float
    source: str


@dataclass(frozen=True)
class Source:
    """Where numbers come from. `numbers` and `trained` as they would stand in a table."""

    name: str
    numbers: str
    """Success rates, unless another measure is named."""
    trained: str
    more: str
    """What it had beside the steps that are counted, and what else makes a comparison with it uneven."""
    read: str
    """Where that is written."""


SOURCES = (
    Source(
        HYAR,
        "Platform return 0.98, Goal 0.78, Catch Point 0.90, Hard Move 4, 6, 8, 10: 0.93, 0.92, 0.89, 0.82",
        "Platform 200 k, Goal 300 k, others 1 M steps; Catch Point's episodes of 25 steps, Hard Move's of 30",
        "20,000 random episodes for its autoencoder, not counted; 17 features on Goal",
        "its code; numbers from its paper, by way of this project's design",
    ),
    Source(
        "HyAR as nnabla-rl reproduces it",
        "returns: Goal 25.57 ± 28.46 (reported: about 35), Platform 1.00 ± 0.004; best evaluation, 3 seeds",
        "300 k steps",
        "20,000 random episodes, not counted; 17 features on Goal",
        "[its README and script](https://github.com/sony/nnabla-rl/tree/master/reproductions/algorithms/hybrid_env/hyar)",
    ),
    Source(
        HPPO,
        "Platform return 0.80, Goal 0, Catch Point 0.69, Hard Move 4, 6, 8, 10: 0.09, 0.05, 0.04, 0.05",
        "Goal 200 k steps; episodes of 30 steps in Catch Point",
        "stores the largest probability in place of that of the chosen option: a low bar",
        "HyAR's code",
    ),
    Source(
        "MP-DQN (Bester et al., 2019, arXiv:1905.04388)",
        "Goal 0.789, Platform return 0.987 (Half Field Offense 0.913)",
        "20,000 episodes; evaluated on 1,000",
        "begins with action parameters made by hand (`--initialise-params`); 17 features on Goal",
        "[its code](https://github.com/cycraig/MP-DQN); numbers from Papers with Code",
    ),
    Source(
        CHDP,
        "Platform return 0.997, Goal 0.809, Catch Point 0.938, Hard Move 4 to 10 0.942, 0.939, 0.906, 0.798",
        "not known",
        "no code was found",
        "its paper, by way of this project's design",
    ),
    Source(
        "DLPA (Zhang et al., ICML 2024, arXiv:2404.03037)",
        "curves only, as far as could be read: the best use of samples on these tasks",
        "up to 500 k steps",
        "learns a model and plans in every step of evaluation: another kind of method",
        "[its code](https://github.com/Valarzz/DLPA)",
    ),
    Source(
        H_PPO,
        "Moving return 1.85, Sliding return 1.5",
        "5 M steps",
        "–",
        "DI-engine's documentation",
    ),
)
