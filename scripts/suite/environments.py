"""Six hybrid tasks as users write them: Gymnasium, `Dict` and `Tuple` spaces, rewards of any size.

They were written for reports on this project, before its defaults were looked at, and are kept as they were.
Ids: `equipoise.scripts.suite.environments:suite/<Name>-v0`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Result = tuple[Any, float, bool, bool, dict[str, Any]]


def _unit(count: int = 1, low: float = 0.0) -> spaces.Box:
    return spaces.Box(low, 1.0, (count,), np.float32)


class Drawn(gymnasium.Env[Any, Any]):
    """A new situation in every step, nothing carried over; `_draw` makes it and `_observe` shows it."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._draw()
        return self._observe(), self._info()

    def _after(self, reward: float, info: dict[str, Any] | None = None) -> Result:
        self._draw()
        return self._observe(), reward, False, False, (info or {}) | self._info()

    def _info(self) -> dict[str, Any]:
        return {}

    def _draw(self) -> None:
        raise NotImplementedError

    def _observe(self) -> Any:
        raise NotImplementedError


class Order(Drawn):
    """Execute an order: side, how much, at what price offset. All three always count."""

    def __init__(self) -> None:
        self.action_space = spaces.Dict(amount=_unit(), price=_unit(), side=spaces.Discrete(2))
        self.observation_space = _unit(3, -1.0)

    def _draw(self) -> None:
        self.state = self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def _observe(self) -> Any:
        return self.state.copy()

    def step(self, action: Any) -> Result:
        amount, price = float(action["amount"][0]), float(action["price"][0])
        signal, depth, spread = self.state
        right = int(action["side"]) == int(signal > 0)
        errors = abs(amount - 0.5 - 0.4 * depth), abs(price - 0.5 - 0.4 * spread)
        reward = (1.0 if right else -1.0) - 2 * sum(errors)
        return self._after(float(reward), {"amount_error": errors[0], "price_error": errors[1]})


class Car(Drawn):
    """Three gears, three numbers: throttle, brake, steer. All three always count, and first gear is right."""

    def __init__(self) -> None:
        pedals = {name: _unit(1, -1.0) for name in ("throttle", "brake", "steer")}
        self.action_space = spaces.Dict({"gear": spaces.Discrete(3), **pedals})
        self.observation_space = _unit(3, -1.0)

    def _draw(self) -> None:
        self.road = self.np_random.uniform(-0.8, 0.8, 3).astype(np.float32)

    def _observe(self) -> Any:
        return self.road.copy()

    def step(self, action: Any) -> Result:
        numbers = np.concatenate([action["throttle"], action["brake"], action["steer"]])
        return self._after(2.0 * (int(action["gear"]) == 0) - float(np.abs(numbers - self.road).sum()))


