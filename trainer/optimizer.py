"""The policy's optimizer: any class of `torch.optim` or of others, whose steps can be skipped.

An update that is not finite must leave no trace, and on a GPU the host learns of it only later. Fused
optimizers skip a step by a flag on the device. The step of any other is undone on the device or, where
looking is free or the state cannot be restored, not taken at all.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.system.checkpoint import plain

ELEMENTWISE = (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.Adamax,
    torch.optim.AdamW,
    torch.optim.ASGD,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
)
"""Classes that treat every number by itself, so that all parameters may be one vector: one kernel, not one
for each layer. Any other class gets the parameters as the policy has them."""
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Those of them that have one kernel for a whole step on every device."""
_HOW = ("lr", "fused", "foreach", "capturable", "differentiable")
"""Settings of a parameter group that depend on the device or the schedule, so no checkpoint has them."""


class PolicyOptimizer:
    """Steps the parameters of `flat` along the gradient in `flat.vector.grad`.

    Args:
        cls: a `torch.optim.Optimizer`, whose constructor takes `lr` and whose `step` needs no closure.
        flat: the parameters.
        learning_rate: of the first step; `set_learning_rate` changes it.
        keywords: for the constructor, beside parameters and `lr`.
        multiplied: parameters of `flat` whose steps are `multiplier` times as long, as in a parameter group
            with a learning rate of its own.
        may_wait: whether the host may look at the device before a step; None: where that is free, on the CPU.

    Raises:
        ValueError: for a class that does not fit, or keywords that it refuses.
    """

    def __init__(
        self,
        cls: Callable[..., torch.optim.Optimizer],
        flat: FlatParameters,
        learning_rate: float,
        keywords: Mapping[str, Any],
        multiplied: Sequence[nn.Parameter] = (),
        multiplier: float = 1.0,
        may_wait: bool | None = None,
    ) -> None:
        self._flat = flat
        self._multiplied = [parameter.detach() for parameter in multiplied] if multiplier != 1 else []
        self._multiplier = multiplier
        device = flat.vector.device
        self._may_wait = device.type == "cpu" if may_wait is None else may_wait
        # With dampening the first step of SGD is another one than all the rest.
        self.fused = cls in FUSED and not keywords.get("dampening")
        """Whether a step is one kernel that reads its learning rate on the device and can skip itself."""
        self.learning_rate = torch.tensor(learning_rate, device=device)
        """Device scalar."""
        how: dict[str, Any] = {"fused": True} if self.fused else {}
        accepted = inspect.signature(cls).parameters
        if "capturable" in accepted and device.type == "cuda" and not self.fused:
            how["capturable"] = True  # the count of steps on the device, where fused ones have it anyway
            # That it is meant for CUDA graphs and is in none.
            warnings.filterwarnings("ignore", ".*capturable=True", UserWarning, r"torch\.")
        rate = self.learning_rate if self.fused else learning_rate
        parameters = [flat.vector] if cls in ELEMENTWISE else flat.parameters_with_gradients()
        self.inner = cls(parameters, lr=rate, **keywords, **how)
        self._undoable: bool | None = None
        """Whether everything that a step changes is on the device; None: unknown before the first one."""
        if self.fused and keywords.get("momentum"):
            # SGD makes this buffer in its first step, and leaves it unset if that step is skipped.
            self.inner.state[flat.vector]["momentum_buffer"] = torch.zeros_like(flat.vector)

    def set_learning_rate(self, rate: float | Tensor) -> None:
        """`rate`: a number, or a device scalar where it follows the updates; an optimizer that is not `fused`
        takes only numbers, so the host then waits for the device."""
        self.learning_rate.fill_(rate)
        if not self.fused:
            number = float(rate)
            for group in self.inner.param_groups:
                group["lr"] = number

    def step(self, skipped: Tensor) -> None:
        """Take one step; nothing changes where `skipped`, a device scalar, is not 0."""
        before = [parameter.clone() for parameter in self._multiplied]
        self._step(skipped)
        for parameter, start in zip(self._multiplied, before, strict=True):
            parameter.copy_(torch.lerp(start, parameter, self._multiplier))

    def _step(self, skipped: Tensor) -> None:
        if self.fused:
            # Fused optimizers leave parameters and moments alone where this flag is set, without the host.
            self.inner.found_inf, self.inner.grad_scale = skipped, None  # type: ignore[attr-defined]
            self.inner.step()
        elif not self._may_wait and self._undoable:
            self._step_and_undo(skipped)
        elif not bool(skipped):
            before = self._counters()
            self.inner.step()
            state = [value for values in self.inner.state.values() for value in values.values()]
            device = self._flat.vector.device
            on_device = all(isinstance(value, Tensor) and value.device == device for value in state)
            self._undoable = on_device and self._counters() == before

    def _step_and_undo(self, skipped: Tensor) -> None:
        vector, state = self._flat.vector.detach(), self.inner.state
        before = {(p, name): value.clone() for p, values in state.items() for name, value in values.items()}
        start = vector.clone()
        self.inner.step()
        bad = skipped > 0
        vector.copy_(torch.where(bad, start, vector))
        for (parameter, name), value in before.items():
            now = state[parameter][name]
            now.copy_(torch.where(bad, value, now))

    def _counters(self) -> list[dict[str, Any]]:
        """Counters that some optimizers keep in their parameter groups."""
        plain_types = (bool, int, float, str)
        groups = self.inner.param_groups
        return [{k: v for k, v in group.items() if isinstance(v, plain_types)} for group in groups]

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        saved = state["param_groups"]
        ours = [{name: group[name] for name in _HOW if name in group} for group in self.inner.param_groups]
        groups = [{**group, **how} for group, how in zip(saved, ours, strict=True)]
        self.inner.load_state_dict({**state, "param_groups": groups})
        for group, how in zip(self.inner.param_groups, ours, strict=True):
            group.update(how)  # not copies of them
        self.set_learning_rate(float(saved[0]["lr"]))
        self._undoable = None


def try_out(cls: Callable[..., torch.optim.Optimizer], keywords: Mapping[str, Any], key: str) -> None:
    """Try the optimizer: take two steps with a network of one layer.

    Raises:
        ValueError: for an optimizer that could not train a policy, or whose state no checkpoint can hold; the
            message begins with `key`.
    """
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(f"{key}: must be a torch.optim.Optimizer")
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(f"{key}: its step computes the loss several times; the trainer computes it once")
    flat = FlatParameters(nn.Linear(2, 2))
    places = [parameter.data_ptr() for parameter in flat.parameters]
    assert flat.vector.grad is not None
    try:
        optimizer = PolicyOptimizer(cls, flat, 1e-3, keywords)
        for _ in range(2):
            flat.vector.grad.fill_(0.1)
            optimizer.step(torch.zeros(()))
        plain(optimizer.state_dict(), "its state")
    except Exception as error:  # user code: may raise anything
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{key}: {reason}") from error
    if places != [parameter.data_ptr() for parameter in flat.parameters]:
        raise ValueError(f"{key}: replaces the parameters' memory, where the trainer needs to find them")
