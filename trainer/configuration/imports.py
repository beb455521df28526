"""Whose code a configuration may name.

What users type or write in their own files may name any module. The configuration inside a checkpoint may
come from anybody: it may name classes of this package, and Gymnasium's own environments, and what the user
allows by name. Everything that a configuration names is found here before anything is imported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from equipoise.trainer.configuration.constructors import TARGET, find_class, is_section
from equipoise.trainer.configuration.errors import ConfigError, shown

OWN = ("equipoise.envs", "equipoise.trainer")


def may_import(name: str, allow: Collection[str] = ()) -> bool:
    """Whether the module or class `name` (dotted) belongs to this package or to one of `allow`."""
    return _within(name, (*OWN, *allow))


def _within(name: str, owners: Collection[str]) -> bool:
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


def used_parts(raw: Mapping[str, Any], acting: bool = False) -> dict[str, Any]:
    """The sections of a configuration that name classes and are used, by their keys.

    `acting`: by a policy that does not learn; it needs neither stages nor an optimizer.
    """
    if acting:
        return {name: raw.get(name) for name in ("env", "policy")}
    parts = {name: raw.get(name) for name in ("env", "policy", "optimizer", "callbacks", "loggers")}
    trainer = raw.get("trainer")
    if isinstance(trainer, Mapping) and isinstance(stages := trainer.get("stages"), list | tuple):
        parts |= {f"trainer.{name}": trainer.get(name) for name in stages}
    return parts


def refuse_foreign(parts: Mapping[str, Any], allow: Collection[str]) -> None:
    """Refuse sections of a checkpoint that name code which is neither this package's nor allowed.

    Imports none of that code.

    Args:
        parts: see `used_parts`.
        allow: modules, whose submodules are allowed too.

    Raises:
        ConfigError: names the code and the `allow=[…]` that would let it in.
    """
    found = dict.fromkeys(item for key, part in parts.items() for item in _foreign(key, part, allow))
    if unnamed := [name for _, name in found if name.startswith("<")]:
        raise ConfigError(
            f"the environment of this run was given to equipoise.train as {unnamed[0].rstrip(':')}, an "
            "object that has no name in a module: give it again from Python (env=…), or put it in a module"
        )
    if found:
        named = ", ".join(f"{key} = {shown(name)}" for key, name in found)
        raise ConfigError(
            f"the checkpoint names code that is not Equipoise's ({named}), which could do anything on this "
            f"machine; if you trust it, add {_allowing([*allow, *(name for _, name in found)])}"
        )


def allowance(config: Mapping[str, Any]) -> list[str]:
    """The argument `allow=[…]` that a checkpoint with `config` needs, in a list; empty if it needs none."""
    names = foreign(config)
    return [_allowing(names)] if names else []


def foreign(config: Mapping[str, Any]) -> list[str]:
    """The modules and classes that a configuration names and that are not this package's."""
    return [name for key, part in used_parts(config).items() for _, name in _foreign(key, part, ())]


def _allowing(names: Iterable[str]) -> str:
    packages = dict.fromkeys(re.split(r"[.:]", name)[0] for name in names)
    return f"allow=[{','.join(packages)}]"


def _foreign(key: str, section: Any, allow: Collection[str]) -> Iterator[tuple[str, str]]:
    """Key and name of all code that a section names and that may not be imported."""
    known = (*allow, "torch.optim") if key == "optimizer" else allow
    bad = [(where, name) for where, name in _targets(key, section) if not _trusted(name, known)]
    yield from bad
    if not bad and is_section(section):
        imports = getattr(_found(section[TARGET]), "imports", None)
        for name in imports(section) if imports is not None else ():
            module, called, _ = name.partition(":")
            # A callable gets arguments of the checkpoint's choice: even one of ours could import anything.
            if not (_within(module, allow) if called else may_import(module, (*allow, "gymnasium"))):
                yield key, name


def _targets(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every `_target_` in a section, and in what is inside it."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            # `imports` lists what these name.
            if key == "env" and name in ("wrappers", "kwargs", "kwargs_each"):
                continue
            if name == TARGET and isinstance(part, str):
                yield f"{key}.{name}", part
            yield from _targets(f"{key}.{name}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _targets(key, part)


def _trusted(target: str, allow: Collection[str]) -> bool:
    """Whether a class may be imported; of this package only what is defined in it, not what it imports."""
    if not may_import(target):
        return may_import(target, allow)
    found = _found(target)
    return found is None or may_import(found.__module__)


def _found(target: str) -> type[Any] | None:
    try:
        return find_class(target)
    except ImportError:  # the check of the section says it
        return None
