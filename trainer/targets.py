"""From a rollout to the samples that an update learns from.

rewards stage → values → GAE for each reward component → advantages stage → value statistics
"""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.trainer.advantage import compute_gae
from equipoise.trainer.configuration.schema import TrainerConfig
from equipoise.trainer.data import Actions, Minibatch, Pathwise, Rollout, Targets
from equipoise.trainer.diagnosis import check_targets
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.policy.normalization import value_metrics
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.probe import PolicyProbe
from equipoise.trainer.stages.pipeline import Pipeline
from equipoise.trainer.stages.protocol import RewardResult
from equipoise.trainer.system import distributed


@torch.no_grad()
def prepare(
    rollout: Rollout, policy: Policy, pipeline: Pipeline, settings: TrainerConfig, log: MetricLog
) -> tuple[Targets, Minibatch]:
    """The targets of a rollout, and all its `B = T·N` samples.

    `policy` must be as it was when the rollout was collected; afterwards its value statistics have moved.

    Raises:
        NonFiniteError: on the CPU, for targets that are not finite, before anything learns from them.
    """
    ones = torch.ones_like(rollout.reward_weights)
    result = RewardResult(rollout.rewards, factor=ones, applied=ones)
    if pipeline.rewards is not None:
        result = pipeline.rewards.rewards(rollout)
        log.add(result.metrics)
    inputs = policy.normalize(rollout.observations.flatten(0, 1))
    features, states = inputs, None
    if rollout.sequences is not None:
        features, states = policy.replay(inputs, rollout.sequences)
    values = policy.value_normalizer.denormalize(policy.critic(features)).view(*rollout.done.shape, -1)
    log.add(value_metrics(values, result.applied, rollout.reward_names))
    targets = _targets(rollout, policy, result, values, states, settings)
    if (
        targets.returns.device.type == "cpu"
    ):  # elsewhere the loop looks later: here the device would be waited for
        check_targets(targets)
    if pipeline.advantages is None:
        advantages = targets.advantages @ rollout.reward_weights
    else:
        with torch.enable_grad():
            advantages, metrics = pipeline.advantages.advantages(targets, PolicyProbe(policy, rollout))
        log.add(metrics)
    if settings.normalize_values:
        policy.value_normalizer.update(targets.returns, policy.value_head)
    normalize = policy.value_normalizer.normalize
    samples = Minibatch(
        inputs=inputs,
        actions=Actions(*(part.flatten(0, 1) for part in rollout.actions)),
        action_mask=rollout.action_mask.flatten(0, 1),
        discrete_log_prob=rollout.discrete_log_prob.flatten(0, 1),
        continuous_log_prob=rollout.continuous_log_prob.flatten(0, 1),
        advantages=standardise(advantages.flatten()),
        values=normalize(targets.values).flatten(0, 1),
        returns=normalize(targets.returns).flatten(0, 1),
        pathwise=_pathwise(rollout, targets),
        sequences=rollout.sequences,
    )
    return targets, samples if rollout.idle is None else _without(rollout.idle.flatten(), samples)


def explained_share(targets: Targets) -> Tensor:
    """`[V]`, 0 to 1: how much of the variance of the returns the values explain, over all processes."""
    both = torch.stack((targets.returns, targets.returns - targets.values)).flatten(1, 2).double()
    mean, square = distributed.all_reduce_means((both.mean(1), both.square().mean(1)))
    variance, unexplained = (square - mean.square()).unbind()
    return torch.where(variance > 0, 1 - unexplained / variance, 0.0).clamp(0.0, 1.0).to(targets.returns)


def _without(idle: Tensor, samples: Minibatch) -> Minibatch:
    """Neutralise the samples `idle` `[B]`: no action was better or worse, and every value was right."""
    pathwise = samples.pathwise
    if pathwise is not None:
        gradient = pathwise.gradient.masked_fill(idle.unsqueeze(-1), 0.0)
        samples = samples._replace(pathwise=pathwise._replace(gradient=gradient))
    return samples._replace(
        advantages=samples.advantages.masked_fill(idle, 0.0),
        returns=torch.where(idle.unsqueeze(-1), samples.values, samples.returns),
    )


def _targets(
    rollout: Rollout,
    policy: Policy,
    result: RewardResult,
    values: Tensor,
    states: Tensor | None,
    settings: TrainerConfig,
) -> Targets:
    """GAE of every value head, from the values `[T, N, V]` of all observations, and what a memory knew
    `[T, N, M]` after each of them."""
    rewards, components = result.rewards, len(rollout.reward_weights)
    if values.shape[-1] > components:  # the last head predicts the task reward
        rewards = torch.cat([rewards, rollout.task_reward.unsqueeze(-1)], dim=-1)
    advantages, returns = compute_gae(
        rewards,
        values,
        _values_of(policy, rollout.last_observation, rollout.last_state),
        rollout.terminated,
        rollout.truncated,
        _final_values(policy, rollout, values, states),
        settings.discount,
        settings.gae_lambda,
    )
    task = advantages[..., -1] if values.shape[-1] > components else None
    raw = advantages[..., :components] / result.factor
    return Targets(rollout, rewards, values, returns, raw, result.applied, task)


def _values_of(policy: Policy, observations: Tensor, state: Tensor | None) -> Tensor:
    """`[B, O]` and what a memory knows before them `[B, M]` -> `[B, V]` in reward units."""
    inputs = policy.normalize(observations)
    if state is not None:
        inputs, _ = policy.remember(inputs, state)
    return policy.value_normalizer.denormalize(policy.critic(inputs))


def _final_values(policy: Policy, rollout: Rollout, values: Tensor, states: Tensor | None) -> Tensor:
    """Values of the final observations, shaped like `values`; needed only where an episode was truncated."""
    final = rollout.final_observations
    if final.device.type != "cpu":
        all_states = None if states is None else states.flatten(0, 1)
        return _values_of(policy, final.flatten(0, 1), all_states).view_as(values)
    # On the CPU looking is free, and most steps truncate nothing.
    where = rollout.truncated.nonzero(as_tuple=True)
    found = torch.zeros_like(values)
    found[where] = _values_of(policy, final[where], None if states is None else states[where])
    return found


def _pathwise(rollout: Rollout, targets: Targets) -> Pathwise | None:
    """`[B, …]`: derivatives in units of the standardised advantages, so that both estimates are of one
    gradient."""
    if rollout.pathwise is None:
        return None
    flat = Pathwise(*(part.flatten(0, 1) for part in rollout.pathwise))
    _, std = _standardised(targets.advantages @ rollout.reward_weights)
    return flat._replace(gradient=flat.gradient / std)


def standardise(advantages: Tensor) -> Tensor:
    """Standardise to mean 0 and std 1 over the samples of all processes; all 0 where all are equal."""
    return _standardised(advantages)[0]


def _standardised(advantages: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and their standard deviation; 1 where all are equal."""
    centred = advantages - distributed.all_reduce_mean(advantages.mean())
    # Divided by their mean size first: the squares of 1e-30 are 0, those of 1e30 infinite.
    size = distributed.all_reduce_mean(centred.abs().mean())
    size = torch.where(size > 0, size, 1.0)
    unit = centred / size
    std = distributed.all_reduce_mean(unit.square().mean()).sqrt()
    std = torch.where(std > 0, std, 1.0)
    return unit / std, size * std
