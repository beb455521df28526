"""Distributions of one bounded number: `policy.distribution` names one, and nothing else knows which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from equipoise.trainer.policy.continuous.beta import Beta
from equipoise.trainer.policy.continuous.family import Family
from equipoise.trainer.policy.continuous.gaussian import Gaussian
from equipoise.trainer.policy.continuous.squashed import Squashed

__all__ = ["FAMILIES", "Beta", "Family", "FamilyName", "Gaussian", "Squashed"]

FamilyName = Literal["gaussian", "beta", "squashed"]

FAMILIES: Mapping[FamilyName, type[Family]] = {"gaussian": Gaussian, "beta": Beta, "squashed": Squashed}
