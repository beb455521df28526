"""`check_env` passes what trains well and names what does not."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from equipoise.testing import check_env


class Good(gymnasium.Env[Any, Any]):
    """Draws a number in each step; every fault below is one line of difference."""

    observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Tuple(
        (spaces.Discrete(2), spaces.Box(0.0, 1.0, (1,), np.float32))
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t, self.place = 0, 0.0
        return self.observe(), {}

    def observe(self) -> Any:
        return np.array([self.place, self.draw()], np.float32)

    def draw(self) -> float:
        return float(self.np_random.uniform(-1, 1))

    def step(self, action: Any) -> Any:
        self.t += 1
        self.place = float(np.clip(self.place + 0.1 * action[0] * action[1][0], -1, 1))
        return self.observe(), self.place, self.t == 7, False, {}


class Unseeded(Good):
    """Draws from a generator that no seed reaches."""

    def draw(self) -> float:
        return float(np.random.default_rng().uniform(-1, 1))


class Forgetful(Good):
    """Counts over all episodes, which `reset` forgets."""

    count = 0

    def draw(self) -> float:
        self.count += 1
        return 1.0 / self.count


class HalfSaved(Good):
    """Its `state_dict` leaves out where it is."""

    def state_dict(self) -> Any:
        return {"t": self.t}

    def load_state_dict(self, state: Any) -> None:
        self.t = state["t"]


class Outside(Good):
    def draw(self) -> float:
        return 1.5


class Endless(Good):
    def step(self, action: Any) -> Any:
        return (*super().step(action)[:2], False, False, {})


class Opaque(Good):
    def __init__(self) -> None:
        self.engine = object()


class Text(Good):
    observation_space = spaces.Dict(mission=spaces.Text(5), place=Good.observation_space)


class Related(Good):
    relevance: ClassVar = [[[], [1]]]


def test_a_good_one_passes() -> None:
    assert check_env(Good) == []
    assert check_env("CartPole-v1", steps=60) == []


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (Unseeded, "two environments with one seed differ: draw .*np_random.* (observation after reset: "),
        (
            Forgetful,
            "same environment differs from before .*reset must put back .*(observation after reset: ",
        ),
        (HalfSaved, "resumed run would not go on as it was.*(observation after step 1: "),
        (Outside, r"observation\[1\] is 1.5, outside its space"),
        (Text, r"observation\['mission'\] is a Text space .*env.ignore=\[mission\]"),
        (Related, "relevance.*parameter 1 is not one of 0 … 0"),
        ("CartPole-v7", "CartPole"),
    ],
)
def test_a_fault_is_named(env: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said.replace("(obs", r"\(obs")):
        check_env(env, steps=20)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (Endless, "no episode ended within 20 steps"),
        (Opaque, "a resumed run will begin new episodes: Opaque.engine is a builtins.object"),
    ],
)
def test_what_is_no_fault_is_told(env: Any, said: str) -> None:
    (told,) = check_env(env, steps=20)
    assert said in told


def test_settings_are_those_of_the_section_env() -> None:
    with pytest.raises(AssertionError, match="info lacks the reward component 'speed'"):
        check_env(Good, reward_components=["speed"])


def test_an_environment_itself_is_checked_and_left_open() -> None:
    class Closable(Good):
        closed = False

        def close(self) -> None:
            self.closed = True

    env = Closable()
    (note,) = check_env(env)
    assert "whether copies are alike with one seed" in note
    assert not env.closed
    assert "no episode ended" in check_env(gymnasium.make("CartPole-v1"), steps=3)[0]


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (Unseeded(), "differs from before with the same seed: .* self.np_random"),
        (Forgetful(), "reset must put back everything"),
        (HalfSaved(), "a resumed run would not go on as it was"),
        (object(), "object is no gymnasium.Env; give an id, a class"),
    ],
)
def test_faults_of_an_environment_itself_are_named(env: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_env(env)
