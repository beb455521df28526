"""TorchRL's PPO (Bou et al., 2023), with native hybrid actions.

The synthetic task is an `EnvBase` with a batch dimension; the policy is a `ProbabilisticActor` over a
`CompositeDistribution` of a Categorical and an IndependentNormal, with one log-probability for each action
(`set_composite_lp_aggregate(False)`, as its documentation advises), which `ClipPPOLoss` adds up to one ratio.
The loop is that of TorchRL's own PPO scripts: `Collector`, `GAE`, a replay buffer with a sampler without
replacement, `ClipPPOLoss` on each minibatch, clip, Adam with eps 1e-5. Where there is a choice, the faster
one is taken: advantages once in an iteration (the scripts compute them anew in each epoch), no trajectory
ids, distributions without validation, and for a Gymnasium environment one `SyncVectorEnv` in a `GymWrapper`
in place of TorchRL's `SerialEnv`. Nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import CompositeDistribution, TensorDictModule, set_composite_lp_aggregate
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.data import Bounded, Composite, LazyTensorStorage, ReplayBuffer, Unbounded
from torchrl.data import Categorical as Choices
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.envs import EnvBase, GymWrapper
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from equipoise.scripts.peers.task import Task, orthogonal, synthetic, tower

PACKAGES = ("torchrl", "tensordict", "torch", "numpy", "gymnasium")


class Heads(nn.Module):
    """Observation -> logits, mean and standard deviation."""

    def __init__(self, inputs: int, choices: int, parameters: int) -> None:
        super().__init__()
        self.network = orthogonal(tower(inputs, choices + parameters), 0.01)
        self.log_std = nn.Parameter(torch.full((parameters,), -0.5))
        self.sizes = (choices, parameters)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mean = self.network(observation).split(self.sizes, -1)
        return logits, mean, self.log_std.exp().expand_as(mean)


class SyntheticEnv(EnvBase):
    """`envs.synthetic.Synthetic`, all of its environments in one."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(device="cpu", batch_size=[num_envs])
        self.env = synthetic(num_envs)
        width, size = self.env.observation_space.shape[0], (num_envs,)
        self.observation_spec = Composite(observation=Unbounded((*size, width)), shape=size)
        action = {"choice": Choices(6, shape=size), "parameters": Bounded(-1, 1, (*size, 4))}
        self.action_spec = Composite(action=Composite(action, shape=size), shape=size)
        self.reward_spec = Unbounded((*size, 1))
        self.observation, _ = self.env.reset()

    def _reset(self, tensordict: TensorDictBase | None, **_: Any) -> TensorDictBase:
        # The environment restarts on its own, and a restarted one's observation has come with its last step.
        return TensorDict({"observation": self.observation}, self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        choice, parameters = tensordict["action", "choice"], tensordict["action", "parameters"]
        timestep = self.env.step((choice, parameters.clamp(-1, 1)))
        self.observation = timestep.observation
        done = timestep.terminated | timestep.truncated
        fields = {
            "observation": timestep.final_observation,
            "reward": timestep.rewards.sum(1, keepdim=True),
            "done": done.unsqueeze(1),
            "terminated": timestep.terminated.unsqueeze(1),
        }
        return TensorDict(fields, self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        self.env.reset(seed)


def hybrid_actor(inputs: int, env: EnvBase) -> ProbabilisticActor:
    parameters = [("params", "choice", "logits"), ("params", "parameters", "loc")]
    parameters.append(("params", "parameters", "scale"))
    return ProbabilisticActor(
        TensorDictModule(Heads(inputs, 6, 4), in_keys=["observation"], out_keys=parameters),
        in_keys=["params"],
        distribution_class=CompositeDistribution,
        distribution_kwargs={
            "distribution_map": {"choice": Categorical, "parameters": IndependentNormal},
            "name_map": {"choice": ("action", "choice"), "parameters": ("action", "parameters")},
        },
        return_log_prob=True,
    )


def discrete_actor(inputs: int, env: EnvBase) -> ProbabilisticActor:
    network = orthogonal(tower(inputs, env.action_spec.space.n), 0.01)
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )


def gym_env(task: Task) -> EnvBase:
    make = [lambda: gymnasium.make(task.env)] * task.envs
    same_step = gymnasium.vector.AutoresetMode.SAME_STEP
    vector = gymnasium.vector.SyncVectorEnv(make, autoreset_mode=same_step)
    return GymWrapper(vector, categorical_action_encoding=True)


def build(task: Task) -> Callable[[], None]:
    torch.manual_seed(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    set_composite_lp_aggregate(False).set()
    hybrid = task.env == "synthetic"
    env = SyntheticEnv(task.envs) if hybrid else gym_env(task)
    inputs = env.observation_spec["observation"].shape[-1]
    actor = (hybrid_actor if hybrid else discrete_actor)(inputs, env)
    critic = ValueOperator(orthogonal(tower(inputs, 1), 1.0), in_keys=["observation"])
    collector = Collector(
        env, actor, frames_per_batch=task.samples, total_frames=-1, device="cpu", track_traj_ids=False
    )
    batches = iter(collector)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(task.samples),
        sampler=SamplerWithoutReplacement(),
        batch_size=task.minibatch,
    )
    gae = GAE(gamma=task.gamma, lmbda=task.gae_lambda, value_network=critic, average_gae=False)
    loss = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=task.clip,
        entropy_coeff=task.entropy_coefficient,
        critic_coeff=task.value_coefficient,
        loss_critic_type="l2",
        clip_value=True,
        normalize_advantage=True,
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=task.learning_rate, eps=1e-5)

    def iterate() -> None:
        batch = next(batches)
        with torch.no_grad():
            gae(batch)
        buffer.extend(batch.reshape(-1))
        for _ in range(task.epochs):
            for minibatch in buffer:
                terms = loss(minibatch)
                (terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), task.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()

    return iterate
