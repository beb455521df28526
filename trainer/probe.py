"""Compares advantages by the policy gradients that they cause."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.trainer.data import Actions, Rollout
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.system import distributed

SAMPLES = 512
"""Samples of each half, over all processes: enough for a direction, cheap compared to the update."""


class PolicyProbe:
    """Policy gradients `∇ mean(A · log π)` at the policy that acted, on samples of one rollout."""

    def __init__(self, policy: Policy, rollout: Rollout) -> None:
        self.policy = policy
        self.rollout = rollout

    def cosines(self, reference: Tensor, candidates: Tensor) -> Tensor:
        """`[K]` cosines of `reference` `[T, N]` with `candidates` `[T, N, K]`, from disjoint halves.

        The halves are every other environment, since neighbouring steps share their noise; of a single
        environment they are the first and the second half of the rollout.
        """
        steps, num_envs = reference.shape
        if steps * num_envs < 2:
            raise ValueError("the probe needs two samples or more, to compare one half with the other")
        index = torch.arange(steps * num_envs, device=reference.device).view(steps, num_envs)
        # Every other one: the same halves whatever the number of processes that have an even share each.
        first, second = (index[:, ::2], index[:, 1::2]) if num_envs > 1 else index.chunk(2, dim=0)
        columns = candidates.flatten(0, 1).unbind(-1)
        ours = self._gradients(first, [reference.flatten()])
        theirs = self._gradients(second, list(columns))
        joined = distributed.all_reduce_mean(torch.cat([ours, theirs]))
        return torch.cosine_similarity(joined[:1], joined[1:], dim=-1)

    @torch.enable_grad()
    def _gradients(self, half: Tensor, advantages: list[Tensor]) -> Tensor:
        """`[len(advantages), n]`: one policy gradient for each advantage, on the same samples of a `half`
        `[T', N']`."""
        policy, rollout = self.policy, self.rollout
        samples, inputs = self._inputs(half)
        action_mask = rollout.action_mask.flatten(0, 1)
        actions = Actions(*(part.flatten(0, 1).index_select(0, samples) for part in rollout.actions))
        mask = action_mask.index_select(0, samples)
        distribution = policy.distribution(inputs, mask, actions.discrete)
        relevant = distribution.relevant(actions.discrete)
        log_prob = distribution.discrete_log_prob(actions.discrete).sum(-1)
        log_prob = log_prob + distribution.continuous_log_prob(actions.continuous, relevant).sum(-1)
        parameters = list(
            dict.fromkeys([*policy.side_parameters("discrete"), *policy.side_parameters("continuous")])
        )
        chosen = [advantage.index_select(0, samples) for advantage in advantages]
        middles = distributed.all_reduce_means([advantage.mean() for advantage in chosen])
        rows = []
        for advantage, middle in zip(chosen, middles, strict=True):
            objective = ((advantage - middle) * log_prob).mean()
            parts = torch.autograd.grad(
                objective, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(torch.cat([part.reshape(-1) for part in parts]))
        return torch.stack(rows)

    def _inputs(self, half: Tensor) -> tuple[Tensor, Tensor]:
        """Some samples of a `half` `[T', N']`, and what the heads take for them."""
        policy, rollout = self.policy, self.rollout
        steps, num_envs = rollout.done.shape
        most = SAMPLES // distributed.world_size()
        if rollout.sequences is None:
            samples = half.reshape(-1)
            samples = samples[:: max(1, len(samples) // most)]
            return samples, policy.normalize(rollout.observations.flatten(0, 1).index_select(0, samples))
        half = half[:, : max(1, most // steps)]  # whole sequences, of fewer environments
        chosen = half[0] % num_envs
        inputs = policy.normalize(rollout.observations.index_select(1, chosen)).flatten(0, 1)
        features = policy.recall(inputs, rollout.sequences.of(chosen)).view(steps, len(chosen), -1)
        return half.reshape(-1), features.index_select(0, half[:, 0] // num_envs).flatten(0, 1)
