"""The table of `scripts.distributions`: differences within pairs of seeds."""

from __future__ import annotations

from equipoise.scripts.distributions import tables


def test_an_arm_is_compared_on_the_seeds_that_it_shares_with_the_baseline() -> None:
    """Differences 1, 2 and 3: 2 ± 4.303 / √3 of Student's t with two degrees of freedom; seed 4 has no partner."""
    heights = {"gaussian": {1: 0.0, 2: 0.0, 3: 0.0}, "beta": {1: 1.0, 2: 2.0, 3: 3.0, 4: 10.0}}
    rows = [
        {"task": "Order", "arm": arm, "seed": seed, "cpu_seconds": 1.0}
        | dict.fromkeys(("area", "deterministic", "sampled"), height)
        for arm, found in heights.items()
        for seed, height in found.items()
    ]
    text = "\n".join(tables(rows))
    assert text.count("| gaussian | 0 |") == 3
    assert text.count("| beta | 4, +2 [-0.484, 4.48] (3) |") == 3
