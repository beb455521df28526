"""Films of a policy at work: the environment beside the distribution that each action was drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from equipoise.envs.checked import CheckedEnv
from equipoise.envs.protocol import BatchedEnv, IllustratedEnv, Timestep
from equipoise.envs.references import References
from equipoise.trainer.data import Actions
from equipoise.trainer.evaluation import normalized_score
from equipoise.trainer.monitor.action_panel import FAINT, PAPER, TEXT, Names, draw_panel
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.player import Player
from equipoise.trainer.policy.protocol import Policy

WIDTH = 800
_PICTURE, _TITLE, _TALLEST = 480, 28, 360

Frame = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Film:
    """One episode as frames `[height, 800, 3]`, the last of which shows the outcome."""

    frames: list[Frame]
    task_return: float
    score: float | None
    steps: int
    outcome: str
    """`success` or `failure` if the environment says so, else `terminated` or `truncated`."""


@torch.inference_mode()
def film_episode(
    policy: Policy,
    env: BatchedEnv,
    seed: int,
    title: str,
    references: References | None = None,
    deterministic: bool = True,
) -> Film:
    """Film one episode of `env` (`N` is 1). Each frame shows a state and what the policy does in it.

    Rendering errors propagate.
    """
    weights = torch.tensor(env.reward_weights, device=env.device)
    names = Names(env.choice_names, env.parameter_names) if isinstance(env, IllustratedEnv) else Names()
    noise = torch.Generator(env.device).manual_seed(seed)
    checked, player = CheckedEnv(env), Player(policy)
    observation, action_mask = checked.reset(seed)
    task_return, steps, frames = 0.0, 0, []
    while True:
        acting = player.acting(observation, action_mask)
        actions = acting.mode() if deterministic else acting.draw(noise)
        native = policy.to_native(actions)
        picture = env.render_action(native) if isinstance(env, IllustratedEnv) else env.render()
        scene = _Scene(title, picture, policy, names, acting.given(actions.discrete), actions)
        frames.append(scene.frame(f"step {steps}", f"return {task_return:.1f}"))
        step = checked.step(native)
        observation, action_mask = step.observation, step.action_mask
        task_return += float(step.rewards[0] @ weights)
        steps += 1
        if bool(step.terminated | step.truncated):
            break
    outcome = _outcome(step)
    score = normalized_score(task_return, references)
    numbers = f"return {task_return:.1f}" + ("" if score is None else f"     score {score:.2f}")
    frames.append(scene.frame(f"{outcome} after {steps} steps", numbers))
    return Film(frames, task_return, score, steps, outcome)


def one_above_the_other(upper: Sequence[Frame], lower: Sequence[Frame]) -> list[Frame]:
    """Stack two films, `[height, 800, 3]` per frame; the shorter one holds its last frame."""
    length = max(len(upper), len(lower))
    pairs = ((upper[min(i, len(upper) - 1)], lower[min(i, len(lower) - 1)]) for i in range(length))
    return [np.concatenate(pair) for pair in pairs]


def _outcome(step: Timestep) -> str:
    success = step.metrics.get("success")
    if success is not None and not bool(success[0].isnan()):
        return "success" if bool(success[0] > 0) else "failure"
    return "terminated" if bool(step.terminated) else "truncated"


@dataclass(frozen=True)
class _Scene:
    title: str
    picture: Frame
    policy: Policy
    names: Names
    distribution: HybridDistribution
    actions: Actions

    def frame(self, moment: str, numbers: str) -> Frame:
        """Compose the picture (left), the panel (right) and a line of text (above)."""
        rows, columns = self.picture.shape[:2]
        scale = min(_PICTURE / columns, _TALLEST / rows)
        size = (round(columns * scale), round(rows * scale))
        height = max(size[1], 200)
        sheet = Image.new("RGB", (WIDTH, _TITLE + height), PAPER)
        picture = Image.fromarray(self.picture).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(picture, ((_PICTURE - size[0]) // 2, _TITLE + (height - size[1]) // 2))
        panel = draw_panel(
            self.policy.space, self.names, self.distribution, self.actions, WIDTH - _PICTURE, height
        )
        sheet.paste(panel, (_PICTURE, _TITLE))
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
        middle = _TITLE / 2
        pen.text((12, middle), self.title, fill=TEXT, font=font, anchor="lm")
        pen.text((_PICTURE - 12, middle), moment, fill=FAINT, font=font, anchor="rm")
        pen.text((_PICTURE + 10, middle), numbers, fill=TEXT, font=font, anchor="lm")
        return np.asarray(sheet, dtype=np.uint8)
