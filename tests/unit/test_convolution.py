"""Pictures: what a convolution sees of them, and how a rollout keeps them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.observation_parts import ObservationPart, read_parts
from equipoise.trainer.policy.encoders import MLP, Automatic, Convolution, convolution
from equipoise.trainer.policy.storage import Storage


def parts(space: spaces.Space[object]) -> tuple[ObservationPart, ...]:
    return read_parts(ObservationLayout(space).describe())


def pictures(*shape: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, int(np.prod(shape))), generator=generator).to(torch.uint8)


@pytest.mark.parametrize(
    "shape",
    [(7, 7, 3), (10, 10, 10), (3, 3), (2, 5, 1), (3, 20, 24), (84, 84), (4, 84, 84), (4, 64, 96, 3)],
)
def test_pictures_of_all_sizes(shape: tuple[int, ...]) -> None:
    network = Convolution(shape, width=8)
    of_bytes = network(pictures(*shape))
    assert of_bytes.shape == (3, 8)
    assert torch.equal(of_bytes, network(pictures(*shape).float()))


def test_channels_may_come_first_or_last_and_frames_become_channels() -> None:
    torch.manual_seed(0)
    last, first = Convolution((9, 12, 3)), Convolution((3, 9, 12))
    first.load_state_dict(last.state_dict())
    picture = pictures(9, 12, 3)
    moved = picture.view(3, 9, 12, 3).permute(0, 3, 1, 2).reshape(3, -1)
    torch.testing.assert_close(last(picture), first(moved))
    stacked = Convolution((2, 9, 12, 3))
    side_by_side = Convolution((6, 9, 12))
    side_by_side.load_state_dict(stacked.state_dict())
    frames = pictures(2, 9, 12, 3)
    moved = frames.view(3, 2, 9, 12, 3).permute(0, 1, 4, 2, 3).reshape(3, -1)
    torch.testing.assert_close(stacked(frames), side_by_side(moved))


def test_one_feature_by_hand() -> None:
    """A kernel of one pixel with weight 2, and a last layer that adds up: twice the sum, out of 255 or of 1."""
    for dtype, high in ((np.uint8, 255.0), (np.bool_, 1.0)):
        space = spaces.Box(0, int(high), (5, 5), dtype)
        network = Convolution((5, 5), parts(space), width=1, layers=[(1, 1, 1)])
        with torch.no_grad():
            network.layers[0].weight.fill_(2.0)
            network.last.weight.fill_(1.0)
        picture = torch.zeros(1, 25, dtype=torch.uint8)
        picture[0, 3] = picture[0, 7] = 1
        assert network(picture).item() == pytest.approx(4.0 / high)


def test_what_is_left_over_and_what_is_no_picture_is_said() -> None:
    with pytest.raises(ValueError, match=r"nothing is left of a picture of shape \(7, 7, 3\)"):
        Convolution((7, 7, 3), layers=[(32, 8, 4)])
    with pytest.raises(ValueError, match=r"has shape \(12,\) \(use policy=mlp\)"):
        Convolution((12,))


def test_many_pictures_at_once_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    network, many = Convolution((7, 7, 3)), pictures(7, 7, 3, count=50)
    with torch.no_grad():
        whole = network(many)
        monkeypatch.setattr(convolution, "_BLOCK", 5_000)
        torch.testing.assert_close(network(many), whole)


def test_the_space_chooses() -> None:
    def chosen(space: spaces.Space[object]) -> type:
        return type(Automatic((1,) if space.shape is None else space.shape, parts(space)))

    assert chosen(spaces.Box(0, 255, (10, 10, 3), np.uint8)) is Convolution
    assert chosen(spaces.Box(0, 1, (10, 10, 4), np.bool_)) is Convolution
    assert chosen(spaces.Box(0, 255, (128,), np.uint8)) is MLP
    assert chosen(spaces.Box(-1, 1, (10, 10, 3))) is MLP


SPACE = spaces.Dict(
    camera=spaces.Box(0, 255, (3, 4, 3), np.uint8),
    speed=spaces.Box(-10, 10, (2,)),
    gear=spaces.Discrete(5),
    where=spaces.Box(-1, 1, (3,)),
)


def test_bytes_of_a_row_by_hand() -> None:
    storage = Storage(parts(SPACE))
    assert storage.width == 4 * (2 + 3) + 36 + 5
    assert Storage(parts(spaces.Box(0, 255, (84, 84, 4), np.uint8))).width == 84 * 84 * 4


@given(st.integers(0, 10**6))
def test_nothing_is_lost_by_packing(seed: int) -> None:
    SPACE.seed(seed)
    layout, storage = ObservationLayout(SPACE), Storage(parts(SPACE))
    rows = torch.from_numpy(np.stack([layout.row(SPACE.sample())[0] for _ in range(4)])).view(2, 2, -1)
    packed = storage.pack(rows)
    assert packed.dtype == torch.uint8
    for original, restored in zip(storage.split(rows), storage.split(packed), strict=True):
        assert torch.equal(original, restored.to(torch.float32))
    assert storage.numbers(packed[:0]).shape == (0, 2, storage.count), (
        "no rows, as where no episode was cut off"
    )
    numbers = storage.numbers(packed)
    assert torch.equal(numbers, rows[..., list(storage.columns)])
    changed = storage.with_numbers(packed, numbers + 1.0)
    assert torch.equal(storage.split(changed)[1], rows[..., 36:38] * 0 + storage.split(rows)[1] + 1.0)
