from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equipoise.envs.platform.environment import Platform
from equipoise.envs.platform.physics import HOP, LEAP, RUN, PlatformState
from tests.envs.rollout import first_episodes, random_policy


def quiet(monkeypatch: pytest.MonkeyPatch) -> Platform:
    """One environment without noise."""
    env = Platform(1)
    env.reset(0)
    monkeypatch.setattr(env.random, "normal", lambda *shape: torch.zeros(1, *shape))
    return env


def place(
    env: Platform, x: float, speed: float = 0.0, enemy: float = 230.0, enemy_speed: float = -30.0
) -> None:
    env.state = PlatformState(
        torch.tensor([x], dtype=torch.float64),
        torch.tensor([speed], dtype=torch.float64),
        torch.tensor([[enemy, 730.0]], dtype=torch.float64),
        torch.tensor([[enemy_speed, -30.0]], dtype=torch.float64),
        torch.zeros(1, dtype=torch.long),
    )


def act(choice: int, parameter: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The parameters of the other choices are values that would show if they were used."""
    values = [17.0, 170.0, 170.0]
    values[choice] = parameter
    return torch.tensor([choice]), tuple(torch.tensor([[value]]) for value in values)


def test_a_run_speeds_up_to_70(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds 30, 59.7 (0.99·30 + 30), then 18 times 70, for 0.05 each."""
    env = quiet(monkeypatch)
    step = env.step(act(RUN, 30.0))
    assert env.state.x.item() == pytest.approx(1.5 + 2.985 + 18 * 3.5)
    assert env.state.speed.item() == pytest.approx(69.3)
    assert step.rewards.item() == pytest.approx(67.485 / 1035)
    # The enemy first turns towards its edge, stays there for a substep, then walks 19 · 1.5 to the left.
    assert env.state.enemy_x[0].tolist() == pytest.approx([201.5, 730.0])
    assert step.observation[0].tolist() == pytest.approx(
        [87.485 / 1055, 0.693, 201.5 / 1035, 0.0, 250 / 275, 1.0, 225 / 235, 0.0, 0.0], abs=1e-6
    )


def test_a_hop_from_rest_lands_after_144_substeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 30 to the right, losing 1 % a substep; 35·n − 0.49·n(n−1)/2 is first negative at n = 144."""
    env = quiet(monkeypatch)
    step = env.step(act(HOP, 720.0))
    assert env.state.x.item() == pytest.approx(1.5 * (1 - 0.99**144) / 0.01)
    assert env.state.speed.item() == 0.0
    assert env.state.enemy_x[0, 0].item() == pytest.approx(230 - 143 * 1.5)
    assert not step.terminated.item()


def test_a_leap_aims_at_its_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed 61.02/(50/9.8 + 1) = 10; 25·n − 0.49·n(n−1)/2 is first negative at n = 104."""
    env = quiet(monkeypatch)
    env.step(act(LEAP, 10 * (50 / 9.8 + 1)))
    assert env.state.x.item() == pytest.approx(0.5 * (1 - 0.99**104) / 0.01, rel=1e-6)


def test_running_off_the_edge_is_a_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 250 it still stands: 3.5 on the ground, 3.465 falling."""
    env = quiet(monkeypatch)
    place(env, 250.0, speed=70.0)
    step = env.step(act(RUN, 0.0))
    assert step.terminated.item()
    assert step.metrics["success"].item() == 0.0
    assert step.rewards.item() == pytest.approx(6.965 / 1035, abs=1e-7)
    assert step.observation[0, 0].item() == pytest.approx(20 / 1055)


@pytest.mark.parametrize(("enemy", "touched"), [(121.0, True), (170.0, False)])
def test_touching_an_enemy_ends_the_episode(
    monkeypatch: pytest.MonkeyPatch, enemy: float, touched: bool
) -> None:
    env = quiet(monkeypatch)
    place(env, 100.0, enemy=enemy)
    step = env.step(act(RUN, 0.0))
    assert step.terminated.item() is touched
    assert step.rewards.item() == 0.0
    if touched:  # in the first substep, before the other 19
        assert step.final_observation[0, 2].item() == pytest.approx(119.5 / 1035)


def test_the_end_of_the_last_platform_is_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    env = quiet(monkeypatch)
    place(env, 1000.0, speed=70.0)
    step = env.step(act(RUN, 30.0))
    assert step.terminated.item()
    assert step.metrics["success"].item() == 1.0
    assert step.rewards.item() == pytest.approx(35 / 1035)
    assert step.final_observation[0, 0].item() == 1.0


def test_only_the_enemy_on_the_players_side_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    env = quiet(monkeypatch)
    place(env, 500.0, enemy=100.0)
    env.step(act(RUN, 0.0))
    assert env.state.enemy_x[0].tolist() == pytest.approx([100.0, 730.0 - 19 * 1.5])


def test_noise_only_slows_the_player_down() -> None:
    env = Platform(64)
    env.reset(0)
    env.step((torch.zeros(64).long(), (torch.full((64, 1), 1.0), torch.zeros(64, 1), torch.zeros(64, 1))))
    exact = sum(0.05 * sum(0.99**j for j in range(i + 1)) for i in range(20))
    assert (env.state.x < exact).all()
    assert (env.state.x > 0.9 * exact).all()
    assert len(env.state.x.unique()) == 64


def test_time_out_truncates() -> None:
    env = Platform(1, max_steps=1)
    env.reset(0)
    step = env.step(act(RUN, 0.0))
    assert step.truncated.item()
    assert not step.terminated.item()


def test_an_action_of_another_structure_is_refused() -> None:
    env = Platform(1)
    env.reset(0)
    with pytest.raises(TypeError, match="run, hop, leap"):
        env.step((torch.zeros(1).long(), torch.zeros(1, 3)))


def test_the_controller_gets_through() -> None:
    env = Platform(256)
    result = first_episodes(env, env.expert_action, 20)
    assert result.successes.mean().item() >= 0.98
    assert result.returns.mean().item() >= 0.99
    assert result.returns[result.successes == 1].sub(1).abs().max().item() < 1e-5


def test_random_actions_stay_on_the_first_platform() -> None:
    env = Platform(256)
    result = first_episodes(env, random_policy(env), 200)
    assert 0.1 < result.returns.mean().item() < 0.2
    assert result.successes.sum().item() == 0
