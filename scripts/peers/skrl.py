"""skrl's PPO (Serrano-Muñoz et al., JMLR 2023): discrete or continuous actions, not both.

Its sequential trainer over its wrapper of Gymnasium's `SyncVectorEnv`; models as its examples write them, a
`CategoricalMixin` policy and a `DeterministicMixin` critic of two tanh layers of 64. `value_loss_scale` is
not its default of 2.5 but the task's; TensorBoard is written once in an iteration (skrl's default follows
from the length of a run), no checkpoints, no progress bar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import Tensor

from equipoise.scripts.peers.task import Task, orthogonal, tower

PACKAGES = ("skrl", "torch", "numpy", "gymnasium")


class Policy(CategoricalMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.network = orthogonal(tower(self.num_observations, self.num_actions), 0.01)

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.network(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.network = orthogonal(tower(self.num_observations, 1), 1.0)

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        return self.network(inputs["observations"]), {}


def build(task: Task) -> Callable[[], None]:
    set_seed(1)
    same_step = gymnasium.vector.AutoresetMode.SAME_STEP
    make = [lambda: gymnasium.make(task.env)] * task.envs
    env = wrap_env(gymnasium.vector.SyncVectorEnv(make, autoreset_mode=same_step))
    spaces = {
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "device": torch.device("cpu"),
    }
    settings = PPO_CFG(
        rollouts=task.steps,
        learning_epochs=task.epochs,
        mini_batches=task.minibatches,
        learning_rate=task.learning_rate,
        discount_factor=task.gamma,
        gae_lambda=task.gae_lambda,
        ratio_clip=task.clip,
        entropy_loss_scale=task.entropy_coefficient,
        value_loss_scale=task.value_coefficient,
        grad_norm_clip=task.max_grad_norm,
    )
    settings.experiment.directory = "."
    settings.experiment.write_interval = task.steps
    settings.experiment.checkpoint_interval = 0
    agent = PPO(
        models={"policy": Policy(**spaces), "value": Value(**spaces)},
        memory=RandomMemory(memory_size=task.steps, num_envs=task.envs, device=spaces["device"]),
        cfg=settings,
        **spaces,
    )
    options = {"timesteps": task.steps, "headless": True, "disable_progressbar": True}
    trainer: SequentialTrainer = SequentialTrainer(env=env, agents=agent, cfg=options)
    return trainer.train  # `steps` steps, with an update at the end; a next call goes on from there
