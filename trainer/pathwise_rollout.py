"""Collecting with the graph on: the derivative of the return by every parameter that was taken.

For environments written in PyTorch (`envs.protocol.DifferentiableEnv`). Choices are learned by their
log-probabilities as ever; for the numbers, the simulator itself says which way is up (Xu et al., "Accelerated
policy learning with parallel differentiable simulation", 2022; for hybrid actions arXiv 2605.14297).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise.envs.dependent_masks import DependentMask
from equipoise.envs.protocol import BatchedEnv, DifferentiableEnv
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.data import Actions, Metric, Metrics, Pathwise, Rollout, Targets, critic_heads
from equipoise.trainer.estimators import Rest
from equipoise.trainer.pathwise_checks import Watch, still_attached
from equipoise.trainer.pathwise_loss import SHARE
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.rollout import Acting, ActorOutput, Collector, Step
from equipoise.trainer.system import distributed
from equipoise.trainer.targets import explained_share

_IN_PLACE = "modified by an inplace operation"
"""What PyTorch says of a tensor that the backward pass needs as it was."""


@dataclass
class _Taken:
    """What one step adds to the graph."""

    nudge: Tensor
    """`[N, P]` zeros that were added to the sample: the derivative by them is that by the sample."""
    reward: Tensor
    """`[N]` of the task."""
    truncated: Tensor
    terminated: Tensor
    observation: Tensor
    final_observation: Tensor
    log_prob: Tensor | None
    """`[N]` of the choices, where the cross term is wanted."""


class PathwiseCollector(Collector):
    """A collector whose rollouts have `pathwise`: d(return from t) / d(sample of t).

    The graph is kept for `horizon` steps. There, and where an episode is truncated, the critic says what the
    rest is worth, in units of the task and as far as it explains returns; then one backward pass gives the
    derivatives of all these steps, and the graph is dropped. What is differentiated is the whole way from a
    number to the return: through the simulator, and through the numbers that the policy answers with later.
    How it moves later *choices* is not seen, unless by `cross_term`: then `A_t · log π(choice_t)` is added to
    what is differentiated (arXiv 2605.14297), with the advantage over the rest of the horizon.

    Args:
        horizon: steps; memory grows with it.
        cross_term: see above.
        gamma: the discount.
        alone: see `Watch`.
    """

    def __init__(
        self,
        env: BatchedEnv,
        policy: Policy,
        rollout: Rollout,
        generator: torch.Generator,
        seed: int,
        *,
        gamma: float,
        horizon: int,
        cross_term: bool = False,
        alone: bool = True,
    ) -> None:
        super().__init__(env, policy, rollout, generator, seed)
        assert isinstance(env, DifferentiableEnv)
        self._gamma, self._horizon, self._cross_term = gamma, horizon, cross_term
        self._watch = Watch(type(env).__name__, alone)
        shape = rollout.actions.continuous.shape
        gradient, noise, std = (torch.zeros(shape, device=env.device) for _ in range(3))
        self._column = Pathwise(gradient, noise, std, torch.ones(*shape[:2], 1, device=env.device))
        rollout.pathwise = self._column
        self._rest = Rest()
        self._taken: list[_Taken] = []
        self._done = 0
        self._units = torch.zeros(policy.value_head.out_features, device=env.device)
        """`[V]`: makes of values what they are worth in the task, as far as they are believed. 0 before the
        first update: the critic knows nothing yet."""
        self._saved: list[weakref.ref[Tensor]] = []
        """By the graph of the first horizon, for its backward pass."""
        self._graph_bytes: int | None = None
        """Of all that is still saved when that begins."""

    def collect(self, after_step: Callable[[], object] = lambda: None) -> tuple[Rollout, list[Metrics]]:
        self._taken, self._done = [], 0
        # Where the watch looks, not before it knows whether there are derivatives at all.
        looking = self.env.device.type == "cpu" and self._watch.undecided
        self.rollout.pathwise = None if self._rest.now and not looking else self._column
        rollout, found = super().collect(after_step)
        if rollout.pathwise is not None:
            self._differentiate()
            _, mean, log_std = self._heads
            std = log_std.exp() if log_std.dim() == 3 else log_std.exp().unsqueeze(1)
            rollout.pathwise.std.copy_(std.expand_as(mean))
            rollout.pathwise.noise.copy_((rollout.actions.continuous - mean) / std)
        return rollout, found

    def judged(self, targets: Targets) -> Metrics:
        """Learns what a value is worth in the task, and how far to believe it: as far as the values explained
        this rollout's returns. The derivative of a critic that explains nothing is that of its errors, and
        leads parameters astray without any noise that would give it away.

        Raises:
            ConfigError: the rewards were not multiplied with one number for a component. On the CPU, where
                looking is free, and if `alone`: nothing depends on any parameter by a derivative.
            NonFiniteError: there and then, too: a derivative is not finite.
        """
        column = self.rollout.pathwise
        if self.env.device.type == "cpu" and column is not None:
            anywhere = bool(distributed.all_reduce_max(column.gradient.any().int()))
            with distributed.failing_together():
                self._watch.look_at(column.gradient, anywhere, bool(self._units.any()))
        if targets.applied is None:
            raise ConfigError(
                "trainer.continuous_gradient: values must be in units of the task, which the rewards stage "
                "hides: it gives no number `applied` for each component; score always works"
            )
        weights = self.rollout.reward_weights
        self._units = torch.zeros_like(self._units)
        if len(self._units) > len(weights):  # the last head predicts the task reward
            self._units[-1] = 1.0
        else:
            self._units[: len(weights)] = weights / targets.applied
        explained = explained_share(targets)
        self._units *= explained
        graph = self._graph_bytes
        named = zip(critic_heads(self.rollout.reward_names, len(explained)), explained, strict=True)
        return {
            **({} if graph is None else {"pathwise/graph_mib": Metric(torch.tensor(graph / 2**20), "last")}),
            **{f"pathwise/critic_share/{name}": Metric(share) for name, share in named},
            **({SHARE: Metric(torch.zeros_like(explained[0]))} if column is None else {}),
        }

    def learned(self, metrics: Mapping[str, float]) -> None:
        share = metrics.get(SHARE, 1.0)  # none where no update was made: that tells nothing
        self._rest.after(self.rollout.pathwise is not None, share > 0.0)

    def take_remarks(self) -> list[str]:
        return [*super().take_remarks(), *self._watch.take_remarks()]

    @torch.inference_mode(False)
    def _step(
        self,
        act: Acting,
        gumbel: Tensor,
        normal: Tensor,
        log_std: Tensor | None,
    ) -> tuple[Step, Mapping[str, Tensor]]:
        if self.rollout.pathwise is None:
            # Not by inference: a later rollout could not save what that has made.
            with torch.no_grad():
                return super()._step(act, gumbel, normal, log_std)
        if len(self._taken) == self._horizon:
            self._differentiate()
        with torch.enable_grad(), self._counting():
            now, before = self._now, self._now.observation
            # Copies: what inference has made cannot be saved for a backward pass.
            log_std = None if log_std is None else log_std.clone()
            noise = gumbel.clone(), normal.clone()
            heads, mask, actions, _ = act(before, now.state, now.action_mask, *noise, log_std)
            valid = (
                mask if mask is not None or isinstance(now.action_mask, DependentMask) else now.action_mask
            )
            nudge = torch.zeros_like(actions.continuous, requires_grad=True)
            actions = actions._replace(continuous=actions.continuous + nudge)
            timestep = self._checked.step(self.policy.to_native(actions))
            self._taken.append(
                _Taken(
                    nudge,
                    timestep.rewards @ self.rollout.reward_weights,
                    timestep.truncated & ~timestep.terminated,
                    timestep.terminated,
                    before,
                    timestep.final_observation,
                    self._log_prob(heads, actions, valid) if self._cross_term else None,
                )
            )
            now.observation, now.action_mask = timestep.observation, timestep.action_mask
            outcome = timestep.rewards, timestep.terminated, timestep.truncated, timestep.final_observation
            return Step(mask, *(part.detach() for part in (*actions, *heads, *outcome))), timestep.metrics

    def _counting(self) -> AbstractContextManager[object]:
        """Counts, during the first horizon, the bytes that are kept for the backward pass."""
        if self._graph_bytes is not None:
            return nullcontext()

        def keep(tensor: Tensor) -> tuple[Tensor, int]:
            kept = tensor.detach()  # the graph may not hold what holds it: that is never freed
            self._saved.append(weakref.ref(kept))
            return kept, kept._version

        def give(saved: tuple[Tensor, int]) -> Tensor:
            kept, version = saved
            if kept._version != version:  # which PyTorch does not look at where there are hooks
                raise RuntimeError(_IN_PLACE)
            return kept

        return torch.autograd.graph.saved_tensors_hooks(keep, give)

    def _log_prob(self, heads: ActorOutput, actions: Actions, mask: Tensor | None) -> Tensor:
        distribution: HybridDistribution = self.policy.as_distribution(*heads, action_mask=mask)
        return distribution.discrete_log_prob(actions.discrete).sum(-1)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _differentiate(self) -> None:
        """Write the derivatives of the steps since this was last done, and let go of the graph."""
        taken, count = self._taken, len(self._taken)
        if self._graph_bytes is None:
            storages = (saved.untyped_storage() for ref in self._saved if (saved := ref()) is not None)
            self._graph_bytes = sum({each.data_ptr(): each.nbytes() for each in storages}.values())
            self._saved = []
        rest = self._worth(self._now.observation)
        last = taken[-1]
        # A new episode, if one has begun, owes nothing to what was done before.
        ended = last.truncated | last.terminated
        rewards = torch.stack([step.reward for step in taken]) + self._gamma * self._worth_of_cut(taken)
        if self._cross_term:
            rewards = rewards + self._choices(taken, rewards, rest)
        worth = torch.cat((rewards.sum(1), torch.where(ended, 0.0, rest).sum().view(1)))
        assert self.rollout.pathwise is not None
        place = self.rollout.pathwise.gradient[self._done : self._done + count]
        for start in range(0, count, stride := _stride(self._gamma)):
            stop = min(start + stride, count)
            discounts = self._gamma ** torch.arange(count + 1 - start, device=worth.device, dtype=worth.dtype)
            nudges = [step.nudge for step in taken[start:stop]]
            parts = self._derivatives(worth[start:] @ discounts, nudges, more=stop < count)
            for row, part, discount in zip(place[start:stop], parts, discounts, strict=False):
                row.copy_(torch.zeros_like(row) if part is None else part / discount)
        self._taken, self._done = [], self._done + count
        self._now.observation = self._now.observation.detach()
        self._checked.detach()
        if attached := still_attached(self.env):
            name, what = type(self.env).__name__, ", ".join(attached)
            raise ConfigError(
                f"{name}.detach() leaves out {what}: the graph grows with every step (docs/pathwise.md)"
            )

    def _derivatives(self, worth: Tensor, nudges: list[Tensor], more: bool) -> Sequence[Tensor | None]:
        try:
            return torch.autograd.grad(worth, nudges, retain_graph=more, allow_unused=True)
        except RuntimeError as error:
            if _IN_PLACE not in str(error):
                raise
            name = type(self.env).__name__
            raise ConfigError(
                f"{name} changes in place what its derivatives are made of (docs/pathwise.md): {error}"
            ) from error

    def _worth(self, observations: Tensor) -> Tensor:
        """`[...]`: what the critic expects from `observations` `[..., O]` on, in units of the task."""
        values = self.policy.critic(self.policy.normalize(observations))
        return self.policy.value_normalizer.denormalize(values) @ self._units

    def _worth_of_cut(self, taken: list[_Taken]) -> Tensor:
        """`[T, N]`: what would have followed where an episode was truncated, 0 elsewhere."""
        final = torch.stack([step.final_observation for step in taken])
        truncated = torch.stack([step.truncated for step in taken])
        if final.device.type != "cpu":
            worth = self._worth(final.flatten(0, 1)).view_as(truncated)
            return torch.where(truncated, worth, 0.0)
        # On the CPU looking is free, and most steps truncate nothing.
        where = truncated.nonzero(as_tuple=True)
        return torch.zeros(truncated.shape).index_put(where, self._worth(final[where]))

    def _choices(self, taken: list[_Taken], rewards: Tensor, rest: Tensor) -> Tensor:
        """`[T, N]`: advantage over the rest of the horizon · log-probability of the choices."""
        with torch.no_grad():
            values = self._worth(torch.cat([step.observation for step in taken])).view(len(taken), -1)
            following, returns = rest, []
            for step, reward in zip(reversed(taken), rewards.flip(0), strict=True):
                following = reward + self._gamma * torch.where(
                    step.truncated | step.terminated, 0.0, following
                )
                returns.append(following)
            advantages = torch.stack(returns[::-1]) - values
        log_probs = [step.log_prob for step in taken if step.log_prob is not None]
        return advantages.detach() * torch.stack(log_probs)

    def state_dict(self) -> dict[str, Any]:
        rest = self._rest.in_vain, self._rest.skipped
        ours = {"value_units": self._units.clone(), "rest": rest, "graph_bytes": self._graph_bytes}
        return super().state_dict() | ours | {"without": self._watch.without}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if "value_units" in state:
            self._units = state["value_units"].to(self._units)
        if "rest" in state:
            self._rest, self._watch.without = Rest(*state["rest"]), state["without"]
        self._graph_bytes = state.get("graph_bytes")


def _stride(gamma: float) -> int:
    """Steps over which γᵗ stays so large that dividing by it again loses nothing."""
    if gamma in (0.0, 1.0):
        return 1 if gamma == 0.0 else 1_000_000
    return max(1, int(math.log(1e-12) / math.log(gamma)))
