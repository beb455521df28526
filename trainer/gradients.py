"""The autograd work of an update: no gradient is computed twice.

With the gradients of the discrete surrogate, of the continuous one and of the rest at hand, the gradient of
the weighted loss is `w_d·g_d + w_c·g_c + g_rest`, so measuring both norms needs no further backward. An
update in which nobody asks for a norm takes one ordinary backward of the weighted loss instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equipoise.trainer.stages.protocol import Side, WeightResult
from equipoise.trainer.system import distributed


class FlatParameters:
    """The trainable parameters of a module as one vector, and one for their gradient.

    The module's own parameters become views of it, so that an optimizer works on a single tensor: one fused
    kernel instead of one for each layer. The module must not be moved to another device afterwards.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError(f"{type(module).__name__} has no parameters to train")
        for name, parameter in module.named_parameters():
            if parameter.dtype != self.parameters[0].dtype:
                kinds = f"{parameter.dtype}, others are {self.parameters[0].dtype}"
                raise ValueError(f"{type(module).__name__}: parameter {name} is {kinds}; all must be alike")
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in self.parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        for parameter, view in zip(self.parameters, self._views(self.vector.data), strict=True):
            parameter.data = view

    def _views(self, vector: Tensor) -> list[Tensor]:
        """Cut a vector `[n]` into the shapes of the parameters."""
        parts = torch.split(vector, [parameter.numel() for parameter in self.parameters])
        return [part.view_as(parameter) for part, parameter in zip(parts, self.parameters, strict=True)]

    def parameters_with_gradients(self) -> list[nn.Parameter]:
        """The parameters one by one, each with its gradient as a view of the vector's."""
        assert self.vector.grad is not None
        for parameter, view in zip(self.parameters, self._views(self.vector.grad), strict=True):
            parameter.grad = view
        return self.parameters

    def mask(self, chosen: Sequence[Tensor]) -> Tensor:
        """`[n]`: 1 where the vector holds one of the `chosen` parameters."""
        ids = {id(parameter) for parameter in chosen}
        return torch.cat([torch.full_like(p.detach(), id(p) in ids).reshape(-1) for p in self.parameters])

    def gradient(self, loss: Tensor, retain_graph: bool) -> Tensor:
        """`[n]`: the gradient of a scalar loss; 0 for parameters that it does not reach."""
        if not loss.requires_grad:
            return torch.zeros_like(self.vector.data)
        parts = torch.autograd.grad(
            loss,
            self.parameters,
            retain_graph=retain_graph,  # by keyword: torch.compile overlooks the positional one
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([part.reshape(-1) for part in parts])


class SideGradients:
    """`Sides` of one minibatch: the gradients of both surrogates, computed separately only on demand.

    Args:
        flat: the policy's parameters.
        shared: `[n]` 1 for parameters that both surrogates reach; None where there are none.
        discrete, continuous, rest: scalar losses.
        update: number of this optimizer step since training began.
    """

    def __init__(
        self,
        flat: FlatParameters,
        shared: Tensor | None,
        discrete: Tensor,
        continuous: Tensor,
        rest: Tensor,
        update: int,
    ) -> None:
        self.update = update
        self.share = shared is not None
        self._flat = flat
        self._shared = shared
        self._losses: dict[Side, Tensor] = {"discrete": discrete, "continuous": continuous}
        self._rest = rest
        self.measured: dict[Side, Tensor] | None = None
        """`[n]` each: the gradients of the two surrogates; None until a norm or a product is asked for."""

    def _gradients(self) -> dict[Side, Tensor]:
        if self.measured is None:
            # Reduced before anybody takes a norm: the norm of a mean is not the mean of the norms.
            gradients = [self._flat.gradient(loss, retain_graph=True) for loss in self._losses.values()]
            self.measured = dict(zip(self._losses, distributed.all_reduce_means(gradients), strict=True))
        return self.measured

    def norm(self, name: Side, *, shared: bool = False) -> Tensor:
        gradient = self._gradients()[name]
        if shared:
            if self._shared is None:
                raise ValueError("norm_parameters = shared: the two surrogates share no parameters")
            gradient = gradient * self._shared
        norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float64)
        return norm

    def dot(self) -> Tensor:
        sides = self._gradients()
        return torch.dot(sides["discrete"].double(), sides["continuous"].double())

    def combine(self, weights: WeightResult) -> Tensor:
        """`[n]`: the gradient of `w_d·discrete + w_c·continuous + rest`, over all processes."""
        dtype = self._rest.dtype
        discrete, continuous = weights.discrete.to(dtype), weights.continuous.to(dtype)
        if self.measured is None:
            sides = self._losses
            loss = discrete * sides["discrete"] + continuous * sides["continuous"] + self._rest
            return distributed.all_reduce_mean(self._flat.gradient(loss, retain_graph=False))
        rest: Tensor = distributed.all_reduce_mean(self._flat.gradient(self._rest, retain_graph=False))
        rest.addcmul_(discrete, self.measured["discrete"])
        return rest.addcmul_(continuous, self.measured["continuous"])
