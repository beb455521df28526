"""What annotations of constructors admit: values from YAML and from the command line."""

from __future__ import annotations

import collections.abc
import inspect
import json
import re
import typing
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError


def hints_of(cls: type[Any]) -> dict[str, Any]:
    """The annotations of a constructor's parameters, as far as they can be resolved."""
    # Follow decorators to the function whose module the names of the annotations are found in.
    try:
        made_by: Any = vars(cls).get("__new__", cls.__init__)
        return typing.get_type_hints(inspect.unwrap(made_by), include_extras=True)
    except NameError:  # names imported for the type checker only: keys can be checked, values can not
        return {}


def meanings_of(cls: type[Any]) -> dict[str, str]:
    """What each parameter of a constructor means, by the section `Args:` of the class's docstring."""
    _, _, arguments = (inspect.getdoc(cls) or "").partition("Args:\n")
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in arguments.splitlines():
        if line and not line.startswith(" "):  # the next section
            break
        entry = re.match(r" {4}(\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)", line)
        names = entry[1].split(", ") if entry else names
        text = entry[2] if entry else f" {line.strip()}"
        meanings |= {name: meanings.get(name, "") + text for name in names}
    return {name: text.strip().removesuffix(".") for name, text in meanings.items()}


def as_whole(value: Any, annotation: Any) -> Any:
    """`1e6` as 1000000 where `annotation` wants a whole number, in lists too; anything else as it is."""
    if isinstance(value, list | tuple):
        members = _members(annotation)
        return type(value)(as_whole(part, members) for part in value) if members is not None else value
    if isinstance(value, float) and value.is_integer() and "int" in (kinds := _kinds(annotation)):
        return value if "float" in kinds else int(value)
    return value


def _members(annotation: Any) -> Any:
    """What the members of a sequence are annotated with; None for anything else."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Union, UnionType):
        options = args[: 1 if origin is Annotated else None]
        return next((m for option in options if (m := _members(option)) is not None), None)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Sequence):
        return args[0]
    return None


def _kinds(annotation: Any) -> set[str]:
    if get_origin(annotation) in (Annotated, Union, UnionType):
        members = get_args(annotation)
        return {
            kind for m in members[: 1 if get_origin(annotation) is Annotated else None] for kind in _kinds(m)
        }
    return {annotation.__name__} if isinstance(annotation, type) else set()


def takes_factory(hint: Any) -> bool:
    """Whether a section with a `_target_` may stand for a parameter."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        return any(takes_factory(member) for member in get_args(hint))
    return hint is Any or get_origin(hint) is collections.abc.Callable


def admits(hint: Any, value: Any) -> bool:
    """Whether a parameter annotated with `hint` may be `value`."""
    try:
        adapter = TypeAdapter[Any](hint, config=ConfigDict(allow_inf_nan=False))
    except PydanticUserError:
        return True  # a type that pydantic does not know: the constructor itself is left to check it
    try:
        # Of JSON, because strict means there what YAML means: no text for numbers, but lists for tuples.
        adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        return False
    return True
