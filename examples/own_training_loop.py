"""Adaptive gradient scaling in a training loop of your own: python -m examples.own_training_loop

Nothing else of this project is used. A policy decides whether a number lies left or right of 0 and names
its distance from there. It learns by REINFORCE (Williams, 1992): each action type has a loss of its own,
and `GradientScaling` says how to weigh the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from equipoise.trainer.stages.gradient_scaling import GradientScaling


class HybridPolicy(nn.Module):
    """One trunk, one head for the decision (left or right), one for its parameter (the distance)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, 32), nn.Tanh())
        self.decision, self.parameter = nn.Linear(32, 2), nn.Linear(32, 1)

    def forward(self, position: Tensor) -> tuple[Categorical, Normal]:
        features = self.trunk(position)
        return Categorical(logits=self.decision(features)), Normal(self.parameter(features).squeeze(-1), 0.1)


def reward(position: Tensor, side: Tensor, distance: Tensor) -> Tensor:
    """1 for the right side, less the error of the distance."""
    position = position.squeeze(-1)
    return (side == (position > 0)).float() - (distance - position.abs()).abs()


def main(updates: int = 300) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more only get in each other's way in so small a network
    policy = HybridPolicy()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
    scaling = GradientScaling(parameters=list(policy.parameters()), warmup_steps=50)

    for update in range(1, updates + 1):
        position = 2 * torch.rand(512, 1) - 1
        decision, parameter = policy(position)
        side, distance = decision.sample(), parameter.sample()
        gained = reward(position, side, distance)
        advantage = (gained - gained.mean()) / gained.std()
        discrete_loss = -(decision.log_prob(side) * advantage).mean()
        continuous_loss = -(parameter.log_prob(distance) * advantage).mean()
        w_d, w_c = scaling.compute_adaptive_gradient_scaling(discrete_loss, continuous_loss)
        optimizer.zero_grad()
        (w_d * discrete_loss + w_c * continuous_loss).backward()
        optimizer.step()

        if update == 1 or update % 50 == 0:
            ratio = scaling.monitoring["balance_ratio_ema"]
            print(
                f"update {update:3d}  reward {gained.mean():+.2f}  discrete weight {w_d:.3f}  "
                f"continuous weight {w_c:.3f}  balance ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
