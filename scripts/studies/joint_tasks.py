"""Two tasks of one step in which parameters, or a later decision, must suit the decision just taken."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.episodic import EpisodicEnv, Outcome, hybrid
from equipoise.envs.protocol import NativeAction


class Context(NamedTuple):
    seen: Tensor
    """`[N]`, uniform between −1 and 1."""


class OneStep(EpisodicEnv[Context]):
    """Episodes of one step with a number to look at. `success`: the better of two options was taken."""

    reward_names, reward_weights = ("payoff",), (1.0,)
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def start(self) -> Context:
        return Context(2.0 * self.random.uniform() - 1.0)

    def observe(self, state: Context) -> Tensor:
        return state.seen.unsqueeze(1)

    def ended(self, state: Context, payoff: Tensor, better: Tensor) -> Outcome[Context]:
        done = torch.ones_like(better, dtype=torch.bool)
        return Outcome(state, (payoff,), done, torch.zeros_like(done), better)

    def render(self, index: int = 0) -> NoReturn:
        raise NotImplementedError("there is nothing to see")


class SharedBox(OneStep):
    """Two options share one number and need different values of it: option 0 pays 1 at 0.5 + 0.2 c and
    forgives errors, option 1 pays 1.5 at −0.5 + 0.2 c and does not. c is what is seen."""

    action_space: spaces.Space[Any] = spaces.Tuple(
        (spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,), np.float32))
    )

    def advance(self, state: Context, action: NativeAction) -> Outcome[Context]:
        option, number = hybrid(action)
        error = number[:, 0] - 0.2 * state.seen
        payoff = torch.where(
            option == 0, 1.0 - 0.5 * (error - 0.5).square(), 1.5 - 4.0 * (error + 0.5).square()
        )
        return self.ended(state, payoff, option == 1)


class Climbing(OneStep):
    """An order and a target for it, whose payoffs are those of the climbing game (Claus and Boutilier, "The
    dynamics of reinforcement learning in cooperative multiagent systems", 1998) divided by 10; where a
    positive number is seen, the targets are one further. The best pair is surrounded by the worst ones."""

    action_space: spaces.Space[Any] = spaces.Dict(
        [("order", spaces.Discrete(3)), ("target", spaces.Discrete(3))]
    )
    payoffs = ((1.1, -3.0, 0.0), (-3.0, 0.7, 0.6), (0.0, 0.0, 0.5))

    def advance(self, state: Context, action: NativeAction) -> Outcome[Context]:
        assert isinstance(action, dict)
        order, target = action["order"], action["target"]
        assert isinstance(order, Tensor)
        assert isinstance(target, Tensor)
        target = (target + (state.seen > 0)) % 3
        payoff = torch.tensor(self.payoffs, device=self.device)[order, target]
        return self.ended(state, payoff, (order == 0) & (target == 0))
