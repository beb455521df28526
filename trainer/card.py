"""The card of an exported policy: what it does, how well, and how to use it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from equipoise.trainer.configuration.schema import env_label


def card(
    config: Mapping[str, Any],
    spaces: Mapping[str, str],
    results: Mapping[str, Any],
    modules: Sequence[str],
    made_with: str,
    place: str = "<this folder>",
) -> str:
    """Markdown with the head that the Hugging Face hub reads.

    Args:
        spaces: what the policy sees and does -> its space.
        results: of an evaluation, or empty.
        modules: code of the user's that the configuration names.
        place: what loads it, a folder or `hf://user/repo`.
    """
    env = env_label(config["env"])
    allow = f", allow={list(modules)}" if modules else ""
    allowed = f" allow=[{','.join(modules)}]" if modules else ""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_head(env, results), sort_keys=False).rstrip(),
            "---",
            "",
            f"# {env}",
            "",
            f"A policy for {env}, trained with Equipoise: PPO for hybrid actions.",
            "",
            *_results(results),
            "## Use",
            "",
            "```python",
            "import equipoise",
            "",
            f'policy = equipoise.load("{place}"{allow})',
            "action = policy.act(observation)  # and the mask, if there is one",
            "```",
            "",
            "```bash",
            f"equipoise evaluate checkpoint={place}{allowed}",
            f"equipoise play checkpoint={place}{allowed}",
            "```",
            "",
            "`config.json` has the configuration, `model.safetensors` the weights. Loading them runs no code",
            "but Equipoise's own, Gymnasium's and what you allow.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | `{space}` |" for name, space in spaces.items()),
            f"| trained for | {config['trainer']['total_env_steps']:,} steps, seed {config['seed']} |",
            f"| policy | `{config['policy']['_target_']}` |",
            f"| made with | {made_with} |",
            "",
        ]
    )


def _head(env: str, results: Mapping[str, Any]) -> dict[str, Any]:
    head: dict[str, Any] = {
        "library_name": "equipoise",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "deep-reinforcement-learning", "ppo", "hybrid-actions", env],
    }
    if results:
        reward = {
            "type": "mean_reward",
            "name": "mean_reward",
            "value": f"{results['return_mean']:.2f} +/- {results['return_std']:.2f}",
        }
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"type": env, "name": env},
            "metrics": [reward],
        }
        head["model-index"] = [{"name": f"ppo-{env}", "results": [result]}]
    return head


def _results(results: Mapping[str, Any]) -> list[str]:
    if not results:
        return []
    measured = {name: value for name, value in results.items() if name not in ("episodes", "seed")}
    sampled = {n.removeprefix("sampled_"): v for n, v in measured.items() if n.startswith("sampled_")}
    names = [name for name in measured if not name.startswith("sampled_") and measured[name] is not None]
    return [
        "## Results",
        "",
        f"Of {results['episodes']} episodes of each policy, on seeds that training never used "
        f"(`seed={results['seed']}`).",
        "",
        "| | deterministic | sampled |",
        "|---|---|---|",
        *(
            " | ".join([f"| {name.replace('_', ' ')}", *map(_shown, (measured[name], sampled.get(name)))])
            + " |"
            for name in names
        ),
        "",
    ]


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"
