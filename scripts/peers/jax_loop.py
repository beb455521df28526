"""A whole iteration as one program of JAX, PureJaxRL's structure: rollout, GAE and all epochs in one `jit`.

Written anew after the published structure (Lu et al., "Discovered policy optimisation", 2022: `lax.scan` over
steps, over epochs and over minibatches), with the synthetic environment in JAX and its hybrid actions: a
categorical beside a Gaussian, one joint ratio. Networks, clipping and sizes are those of `cleanrl.py`; Adam
is written out. What it leaves out beside ours: K = 1, no scaling, no normalisers, no log, no metrics. Any
other environment would have to be written in JAX, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("XLA_FLAGS", ONE_THREAD)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax import lax, random  # noqa: E402

from equipoise.envs.synthetic import STRIDE, TABLE  # noqa: E402
from equipoise.scripts.peers.task import HIDDEN, Task, synthetic  # noqa: E402

PACKAGES = ("jax", "jaxlib", "numpy")
INPUTS, CHOICES, PARAMETERS, MAX_STEPS = 32, 6, 4, 50
Parameters = dict[str, Any]


class State(NamedTuple):
    """Everything that one iteration leaves for the next."""

    parameters: Parameters
    first: Parameters
    """Adam's moments."""
    second: Parameters
    count: Any
    row: Any
    age: Any
    key: Any


class Samples(NamedTuple):
    """`[T, N, ...]`, or of a minibatch `[B, ...]`."""

    observation: Any
    choice: Any
    numbers: Any
    log_prob: Any
    value: Any
    reward: Any
    done: Any


def start(task: Task, seed: int = 1) -> State:
    key, actor, critic, rows, ages = random.split(random.key(seed), 5)
    parameters = {
        "actor": _tower(actor, CHOICES + PARAMETERS, 0.01),
        "critic": _tower(critic, 1, 1.0),
        "log_std": jnp.full((PARAMETERS,), -0.5),
    }
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    row = random.randint(rows, (task.envs,), 0, TABLE)
    age = random.randint(ages, (task.envs,), 0, MAX_STEPS)
    return State(parameters, zeros, zeros, jnp.zeros(()), row, age, key)


def _tower(key: Any, outputs: int, last: float) -> list[Any]:
    sizes, gains = (INPUTS, HIDDEN, HIDDEN, outputs), (2**0.5, 2**0.5, last)
    made = jax.nn.initializers.orthogonal
    keys = random.split(key, 3)
    shapes = pairwise(sizes)
    return [(made(g)(k, shape), jnp.zeros(shape[1])) for g, k, shape in zip(gains, keys, shapes, strict=True)]


def _through(layers: list[Any], x: Any) -> Any:
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def _heads(parameters: Parameters, observation: Any) -> tuple[Any, Any]:
    """Log-probabilities of the choices, and the means."""
    outputs = _through(parameters["actor"], observation)
    return jax.nn.log_softmax(outputs[..., :CHOICES]), outputs[..., CHOICES:]


def _value(parameters: Parameters, observation: Any) -> Any:
    return _through(parameters["critic"], observation)[..., 0]


def _log_prob(parameters: Parameters, heads: tuple[Any, Any], choice: Any, numbers: Any) -> Any:
    log_probs, mean = heads
    log_std = parameters["log_std"]
    normal = -0.5 * jnp.square((numbers - mean) * jnp.exp(-log_std)) - log_std - 0.5 * jnp.log(2 * jnp.pi)
    chosen = jnp.take_along_axis(log_probs, choice[..., None], -1)[..., 0]
    return chosen + normal.sum(-1)


def _loss(parameters: Parameters, task: Task, batch: Samples, advantage: Any, target: Any) -> Any:
    heads, value = _heads(parameters, batch.observation), _value(parameters, batch.observation)
    ratio = jnp.exp(_log_prob(parameters, heads, batch.choice, batch.numbers) - batch.log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - task.clip, 1 + task.clip)
    policy = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
    near = batch.value + jnp.clip(value - batch.value, -task.clip, task.clip)
    critic = 0.5 * jnp.maximum(jnp.square(value - target), jnp.square(near - target)).mean()
    entropy = -(jnp.exp(heads[0]) * heads[0]).sum(-1).mean()
    entropy += (parameters["log_std"] + 0.5 * jnp.log(2 * jnp.pi * jnp.e)).sum()
    return policy + task.value_coefficient * critic - task.entropy_coefficient * entropy


