"""Turns the files of `conf/` and `key=value` arguments into a `Config`, by way of Hydra.

Files are looked for in this package's `conf/`, then in the user's: `conf/` in the current folder. Hydra's
errors become `ConfigError`, in the words of this project. Hydra wants a `+` before a key that no file has;
here every `key=value` is let in and `check` (in `schema.py`) judges it: it names the nearest right key and
finds all mistakes at once.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from equipoise.prerequisites import extra
from equipoise.trainer.configuration.checking import check
from equipoise.trainer.configuration.errors import ConfigError, nearest
from equipoise.trainer.configuration.schema import Config, env_label

CONFIG_DIR = Path(__file__).parents[2] / "conf"
GROUPS = tuple(sorted(path.name for path in CONFIG_DIR.iterdir() if path.is_dir()))


def _run_name(*, _root_: DictConfig) -> str:
    env = _root_.get("env", {})
    return f"{env_label(env if isinstance(env, Mapping) else {})}-{_root_.get('preset')}"


OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
# With a cache, which Hydra hands on with the configuration: in a job's own process too it is the sweep's.
OmegaConf.register_new_resolver("sweep_process", os.getpid, use_cache=True, replace=True)


_LOCK = threading.RLock()
"""Hydra has one state for the whole process."""
_TEXT = r"[^'\"\[\],{}]*"
_PER_COPY = re.compile(rf"({_TEXT}(?<!\$)\{{\s*[A-Za-z_]\w*(\s*[-+*]\s*\w+)?\s*\}})+{_TEXT}")
"""A text with `{index}` or the like, whose quotes a shell has taken away; Hydra would read a dictionary."""


def compose(overrides: Sequence[str] = ()) -> Config:
    """The checked configuration for `key=value` arguments as one types them. Raises `ConfigError`."""
    return compose_run(overrides).config


class Composed(NamedTuple):
    """A checked configuration, and where its run goes."""

    config: Config
    run_dir: Path
    dated: bool
    """Whether the time is in the folder's name, so that one with another name will do as well."""


def compose_run(overrides: Sequence[str] = (), config_dir: Path | None = None) -> Composed:
    """The checked configuration, and the folder of the run. Raises `ConfigError`.

    `config_dir`: where the user has more configuration files, beside `conf/` in the current folder.
    """
    return resolved(compose_unchecked(overrides, config_dir))


def compose_unchecked(overrides: Sequence[str] = (), config_dir: Path | None = None) -> DictConfig:
    """What Hydra makes of the arguments, with its own section. Raises `ConfigError` for what it refuses."""
    admitted = admit([*search_path(overrides, config_dir), *overrides])
    with readable_errors(), _hydra():
        return hydra.compose("config", admitted, return_hydra_config=True)


def without_hydra(composed: DictConfig) -> DictConfig:
    """The settings of a run alone."""
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra's own state while it composes; a program around this one that uses Hydra, too, gets its back."""
    with _LOCK:
        others = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
                yield
        finally:
            if others is not None:
                GlobalHydra.instance().initialize(others)


def resolved(composed: DictConfig) -> Composed:
    """What Hydra composed, resolved and checked. Raises `ConfigError`."""
    with readable_errors():
        run_dir = str(composed.hydra.run.dir)
    pattern = OmegaConf.to_container(composed.hydra.run)
    dated = isinstance(pattern, dict) and "${now:" in str(pattern["dir"])
    config = from_hydra(without_hydra(composed)).with_typed(map(as_typed, composed.hydra.overrides.task))
    return Composed(config, Path(run_dir), dated)


def as_typed(override: str) -> str:
    """An override without the mark that `admit` has put in front of it."""
    return override.removeprefix("++")


def sweeping(overrides: Sequence[str]) -> list[str]:
    """Those of the overrides that have several values. Raises `ConfigError` for one that cannot be read."""
    with readable_errors():
        parsed = OverridesParser.create().parse_overrides(admit(overrides))
    pairs = zip(overrides, parsed, strict=True)
    return [override for override, found in pairs if found.is_sweep_override()]


