"""The tape: a graph does what was recorded, to the same memory; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equipoise.trainer.compilation.tape import TapeError, is_recording, recording
from equipoise.trainer.gradients import FlatParameters, SideGradients
from equipoise.trainer.stages.protocol import WeightResult
from tests.unit.test_gradients import SCENES, Scene, make_scene

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
WEIGHTS = WeightResult(torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64))


def recorded(function: Callable[[], Any], results: Callable[[Any], list[Tensor]] = lambda r: [r]) -> Any:
    """What it gave while it was recorded, and what does it again."""
    with recording() as tape:
        result = function()
    graph = tape.graph(results(result))

    @torch.no_grad()
    def replay() -> None:
        graph(*tape.inputs)
        for operation in tape.aside:
            operation.again()

    return result, replay


def test_results_and_state_are_computed_anew_in_the_same_memory() -> None:
    number, total = torch.tensor([1.0, 2.0]), torch.zeros(2)

    def add() -> Tensor:
        return total.add_(number) * 10

    result, replay = recorded(add)
    assert total.tolist() == [0.0, 0.0], "recording leaves no traces"
    number.fill_(3.0)
    replay()
    assert (total.tolist(), result.tolist()) == ([3.0, 3.0], [30.0, 30.0])
    replay()
    assert (total.tolist(), result.tolist()) == ([6.0, 6.0], [60.0, 60.0])


def test_tensors_that_lie_in_one_memory_see_each_other() -> None:
    vector = torch.arange(6.0)
    first, matrix, across = vector[:2], vector[2:].view(2, 2), vector[2:].view(2, 2).t()

    def shift() -> Tensor:
        vector.mul_(2.0)
        across[0].add_(first)  # 2·2 + 0, and 2·4 + 2
        return matrix.sum()

    result, replay = recorded(shift)
    replay()
    assert vector.tolist() == [0.0, 2.0, 4.0, 6.0, 10.0, 10.0]
    assert float(result) == 30.0


def test_a_constant_that_is_written_to_is_new_each_time() -> None:
    number = torch.tensor(5.0)
    result, replay = recorded(lambda: torch.tensor(1.0).add_(number))
    replay()
    replay()
    assert float(result) == 6.0


def test_an_optimizer_steps_aside_and_what_follows_it_comes_after_it() -> None:
    """On a flat vector as in the trainer; the same steps as without a tape."""

    def steps(do: Callable[[Callable[[], Tensor]], Callable[[], Tensor]]) -> list[float]:
        vector = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        vector.grad = torch.zeros(2)
        optimizer = torch.optim.Adam([vector], lr=torch.tensor(0.1), fused=True)
        skipped = torch.zeros(())

        def step() -> Tensor:
            loss = vector.square().sum()
            assert vector.grad is not None
            vector.grad.copy_(torch.autograd.grad(loss, [vector])[0])
            optimizer.found_inf, optimizer.grad_scale = (loss > 1e9).float(), None  # type: ignore[attr-defined]
            optimizer.step()
            skipped.add_(1.0)
            return vector.detach().square().sum() + skipped

        step()
        again = do(step)
        return [float(again()) for _ in range(3)]

    def taped(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        result, replay = recorded(step)
        return lambda: (replay(), result.clone())[1]

    assert steps(taped) == steps(lambda step: step)


def _written_before_a_view_of_it() -> Tensor:
    tensor = torch.zeros(4)
    part = tensor[1:3]
    tensor.add_(1.0)
    part.mul_(3.0)
    return tensor


def test_views_of_what_was_made_on_the_tape() -> None:
    result, replay = recorded(_written_before_a_view_of_it)
    result.zero_()
    replay()
    assert result.tolist() == [1.0, 3.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x * float(x.sum()), "looks at values"),
        (lambda x: x.numpy().sum(), "numpy() looks at values"),
        (lambda x: np.asarray(x), "looks at values"),
        (lambda x: x.tolist(), "tolist() looks at values"),
        (lambda x: x if x.any() else -x, "looks at values"),
        (torch.inference_mode()(lambda x: x if x.any() else -x), "looks at values"),
        (lambda x: x if torch.equal(x, x) else -x, "looks at values"),
        (lambda x: x[x > 0.0], "shape depends on values"),
        (lambda x: x.nonzero(), "shape depends on values"),
        (lambda x: x.unique(), "shape depends on values"),
        (lambda x: x + torch.rand(2), "draws random numbers"),
        (lambda x: x.normal_(generator=torch.Generator()), "draws random numbers"),
    ],
)
def test_what_a_graph_would_not_do_again_is_refused(function: Callable[[Tensor], Any], reason: str) -> None:
    number = torch.tensor([1.0, 2.0])

    def spoilt() -> Any:
        number.add_(1.0)
        return function(number)

    with pytest.raises(TapeError) as refused:
        recorded(spoilt)
    assert reason in str(refused.value)
    assert number.tolist() == [1.0, 2.0], "as before"
    assert not is_recording()


def test_memory_of_two_types_is_refused() -> None:
    number = torch.tensor([1.0, 2.0])
    bits = number.view(torch.int32)
    with pytest.raises(TapeError, match="memory of torch.float32 is also seen as torch.int32"):
        recorded(lambda: number + bits)


def test_choosing_by_numbers_is_no_choice_by_values() -> None:
    rows = torch.tensor([1, 0])
    result, replay = recorded(lambda: torch.tensor([[1.0], [2.0]])[rows])
    rows.copy_(torch.tensor([0, 0]))
    replay()
    assert result.tolist() == [[1.0], [1.0]]


@settings(max_examples=40, deadline=None)
@given(
    measured=st.booleans(),
    **SCENES,
)
def test_recorded_gradients_are_those_of_autograd(
    seed: int, dtype: torch.dtype, measured: bool, **shape: Any
) -> None:
    """With other parameters and samples than those at hand when it was recorded."""
    scene, other = (make_scene(seed + i, dtype=dtype, **shape) for i in range(2))
    flat, theirs = FlatParameters(scene.policy), FlatParameters(other.policy)
    shared = scene.shared(flat)
    (gradient, norms), replay = recorded(lambda: gradients(scene, flat, shared, measured), list)
    with torch.no_grad():
        flat.vector.copy_(theirs.vector)
        for place, value in zip(_flat(scene.batch), _flat(other.batch), strict=True):
            place.copy_(value)
    replay()
    expected, expected_norms = gradients(scene, flat, shared, measured)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(norms, expected_norms, rtol=10 * tolerance, atol=tolerance)
    size = max(1.0, float(expected.norm()))
    torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance * size)


def gradients(
    scene: Scene, flat: FlatParameters, shared: Tensor | None, measured: bool
) -> tuple[Tensor, Tensor]:
    """Of the weighted loss; and both norms and the product, if they are `measured`."""
    sides = SideGradients(flat, shared, *scene.losses(), 0)
    metrics = (
        [sides.norm("discrete"), sides.norm("continuous"), sides.dot()] if measured else [torch.zeros(())]
    )
    return sides.combine(WEIGHTS), torch.stack(metrics)


def _flat(batch: Any) -> list[Tensor]:
    return [tensor for part in batch for tensor in (part if isinstance(part, tuple) else [part])]
