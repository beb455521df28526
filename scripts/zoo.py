"""Trains the policies of the zoo and writes each as a folder with its card: `python -m scripts.zoo`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from equipoise.commands import child
from equipoise.scripts.studies.report import table
from equipoise.trainer.configuration.arguments import Arguments
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Count
from equipoise.trainer.system import portable
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.streams import lasting_streams

ZOO = {
    "cartpole": ("experiment=cartpole",),
    "pendulum": ("experiment=pendulum",),
    "platform": ("experiment=platform",),
    "topology_spawn": ("env=topology_spawn",),
    "moving": ("experiment=moving",),
    "catch_point": ("experiment=catch_point",),
    "hard_move_4": ("experiment=hard_move", "env.n=4"),
    "sliding": ("experiment=sliding",),
    "goal": ("experiment=goal",),
}
"""Name -> what it is trained with, the cheapest first. The clone has the small ones."""


class ZooArguments(Arguments):
    """Train what is missing, measure the best checkpoint of each run, and write its folder.

    python -m scripts.zoo names=cartpole,platform

    It goes on where it was stopped. All nine take half an hour of one core.
    """

    names: str = Field(",".join(ZOO), description="which, separated by commas")
    folder: Path = Field(Path("zoo"), description="of the exported policies")
    runs: Path = Field(Path("runs", "zoo"), description="of the runs")
    episodes: Count = Field(100, description="of each policy, for its card")
    share: float = Field(1.0, gt=0, le=1, description="of the steps, to try it out")


@lasting_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 if a run failed, 2 for bad arguments."""
    try:
        options = ZooArguments.parse(sys.argv[1:] if arguments is None else arguments)
        names = options.names.split(",")
        if wrong := set(names) - ZOO.keys():
            raise ConfigError(f"names = {', '.join(sorted(wrong))}: there are {', '.join(ZOO)}")
        for name in names:
            if not _make(name, options):
                print(f"{name}: the run has failed", file=sys.stderr)
                return 1
            print(options.folder / name, flush=True)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    replace_file(options.folder / "README.md", _page(options.folder).encode())
    return 0


def _make(name: str, options: ZooArguments) -> bool:
    # torch takes seconds to import: arguments first
    from equipoise.scripts.studies.results import load
    from equipoise.trainer.configuration.compose import compose
    from equipoise.trainer.publish import publish

    run, settings = options.runs / name, [*ZOO[name], "seed=1"]
    if options.share < 1:
        steps = compose(settings).trainer.total_env_steps
        settings.append(f"trainer.total_env_steps={max(int(steps * options.share), 1)}")
    if load(run, name) is None:
        command, environment = child("train", *settings, f"hydra.run.dir={run}", "resume=auto")
        if subprocess.run(command, env=environment).returncode:
            return False
    publish(run / "checkpoints" / "best.pt", options.folder / name, options.episodes)
    return True


def _page(folder: Path) -> str:
    """The table of all policies in the folder."""
    head = ["policy", "return", "sampled", "success", "made with"]
    rows = [_row(name, folder / name) for name in ZOO if (folder / name / portable.CONFIG).exists()]
    return "\n".join(
        [
            "# Zoo",
            "",
            'Trained policies, made by `python -m scripts.zoo`; `equipoise.load("zoo/platform")` loads one.',
            "Each was measured on episodes that training never used; its card says more.",
            "",
            table([head, *rows]),
        ]
    )


def _row(name: str, folder: Path) -> list[str]:
    results: dict[str, Any] = json.loads((folder / portable.CONFIG).read_text())["results"]
    success = results["success_rate"]
    return [
        f"[{name}]({name}/{portable.CARD})",
        f"{results['return_mean']:.4g} ± {results['return_std']:.2g}",
        f"{results['sampled_return_mean']:.4g} ± {results['sampled_return_std']:.2g}",
        "–" if success is None else f"{success:.3f}",
        f"`{' '.join(ZOO[name])}`",
    ]


if __name__ == "__main__":
    sys.exit(main())
