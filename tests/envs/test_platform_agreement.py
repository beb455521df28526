"""Ours against the reference implementation `hybrid-platform` (extra `[benchmarks]`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from equipoise.envs.platform.environment import PARAMETER_LIMITS, Platform

reference = pytest.importorskip(
    "gym_platform.envs",
    reason="hybrid-platform or numba is missing: pip install -c constraints.txt -e '.[benchmarks]'",
)

SEQUENCES = 1000
LONGEST = 40


class Numbers:
    """Stands in for the reference's generator: all normal numbers of a step are the same `z`."""

    z = 0.0

    def normal(self, mean: float, scale: float, size: int | None = None) -> Any:
        return mean + scale * (self.z if size is None else np.full(size, self.z))


def action_sequences() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three quarters uniform, the others sensible enough to get past the first platform."""
    rng = np.random.default_rng(0)
    choices = rng.integers(0, 3, (SEQUENCES, LONGEST))
    shares = rng.uniform(-0.05, 1.05, (SEQUENCES, LONGEST))  # also just out of range: both clip
    half = 3 * SEQUENCES // 4
    # Hop over the enemy, run up, jump the gap; the same again from the second platform; run on.
    rows = SEQUENCES - half
    script = np.array([1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0])
    choices[half:, : len(script)] = np.where(rng.random((rows, len(script))) < 0.03, 2, script)
    good = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    shares[half:, : len(script)] = good - 0.02 * rng.random((rows, len(script))) * good
    return choices, shares, 0.3 * rng.standard_normal((SEQUENCES, LONGEST))


def test_step_by_step_agreement() -> None:
    choices, shares, noise = action_sequences()
    ours = Platform(SEQUENCES)
    ours.reset(0)
    theirs = []
    for _ in range(SEQUENCES):
        env = reference.PlatformEnv()
        (observation, _), _ = env.reset()
        env.player.np_random = env.enemy1.np_random = env.enemy2.np_random = Numbers()
        theirs.append(env)
    np.testing.assert_array_equal(ours.observe(ours.state)[0].numpy(), observation)
    alive = np.ones(SEQUENCES, bool)
    steps, farthest = 0, 0.0
    for t in range(LONGEST):
        z = torch.tensor(noise[:, t], dtype=torch.float32)
        ours.random.normal = lambda *shape, z=z: z[:, None].expand(SEQUENCES, *shape)  # type: ignore[method-assign]
        parameters = np.float32(shares[:, t, None] * np.array(PARAMETER_LIMITS))
        columns = tuple(torch.tensor(parameters[:, i : i + 1]) for i in range(3))
        result = ours.step((torch.tensor(choices[:, t]), columns))
        for i in np.flatnonzero(alive):
            env = theirs[i]
            env.player.np_random.z = float(np.float32(noise[i, t]))
            chosen = (int(choices[i, t]), [parameters[i, j : j + 1] for j in range(3)])
            (observation, _), reward, terminal, _, _ = env.step(chosen)
            where = f"sequence {i}, step {t}, action {chosen}"
            got = result.final_observation[i].numpy()
            np.testing.assert_allclose(got, observation, rtol=0, atol=1e-6, err_msg=where)
            assert result.rewards[i, 0].item() == pytest.approx(reward, abs=1e-6), where
            assert bool(result.terminated[i]) == bool(terminal), where
            alive[i] = not terminal
            steps += 1
            farthest = max(farthest, float(observation[0]))
        if not alive.any():
            break
    assert steps > 2 * SEQUENCES
    assert farthest == 1.0  # some sequence reached the end
