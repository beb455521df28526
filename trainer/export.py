"""`python -m trainer.export checkpoint=...`: a policy that runs without the trainer. `--help` explains."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from equipoise.prerequisites import extra
from equipoise.trainer.configuration.arguments import CheckpointArguments, check_output
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.system.streams import lasting_streams

if TYPE_CHECKING:
    from equipoise.trainer.policy.standalone import StandalonePolicy

_SUFFIX = {"torch": ".pt2", "onnx": ".onnx"}


class ExportArguments(CheckpointArguments):
    """Write a checkpoint's deterministic policy, normalisers inside, and a JSON on its inputs and outputs.

    python -m trainer.export checkpoint=runs/<run>/checkpoints/best.pt format=onnx

    torch: `torch.export.load("….pt2").module()(observation=…)`, with torch alone.
    onnx:  `onnxruntime.InferenceSession("….onnx").run(None, {"observation": …})`.

    Policies with masks take `action_mask` too, and `action_mask_<head>` where what a head may choose depends
    on others. The JSON says how an observation is laid out; the file
    examples/exported_policy.py reads it with NumPy alone.
    """

    format: Literal["torch", "onnx"] = Field("torch", description="onnx needs the extra 'export'")
    output: Path | None = Field(None, description="ends in .pt2 or .onnx; null: beside the checkpoint")


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
    suffix = _SUFFIX[arguments.format]
    if arguments.output is not None and arguments.output.suffix != suffix:
        raise ConfigError(f"output = {arguments.output}: must end in {suffix} for format={arguments.format}")
    check_output(arguments.output)
    if arguments.format == "onnx" and importlib.util.find_spec("onnxscript") is None:
        raise ConfigError(f"format = onnx: needs more packages: {extra('export')}")
    # torch takes seconds to import: arguments first
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
    output = arguments.output or restored.path.with_name(f"{restored.path.stem}-policy{suffix}")
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
