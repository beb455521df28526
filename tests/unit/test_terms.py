from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from equipoise.trainer.data import Term
from equipoise.trainer.gradients import FlatParameters, SideGradients
from equipoise.trainer.stages.protocol import WeightResult, mean_metric, reduce_term
from tests.forked import in_two_processes


def test_the_mean_over_what_counts() -> None:
    values = torch.tensor([[1.0, 2.0], [4.0, 100.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert reduce_term(Term(values)).item() == 107 / 4
    assert reduce_term(Term(values, mask)).item() == pytest.approx(7 / 3)
    assert mean_metric(Term(values, mask)).value.item() == pytest.approx(7 / 3)


def test_a_mask_is_broadcast_before_it_is_counted() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    assert reduce_term(Term(values, torch.tensor([[True], [False]]))).item() == 2.0


def test_a_reduced_scalar_stays_what_it_is() -> None:
    assert reduce_term(Term(torch.tensor(0.25))).item() == 0.25


def test_only_what_counts_has_a_gradient_and_all_of_it_the_same() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(reduce_term(Term(values, torch.tensor([1, 0, 1, 0]).bool())), values)
    assert gradient.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_where_nothing_counts_the_term_is_zero_and_the_figure_is_nan() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    term = Term(values, torch.zeros(2, dtype=torch.bool))
    loss = reduce_term(term)
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, values)[0].tolist() == [0.0, 0.0]
    assert math.isnan(mean_metric(term).value.item())


def test_a_figure_holds_no_graph() -> None:
    values = torch.ones(2, requires_grad=True)
    for mask in (None, torch.ones(2, dtype=torch.bool)):
        assert not mean_metric(Term(values, mask)).value.requires_grad


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.discrete, self.both, self.continuous = (nn.Parameter(torch.ones(1)) for _ in range(3))


def work(rank: int, rendezvous: str, results: str) -> None:
    """Discrete gradients (3, 0, 0) and (0, 4, 0): their mean has norm 2.5, their norms a mean of 3.5."""
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    line = Line()
    flat = FlatParameters(line)
    discrete = (3 * line.discrete if rank == 0 else 4 * line.both).sum()
    continuous = (2 + 2 * rank) * line.continuous.sum()
    found: dict[str, list[float]] = {}
    for name, asks in (("measured", True), ("unmeasured", False)):
        sides = SideGradients(flat, None, discrete, continuous, (rank * line.both).sum(), 0)
        norms = [sides.norm("discrete"), sides.norm("continuous")] if asks else []
        gradient: Tensor = sides.combine(WeightResult(torch.tensor(1.0), torch.tensor(10.0)))
        found[name] = [norm.item() for norm in norms] + gradient.tolist()
    # One of three entries counts here, both of two there: (1 + 20 + 30) / 3.
    values = torch.tensor([1.0, 50.0, 60.0]) if rank == 0 else torch.tensor([20.0, 30.0])
    mask = torch.tensor([True, False, False]) if rank == 0 else torch.tensor([True, True])
    found["term"] = [reduce_term(Term(values, mask)).item()]
    torch.save(found, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_over_processes_the_whole_counts(tmp_path: Path) -> None:
    """Gradients are averaged before anybody takes a norm; shares of a term average to the global mean."""
    in_two_processes(work, (tmp_path / "rendezvous").as_uri(), str(tmp_path))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    gradient = [1.5, 2.0 + 0.5, 10 * 3.0]
    for process in found:
        assert process["measured"] == pytest.approx([2.5, 3.0, *gradient])
        assert process["unmeasured"] == pytest.approx(gradient)
    assert (found[0]["term"][0] + found[1]["term"][0]) / 2 == pytest.approx(51 / 3)
