"""The layers with tanh that run as one operation, against single operations of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.policy.encoders import MLP, linear
from equipoise.trainer.policy.encoders import mlp as encoders

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def learned(mlp: torch.nn.Module, inputs: Tensor, *cotangents: Tensor) -> list[Tensor]:
    """The output, and for each cotangent the gradients of all parameters, and of the inputs if they want one."""
    output = mlp(inputs)
    wanted = [*mlp.parameters(), *([inputs] if inputs.requires_grad else [])]
    found = [torch.autograd.grad(output, wanted, c, retain_graph=True) for c in cotangents]
    return [output.detach(), *(gradient for one in found for gradient in one)]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    block=st.integers(1, 200),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    of_inputs=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_fused_layers_give_what_single_ones_give(
    rows: int, sizes: Sequence[int], block: int, dtype: torch.dtype, of_inputs: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    mlp = MLP(sizes[:1], sizes[1:], "tanh").to(dtype)
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter)
    inputs = torch.randn(rows, sizes[0], dtype=dtype).requires_grad_(of_inputs)
    cotangents = [torch.randn(rows, sizes[-1], dtype=dtype) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "_BLOCK", block)
        fused = learned(mlp, inputs, *cotangents)
    mlp.fused = False
    for one, other in zip(fused, learned(mlp, inputs, *cotangents), strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=40 * TOLERANCE[dtype])


@pytest.mark.parametrize("width", [3, 16])
def test_a_layer_is_torchs_own_with_its_gradients(width: int) -> None:
    torch.manual_seed(0)
    layer, other = linear(width, 4), torch.nn.Linear(width, 4)
    other.load_state_dict(layer.state_dict())
    inputs, c = torch.randn(5, width), torch.randn(5, 4)
    for one, expected in zip(learned(layer, inputs, c), learned(other, inputs, c), strict=True):
        torch.testing.assert_close(one, expected)


def test_a_layer_by_hand() -> None:
    """tanh(2·0.5 − 1) = 0 with slope 1: d/dw = x = 0.5, d/db = 1, d/dx = w = 2."""
    mlp = MLP((1,), [1], "tanh")
    with torch.no_grad():
        mlp.layers[0].weight.fill_(2.0)
        mlp.layers[0].bias.fill_(-1.0)
    inputs = torch.tensor([[0.5]], requires_grad=True)
    metrics = learned(mlp, inputs, torch.ones(1, 1))
    assert [metric.item() for metric in metrics] == [0.0, 0.5, 1.0, 2.0]


def test_large_inputs_end_at_one_without_a_gradient() -> None:
    mlp = MLP((1,), [1], "tanh")
    inputs = torch.tensor([[1e4], [-1e4], [torch.nan]], requires_grad=True)
    with torch.no_grad():
        mlp.layers[0].weight.fill_(1.0)
    output, *_, gradient = learned(mlp, inputs, torch.ones(3, 1))
    assert output[:2].flatten().tolist() == [1.0, -1.0]
    assert gradient[:2].flatten().tolist() == [0.0, 0.0]
    assert output[2].isnan()
    assert gradient[2].isnan()


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    mlp, inputs = MLP((3,), [4, 4], "tanh"), torch.randn(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivatives while MLP.fused"):
        torch.autograd.grad(mlp(inputs).sum(), inputs, create_graph=True)
    mlp.fused = False
    (first,) = torch.autograd.grad(mlp(inputs).sum(), inputs, create_graph=True)
    first.square().sum().backward()
    assert inputs.grad is not None


def test_layers_and_parameters_may_be_replaced() -> None:
    mlp, inputs = MLP((3,), [4, 4], "tanh"), torch.randn(2, 3)
    tripled = {name: 3.0 * value for name, value in mlp.state_dict().items()}
    mlp.load_state_dict(tripled, assign=True)
    torch.testing.assert_close(mlp(inputs), mlp.layers(inputs))
    mlp.layers[0] = torch.nn.Linear(3, 4)
    torch.testing.assert_close(mlp(inputs), mlp.layers(inputs))
    nought = {name: torch.zeros_like(value) for name, value in mlp.state_dict().items()}
    assert not torch.func.functional_call(mlp, nought, inputs).any()


def test_the_parameters_may_be_replaced_by_views() -> None:
    """As `FlatParameters` does, so that one optimizer step changes all layers."""
    mlp = MLP((2,), [3], "tanh")
    flat = FlatParameters(mlp)
    with torch.no_grad():
        flat.vector.zero_()
    assert mlp(torch.ones(1, 2)).tolist() == [[0.0, 0.0, 0.0]]
