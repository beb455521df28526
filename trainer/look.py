"""`python -m trainer.look [key=value ...]`: a first look at an environment. `--help` explains."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from equipoise.commands import spelled
from equipoise.trainer.configuration import flags
from equipoise.trainer.configuration.arguments import print_help
from equipoise.trainer.configuration.compose import compose_run
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.system.streams import lasting_streams

HELP = """\
Take random actions in an environment for a few seconds, and say how it is understood: what a policy would
see and decide, which parameters are relevant when, whether there are masks, how long episodes are, how large
rewards are, how fast it is, whether a run could be resumed exactly, and what random actions achieve.

    python -m trainer.look env.id=CartPole-v1
    python -m trainer.look env=topology_spawn seed=3

It takes the settings that a run takes, of which those of `env`, `seed` and `device` count. env.id and
env.make mean env=gymnasium."""


@lasting_streams()
def main() -> int:
    """The exit status: 0, or 2 for bad arguments, among them an environment that misbehaves."""
    try:
        found = flags.parse(sys.argv[1:])
        if found.help:
            print_help(spelled(HELP))
            return 0
        if found.hydra:
            raise ConfigError("a first look takes key=value arguments, no flags of Hydra's")
        for line in look(compose_run(_with_group(found.overrides), found.config_dir).config):
            print(line, flush=True)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def look(config: Config) -> Iterator[str]:
    """What there is to say of the environment of a configuration, a line or more each, as it is found out.

    Raises:
        ConfigError: it cannot be used, or misbehaves.
    """
    # torch takes seconds to import: arguments first
    import torch

    from equipoise.envs import process_wide
    from equipoise.envs.checked import close
    from equipoise.envs.gymnasium_adapter.guard import EnvError
    from equipoise.envs.protocol import RemarkingEnv
    from equipoise.trainer.build import find_device
    from equipoise.trainer.environments import environment_maker, space_of
    from equipoise.trainer.first_look import look_at, understood
    from equipoise.trainer.seeding import evaluation_seed

    torch.set_num_threads(config.threads)
    seed = evaluation_seed(config.seed)
    try:
        env = environment_maker(config.env, torch.device(find_device(config.device)))(config.env.num_envs)
        try:
            yield f"{config.env.label}: {config.env.num_envs} environments"
            yield understood(env, space_of(env))
            with process_wide.preserved(seed):
                yield from look_at(env, seed).lines()
            if isinstance(env, RemarkingEnv):
                yield from env.take_remarks()
        finally:
            close(env)
    except (EnvError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _with_group(overrides: Sequence[str]) -> list[str]:
    named = [override.partition("=")[0] for override in overrides]
    gymnasium = {"env.id", "env.make"} & set(named) and "env" not in named
    return [*(["env=gymnasium"] if gymnasium else []), *overrides]


if __name__ == "__main__":
    sys.exit(main())
