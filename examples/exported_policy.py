"""Plays with an exported policy, without this project: python exported_policy.py POLICY ENVIRONMENT.

POLICY ends in .pt2 (needs PyTorch) or .onnx (needs onnxruntime), and its JSON lies beside it. ENVIRONMENT is
what `gymnasium.make` takes; how many episodes may come third. To use a policy elsewhere, copy
`ExportedPolicy`: it needs the two files and NumPy, and follows the JSON alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


class ExportedPolicy:
    """An exported policy and its JSON."""

    def __init__(self, path: Path) -> None:
        described = json.loads(path.with_name(f"{path.name}.json").read_text())
        self.inputs = {entry["name"]: entry for entry in described["inputs"]}
        self.outputs = [entry for entry in described["outputs"] if "keys" in entry]
        self.reset()
        if path.suffix == ".onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(path)
            names = [entry["name"] for entry in described["outputs"]]
            self._call = lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))
        else:
            import torch

            module = torch.export.load(path).module()

            def call(inputs: dict[str, Any]) -> dict[str, Any]:
                tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in inputs.items()}
                tables = {name: tensors.pop(name) for name in inputs if "given" in self.inputs[name]}
                tensors |= {"tables": tables} if tables else {}
                return {name: output.numpy() for name, output in module(**tensors).items()}

            self._call = call

    def reset(self) -> None:
        """Forget the episode so far; only a policy with a memory needs it, before each episode."""
        self.state = np.zeros(
            (1, self.inputs["state"]["shape"][1]) if "state" in self.inputs else 0, np.float32
        )

    def act(self, observation: Any, masks: list[Any] | None = None) -> Any:
        """The action for an observation, in the structure that the environment expects.

        `masks`: for a policy that was trained with them, which choices are valid: one array, or one for each
        decision, in the order of the action, or in its place `{"given": …, "mask": …}`.
        """
        inputs = {"observation": self._row(observation)}
        if "action_mask" in self.inputs:
            inputs |= self._masks(masks)
        if "state" in self.inputs:
            inputs["state"] = self.state
        outputs, action = self._call(inputs), {}
        self.state = outputs.get("next_state", self.state)
        for entry in self.outputs:
            value = outputs[entry["name"]][0].astype(entry["environment_dtype"])
            _put(action, entry["keys"], value)
        options = [entry["keys"][:-1] for entry in self.outputs if "one_of" in entry]
        return action[()] if () in action else _structure(action, options, [])

    def _row(self, observation: Any) -> Any:
        """`[1, O]`: each part of the observation in its columns."""
        entry = self.inputs["observation"]
        row = np.zeros((1, entry["shape"][1]), np.float32)
        for part in entry["parts"]:
            value = observation
            for key in part["keys"]:
                value = value[key]
            columns = row[0, slice(*part["columns"])]
            if part["encoding"] == "numbers":
                columns[:] = np.ravel(value)
            else:
                widths = np.array(part["choices"])
                columns[np.cumsum(widths) - widths + np.ravel(value) - part["start"]] = 1.0
        return row

    def _masks(self, masks: list[Any] | None) -> dict[str, Any]:
        """`[1, ...]`: true for valid choices; without masks that is all of them."""
        counts = [int(count) for entry in self.outputs for count in np.ravel(entry.get("choices", []))]
        each = [None] * len(counts) if masks is None else list(masks)
        inputs = {}
        for name, entry in self.inputs.items():
            if "given" in entry:  # a table; every choice is valid that it does not forbid
                head = entry["head"]
                shape = [counts[other] for other in (*entry["given"], head)]
                there = isinstance(each[head], dict)
                inputs[name] = np.array(each[head]["mask"] if there else np.ones(shape), bool)[None]
                each[head] = None if there else each[head]
        parts = [np.ones(counts[i]) if part is None else np.ravel(part) for i, part in enumerate(each)]
        valid = np.concatenate(parts)
        mask = np.zeros((1, *self.inputs["action_mask"]["shape"][1:]), bool)
        if mask.ndim == 2:
            return inputs | {"action_mask": valid[None].astype(bool)}
        for head, part in enumerate(np.split(valid, np.cumsum(counts)[:-1])):
            mask[0, head, : len(part)] = part
        return inputs | {"action_mask": mask}


def _put(action: dict[Any, Any], keys: list[Any], value: Any) -> None:
    for key in keys[:-1]:
        action = action.setdefault(key, {})
    action[keys[-1] if keys else ()] = value


def _structure(action: Any, options: list[list[Any]], keys: list[Any]) -> Any:
    """Numbered parts are those of a tuple; of `(which option, the options)` the one that is taken stays."""
    if not isinstance(action, dict):
        return action
    parts = {key: _structure(part, options, [*keys, key]) for key, part in action.items()}
    if keys in options:
        option = int(parts[0])
        return option, parts[1][option]
    return tuple(parts.values()) if all(isinstance(key, int) for key in parts) else parts


def main() -> None:
    policy, env = ExportedPolicy(Path(sys.argv[1])), gymnasium.make(sys.argv[2])
    for episode in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1):
        observation, info = env.reset(seed=episode)
        policy.reset()
        total, done = 0.0, False
        while not done:
            action = policy.act(observation, info.get("action_mask"))
            observation, reward, terminated, truncated, info = env.step(action)
            total, done = total + float(reward), terminated or truncated
        print(f"return {total:g}")


if __name__ == "__main__":
    main()
