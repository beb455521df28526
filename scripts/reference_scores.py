"""Returns of simple behaviours in TopologySpawn, and how near its expert is to the best of its kind.

python -m scripts.reference_scores --episodes 400
python -m scripts.reference_scores --search
python -m scripts.reference_scores --set substrate=random --set roughness=0.9
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from equipoise.envs.dependent_masks import ActionMask
from equipoise.envs.protocol import NativeAction
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import Behaviour, episode_returns, expert_behaviour, random_action
from equipoise.envs.topology_spawn.environment import TopologySpawn
from equipoise.envs.topology_spawn.expert import ExpertParameters
from equipoise.envs.topology_spawn.rules import TopologyRules

SEARCH_START = torch.tensor(
    # size, room, delete gap, spawn gap, gain, margin, sacrifice: mean and standard deviation
    [[7.5, 2.0], [1.5, 1.0], [1.5, 0.7], [1.0, 0.7], [1.2, 0.5], [0.5, 0.3], [2.0, 1.5]]
)
NOISES = (0.05, 0.1, 0.2, 0.4)


def behaviours(episodes: int, seed: int) -> dict[str, Behaviour]:
    """The behaviours by name, for a TopologySpawn of `episodes` environments."""

    def stream() -> StreamPerEnv:
        return StreamPerEnv(episodes, torch.device("cpu"), seed + 1)

    def mixed(decisions: str, parameters: str) -> Behaviour:
        numbers = stream()

        def behave(env: Any, mask: ActionMask | None) -> NativeAction:
            sources = {"expert": env.expert_action(), "random": random_action(env, mask, numbers)}
            return {"topology": sources[decisions]["topology"], "spawn": sources[parameters]["spawn"]}

        return behave

    def noisy(scale: float) -> Behaviour:
        numbers = stream()

        def behave(env: Any, mask: ActionMask | None) -> NativeAction:
            """The expert with normal noise of `scale` half ranges on every parameter."""
            action = env.expert_action()
            low, high = (
                torch.as_tensor(b) for b in (env.action_space["spawn"].low, env.action_space["spawn"].high)
            )
            spawn = action["spawn"] + scale * (high - low) / 2 * numbers.normal(*low.shape)
            return {"topology": action["topology"], "spawn": spawn.clamp(low, high)}

        return behave

    def rest(env: Any, mask: ActionMask | None) -> NativeAction:
        action = env.expert_action()
        return {"topology": torch.zeros_like(action["topology"]), "spawn": action["spawn"]}

    return {
        "random": mixed("random", "random"),
        "expert": mixed("expert", "expert"),
        "expert decisions, random parameters": mixed("expert", "random"),
        "random decisions, expert parameters": mixed("random", "expert"),
        "rest for ever": rest,
        **{f"expert, noise {scale} on the parameters": noisy(scale) for scale in NOISES},
    }


def scores(episodes: int, seed: int, rules: Mapping[str, Any]) -> dict[str, Tensor]:
    """The task returns `[episodes]` of each behaviour by name."""
    env = TopologySpawn(episodes, **rules)
    return {name: episode_returns(env, behave, seed) for name, behave in behaviours(episodes, seed).items()}


def search_expert(
    rules: Mapping[str, Any], seed: int, rounds: int = 10, candidates: int = 64, episodes: int = 32
) -> tuple[ExpertParameters, float]:
    """The best parameters that the cross-entropy method finds, and their mean return on fresh episodes.

    All candidates of a round play at once, `episodes` each; the best eighth makes the next round's normal
    distribution.
    """
    mean, std = SEARCH_START[:, 0], SEARCH_START[:, 1]
    env = TopologySpawn(candidates * episodes, **rules)
    luck = StreamPerEnv(candidates, env.device, seed)
    for round_ in range(rounds):
        tried = mean + std * luck.normal(len(mean))
        columns = torch.repeat_interleave(tried, episodes, 0).t()[:, :, None]
        env.expert = ExpertParameters(*columns)
        returns = episode_returns(env, expert_behaviour, seed + round_)
        elite = tried[returns.view(candidates, episodes).mean(1).topk(candidates // 8).indices]
        mean, std = elite.mean(0), elite.std(0) + 0.02 * SEARCH_START[:, 1]
    env.expert = ExpertParameters(*mean.tolist())
    return env.expert, episode_returns(env, expert_behaviour, seed + rounds).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", action="store_true", help="also search for better expert parameters")
    parser.add_argument("--set", action="append", default=[], metavar="RULE=VALUE", help="of TopologyRules")
    arguments = parser.parse_args()
    rules = dict(_rule(text) for text in arguments.set)
    returns = scores(arguments.episodes, arguments.seed, rules)
    zero, one = returns["random"].mean(), returns["expert"].mean()
    print(f"{'':40}{'return':>8} ± 95 %   score")
    for name, values in returns.items():
        half = 1.96 * values.std() / len(values) ** 0.5
        print(f"{name:40}{values.mean():8.2f} ± {half:5.2f}  {(values.mean() - zero) / (one - zero):6.3f}")
    if arguments.search:
        best, value = search_expert(rules, arguments.seed)
        print(f"\nbest found: {value:.2f}, the expert reaches {one / value:.3f} of it\n{best}")


def _rule(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    known = {field.name for field in fields(TopologyRules)}
    if name not in known:
        raise SystemExit(f"--set {text}: no such rule; there are {', '.join(sorted(known))}")
    numbers = (
        [float(part) if "." in part or "e" in part else int(part) for part in value.split(",")]
        if (value.replace(",", "").replace(".", "").replace("-", "").isdigit())
        else [value]
    )
    return name, tuple(numbers) if len(numbers) > 1 else numbers[0]


if __name__ == "__main__":
    main()
