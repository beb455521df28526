"""Inventory: when to order, from whom, and how much of each product, where every order has a fixed cost."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, NamedTuple

import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from equipoise.envs.arguments import Count, Factor, PositiveFactor, checked
from equipoise.envs.drawing import BLUE, GREY, RED, Canvas
from equipoise.envs.episodic import EpisodicEnv, Outcome, hybrid
from equipoise.envs.ordering import OrderingPlan, order_up_to
from equipoise.envs.protocol import NativeAction

START = 4.0
LARGEST_ORDER = 20.0


class InventoryState(NamedTuple):
    stock: Tensor
    """`[N, n]`; negative: owed to customers."""
    demand: Tensor
    """`[N, n]`: what customers will ask for in this step, which nobody sees beforehand."""
    steps: Tensor
    """`[N]` int64."""


class Inventory(EpisodicEnv[InventoryState]):
    """Stock of several products under random demand, reviewed in every step (Scarf, "The optimality of (S, s)
    policies in the dynamic inventory problem", 1960).

    The choice is to order nothing (0) or from one of `suppliers`; the parameters are how much of each
    product, 0 to 20, with numbers of its own for each supplier. Orders arrive at once. Then customers ask for
    an amount of each product, uniform between 0 and 2; what is missing is owed to them. Supplier `k` (0, 1,
    …) asks `fixed_cost · 2ᵏ · n` for an order of any size and `unit_cost · 0.6ᵏ` for each unit, so that small
    orders are cheap at the first and large ones at the last. A step costs that, `holding_cost` for each unit
    in stock and `shortage_cost` for each that is owed at its end. The start is uniform in 0 to 4 of each
    product; `max_steps` truncate the episode, and stock that is left is worth nothing.

    Observation `[n + 1]`: the stock of each product, and the share of the episode that is left. The costs are
    differentiable in what is ordered; only an order's fixed cost is a jump, and that is the choice's.

    The expert is the optimum where there is one product, by value iteration (`envs.ordering`). With more,
    whose orders share the fixed cost, it lets each product decide as if it paid its part of it, and orders
    from the supplier that most of them want.
    """

    reward_names = ("ordering", "holding", "shortage")
    reward_weights = (1.0, 1.0, 1.0)

    @checked
    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        products: Annotated[int, Ge(1), Le(1000)] = 3,
        suppliers: Annotated[int, Ge(1), Le(10)] = 2,
        fixed_cost: Factor = 2.0,
        unit_cost: Factor = 1.0,
        holding_cost: Annotated[float, Gt(0), Le(1e6)] = 0.2,
        shortage_cost: PositiveFactor = 3.0,
        max_steps: Count = 40,
    ) -> None:
        super().__init__(num_envs, device)
        self.products, self.suppliers, self.max_steps = products, suppliers, max_steps
        self.holding_cost, self.shortage_cost = holding_cost, shortage_cost
        # The choice to order nothing comes first, and costs nothing.
        self._share = [0.0, *(fixed_cost * 2.0**k for k in range(suppliers))]
        self._unit = [0.0, *(unit_cost * 0.6**k for k in range(suppliers))]
        self._share_of, self._unit_of = (
            torch.tensor(costs, device=self.device) for costs in (self._share, self._unit)
        )
        controls = suppliers * products
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (products + 1,), np.float32)
        self.action_space = gymnasium.spaces.Tuple(
            (
                gymnasium.spaces.Discrete(suppliers + 1),
                gymnasium.spaces.Box(0.0, LARGEST_ORDER, (controls,), np.float32),
            )
        )
        own = (tuple(range(first, first + products)) for first in range(0, controls, products))
        self.relevance = (((), *own),)

    def start(self) -> InventoryState:
        luck = self.random.uniform(2 * self.products)
        zero = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        return InventoryState(START * luck[:, : self.products], 2.0 * luck[:, self.products :], zero)

    def advance(self, state: InventoryState, action: NativeAction) -> Outcome[InventoryState]:
        choice, parameters = hybrid(action)
        every = parameters.view(-1, self.suppliers, self.products)
        rows = (choice - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, self.products)
        order = every.gather(1, rows).squeeze(1).clamp(0.0, LARGEST_ORDER) * (choice > 0).unsqueeze(1)
        stock = state.stock + order - state.demand
        after = InventoryState(stock, 2.0 * self.random.uniform(self.products), state.steps + 1)
        ordering = self.products * self._share_of[choice] + self._unit_of[choice] * order.sum(1)
        rewards = (
            -ordering,
            -self.holding_cost * stock.clamp(min=0).sum(1),
            -self.shortage_cost * (-stock).clamp(min=0).sum(1),
        )
        never = torch.zeros_like(choice, dtype=torch.bool)
        served = (stock >= 0).float().mean(1)
        return Outcome(after, rewards, never, after.steps >= self.max_steps, served)

    def observe(self, state: InventoryState) -> Tensor:
        left = 1.0 - state.steps / self.max_steps
        return torch.cat([state.stock, left.unsqueeze(1)], 1)

    @cached_property
    def _plan(self) -> OrderingPlan:
        costs = self.holding_cost, self.shortage_cost
        return order_up_to(self._share, self._unit, *costs, LARGEST_ORDER, self.max_steps)

    def expert_action(self) -> NativeAction:
        left = self.max_steps - self.state.steps.cpu().numpy()
        wanted, up_to = self._plan.best(self.state.stock.double().cpu().numpy(), left)
        votes = (wanted[..., None] == np.arange(self.suppliers + 1)).sum(1)
        votes[:, 1:] *= 3  # who waits pays for the others' shortage
        choice = votes.argmax(1)
        stock = self.state.stock.double().cpu().numpy()
        order = np.clip(up_to[np.arange(len(stock)), :, choice] - stock, 0.0, LARGEST_ORDER)
        everywhere = torch.from_numpy(np.tile(order, self.suppliers).astype(np.float32))
        return torch.from_numpy(choice).to(self.device), everywhere.to(self.device)

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A bar for each product: above the line what is in stock, below it what is owed."""
        canvas = Canvas(0, 1, -0.5, 0.5)
        width = 1.0 / self.products
        for place, stock in enumerate(self.state.stock[index].tolist()):
            low, high = sorted((0.0, max(-0.48, min(0.48, stock / 20.0))))
            canvas.box((place + 0.2) * width, low, (place + 0.8) * width, high, BLUE if stock >= 0 else RED)
        canvas.line([(0, 0), (1, 0)], GREY)
        return canvas.array()
