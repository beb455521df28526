"""The state from which a run continues, each process's part of it, and whether processes are in step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equipoise.commands import module, typed
from equipoise.envs import process_wide
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import Relevance
from equipoise.envs.space_data import to_data
from equipoise.trainer.configuration.resuming import episodes_begin_anew
from equipoise.trainer.learner import Learner
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.rollout import Collector
from equipoise.trainer.system import distributed
from equipoise.trainer.system.checkpoint import CheckpointError, plain

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer

State = dict[str, Any]

_COUNTERS = ("iteration", "env_steps", "seconds", "cpu_seconds")
_PARTS = ("policy", "collector", "learner", "evaluator", "balance")
"""Attributes of a `Trainer` that have state."""


class OutOfStepError(RuntimeError):
    """The processes of a run no longer hold the same policy."""


def check_parameters(policy: Policy, vector: Tensor, iteration: int) -> None:
    """Check that all processes hold the same policy, bit for bit: nothing would reunite them.

    `vector` `[n]`: all parameters. Raises `OutOfStepError` in every process.
    """
    if distributed.world_size() == 1:
        return
    floats = [vector.detach(), *(buffer for buffer in policy.buffers() if buffer.is_floating_point())]
    checksum = torch.stack([tensor.reshape(-1).view(torch.int32).sum() for tensor in floats]).sum()
    most, least = distributed.all_reduce_max(torch.stack([checksum, -checksum])).tolist()
    if most != -least:
        raise OutOfStepError(
            f"after iteration {iteration} the processes no longer hold the same parameters: a stage draws "
            "random numbers or learns from the samples of its own process alone, or the machines compute "
            "differently"
        )


def run_state(run: Trainer) -> State:
    """Everything from which `run` continues bit for bit; collective, and whole in the first process."""
    others = _states_of_others(run.collector, run.learner)
    return {
        "processes": 1 + len(others),
        "others": others,
        "config": run.config.plain(),
        "callbacks": run.callbacks.state_dict(),
        "interface": _interface(run.collector),
        **{name: getattr(run, name) for name in _COUNTERS},
        **{name: getattr(run, name).state_dict() for name in _PARTS},
        "generators": process_wide.Streams().state_dict(),
    }


def _interface(collector: Collector) -> State:
    """What a policy must know about its environment to act without it."""
    env = collector.env
    return {
        "observation_space": to_data(getattr(env, "native_observation_space", env.observation_space)),
        "ignored": list(getattr(env, "ignored", ())),
        "observation_shape": list(env.observation_space.shape),
        "action_space": to_data(env.action_space),
        "relevance": _plain(env.relevance),
        "reward_names": list(env.reward_names),
        "masked": collector.masked,
        "mask_in_observation": bool(getattr(env, "mask_in_observation", False)),
        "numbers_for_arrays": bool(getattr(env, "numbers_for_arrays", False)),
    }


def _plain(relevance: Relevance | None) -> list[list[list[int]]] | str | None:
    """As lists of Python integers: an environment's table may hold arrays."""
    if relevance is None or isinstance(relevance, str):
        return relevance
    return [[[int(number) for number in numbers] for numbers in choices] for choices in relevance]


def load_run_state(run: Trainer, state: Mapping[str, Any]) -> None:
    """Let `run` continue from `state`. Raises `CheckpointError` where it does not fit."""
    try:
        state = {"cpu_seconds": math.nan, **state}  # which older checkpoints do not know
        for name in _COUNTERS:
            setattr(run, name, state[name])
        run.schedule = run.schedule.starting_at(run.env_steps)
        unchanged = (state["config"].get("callbacks") or []) == run.config.plain()["callbacks"]
        run.callbacks.load_state_dict(state.get("callbacks"), unchanged)
        if episodes_begin_anew(state["config"], run.config.plain()):
            state = {**state, "collector": {**state["collector"], "env": None}}
        for name in _PARTS:
            getattr(run, name).load_state_dict(state[name])
        rate = run.config.optimizer.learning_rate
        if (
            rate != state["config"]["optimizer"]["learning_rate"]
        ):  # a rate that follows the updates starts anew
            run.learner.optimizer.set_learning_rate(rate)
        _load_generators(state)
    except EnvError:
        raise
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the checkpoint does not fit: the environment, a stage or this trainer has changed since it "
            f"was written: {type(error).__name__}: {error}"
        ) from error


def _load_generators(state: Mapping[str, Any]) -> None:
    if "generators" not in state:  # as release 0.2 wrote it
        torch.set_rng_state(state["torch_generator"])
        return
    streams = process_wide.Streams()
    streams.load_state_dict(state["generators"])
    streams.enter()


def _states_of_others(collector: Collector, learner: Learner) -> list[State]:
    """The own state of each process but the first: its environments, random numbers and stages."""
    if distributed.world_size() == 1:
        return []
    learning = learner.state_dict()
    own: State = {
        "collector": collector.state_dict(),
        "learner": {name: learning[name] for name in ("generator", "stages")},
        "generators": process_wide.Streams().state_dict(),
    }
    return distributed.all_gather(plain(own, "state"))[1:]


def own_part(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint's state with this process's part. Raises ValueError for another number of processes."""
    size, here = state.get("processes", 1), distributed.world_size()
    if size != here:
        start = typed("train") if size == 1 else f"torchrun --nproc-per-node={size} -m {module('train')}"
        raise ValueError(
            f"resume: a run of {size} processes goes on only with as many, not with {here}: {start} resume=…"
        )
    if distributed.rank() == 0:
        return state
    own = state["others"][distributed.rank() - 1]
    return {**state, **own, "learner": {**state["learner"], **own["learner"]}}