class Strategy(Drawn):
    """A little war: what to do, with which unit, where. Dict observations, masks of both decisions."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            field=spaces.Box(-1.0, 1.0, (4, 4), np.float32),
            phase=spaces.Discrete(3),
            units=spaces.MultiBinary(5),
        )
        target = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Dict(kind=spaces.Discrete(3), target=target, unit=spaces.Discrete(5))
        # Heads: kind, unit. The target matters for the kinds 1 and 2, not for 0, which waits.
        self.relevance = [[[], [0, 1], [0, 1]], [[] for _ in range(5)]]

    def _draw(self) -> None:
        self.field = self.np_random.uniform(-1, 1, (4, 4)).astype(np.float32)
        self.units = (self.np_random.uniform(size=5) < 0.5).astype(np.int8)
        if not self.units.any():
            self.units[0] = 1
        self.phase = int(self.np_random.integers(3))
        self.kinds = np.ones(3, np.int8)
        self.kinds[(self.phase + 1) % 3] = 0

    def _observe(self) -> Any:
        return {"field": self.field, "phase": self.phase, "units": self.units}

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.concatenate([self.kinds, self.units])}

    def step(self, action: Any) -> Result:
        kind, unit, target = int(action["kind"]), int(action["unit"]), action["target"]
        reward = 0.0 if self.kinds[kind] and self.units[unit] else -2.0
        reward += 0.5 * (unit == int(np.argmax(self.units)))  # the first living unit is the right one
        if kind == self.phase:
            reward += 1.0
            if kind:
                reward -= float(np.abs(target - self.field[0, :2]).sum())
        return self._after(reward)


class Gripper(gymnasium.Env[Any, Any]):
    """Reach, close the gripper there, carry to the goal; observations in the form of goal environments."""

    def __init__(self) -> None:
        def box(count: int) -> spaces.Box:
            return spaces.Box(-2.0, 2.0, (count,), np.float64)

        self.observation_space = spaces.Dict(observation=box(7), achieved_goal=box(3), desired_goal=box(3))
        self.action_space = spaces.Dict(gripper=spaces.Discrete(2), move=_unit(3, -1.0))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.hand = np.zeros(3)
        self.thing = self.np_random.uniform(-0.5, 0.5, 3)
        self.goal = self.np_random.uniform(-0.5, 0.5, 3)
        self.held = False
        return self._observe(), {}

    def _observe(self) -> Any:
        return {
            "observation": np.concatenate([self.hand, self.thing, [float(self.held)]]),
            "achieved_goal": self.thing.copy(),
            "desired_goal": self.goal.copy(),
        }

    def _potential(self) -> float:
        reach = np.linalg.norm(self.hand - self.thing)
        carry = np.linalg.norm(self.thing - self.goal)
        return -float(carry + (0.0 if self.held else 0.5 + reach))

    def step(self, action: Any) -> Result:
        before = self._potential()
        self.hand = np.clip(self.hand + 0.2 * np.asarray(action["move"], np.float64), -1, 1)
        closed = bool(action["gripper"])
        self.held = closed and (self.held or bool(np.linalg.norm(self.hand - self.thing) < 0.2))
        if self.held:
            self.thing = self.hand.copy()
        done = bool(np.linalg.norm(self.thing - self.goal) < 0.15)
        reward = 5 * (self._potential() - before) - 0.05 + (5.0 if done else 0.0)
        return self._observe(), float(reward), done, False, {"is_success": done}


class DataCentre(Drawn):
    """Cooling and placement: three decisions, five set points, two bills of very different size."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float32)
        low, high = np.array([15, 15, 15, 0, 0], np.float32), np.array([30, 30, 30, 1, 1], np.float32)
        self.action_space = spaces.Dict(
            chiller=spaces.Discrete(3),
            placement=spaces.Discrete(4),
            battery=spaces.Discrete(3),
            setpoints=spaces.Box(low, high),
        )

    def _draw(self) -> None:
        self.load = self.np_random.uniform(0, 1, 4)
        self.price = self.np_random.uniform(20, 120)
        self.outside = self.np_random.uniform(-5, 35)

    def _observe(self) -> Any:
        hour = self.np_random.uniform(0, 1)
        return np.array([*self.load * 1000, self.price, self.outside, hour, 1.0], np.float32)

    def step(self, action: Any) -> Result:
        chiller = 0 if self.outside < 10 else 1 if self.outside < 25 else 2
        battery = 0 if self.price < 50 else 1 if self.price < 90 else 2
        energy = -500.0 * ((action["chiller"] != chiller) + (action["battery"] != battery))
        energy -= 100.0 * float(np.abs(action["setpoints"][:3] - 18 - 8 * self.load[:3]).sum())
        service = -0.01 * float(action["placement"] != int(np.argmin(self.load)))
        service -= 0.01 * float(np.abs(action["setpoints"][3:] - self.load[2:]).sum())
        return self._after(energy + 1e5 * service, {"energy": energy, "service": service})


class Parameterised(Drawn):
    """`Discrete(3)` with Boxes of widths 1, 2 and 3, one for each choice."""

    BOUNDS = ((-1.0, 1.0), (0.0, 10.0), (-3.0, 0.0))

    def __init__(self) -> None:
        boxes = tuple(
            spaces.Box(low, high, (width,), np.float32) for width, (low, high) in enumerate(self.BOUNDS, 1)
        )
        self.action_space = spaces.Tuple((spaces.Discrete(3), spaces.Tuple(boxes)))
        self.observation_space = spaces.Dict(kind=spaces.Discrete(3), want=_unit(3))

    def _draw(self) -> None:
        self.kind = int(self.np_random.integers(3))
        self.want = self.np_random.uniform(0, 1, 3).astype(np.float32)

    def _observe(self) -> Any:
        return {"kind": self.kind, "want": self.want}

    def step(self, action: Any) -> Result:
        kind, (low, high) = int(action[0]), self.BOUNDS[int(action[0])]
        unit = (np.asarray(action[1][kind], np.float64) - low) / (high - low)
        error = float(np.abs(unit - self.want[: len(unit)]).mean())
        return self._after((1.0 if kind == self.kind else 0.0) * (1.0 - 2 * error))


_STEPS = {"Order": 20, "Car": 20, "Strategy": 20, "Gripper": 60, "DataCentre": 48, "Parameterised": 20}
for _name, _steps in _STEPS.items():
    gymnasium.register(f"suite/{_name}-v0", f"{__name__}:{_name}", max_episode_steps=_steps)
