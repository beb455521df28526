"""An encoder for each part of an observation: what each sees, what does not matter, and what is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.observation_parts import read_parts
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import (
    MLP,
    Automatic,
    Convolution,
    Embedding,
    NodeSetSummary,
    Parts,
    SetAttention,
)
from equipoise.trainer.policy.encoders.sets import SelfAttention
from equipoise.trainer.policy.normalization import PartsNormalizer
from equipoise.trainer.policy.storage import Storage
from equipoise.trainer.spaces import HybridSpace

CAMERA = spaces.Box(0, 255, (7, 7, 3), np.uint8)
UNITS = {"units": spaces.Box(-9, 9, (4, 3)), "units_mask": spaces.MultiBinary(4)}
SPACE = spaces.Dict(
    camera=CAMERA, gear=spaces.Discrete(3), speed=spaces.Box(-9, 9, (2,)), word=spaces.Discrete(1024), **UNITS
)


def made(space: spaces.Dict, make: Any = Automatic, **keywords: Any) -> Parts:
    layout = ObservationLayout(space)
    torch.manual_seed(0)
    network = make((layout.width,), read_parts(layout.describe()), **keywords)
    assert isinstance(network, Parts)
    return network


def rows(space: spaces.Dict, count: int = 3, seed: int = 0, **changed: Any) -> Tensor:
    space.seed(seed)
    layout = ObservationLayout(space)
    return torch.from_numpy(np.stack([layout.row({**space.sample(), **changed})[0] for _ in range(count)]))


def test_the_space_says_what_each_part_gets() -> None:
    network = made(SPACE)
    encoders = dict(zip(network.names, network.encoders, strict=True))
    assert {name: type(encoder) for name, encoder in encoders.items()} == {
        "camera": Convolution,
        "gear": torch.nn.Identity,
        "speed": torch.nn.Identity,
        "units": NodeSetSummary,
        "word": Embedding,
    }
    assert network.whole.layers[0].in_features == 256 + 3 + 2 + 64 + 32
    plain = spaces.Dict(gear=spaces.Discrete(3), speed=spaces.Box(-9, 9, (2,)))
    layout = ObservationLayout(plain)
    assert type(Automatic((5,), read_parts(layout.describe()))) is MLP


@pytest.mark.parametrize("combine", ["concatenate", "attend"])
def test_packed_or_not_it_is_the_same_and_every_part_is_seen(combine: str) -> None:
    network = made(SPACE, combine=combine)
    seen, storage = rows(SPACE, units_mask=np.ones(4, np.int8)).requires_grad_(), network.storage
    features = network(seen)
    assert torch.equal(features, network(storage.pack(seen.detach())))
    (gradient,) = torch.autograd.grad(features.square().sum(), seen)
    for name, part in zip(SPACE, storage.split(gradient), strict=True):
        assert part.abs().max() > 0 or name == "units_mask", name


@pytest.mark.parametrize("target", [NodeSetSummary, SetAttention])
def test_a_set_has_no_order_and_what_does_not_exist_is_not_seen(target: Any) -> None:
    space = spaces.Dict(speed=spaces.Box(-9, 9, (2,)), **UNITS)
    network = made(space, parts={"units": target})
    mask, order = np.array([1, 0, 1, 1], np.int8), [2, 3, 1, 0]
    units = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    other = units.copy()
    other[1] = 7.0

    def features(units: Any, mask: Any) -> Tensor:
        return network(rows(space, 1, units=units, units_mask=mask))

    torch.testing.assert_close(features(units[order], mask[order]), features(units, mask))
    assert torch.equal(features(other, mask), features(units, mask))
    other[0] = 7.0
    assert not torch.allclose(features(other, mask), features(units, mask))
    assert features(units, 0 * mask).isfinite().all()


def test_attention_by_hand() -> None:
    """One head that weighs all alike: what each finds is the mean of those that exist."""
    attention = SelfAttention(2, heads=1)
    with torch.no_grad():
        attention.looks.weight.zero_()
        attention.looks.weight[4:] = torch.eye(2)  # values
        attention.gives.weight.copy_(torch.eye(2))
        hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [50.0, 50.0]]])
        found = attention(hidden, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[[2.0, 4.0]] * 3]))


def test_statistics_are_those_of_the_things_and_masks_and_pictures_stay_as_they_are() -> None:
    parts = read_parts(ObservationLayout(SPACE).describe())
    storage = Storage(parts)
    normalizer = PartsNormalizer(storage, raw=["units_mask"])
    seen = rows(SPACE, 64)
    normalizer.update(storage.pack(seen))
    camera, gear, speed, _, units, mask = storage.split(normalizer(seen))
    was = storage.split(seen)
    assert torch.equal(camera, was[0])
    assert torch.equal(gear, was[1])
    assert torch.equal(mask, was[5])
    torch.testing.assert_close(speed.mean(0), torch.zeros(2), atol=1e-5, rtol=0.0)
    things = was[4].reshape(64 * 4, 3)  # whichever stands where
    expected = (things - things.mean(0)) / things.std(0, correction=0)
    torch.testing.assert_close(units.reshape(64 * 4, 3), expected)
    for whole, packed in zip(
        storage.split(normalizer(seen)), storage.split(normalizer(storage.pack(seen))), strict=True
    ):
        assert torch.equal(whole, packed.to(torch.float32))


def test_parts_are_set_by_name() -> None:
    network = made(
        SPACE,
        parts={
            "camera": {"width": 5},
            "speed": {"hidden_sizes": [7]},
            "word": partial(MLP, hidden_sizes=(6,)),
        },
    )
    assert network.whole.layers[0].in_features == 5 + 3 + 7 + 64 + 6
    named = spaces.Dict(units=UNITS["units"], alive=spaces.Box(0, 1, (4,)))
    network = made(named, masks={"units": "alive"})
    assert network.raw_parts == ["alive"]
    assert network.names == ["units"]
    assert made(named, masks={"units": None}).names == ["units", "alive"]


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        (
            {"parts": {"camra": {"width": 3}}},
            r"parts\.camra: 'camra' is no part of the observation; there are",
        ),
        (
            {"parts": {"camera": {"widht": 3}}},
            r"parts\.camera\.widht = 3: unknown key of Convolution; its keys",
        ),
        ({"masks": {"units": "gear"}}, r"masks\.units = gear: must hold a number for each of 4 things"),
        ({"masks": {"speed": "gear"}}, r"masks\.speed: a set has shape \[things, features\], not \(2,\)"),
        ({"combine": "attend", "parts": {"camera": {"layers": [[8, 9, 1]]}}}, "nothing is left of a picture"),
    ],
)
def test_what_does_not_fit_is_said(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(SPACE, **keywords)


def test_a_policy_keeps_what_fits_into_bytes_and_normalises_the_rest() -> None:
    layout = ObservationLayout(SPACE)
    actions = HybridSpace(spaces.Discrete(2), None, "cpu")
    policy = ActorCritic(actions, (layout.width,), 1, read_parts(layout.describe()), encoder=Automatic)
    assert policy.storage is not None
    assert policy.storage.width == 147 + 3 + 4 * 2 + 4 * 12 + 4 * 4 + 1024
    assert isinstance(policy.normalizer, PartsNormalizer)
    seen = rows(SPACE)
    policy.update_normalizer(policy.pack(seen))
    whole, packed = policy(policy.normalize(seen)), policy(policy.normalize(policy.pack(seen)))
    assert torch.equal(whole.logits, packed.logits)
    assert torch.equal(whole.values, packed.values)
