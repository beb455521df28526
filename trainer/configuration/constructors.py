"""Checks a section with a `_target_` against the constructor it names, without building anything."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from equipoise.trainer.configuration.annotations import admits, as_whole, hints_of, takes_factory
from equipoise.trainer.configuration.errors import Problem, allowed, bad_value, missing, shown, unknown
from equipoise.trainer.configuration.roles import ENCODER, MEMORY, Role

TARGET = "_target_"
MISSING = "???"
"""OmegaConf's mark for a value that has to be given."""


class Constructor(NamedTuple):
    """What a class is called with."""

    parameters: Mapping[str, inspect.Parameter]
    """Those that have a name."""
    hints: Mapping[str, Any]
    """Their annotations, as far as they can be resolved."""
    takes_any: bool
    """Any other keyword, too."""

    def takes(self, name: str) -> bool:
        return self.takes_any or name in self.parameters


def find_class(target: str) -> type[Any]:
    """The class `package.module.Name`. Raises `ImportError` with a readable text."""
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ImportError("must be package.module.Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # user code: may raise anything
        raise ImportError(f"importing {module_name} failed: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        inside = f"{module_name}."  # its own, and those that a package hands on
        classes = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and f"{v.__module__}.".startswith(inside)
        ]
        raise ImportError(f"{module_name} has no class {name}; its classes: {', '.join(classes) or 'none'}")
    return found


def factory(section: Mapping[str, Any]) -> Callable[..., Any]:
    """The class that a checked section names, with its keywords bound; sections inside it likewise."""
    keywords = {name: _parts(value) for name, value in section.items() if name != TARGET}
    cls: Callable[..., Any] = find_class(section[TARGET])
    return partial(cls, **keywords)


def _parts(value: Any) -> Any:
    if is_section(value):
        return factory(value)
    if isinstance(value, Mapping):
        return {name: _parts(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_parts(part) for part in value)
    return value


def is_section(value: object) -> bool:
    """Whether `value` names a class to build."""
    return isinstance(value, Mapping) and isinstance(value.get(TARGET), str)


def check_section(key: str, section: Mapping[str, Any], role: Role) -> tuple[dict[str, Any], list[Problem]]:
    """A section as the constructor that its `_target_` names takes it, and what is wrong with it.

    Two attributes of the class extend the check. `keyword_class`: a dataclass that the class hands its
    `**keywords` on to; it is built, so that its own checks count too. `contradictions(**keywords)`: yields
    each keyword that is wrong beside the others, its value, and what it must be.

    Args:
        key: of the section, for the messages.
        section: with a `_target_`.
    """
    target = section[TARGET]
    keywords = {name: value for name, value in section.items() if name != TARGET and value != MISSING}
    try:
        cls = find_class(target)
    except ImportError as error:
        return dict(section), [Problem(f"{key}.{TARGET}", f" = {shown(target)}: {error}")]
    if not any(callable(getattr(cls, method, None)) for method in role.methods):
        wanted = f"a class with a method {' or '.join(role.methods)}"
        return dict(section), [bad_value(f"{key}.{TARGET}", target, wanted)]

    constructor = constructor_of(cls)
    named = {n: p for n, p in constructor.parameters.items() if n not in role.supplied}
    encoders = _Encoders({}, set(), set(), [])
    if role.encoders:
        encoders = _check_encoders(key, keywords, constructor, named, role)
    problems = [
        *encoders.problems,
        *(
            missing(f"{key}.{name}", allowed(constructor.hints[name]) if name in constructor.hints else "")
            for name, parameter in named.items()
            if parameter.default is parameter.empty and name not in keywords
        ),
    ]
    checked: dict[str, Any] = dict(encoders.sections)
    for name, value in keywords.items():
        if name in encoders.sections or name in encoders.shared:
            continue
        hint = constructor.hints.get(name, Any)
        checked[name] = as_whole(value, hint)
        if name not in named:
            if not constructor.takes_any or name in role.supplied:
                known = {*role.own_keys, *named, *encoders.parameters}
                problems.append(_unknown(key, name, value, role, known))
        elif not admits(hint, checked[name]):
            problems.append(bad_value(f"{key}.{name}", value, allowed(hint)))
    if not problems:
        problems.extend(_disagreements(key, cls, checked))
    return {TARGET: target, **checked}, problems


class _Encoders(NamedTuple):
    """The encoders inside a section."""

    sections: dict[str, dict[str, Any]]
    parameters: set[str]
    """What their constructors take."""
    shared: set[str]
    """Keys of the section around them that went to them."""
    problems: list[Problem]


def _check_encoders(
    key: str,
    keywords: Mapping[str, Any],
    constructor: Constructor,
    named: Mapping[str, inspect.Parameter],
    role: Role,
) -> _Encoders:
    """A key that the class itself does not take goes to each of its encoders, and its memory, that takes it,
    as long as their own section does not say otherwise: `policy.hidden_sizes` is short for all of them.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, parameter in named.items():
        value, default = keywords.get(name, {}), parameter.default
        if isinstance(default, type) and isinstance(value, Mapping):  # its class need not be named
            sections[name] = {TARGET: f"{default.__module__}.{default.__qualname__}", **value}
        elif is_section(value) and takes_factory(constructor.hints.get(name, Any)):
            sections[name] = dict(value)
    extra = {n: v for n, v in keywords.items() if not constructor.takes_any and n not in {*named, *sections}}
    found = _Encoders(sections, set(), set(), [])
    for part, section in sections.items():
        kind = MEMORY if part in role.memories else ENCODER
        try:
            theirs = {*constructor_of(find_class(section[TARGET])).parameters} - kind.supplied
        except ImportError:  # check_section says it
            theirs = set()
        handed = {name: value for name, value in extra.items() if name in theirs}
        sections[part], problems = check_section(f"{key}.{part}", {**handed, **section}, kind)
        problems += _check_named(f"{key}.{part}", sections[part])
        found.parameters.update(theirs)
        found.shared.update(handed)
        # Told of the key that was written.
        written = {f"{key}.{part}.{name}": f"{key}.{name}" for name in handed if name not in section}
        found.problems.extend(Problem(written.get(p.key, p.key), p.complaint) for p in problems)
    return found


def _check_named(key: str, section: dict[str, Any]) -> list[Problem]:
    """Checks sections inside a mapping, an encoder for each of its names, in place; gives what is wrong."""
    problems = []
    for name, value in section.items():
        if isinstance(value, Mapping) and not is_section(value):
            checked = dict(value)
            for entry, part in value.items():
                if is_section(part):
                    checked[entry], wrong = check_section(f"{key}.{name}.{entry}", part, ENCODER)
                    problems += wrong
            section[name] = checked
    return problems


def _unknown(key: str, name: str, value: Any, role: Role, known: Collection[str]) -> Problem:
    if name in role.instead:
        return Problem(f"{key}.{name}", f" = {shown(value)}: unknown key; {role.instead[name]}")
    if name in role.supplied:
        return Problem(f"{key}.{name}", f" = {shown(value)}: unknown key; the trainer supplies it")
    problem = unknown(f"{key}.{name}", value, known)
    if "did you mean" in problem.complaint:
        return problem
    # It may come with the default: whoever names another class has not typed it.
    return Problem(problem.key, f"{problem.complaint} (~{problem.key} leaves it out)")


def _disagreements(key: str, cls: type[Any], keywords: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with keywords that are fine one by one."""
    if accepts := getattr(cls, "keyword_class", None):
        known = constructor_of(accepts).parameters
        try:
            accepts(**{name: value for name, value in keywords.items() if name in known})
        except ValueError as error:
            yield Problem(key, f": {error}")
    if contradictions := getattr(cls, "contradictions", None):
        for name, value, wanted in contradictions(**keywords):
            yield bad_value(f"{key}.{name}", value, wanted)


def constructor_of(cls: type[Any]) -> Constructor:
    """The named parameters of a constructor, their annotations, and whether it takes any other keyword."""
    parameters = inspect.signature(cls).parameters
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = hints_of(cls)
    if takes_any and (accepts := getattr(cls, "keyword_class", None)):
        more = constructor_of(accepts)
        return Constructor({**more.parameters, **named}, {**more.hints, **hints}, more.takes_any)
    return Constructor(named, hints, takes_any)
