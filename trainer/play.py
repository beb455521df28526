"""`python -m trainer.play checkpoint=...`: watch a trained policy. `--help` explains."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from equipoise.trainer.configuration.arguments import CheckpointArguments, check_output
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Count, Seed
from equipoise.trainer.system.streams import lasting_streams

if TYPE_CHECKING:
    from equipoise.envs.protocol import BatchedEnv
    from equipoise.trainer.monitor.film import Frame
    from equipoise.trainer.policy.protocol import Policy
    from equipoise.trainer.restore import Restored

_HOLD_SECONDS = 2.5
"""How long the last frame of an episode is shown."""


class PlayArguments(CheckpointArguments):
    """Film a policy: each state, the action taken in it, and the distribution it was drawn from.

    python -m trainer.play checkpoint=runs/<run>/checkpoints/best.pt compare=untrained
    """

    episodes: Count = Field(1, description="one after the other in one film")
    seed: Seed = Field(0, description="of the first episode, as trainer.evaluate's")
    output: Path | None = Field(None, description="the GIF; null: beside the checkpoint")
    deterministic: bool = Field(True, description="likeliest choices and means; false: samples")
    compare: Literal["none", "untrained"] = Field(
        "none", description="untrained: below it a policy before training, which samples, on the same seeds"
    )
    fps: Annotated[float, Field(gt=0, le=50)] | None = Field(
        None, description="steps in a second; null: 1.5 to 25, for some 15 seconds"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"


@lasting_streams()
def main() -> int:
    """The exit status: 0, or 2 for bad arguments, among them an environment that cannot be rendered."""
    try:
        _play(PlayArguments.parse(sys.argv[1:]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _play(arguments: PlayArguments) -> None:
    check_output(arguments.output)
    if arguments.output is not None and arguments.output.suffix.lower() != ".gif":
        raise ConfigError(f"output = {arguments.output}: must end in .gif, the only format there is")
    # torch takes seconds to import: arguments first
    import numpy as np

    from equipoise.envs.checked import close
    from equipoise.envs.gymnasium_adapter.guard import EnvError
    from equipoise.trainer.monitor.film import one_above_the_other
    from equipoise.trainer.monitor.gif import encode_gif
    from equipoise.trainer.restore import restore

    restored = restore(arguments.checkpoint, arguments.device, arguments.allow)
    env = _visible(restored)
    try:
        frames = _film(arguments, restored, env, restored.policy, "trained", arguments.deterministic)
        if arguments.compare == "untrained":
            below = _film(arguments, restored, env, _untrained(arguments, restored, env), "untrained", False)
            frames = [one_above_the_other(*pair) for pair in zip(frames, below, strict=True)]
    except EnvError as error:
        raise ConfigError(str(error)) from error
    close(env)
    fps = arguments.fps or min(max(sum(map(len, frames)) / 15.0, 1.5), 25.0)
    for episode in frames:
        episode += episode[-1:] * round(_HOLD_SECONDS * fps)
    output = arguments.output or arguments.beside(restored.path, "-play.gif")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(encode_gif(np.stack([frame for episode in frames for frame in episode]), fps))
    print(output)


def _visible(restored: Restored) -> BatchedEnv:
    """One environment that has been seen to render."""
    import gymnasium
    import torch

    from equipoise.envs.gymnasium_adapter.guard import EnvError
    from equipoise.trainer.build import find_device
    from equipoise.trainer.configuration.constructors import find_class
    from equipoise.trainer.environments import environment_maker, in_whole_teams

    section = given = restored.config.env
    if "render_mode" in inspect.signature(find_class(section.target)).parameters:
        section = section.model_copy(update={"keywords": {**section.keywords, "render_mode": "rgb_array"}})
    try:
        device = torch.device(find_device(restored.config.device))
        env = in_whole_teams(environment_maker(section, device))(1)
        env.reset(0)
        env.render()
    except (ValueError, NotImplementedError, EnvError, gymnasium.error.Error) as error:
        reason = str(error) or type(error).__name__
        cause = error if isinstance(error, gymnasium.error.Error) else error.__cause__
        if isinstance(cause, gymnasium.error.DependencyNotInstalled):
            reason = str(cause)  # says what to install; with that it can be rendered
        elif section is not given:  # of Gymnasium, and made for training without the keyword
            reason = (
                "its constructor must take render_mode='rgb_array', its metadata list that in render_modes "
                f"and its render() return a picture; it failed with: {reason}"
            )
        raise ConfigError(f"{section.label} cannot be rendered: {reason}") from error
    return env


def _untrained(arguments: PlayArguments, restored: Restored, env: BatchedEnv) -> Policy:
    import torch

    from equipoise.envs.observation_parts import parts_of
    from equipoise.trainer.build import make_policy

    torch.manual_seed(arguments.seed)
    num_values, shape = restored.policy.value_head.out_features, env.observation_space.shape
    return make_policy(restored.config.policy, restored.policy.space, shape, num_values, parts_of(env))


def _film(
    arguments: PlayArguments,
    restored: Restored,
    env: BatchedEnv,
    policy: Policy,
    title: str,
    deterministic: bool,
) -> list[list[Frame]]:
    """The frames of each episode; prints its outcome."""
    from equipoise.envs.process_wide import Streams
    from equipoise.trainer.monitor.film import film_episode
    from equipoise.trainer.seeding import fresh_seed

    films = []
    for episode in range(arguments.episodes):
        seed, name = fresh_seed(arguments.seed + episode), f"{restored.config.env.label}, {title}"
        Streams(seed).enter()
        film = film_episode(policy, env, seed, name, restored.references, deterministic)
        score = "n/a" if film.score is None else f"{film.score:.3f}"
        print(
            f"{title}: {film.outcome} after {film.steps} steps, return {film.task_return:.4g}, score {score}"
        )
        films.append(film.frames)
    return films


if __name__ == "__main__":
    sys.exit(main())
