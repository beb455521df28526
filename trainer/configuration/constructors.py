"""Checks a section with a `_target_` against the constructor it names, without building anything."""

from __future__ import annotations

import importlib
import inspect
import json
import typing
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from equipoise.trainer.configuration.errors import Problem, allowed, bad_value, missing, shown, unknown


def find_class(target: str) -> type[Any]:
    """The class `package.module.Name`. Raises `ImportError` with a readable text."""
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ImportError("must be package.module.Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module may be anybody's, and so may be what goes wrong in it
        raise ImportError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module_name]
        raise ImportError(f"{module_name} has no class {name}; its classes: {', '.join(classes) or 'none'}")
    return found


def check_section(
    key: str, target: str, keywords: Mapping[str, Any], supplied: Collection[str], methods: Collection[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """`keywords` as the constructor takes them, and what is wrong with them.

    A class that hands `**keywords` on to a dataclass names it in its attribute `keyword_class`; that one is
    built, so that its own checks count too.

    Args:
        key: of the section, for the messages.
        supplied: parameters that the trainer fills in itself; they are no configuration keys.
        methods: the class must have one of them: a configuration (of a checkpoint from elsewhere, say) can
            name environments and stages and nothing else.
    """
    try:
        cls = find_class(target)
    except ImportError as error:
        return dict(keywords), [Problem(f"{key}._target_", f" = {shown(target)}: {error}")]
    if not any(callable(getattr(cls, method, None)) for method in methods):
        wanted = f"a class with a method {' or '.join(methods)}"
        return dict(keywords), [bad_value(f"{key}._target_", target, wanted)]

    parameters, hints, takes_any = _parameters(cls)
    named = {n: p for n, p in parameters.items() if n not in supplied}
    problems = [
        missing(f"{key}.{name}", allowed(hints[name]) if name in hints else "")
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in keywords
    ]
    checked = {}
    for name, value in keywords.items():
        if name not in named:
            if not takes_any or name in supplied:
                problems.append(unknown(f"{key}.{name}", value, named))
            continue
        hint = hints.get(name, Any)
        checked[name] = as_whole(value, hint)
        if not _admits(hint, checked[name]):
            problems.append(bad_value(f"{key}.{name}", value, allowed(hint)))
    if not problems and (accepts := getattr(cls, "keyword_class", None)):
        try:
            accepts(**{name: value for name, value in checked.items() if name in _parameters(accepts)[0]})
        except ValueError as error:
            problems.append(Problem(key, f": {error}"))
    return {**keywords, **checked}, problems


def _parameters(cls: type[Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """The named parameters of a constructor, their annotations, and whether it takes any other keyword."""
    parameters = inspect.signature(cls).parameters
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(cls)
    if takes_any and (accepts := getattr(cls, "keyword_class", None)):
        more, more_hints, takes_any = _parameters(accepts)
        named, hints = {**more, **named}, {**more_hints, **hints}
    return named, hints, takes_any


def as_whole(value: Any, annotation: Any) -> Any:
    """`1e6` as 1000000 where `annotation` wants a whole number; anything else as it is."""
    if isinstance(value, float) and value.is_integer() and "int" in (kinds := _kinds(annotation)):
        return value if "float" in kinds else int(value)
    return value


def _kinds(annotation: Any) -> set[str]:
    if get_origin(annotation) in (Annotated, Union, UnionType):
        members = get_args(annotation)
        return {
            kind for m in members[: 1 if get_origin(annotation) is Annotated else None] for kind in _kinds(m)
        }
    return {annotation.__name__} if isinstance(annotation, type) else set()


def _hints(cls: type[Any]) -> dict[str, Any]:
    # Follow decorators to the function whose module the names of the annotations are found in.
    try:
        return typing.get_type_hints(inspect.unwrap(cls.__init__), include_extras=True)
    except NameError:  # names imported for the type checker only: keys can be checked, values can not
        return {}


def _admits(hint: Any, value: Any) -> bool:
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
