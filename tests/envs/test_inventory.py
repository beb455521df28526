from __future__ import annotations

import numpy as np
import pytest
import torch

from equipoise.envs.inventory import Inventory, InventoryState
from equipoise.envs.ordering import order_up_to
from equipoise.envs.references import episode_returns, expert_behaviour, reference_returns


def test_a_step_costs_the_order_the_stock_and_what_is_owed() -> None:
    env = Inventory(3, products=2, suppliers=2)
    stock, demand = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.5, 1.5]] * 3)
    env.state = InventoryState(stock, demand, torch.zeros(3, dtype=torch.long))
    amounts = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3)
    step = env.step((torch.tensor([0, 1, 2]), amounts))
    assert env.state.stock.tolist() == [[0.5, -1.5], [1.5, 0.5], [3.5, 2.5]]
    ordering = [0.0, 2 * 2.0 + 3 * 1.0, 2 * 4.0 + 7 * 0.6]
    holding = [0.2 * 0.5, 0.2 * 2.0, 0.2 * 6.0]
    expected = [[-o, -h, -s] for o, h, s in zip(ordering, holding, (3 * 1.5, 0.0, 0.0), strict=True)]
    torch.testing.assert_close(step.rewards, torch.tensor(expected))


def test_without_a_fixed_cost_the_level_is_the_newsvendors() -> None:
    """Bought for the future, a unit costs the same later: the level is the b/(b + h) quantile of demand. In
    the last step it is never used again: (b − c)/(b + h) (Arrow, Harris and Marschak, 1951)."""
    plan = order_up_to([0.0, 0.0], [0.0, 1.0], 0.2, 3.0, 20.0, 10)
    empty = int(np.flatnonzero(np.isclose(plan.levels, 0.0))[0])
    assert plan.up_to[9, empty, 1] == pytest.approx(2 * 3.0 / 3.2, abs=0.06)
    assert plan.up_to[0, empty, 1] == pytest.approx(2 * 2.0 / 3.2, abs=0.06)


def test_with_a_fixed_cost_the_best_policy_is_to_fill_up_below_a_level() -> None:
    """(s, S), by Scarf's theorem: one threshold, and the same level whatever was left."""
    plan = order_up_to([0.0, 5.0], [0.0, 1.0], 0.2, 3.0, 40.0, 20)
    within = (plan.levels > -8) & (plan.levels < 15)
    orders, up_to = plan.choices[19][within], plan.up_to[19][within, 1]
    assert (np.diff(orders) <= 0).all()
    assert 0 < orders.sum() < len(orders)
    assert np.ptp(up_to[orders == 1]) == 0
    assert up_to[orders == 1][0] > plan.levels[within][orders == 1].max() + 2


def test_the_experts_return_is_the_one_that_value_iteration_foretells() -> None:
    env = Inventory(4096, products=1)
    returns = episode_returns(env, expert_behaviour, 3)
    plan = env._plan
    started = (plan.levels >= 0) & (plan.levels <= 4)
    error = returns.std().item() / 4096**0.5
    assert returns.mean().item() == pytest.approx(-plan.costs[39][started].mean(), abs=4 * error)
    assert error < 0.2


def test_products_together_are_between_doing_their_best_alone_and_chance() -> None:
    alone = reference_returns(lambda n: Inventory(n, products=1), 1024)
    together = reference_returns(lambda n: Inventory(n, products=3), 1024)
    assert alone.expert is not None
    assert together.expert is not None
    assert 3 * alone.expert > together.expert > 3 * alone.expert * 1.2 > together.random
