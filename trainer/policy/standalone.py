"""The deterministic policy as one module from raw observations to native actions, ready for export."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.envs.action_table import ActionLeaf
from equipoise.trainer.policy.protocol import Policy


class StandalonePolicy(nn.Module):
    """Normalisation, network, likeliest choices and mean parameters, scaling and clamping to native units."""

    def __init__(self, policy: Policy, masked: bool) -> None:
        super().__init__()
        self.policy = policy
        self.masked = masked
        """Whether a second input, the action mask, is needed."""
        self.names = tuple(_name(leaf) for leaf in policy.space.table.leaves)

    def forward(self, observation: Tensor, action_mask: Tensor | None = None) -> dict[str, Tensor]:
        """`[B, O]` float32, `[B, H, C]` bool -> the leaves of the action space by name, each `[B, ...]`."""
        policy = self.policy
        actions = policy.distribution(policy.normalize(observation), action_mask).mode()
        return dict(
            zip(self.names, policy.space.table.take_apart(policy.space.to_native(actions)), strict=True)
        )

    def examples(self) -> dict[str, Tensor]:
        """Inputs of the right shape; the batch is 2, as tracing takes 1 for a constant."""
        space = self.policy.space
        inputs = {"observation": torch.zeros(2, self.policy.observation_width)}
        if self.masked:
            inputs["action_mask"] = space.valid_choices.repeat(2, 1, 1)
        return inputs

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """Names, dtypes, shapes and ranges of what goes in and comes out."""
        meaning = {
            "observation": "as the environment gives it, flattened",
            "action_mask": "true for a valid choice, of each head; at least one for each",
        }
        inputs = [
            {
                "name": name,
                "dtype": str(example.dtype).removeprefix("torch."),
                "shape": ["batch", *example.shape[1:]],
                "meaning": meaning[name],
            }
            for name, example in self.examples().items()
        ]
        leaves = zip(self.names, self.policy.space.table.leaves, strict=True)
        return {"inputs": inputs, "outputs": [_output(name, leaf) for name, leaf in leaves]}


def _name(leaf: ActionLeaf) -> str:
    """`action['spawn']` as `action_spawn`."""
    return re.sub(r"\W+", "_", leaf.path).strip("_")


def _output(name: str, leaf: ActionLeaf) -> dict[str, Any]:
    def shaped(numbers: Sequence[float]) -> Any:
        return np.reshape(numbers, leaf.shape).tolist()

    described = {
        "name": name,
        "dtype": "int64" if leaf.discrete or leaf.rounded else "float32",
        "shape": ["batch", *leaf.shape],
        "meaning": f"{leaf.path}, {'likeliest choices' if leaf.discrete else 'means in native units'}",
    }
    if leaf.discrete:
        return {**described, "start": shaped(leaf.start), "choices": shaped(leaf.choices)}
    return {**described, "low": shaped(leaf.low), "high": shaped(leaf.high)}
