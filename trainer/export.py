"""`python -m trainer.export checkpoint=...`: a policy that runs without the trainer. `--help` explains."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from equipoise.prerequisites import extra
from equipoise.trainer.configuration import hub
from equipoise.trainer.configuration.arguments import CheckpointArguments, check_output
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Seed
from equipoise.trainer.system.streams import lasting_streams

if TYPE_CHECKING:
    from equipoise.trainer.policy.standalone import StandalonePolicy

_SUFFIX = {"torch": ".pt2", "onnx": ".onnx", "safetensors": ""}
_NEEDS = {"onnx": ("onnxscript", "export"), "safetensors": ("safetensors", "hub")}
"""Format -> a package that it needs, and the extra that brings it."""


class ExportArguments(CheckpointArguments):
    """Write a checkpoint's deterministic policy, normalisers inside, and a JSON on its inputs and outputs.

    python -m trainer.export checkpoint=runs/<run>/checkpoints/best.pt format=onnx

    torch: `torch.export.load("….pt2").module()(observation=…)`, with torch alone.
    onnx:  `onnxruntime.InferenceSession("….onnx").run(None, {"observation": …})`.

    Policies with masks take `action_mask` too, and `action_mask_<head>` where what a head may choose depends
    on others. The JSON says how an observation is laid out; the file
    examples/exported_policy.py reads it with NumPy alone.

    safetensors: a folder of weights, configuration and a card with what it scores, for `equipoise.load`, for
    others to read and for the Hugging Face hub: push=<user>/<repository>.
    """

    format: Literal["torch", "onnx", "safetensors"] = Field(
        "torch", description="onnx needs the extra 'export', safetensors the extra 'hub'"
    )
    output: Path | None = Field(
        None, description="ends in .pt2 or .onnx, or is a folder; null: beside the checkpoint"
    )
    episodes: Annotated[int, Field(ge=0)] = Field(
        100, description="of each policy, measured for the card of format=safetensors; 0: not measured"
    )
    seed: Seed = Field(0, description="of these episodes; training never uses them")
    push: str | None = Field(
        None, description="<user>/<repository> on the Hugging Face hub to upload format=safetensors to"
    )


@lasting_streams()
def main() -> int:
    """The exit status: 0, or 2 for bad arguments."""
    try:
        _export(ExportArguments.parse(sys.argv[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _export(arguments: ExportArguments) -> None:
    _check(arguments)
    if arguments.format == "safetensors":
        _for_others(arguments)
    else:
        _program(arguments)


def _check(arguments: ExportArguments) -> None:
    """Before torch, which takes seconds to import. Raises `ConfigError`."""
    form, output = arguments.format, arguments.output
    if form == "safetensors":
        if output is not None and (output.is_file() or output.suffix):
            raise ConfigError(f"output = {output}: must be a folder for format=safetensors")
        check_output(output and output / "README.md")
    else:
        if output is not None and output.suffix != _SUFFIX[form]:
            raise ConfigError(f"output = {output}: must end in {_SUFFIX[form]} for format={form}")
        check_output(output)
        if arguments.push is not None:
            raise ConfigError(f"push = {arguments.push}: is for format=safetensors")
    module, name = _NEEDS.get(form, ("torch", ""))
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"format = {form}: needs more packages: {extra(name)}")
    if arguments.push is not None:
        hub.require(f"push = {arguments.push}")


def _for_others(arguments: ExportArguments) -> None:
    from equipoise.trainer.publish import publish

    output = publish(
        arguments.checkpoint,
        arguments.output,
        arguments.episodes,
        arguments.seed,
        arguments.allow,
        None if arguments.push is None else f"hf://{arguments.push}",
    )
    print(output)
    if arguments.push is not None:
        print(hub.push(output, arguments.push))


def _program(arguments: ExportArguments) -> None:
    import torch

    from equipoise.envs.checked import CheckedEnv, close
    from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
    from equipoise.trainer.policy.standalone import StandalonePolicy
    from equipoise.trainer.restore import restore

    restored = restore(arguments.checkpoint, "cpu", arguments.allow)
    env = restored.make_env(1)
    policy = StandalonePolicy(restored.policy, CheckedEnv(env).reset(0)[1]).eval()
    policy.requires_grad_(False)  # outputs convert to NumPy as they are
    layout = getattr(env, "observation_layout", None) or ObservationLayout(env.observation_space).describe()
    close(env)
    output = arguments.output or arguments.beside(restored.path, f"-policy{_SUFFIX[arguments.format]}")
    output.parent.mkdir(parents=True, exist_ok=True)
    _write(policy, output)
    description = {
        "format": arguments.format,
        "made_with": f"torch {torch.__version__}",
        "environment": restored.config.env.label,
        **policy.describe(layout),
    }
    beside = output.with_name(f"{output.name}.json")
    beside.write_text(
        json.dumps(description, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    print(output)
    print(beside)


def _write(policy: StandalonePolicy, output: Path) -> None:
    """Write an exported program, not TorchScript, which torch's documentation calls deprecated."""
    import torch

    examples = policy.examples()
    batch = torch.export.Dim("batch")
    shapes: dict[str, Any] = {name: {0: batch} for name in examples}
    if policy.tables:
        shapes["tables"] = {name: {0: batch} for name in policy.tables}
    program = torch.export.export(policy, (), examples, dynamic_shapes=shapes)
    if output.suffix == ".pt2":
        torch.export.save(program, output)
        return
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else it misses torchvision
    torch.onnx.export(
        program,
        f=output,
        input_names=[name for name in examples if name != "tables"] + list(policy.tables),
        output_names=list(policy.names),
        external_data=False,
        dynamo=True,
        verbose=False,
    )


if __name__ == "__main__":
    sys.exit(main())
