"""Objects among the keywords of an environment, as a configuration writes them: arrays and functions."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

TARGET = "_target_"
OURS = "equipoise"


def built(value: Any) -> Any:
    """`value`, and in place of each `{_target_: module.callable, keyword: …}` in it what the callable gives.

    As in Hydra, `_args_` are arguments without a keyword, and `_partial_: true` gives the callable itself,
    which may be a function that the environment is to call, with these arguments in front.

    Raises:
        ValueError: a callable of this package; one that imports by name would let a checkpoint name any code.
        ImportError or AttributeError: there is no such callable; and whatever it raises.
    """
    if type(value) in (list, tuple):
        return type(value)(built(part) for part in value)
    if type(value) is not dict:  # spaces are mappings, too
        return value
    given = {name: built(part) for name, part in value.items()}
    target = given.get(TARGET)
    if not isinstance(target, str):
        return given
    if re.split("[.:]", target)[0] == OURS:
        raise ValueError(f"{TARGET}: {target} is of this package, which makes no arguments of environments")
    del given[TARGET]
    arguments, bind = given.pop("_args_", ()), given.pop("_partial_", False)
    call = pkgutil.resolve_name(target)
    return partial(call, *arguments, **given) if bind else call(*arguments, **given)


def targets(value: Any) -> Iterator[str]:
    """What `built` would call, as `module:name`. Imports nothing."""
    if isinstance(value, Mapping):
        if isinstance(target := value.get(TARGET), str):
            yield target if ":" in target else ":".join(target.rsplit(".", 1))
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from targets(part)
