"""What may differ when a run goes on, and what follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.errors import ConfigError, shown
from equipoise.trainer.configuration.imports import foreign
from equipoise.trainer.configuration.older import with_later_keywords, with_later_settings
from equipoise.trainer.configuration.schema import Config

EXACT = (
    "device",
    "threads",
    "env.check_bounds",
    "env.num_workers",
    "env.timeout",
    "env.vectorization",
    "trainer.total_env_steps",
    "trainer.eval_every",
    "trainer.eval_episodes",
    "trainer.eval_max_steps",
    "trainer.final_eval_episodes",
    "trainer.best_by",
    "trainer.checkpoint_every",
    "trainer.keep_every",
    "trainer.keep_max",
    "trainer.on_save_error",
    "trainer.max_bad_updates",
    "trainer.compile",
    "loggers",
)
"""How long the run is, how it is watched, where and by what code it is computed: what is learned in an
iteration stays what it was."""

INEXACT = (
    "optimizer.learning_rate",
    "optimizer.anneal",
    "optimizer.desired_kl",
    "optimizer.learning_rate_min",
    "optimizer.learning_rate_max",
    "optimizer.log_std_multiplier",
    "trainer.schedule_steps",
    "trainer.batch.rollout_steps",
    "trainer.batch.update_epochs",
    "trainer.batch.num_minibatches",
    "trainer.max_grad_norm",
    "trainer.target_kl",
    "trainer.gradient_scaling.min_scaling_factor",
    "trainer.gradient_scaling.max_scaling_factor",
    "callbacks",
)
"""What an error or a full memory may make one change; from there on the run is another one. So are all keys
of `env` but these:"""
_FIXED_IN_ENV = (
    "_target_",
    "id",
    "make",
    "name",
    "ignore",
    "action_bounds",
    "reward_components",
    "reward_weights",
    "relevance",
)

RESUMABLE = f"{', '.join([*EXACT, *INEXACT])}, env.* but {', '.join(_FIXED_IN_ENV)}"
"""For messages."""

_NO_SETTINGS = ("resume", "init_from")
_Settings = Mapping[str, Any]


class Change(NamedTuple):
    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        before, after = ("unset" if value is None else shown(value) for value in (self.before, self.after))
        return f"{self.key} {before} -> {after}"


def changes(before: _Settings, after: _Settings) -> list[Change]:
    """Keys that differ between two configurations as `Config.plain` gives them.

    What is null, empty or not there is the same. So is what came after the first was written, at its default.
    """
    old = dict(_leaves(with_later_keywords(with_later_settings(before), after)))
    new = dict(_leaves(with_later_settings(after)))
    both = dict.fromkeys([*old, *new])
    found = [Change(key, old.get(key), new.get(key)) for key in both if old.get(key) != new.get(key)]
    return [change for change in found if change.key not in _NO_SETTINGS]


def refuse_fixed(keys: Sequence[str]) -> None:
    """Raise `ConfigError` for keys that cannot be changed when a run goes on."""
    refused = [key for key in keys if not _may_change(key)]
    if refused:
        raise ConfigError(
            f"{', '.join(refused)} cannot be changed when a run goes on; these can: {RESUMABLE}. A new run "
            "with any settings can start from the weights: init_from=<checkpoint>"
        )


def resumed(
    plain: _Settings, overrides: Mapping[str, Any], checkpoint: str, allow: Collection[str] = ()
) -> Config:
    """The configuration of a checkpoint, with what may be changed changed.

    Raises `ConfigError`, also for code that `plain` names and that is neither this package's nor allowed by
    `allow`, which lists modules; what `overrides` name is the user's own.
    """
    refuse_fixed(list(overrides))
    return changed({**plain, "resume": checkpoint}, overrides, allow)


def changed(
    plain: _Settings, overrides: Mapping[str, Any], allow: Collection[str], acting: bool = False
) -> Config:
    """A configuration with some keys changed; what `overrides` name is the user's own, and allowed.

    `allow` and `acting` as in `check`.
    """
    raw = _copied(plain)
    for key, value in overrides.items():
        *path, name = key.split(".")
        section = raw
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    typed = set(foreign(raw)) - set(foreign(plain))
    return check(raw, [*allow, *typed], acting=acting)


def episodes_begin_anew(before: _Settings, after: _Settings) -> bool:
    """Whether environments made by the second configuration cannot take the state of those of the first."""
    return any(c.key.startswith("env.") and c.key not in EXACT for c in changes(before, after))


def what_changes(before: _Settings, after: _Settings) -> str | None:
    """A line for the user where the run is no longer exactly that of its checkpoint."""
    inexact = [change for change in changes(before, after) if change.key not in EXACT]
    if not inexact:
        return None
    anew = "; all episodes begin anew" if episodes_begin_anew(before, after) else ""
    return f"changed from here on: {', '.join(map(str, inexact))}{anew}"


def _may_change(key: str) -> bool:
    if key in EXACT or key in INEXACT:
        return True
    section, _, name = key.partition(".")
    return section == "env" and name.partition(".")[0] not in _FIXED_IN_ENV


def _leaves(settings: _Settings, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", list(value) or None if isinstance(value, list | tuple) else value


def _copied(settings: _Settings) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in settings.items()}
