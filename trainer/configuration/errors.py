"""What a user reads when a configuration is wrong: each bad key, its value, what is allowed instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


class Problem(NamedTuple):
    """One bad key."""

    key: str
    """Dotted, as it is written on the command line."""
    complaint: str


class ConfigError(Exception):
    """A configuration that cannot be run. Its text is the whole message that the user reads."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        lines = [p if isinstance(p, str) else f"{p.key}{p.complaint}" for p in self.problems]
        if len(lines) == 1:
            super().__init__(f"Configuration error: {lines[0]}")
        else:
            super().__init__("\n  ".join([f"{len(lines)} configuration errors:", *lines]))


def bad_value(key: str, value: object, allowed: str) -> Problem:
    return Problem(key, f" = {shown(value)}: must be {allowed}")


def missing(key: str, allowed: str = "") -> Problem:
    return Problem(key, f" is missing{f': must be {allowed}' if allowed else ''}")


def unknown(key: str, value: object, known: Iterable[str]) -> Problem:
    """`known`: the names that stand where the last name of `key` does."""
    names = sorted(known)
    section, _, name = key.rpartition(".")
    if match := nearest(name, names):
        hint = f"did you mean {f'{section}.' if section else ''}{match}?"
    else:
        hint = f"{section or 'the top level'} has {', '.join(names) or 'no keys'}"
    return Problem(key, f" = {shown(value)}: unknown key; {hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def shown(value: object) -> str:
    """A value as one would write it in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        value = list(value)
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_LIMITS: tuple[tuple[type[Any], Callable[[Any], str]], ...] = (
    (annotated_types.Ge, lambda m: f"≥ {m.ge}"),
    (annotated_types.Gt, lambda m: f"> {m.gt}"),
    (annotated_types.Le, lambda m: f"≤ {m.le}"),
    (annotated_types.Lt, lambda m: f"< {m.lt}"),
    (annotated_types.MinLen, lambda m: f"of at least {m.min_length}"),
)
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
    Path: "a path",
}


def allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What an annotation admits, in words: `a number ≥ 0 and < 1`; a text in an `Annotated` are the words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return allowed(inner, [*more, *metadata])
    metadata = [m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
    if told := [each for each in metadata if isinstance(each, str)]:
        return told[0]
    if annotation is str and any(isinstance(m, annotated_types.MinLen) for m in metadata):
        return "text that is not empty"
    limits = [words(m) for m in metadata for kind, words in _LIMITS if isinstance(m, kind)]
    bounds = f" {' and '.join(limits)}" if limits else ""
    if origin in (Union, UnionType):
        members = sorted(get_args(annotation), key=lambda member: member is NoneType)
        return " or ".join(allowed(m, () if m is NoneType else metadata) for m in members)
    if origin is Callable:
        return "a section with a _target_"
    if origin is Literal:
        return " or ".join(str(choice) for choice in get_args(annotation))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a section of keys{bounds}"
    if origin is tuple and get_args(annotation)[-1] is not Ellipsis:
        return f"a list [{', '.join(allowed(member) for member in get_args(annotation))}]"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list{bounds}, each {allowed(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a section with the keys {', '.join(key_names(annotation))}"
    return f"{_WORDS.get(annotation, getattr(annotation, '__name__', str(annotation)))}{bounds}"


def key_names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def problems_of(error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any]) -> list[Problem]:
    """One problem for each error that pydantic found in `raw`, given the model it was checked against."""
    found: dict[str, Problem] = {}
    for item in error.errors():
        path, value = _path(item["loc"], raw, item["type"] == "missing")
        section, field = _field(model, item["loc"])
        key = ".".join(map(str, path))
        if item["type"] == "missing":
            problem = missing(key, allowed(field.annotation, field.metadata) if field else "")
        elif field is None:
            problem = unknown(key, value, key_names(section))
        else:
            problem = bad_value(key, value, allowed(field.annotation, field.metadata))
        found.setdefault(problem.key, problem)
    # A list whose only entry is wrong counts as too short on top of that.
    return [problem for key, problem in found.items() if f"{key}.0" not in found]


def _path(location: Sequence[int | str], raw: Any, last_is_missing: bool) -> tuple[list[int | str], Any]:
    """The keys of `location` that exist in `raw` (pydantic puts names of union members between them)."""
    path: list[int | str] = []
    for position, part in enumerate(location):
        inside = part in raw if isinstance(raw, Mapping) else isinstance(raw, list) and isinstance(part, int)
        if inside:
            raw = raw[part]
        elif not (last_is_missing and position == len(location) - 1):
            continue
        path.append(part)
    return path, raw


def _field(model: type[BaseModel], location: Sequence[int | str]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model in which the last key of `location` stands, and its field; None where it has none."""
    field: FieldInfo | None = None
    inside: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        model = inside or model
        field = next((f for name, f in model.model_fields.items() if (f.alias or name) == part), None)
        if field is None:
            break
        inside = _model_in(field.annotation)
    return model, field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for member in get_args(annotation) if (model := _model_in(member))), None)
