"""Where numbers stopped being finite: which term, which component, which parameter, in which update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.trainer.data import Rollout, Targets, critic_heads
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.rollout import Collector
from equipoise.trainer.stages.protocol import LossState
from equipoise.trainer.system import distributed, torch_switches

_Field = tuple[str, Tensor, Tensor | None]
"""Name, values `[B, ...]` and which of them count."""

_AFTER = "observation after the last step"
_INPUTS = ("inputs", "discrete_log_prob", "continuous_log_prob", "advantages", "values", "returns")


class NonFiniteError(ValueError):
    """An environment gave NaN or an infinite number, or rewards too large for float32."""


class NoGradientError(RuntimeError):
    """A loss that does not depend on any parameter of the policy."""


def check_finite(rollout: Rollout, env_steps: int) -> None:
    """Refuse a rollout with NaN or infinite rewards or observations before anything learns from it.

    Args:
        env_steps: taken before the rollout began, for the message.

    Raises:
        NonFiniteError: names the earliest: the field, the component, the environment and the step.
    """
    ended = rollout.done.unsqueeze(-1)
    fields = {  # in the order in which they come about within a step
        "observation": rollout.observations,
        "reward": rollout.rewards,
        "final observation": rollout.final_observations.masked_fill(~ended, 0),
        _AFTER: rollout.last_observation.unsqueeze(0),
    }
    # One number for the host while all is well: a sum is finite only if every entry is.
    fields = {name: field for name, field in fields.items() if field.is_floating_point()}  # bytes always are
    if bool(torch.stack([field.sum() for field in fields.values()]).isfinite().all()):
        return
    found = []
    for name, field in fields.items():
        bad = (~field.isfinite()).nonzero()
        if len(bad):
            step, env, column = (int(index) for index in bad[0])
            what = f"{name} {rollout.reward_names[column]!r}" if name == "reward" else f"{name} [{column}]"
            shift = len(rollout.rewards) if name == _AFTER else 0
            found.append((step + shift, what, env, float(field[step, env, column])))
    if found:
        step, what, env, value = min(found, key=lambda entry: entry[0])
        raise NonFiniteError(
            f"{what} is {value} in environment {env}, step {step} of the rollout that began at {env_steps} "
            "env steps; observations and rewards must be finite"
        )


def check_targets(targets: Targets) -> None:
    """Refuse targets that are not finite.

    On the CPU before anything learns from them. Elsewhere, where that would wait for the device, after the
    metrics have been read: until then updates are skipped, as their losses are not finite.

    Raises:
        NonFiniteError: names the component and the size of its (normalised) rewards.
    """
    returns = targets.returns
    with distributed.failing_together():
        # One number for the host while all is well: a sum is finite only if every entry is. The advantages
        # are in the returns.
        if bool(returns.sum().isfinite()):
            return
        for column in range(returns.shape[-1]):
            if not bool(returns[..., column].isfinite().all()):
                name = _component(column, targets.rollout.reward_names)
                largest = float(targets.rewards[..., column].abs().max())
                raise NonFiniteError(
                    f"the advantages or value targets of component {name} are not finite; "
                    f"after the rewards stage its rewards reach {largest:.3g}"
                )


class DivergenceError(RuntimeError):
    """Too many updates in a row were not finite. `details`: what was not, and where."""

    def __init__(self, message: str, details: list[str]) -> None:
        super().__init__(message)
        self.details = details


def check_updates(metrics: Mapping[str, float], bad: BadUpdates, limit: int, iteration: int) -> list[str]:
    """What was not finite in the skipped updates of the iteration that gave `metrics`.

    Raises:
        DivergenceError: `limit` updates or more in a row were skipped: the run would go on for ever and
            learn nothing. Or the parameters have overflowed.
    """
    skipped = metrics["optimizer/skipped_in_a_row"]
    # A NaN is no metric and leaves none behind.
    finite = math.isfinite(metrics.get("optimizer/parameter_norm", math.nan))
    details = bad.pop() if metrics["optimizer/skipped"] or not finite else []
    if skipped < limit and finite:
        return details
    reason = (
        f"{skipped:.0f} updates in a row had a loss or gradient that is not finite and were skipped "
        f"(trainer.max_bad_updates = {limit})"
        if finite
        else "an update made the parameters overflow (optimizer.learning_rate = "
        f"{metrics['optimizer/learning_rate']:g})"
    )
    raise DivergenceError(
        f"{reason}, iteration {iteration}. First of what is not finite: "
        f"{details[0] if details else 'the gradient'}; all of it is in failure.txt of the run folder",
        details,
    )


@contextmanager
def collecting(collector: Collector, env_steps: int) -> Iterator[None]:
    """For collecting a rollout within, after `env_steps` environment steps; refuses one that is not finite.

    Raises:
        NonFiniteError: names the earliest observation or reward that is not.
        EnvError: the environment misbehaved.
    """
    name = type(collector.env).__name__
    before = torch_switches.state()
    with distributed.failing_together(), torch_switches.kept(name):
        try:
            yield
        except RuntimeError as error:
            if calls := torch_switches.restore(before):
                what = f"{name} called {', '.join(calls)}, for the whole process, and then something failed"
                raise EnvError(f"{what}: {error}") from error
            if isinstance(error, EnvError):
                # It may have choked on the action for an observation that was not finite.
                check_finite(collector.rollout, env_steps)
            raise
        check_finite(collector.rollout, env_steps)


class BadUpdates:
    """Keeps the inputs of the latest skipped update, to say afterwards where it went wrong.

    On the CPU, where looking is free, that is every skipped update. Elsewhere only the last update of an
    iteration is at hand; when a run ends because all are skipped, that one was too.
    """

    def __init__(self, policy: Policy, reward_names: Sequence[str]) -> None:
        self._policy, self._reward_names = policy, reward_names
        self._latest: tuple[int, Callable[[], LossState], Tensor] | None = None

    def record(
        self, update: int, recompute: Callable[[], LossState], gradient: Tensor, skipped: Tensor
    ) -> None:
        """Keep an update that was skipped.

        Args:
            update: its number.
            recompute: returns what its losses were computed from; called before the next update begins, or
                only for the last update of an iteration.
            gradient: `[n]`, before clipping.
            skipped: device scalar, 0 for no.
        """
        if skipped.device.type != "cpu":
            self._latest = update, recompute, gradient
        elif bool(skipped):  # at once: the next updates change the parameters
            state = recompute()
            self._latest = update, lambda: state, gradient

    def pop(self) -> list[str]:
        """A line for everything that was not finite in the latest skipped update, causes before
        consequences; then forget it. Empty: all was finite. Collective: all processes get the same."""
        causes: list[str] = []
        consequences: list[str] = []
        if self._latest is not None:
            (update, recompute, gradient), self._latest = self._latest, None
            found = [line for field in _fields(recompute()) for line in self._columns(field)]
            causes = [f"update {update}: {line}" for line in found]
            consequences = [f"update {update}: {line}" for line in self._of_gradient(gradient)]
        everywhere = distributed.all_gather(causes)
        if len(everywhere) > 1:  # the gradient is the same in all of them
            causes = [f"process {i}, {line}" for i, lines in enumerate(everywhere) for line in lines]
        return causes + consequences

    def _columns(self, field: _Field) -> Iterator[str]:
        """A line for each column of `[B, ...]` with bad samples."""
        name, values, mask = field
        bad = ~values.isfinite()
        if mask is not None:
            bad = bad & mask
        counts = bad.sum(0) if bad.dim() else bad.long()
        for index in counts.nonzero().tolist():
            samples = f"{int(counts[tuple(index)])} of {len(values)} samples" if bad.dim() else "the mean"
            yield f"{name}{self._label(name, index)}: {samples}"

    def _label(self, name: str, index: list[int]) -> str:
        if not index:
            return ""
        if name in ("term value", "critic values", "minibatch values", "minibatch returns"):
            return f", component {_component(index[0], self._reward_names)}"
        kind = "parameter" if name in ("policy mean", "policy log_std") else "decision"
        return f", {kind} {', choice '.join(map(str, index))}"

    def _of_gradient(self, gradient: Tensor) -> Iterator[str]:
        first = 0
        for name, parameter in self._policy.named_parameters():
            if not parameter.requires_grad:
                continue
            part, first = gradient[first : first + parameter.numel()], first + parameter.numel()
            if count := int((~part.isfinite()).sum()):
                yield f"gradient of {name}: {count} of {part.numel()} entries"


def _component(column: int, reward_names: Sequence[str]) -> str:
    return repr(critic_heads(reward_names, column + 1)[column])


def _fields(state: LossState) -> Iterator[_Field]:
    """The parts of a loss, detached: the graph must not outlive its update."""
    distribution = state.distribution
    for name in _INPUTS:
        yield f"minibatch {name}", getattr(state.batch, name), None
    yield "policy log-probability", distribution.log_probs.detach(), None
    yield "policy mean", distribution.mean.detach(), None
    yield "policy log_std", distribution.log_std.detach().expand_as(distribution.mean), None
    yield "critic values", state.values.detach(), None
    for name, term in state.terms.items():
        yield f"term {name}", term.values.detach(), term.mask