def options(group: str) -> list[str]:
    """The names to choose from in `group`, this package's and the user's."""
    folders = [folder for folder in (CONFIG_DIR, own_folder()) if folder is not None]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def own_folder() -> Path | None:
    """The user's configuration files: `conf/` in the current folder, unless that is this package's."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and not folder.samefile(CONFIG_DIR) else None


def search_path(overrides: Sequence[str], config_dir: Path | None = None) -> list[str]:
    """The override that has Hydra look into the user's folders too, after this package's.

    Raises `ConfigError` where an override chooses an option that both have: theirs would be ignored.
    """
    folders = [folder for folder in (own_folder(), config_dir and config_dir.absolute()) if folder]
    if not folders or any(override.startswith("hydra.searchpath=") for override in overrides):
        return []
    for override in overrides:
        group, _, chosen = override.partition("=")
        for file in (Path(group, f"{option}.yaml") for option in chosen.split(",") if group in GROUPS):
            theirs = next((folder / file for folder in folders if (folder / file).exists()), None)
            if theirs is not None and (CONFIG_DIR / file).exists():
                raise ConfigError(f"{override}: rename {theirs}: Equipoise has a {file} of its own")
    return [f"hydra.searchpath=[{','.join(quoted(f'file://{folder}') for folder in folders)}]"]


def quoted(text: str | Path) -> str:
    """`text` as a value in an override, whatever characters are in it."""
    return "'{}'".format(str(text).replace("\\", "\\\\").replace("'", "\\'"))


def from_hydra(composed: DictConfig) -> Config:
    """What Hydra composed, resolved and checked. Raises `ConfigError`."""
    with readable_errors():
        raw = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    assert isinstance(raw, dict)
    return check({str(key): value for key, value in raw.items()})


def admit(arguments: Sequence[str]) -> list[str]:
    """Prefix `++` to each `key=value` that is no choice of a group and not Hydra's own; flags come first.

    Raises `ConfigError` for a value without a key and for a list of options, which make Hydra itself fail.
    """

    def admitted(argument: str) -> str:
        if re.match(r"[+~@]*=", argument):
            raise ConfigError(f"cannot read the argument {argument!r} (arguments are key=value)")
        key = re.match(r"([A-Za-z_][\w./-]*)=", argument)
        if key and (key[1] in GROUPS or "/" in key[1]):
            if argument[key.end() :].lstrip().startswith(("[", "{")):
                raise ConfigError(f"{argument}: {key[1]} is a group: choose one option, by its name")
            # Hydra fails on anything but text, too; quoted, it is merely an option that does not exist.
            other = r"(?<=[=,])([+-]?[\d.][\w.+-]*|(?i:true|false|nan|inf|null))(?=,|$)"
            return re.sub(other, r"'\1'", argument)
        if key and _PER_COPY.fullmatch(value := argument[key.end() :]):
            argument = f"{key[0]}{quoted(value)}"
        ours = key and not key[1].startswith("hydra.")
        return f"++{argument}" if ours else argument

    # Hydra's parser takes the overrides in one piece only: `preset=a,b -m seed=1,2` would be an error.
    flags_first = sorted(arguments, key=lambda argument: re.match(r"[^-=][^=]*=|~", argument) is not None)
    return [admitted(argument) for argument in flags_first]


def resolved_in(composed: DictConfig, text: str) -> str:
    """`text` with its interpolations resolved as if it stood in a composed configuration."""
    with readable_errors():
        everything = OmegaConf.create({**OmegaConf.to_container(composed), "_text": text})  # type: ignore[dict-item]
        return str(OmegaConf.select(everything, "_text"))


def values(overrides: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments as Hydra reads them, without a configuration. Raises `ConfigError`."""
    with readable_errors():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.key_or_group: override.value() for override in parsed}


@contextmanager
def readable_errors() -> Iterator[None]:
    """Hydra's and OmegaConf's errors inside this context become a `ConfigError`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from None


def _explain(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MissingConfigException) and cause.options is not None:
            return _no_such_option(cause)
        if isinstance(cause, OverrideParseException):
            argument, reason = cause.override.removeprefix("++"), _first_line(cause)
            if reason.startswith("LexerNoViableAlt"):
                reason = "a value with such characters stands in quotes, key=\"'value'\" in a shell"
            return f"cannot read the argument {argument!r} (arguments are key=value): {reason}"
        cause = cause.__cause__
    text = _first_line(error) if not isinstance(error, ConfigCompositionException) else str(error)
    return text.replace("++", "")


def _no_such_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    there = sorted(error.options or ())
    hint = f"; did you mean {match}?" if (match := nearest(option, there)) else ""
    if group == "hydra/launcher":
        hint = f"; joblib and submitit come with {extra('sweep')}"
    elif not group.startswith("hydra/"):
        hint += (
            f"; your own goes into conf/{group}/{option}.yaml here, or into a folder given by --config-dir"
        )
    return f"{group}={option}: there is no such option{hint} ({group} has {', '.join(there) or 'none yet'})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
