"""The deterministic policy as one module from raw observations to native actions, ready for export."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equipoise.envs.action_table import ActionLeaf
from equipoise.envs.dependent_masks import ActionMask, DependentMask, MaskTable
from equipoise.trainer.policy.protocol import Policy

STATE, NEXT_STATE = "state", "next_state"
"""What goes in and comes out of a policy with a memory, beside observation and action."""


class StandalonePolicy(nn.Module):
    """Normalisation, network, likeliest choices and parameters, scaling and clamping to native units."""

    def __init__(self, policy: Policy, mask: ActionMask | None) -> None:
        """`mask`: any one of the environment."""
        super().__init__()
        self.policy = policy
        self.masked = mask is not None
        """Whether a second input, the action mask, is needed."""
        tables = mask.tables if isinstance(mask, DependentMask) else ()
        self.tables = {f"action_mask_{table.head}": (table.head, table.given) for table in tables}
        """Inputs beside that: masks of a head for each choice of others."""
        remembered = (NEXT_STATE,) if policy.state_size else ()
        self.names = (*(_name(leaf) for leaf in policy.space.table.leaves), *remembered)

    def forward(
        self,
        observation: Tensor,
        action_mask: Tensor | None = None,
        state: Tensor | None = None,
        tables: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Observations `[B, O]` float32, masks as `HybridSpace.valid_choices` and what a memory knows
        `[B, M]` -> the leaves of the action space by name, each `[B, ...]`, and what it knows then. `tables`:
        see `MaskTable`, by the names of `tables`."""
        policy = self.policy
        mask: ActionMask | None = action_mask
        if self.tables:
            assert action_mask is not None
            assert tables is not None
            each = (MaskTable(*self.tables[name], valid) for name, valid in tables.items())
            mask = DependentMask(action_mask, tuple(each))
        inputs = policy.normalize(observation)
        if state is not None:
            inputs, state = policy.remember(inputs, state)
        actions = policy.acting(inputs, mask).mode()
        table = policy.space.table
        parts = table.take_apart(policy.to_native(actions))
        outputs = [_in_bounds(part, leaf) for part, leaf in zip(parts, table.leaves, strict=True)]
        remembered = [] if state is None else [state]
        return dict(zip(self.names, [*outputs, *remembered], strict=True))

    def examples(self) -> dict[str, Any]:
        """Inputs of the right shape; the batch is 2, as tracing takes 1 for a constant."""
        inputs: dict[str, Any] = self._flat_examples()
        if self.tables:  # as one argument: torch.export does not find its way through `**tables`
            inputs["tables"] = {name: inputs.pop(name) for name in self.tables}
        return inputs

    def _flat_examples(self) -> dict[str, Tensor]:
        space = self.policy.space
        inputs = {"observation": torch.zeros(2, self.policy.observation_width)}
        if self.masked:
            inputs["action_mask"] = torch.stack([space.valid_choices] * 2)
        if self.policy.state_size:
            inputs[STATE] = self.policy.initial_state(2).detach()
        for name, (head, given) in self.tables.items():
            counts = [space.choice_counts[n] for n in (*given, head)]
            inputs[name] = torch.ones(2, *counts, dtype=torch.bool)
        return inputs

    def describe(self, observation: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Names, dtypes, shapes and ranges of what goes in and comes out.

        `observation`: what lies in which columns, see `ObservationLayout.describe`.
        """
        table = self.policy.space.table
        about: dict[str, dict[str, Any]] = {
            "observation": {
                "meaning": "the parts of an observation in a row: numbers as they are, in row-major order; "
                "one-hot: for each entry as many columns as choices, 1 in number value - start, else 0",
                "parts": [dict(part) for part in observation],
            },
            "action_mask": {
                "meaning": "true for a valid choice of each head, at least one; "
                + (
                    "false beyond a head's choices"
                    if table.padded
                    else "one head's choices after the other's"
                )
            },
            STATE: {"meaning": f"what is remembered: 0 when an episode begins, else {NEXT_STATE} before"},
        }
        for name, (head, given) in self.tables.items():
            about[name] = {
                "meaning": f"true for a valid choice of {table.head_path(head)}, one at least for each "
                f"choice of {' and '.join(map(table.head_path, given))}; in a .pt2 a part of `tables`",
                "head": head,
                "given": list(given),
            }
        inputs = [
            {
                "name": name,
                "dtype": str(example.dtype).removeprefix("torch."),
                "shape": ["batch", *example.shape[1:]],
                **about[name],
            }
            for name, example in self._flat_examples().items()
        ]
        numbers = self.policy.family.deterministic
        outputs = [_output(name, leaf, numbers) for name, leaf in zip(self.names, table.leaves, strict=False)]
        if self.policy.state_size:
            shape = ["batch", self.policy.state_size]
            meaning = f"what is remembered: {STATE} of the next step, unless an episode begins with it"
            outputs.append({"name": NEXT_STATE, "dtype": "float32", "shape": shape, "meaning": meaning})
        return {"inputs": inputs, "outputs": outputs}


def _name(leaf: ActionLeaf) -> str:
    """`action['aim'][0]` as `action.aim[0]`; `\\` before what such a name has of its own in a key."""
    parts = [
        f"[{key}]" if isinstance(key, int) else "." + re.sub(r"([\\.[])", r"\\\1", key) for key in leaf.keys
    ]
    return "action" + "".join(parts)


def _in_bounds(part: Tensor, leaf: ActionLeaf) -> Tensor:
    """In float64 where the environment wants that: float32 does not have every one of its bounds."""
    if leaf.discrete or leaf.dtype != np.float64:
        return part
    low, high = (torch.tensor(bound, dtype=torch.float64).view(leaf.shape) for bound in (leaf.low, leaf.high))
    return part.to(torch.float64).clamp(low.to(part.device), high.to(part.device))


def _output(name: str, leaf: ActionLeaf, numbers: str) -> dict[str, Any]:
    def shaped(numbers: Sequence[float]) -> Any:
        return np.reshape(numbers, leaf.shape).tolist()

    whole = leaf.discrete or leaf.rounded
    described: dict[str, Any] = {
        "name": name,
        "keys": list(leaf.keys),
        "dtype": "int64" if whole else "float64" if leaf.dtype == np.float64 else "float32",
        "shape": ["batch", *leaf.shape],
        "environment_dtype": str(leaf.dtype),
        "meaning": f"{leaf.path}, {'likeliest choices' if leaf.discrete else f'{numbers} in native units'}",
    }
    if leaf.outcomes and not leaf.count:
        return {**described, "meaning": f"{leaf.path}, where that option is taken"}
    if leaf.outcomes:
        described |= {"meaning": f"{leaf.path}, which option; a mask has a choice for each combination"}
        described |= {"one_of": True, "options": [outcome for (outcome,) in leaf.outcomes]}
    if leaf.discrete:
        heads = [leaf.first, leaf.first + leaf.count]
        return {**described, "start": shaped(leaf.start), "choices": shaped(leaf.choices), "heads": heads}
    return {**described, "low": shaped(leaf.low), "high": shaped(leaf.high)}
