"""What the normalised score is measured against: the returns of random actions and of the expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.envs.action_table import ActionLeaf, ActionTable
from equipoise.envs.dependent_masks import ActionMask, DependentMask, complete, in_order
from equipoise.envs.protocol import BatchedEnv, NativeAction, ScriptedEnv
from equipoise.envs.random_numbers import StreamPerEnv


class References(NamedTuple):
    random: float
    """Mean task return of uniformly random actions: the 0 of the normalised score."""
    expert: float | None
    """Mean task return of the scripted expert: the 1; None where the environment has none."""


MakeEnv = Callable[[int], BatchedEnv]
"""Number of environments -> environment."""
Behaviour = Callable[[BatchedEnv, ActionMask | None], NativeAction]
"""Environment in its present state, its action mask -> action."""


def reference_returns(make_env: MakeEnv, episodes: int = 256, seed: int = 0) -> References:
    """Mean task returns over `episodes` episodes; the same for the same seed. A second or less."""
    env = make_env(episodes)
    try:
        stream = StreamPerEnv(episodes, env.device, seed + 1)
        random = episode_returns(env, lambda env, mask: random_action(env, mask, stream), seed)
        expert = None
        if isinstance(env, ScriptedEnv):
            expert = episode_returns(env, expert_behaviour, seed).mean().item()
        return References(random.mean().item(), expert)
    finally:
        env.close()


def expert_behaviour(env: BatchedEnv, mask: ActionMask | None) -> NativeAction:
    """The scripted expert as a behaviour; TypeError where the environment has none."""
    if not isinstance(env, ScriptedEnv):
        raise TypeError(f"{type(env).__name__} has no scripted expert")
    return env.expert_action()


@torch.inference_mode()
def episode_returns(env: BatchedEnv, behave: Behaviour, seed: int, max_steps: int = 100_000) -> Tensor:
    """`[N]`: the task return of the first episode of each environment.

    Raises RuntimeError where an episode has not ended after `max_steps`.
    """
    weights = torch.tensor(env.reward_weights, device=env.device)
    _, mask = env.reset(seed)
    returns = torch.zeros(env.num_envs, device=env.device)
    running = torch.ones_like(returns, dtype=torch.bool)
    for _ in range(max_steps):
        step = env.step(behave(env, mask))
        mask = step.action_mask
        returns += torch.where(running, step.rewards @ weights, 0.0)
        running &= ~(step.terminated | step.truncated)
        if not running.any():
            return returns
    raise RuntimeError(f"{int(running.sum())} episodes have not ended after {max_steps} steps")


def random_action(env: BatchedEnv, mask: ActionMask | None, stream: StreamPerEnv) -> NativeAction:
    """Uniform over the valid choices (`mask` as in `Timestep`; None: all) and uniform in every box."""
    table = ActionTable(env.action_space)
    every = torch.from_numpy(table.every_choice).to(env.device)[None]
    whole = complete(env, mask, every.expand(env.num_envs, *every.shape[1:]))
    if isinstance(whole, DependentMask):
        return _random_dependent(env, whole, table, stream)
    return _random(env, every if whole is None else whole, table, stream)


def _random_dependent(
    env: BatchedEnv, mask: DependentMask, table: ActionTable, stream: StreamPerEnv
) -> NativeAction:
    """Head after head: each uniform over what those before it leave."""
    taken: dict[int, Tensor] = {}
    only = torch.zeros_like(mask.own)
    for head in in_order(mask.tables, table.num_heads):
        valid = table.of_head(mask.own, head)
        if (given := mask.table_of(head)) is not None:
            valid = valid & given.row(taken, table.num_heads)
        taken[head] = torch.where(valid, stream.uniform(valid.shape[1]), -1.0).argmax(-1)
        table.of_head(only, head).scatter_(1, taken[head].unsqueeze(1), True)
    return _random(env, only, table, stream)


def _random(env: BatchedEnv, valid: Tensor, table: ActionTable, stream: StreamPerEnv) -> NativeAction:

    def luckiest(valid: Tensor) -> Tensor:
        """Each valid choice of the last dimension as likely as the others."""
        return torch.where(valid, stream.uniform(*valid.shape[1:]), -1.0).argmax(-1)

    def choices(leaf: ActionLeaf) -> Tensor:
        """`[N, heads]`: one valid choice of each head."""
        heads = slice(leaf.first, leaf.first + leaf.count)
        if table.padded:
            chosen = luckiest(valid[:, heads, : max(leaf.choices)])
        else:
            rows = torch.split(valid, list(table.choices), 1)[heads]
            chosen = torch.stack([luckiest(row) for row in rows], 1)
        return chosen + torch.tensor(leaf.start, device=env.device)

    def parameters(leaf: ActionLeaf) -> Tensor:
        low, high = (torch.tensor(bound, device=env.device) for bound in (leaf.low, leaf.high))
        luck = stream.uniform(leaf.count)
        if leaf.rounded:
            return (low + (high - low + 1.0) * luck).floor().minimum(high).to(torch.int64)
        return low + (high - low) * luck

    taken: dict[int, Tensor] = {}  # of each OneOf the choice of its head, from which the rest follows

    def sample(leaf: ActionLeaf) -> Tensor:
        sampled = (choices if leaf.discrete else parameters)(leaf) if leaf.count else torch.empty(0)
        if leaf.outcomes:
            choice = taken.setdefault(leaf.first, sampled.view(-1))
            sampled = torch.tensor(leaf.outcomes, device=env.device)[choice]
        return sampled.view(env.num_envs, *leaf.shape)

    return table.assemble([sample(leaf) for leaf in table.leaves])


def read_references(given: Mapping[str, Any] | Sequence[Any] | None) -> References | None:
    """Of `{random: …, expert: …}` or a pair, in which `expert` may be None."""
    if given is None:
        return None
    try:
        random, expert = (given["random"], given["expert"]) if isinstance(given, Mapping) else given
        return References(float(random), None if expert is None else float(expert))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"reference_returns is {given!r}; give `random` and `expert`") from None