def iteration(task: Task, table: Any, right: Any, state: State) -> tuple[State, Any]:
    """The next state, and the mean reward."""
    parameters = state.parameters

    def step(carry: tuple[Any, Any, Any], key: Any) -> tuple[tuple[Any, Any, Any], Samples]:
        row, age, _ = carry
        observation = table[row]
        heads = _heads(parameters, observation)
        by_choice, by_number = random.split(key)
        choice = random.categorical(by_choice, heads[0])
        noise = random.normal(by_number, heads[1].shape)
        numbers = heads[1] + jnp.exp(parameters["log_std"]) * noise
        miss = jnp.square(jnp.clip(numbers, -1, 1) - observation[:, :PARAMETERS]).mean(1)
        reward = 0.5 * ((choice == right[row]) - miss)
        done = age + 1 >= MAX_STEPS
        found = Samples(
            observation,
            choice,
            numbers,
            _log_prob(parameters, heads, choice, numbers),
            _value(parameters, observation),
            reward,
            done.astype(jnp.float32),
        )
        return ((row + STRIDE) % TABLE, jnp.where(done, 0, age + 1), 0), found

    key, steps, shuffles = random.split(state.key, 3)
    (row, age, _), samples = lax.scan(step, (state.row, state.age, 0), random.split(steps, task.steps))

    def back(carry: tuple[Any, Any], at: Samples) -> tuple[tuple[Any, Any], Any]:
        advantage, following = carry
        delta = at.reward + task.gamma * following * (1 - at.done) - at.value
        advantage = delta + task.gamma * task.gae_lambda * (1 - at.done) * advantage
        return (advantage, at.value), advantage

    last = _value(parameters, table[row])
    _, advantages = lax.scan(back, (jnp.zeros(task.envs), last), samples, reverse=True)
    columns = (samples, advantages, advantages + samples.value)
    columns = jax.tree.map(lambda x: x.reshape(task.samples, *x.shape[2:]), columns)

    def epoch(carry: Any, key: Any) -> tuple[Any, None]:
        order = random.permutation(key, task.samples)
        shape = (task.minibatches, task.minibatch)
        shuffled = jax.tree.map(lambda x: x[order].reshape(*shape, *x.shape[1:]), columns)
        return lax.scan(lambda inner, batch: (_update(task, inner, *batch), None), carry, shuffled)

    carry = (parameters, state.first, state.second, state.count)
    (parameters, first, second, count), _ = lax.scan(epoch, carry, random.split(shuffles, task.epochs))
    return State(parameters, first, second, count, row, age, key), samples.reward.mean()


def _update(task: Task, carry: Any, batch: Samples, advantage: Any, target: Any) -> Any:
    """Clip, and a step of Adam (Kingma and Ba, 2015, algorithm 1)."""
    parameters, first, second, count = carry
    gradient = jax.grad(_loss)(parameters, task, batch, advantage, target)
    norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradient)))
    factor = jnp.minimum(1.0, task.max_grad_norm / (norm + 1e-6))
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * factor * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * jnp.square(factor * g), second, gradient)
    rate = task.learning_rate / (1 - 0.9**count)
    scale = 1 / (1 - 0.999**count)
    parameters = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v * scale) + 1e-5), parameters, first, second
    )
    return parameters, first, second, count


class Loop:
    """One call is one iteration."""

    def __init__(self, task: Task) -> None:
        env = synthetic(1)
        table = jnp.asarray(env._table.numpy())
        self._run = jax.jit(partial(iteration, task, table, jnp.asarray(env._right.numpy())))
        self.state, self.reward = start(task), 0.0

    def __call__(self) -> None:
        self.state, reward = self._run(self.state)
        self.reward = float(reward)


def build(task: Task) -> Callable[[], None]:
    if task.env != "synthetic":
        raise ValueError(f"{task.env} is not written in JAX")
    return Loop(task)
