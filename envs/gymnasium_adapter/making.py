"""Makes single Gymnasium environments, by id or by calling something."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import gymnasium

from equipoise.envs.action_table import UnsupportedSpaceError
from equipoise.envs.gymnasium_adapter import closing
from equipoise.envs.gymnasium_adapter.each_kwargs import EachKwargs
from equipoise.envs.gymnasium_adapter.objects import built
from equipoise.envs.gymnasium_adapter.windowless import entry_point, windowless
from equipoise.envs.gymnasium_adapter.wrapping import Wrapping

Made = TypeVar("Made")
LONGEST = 300
"""Characters of its arguments in the message on an environment that cannot be made."""
_REGISTERS = re.compile(r"register(_\w*(env|environment)s?)?")
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Maker:
    """Called with the index of an environment in its batch, gives the environment.

    Raises:
        ValueError: it cannot be made.
    """

    id: str
    call: str | Callable[..., Any] | None
    """What makes it, instead of `id`: a callable, or `module:name` of one."""
    kwargs: EachKwargs
    wrappers: Sequence[Wrapping]
    """From the innermost on."""
    render_mode: str | None

    def __call__(self, index: int) -> gymnasium.Env[Any, Any]:
        env = _make(self.id, self.call, self.kwargs.of(index), self.render_mode)
        closing.opened(env)
        for wrapping in self.wrappers:
            try:
                env = wrapping.around(env)
            except (Exception, SystemExit) as error:  # user code: may raise anything
                raise ValueError(
                    f"wrappers: {wrapping.name} could not be put around {self.id!r}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return env


def name_of(make: object) -> str:
    return str(getattr(make, "__name__", type(make).__name__))


@contextlib.contextmanager
def closed_in_the_end(env: gymnasium.Env[Any, Any], id: str, remarks: list[str]) -> Iterator[None]:
    """For a look at `env`: names it where it does not fit; a failing `close` is only added to `remarks`."""
    try:
        yield
    except ValueError as error:
        with contextlib.suppress(Exception):
            closing.close(env)
        raise error if isinstance(error, UnsupportedSpaceError) else ValueError(f"{id}: {error}") from error
    try:
        closing.close(env)
    except (Exception, SystemExit) as error:  # user code: may raise anything
        remarks.append(
            f"close raised {type(error).__name__}: {error}; what it should have released may stay in use"
        )


def _make(
    id: str, call: str | Callable[..., Any] | None, kwargs: dict[str, Any], render_mode: str | None
) -> gymnasium.Env[Any, Any]:
    # An environment without pictures need not know the keyword.
    rendering = {} if render_mode is None else {"render_mode": render_mode}
    try:
        given = {**built(kwargs), **rendering}
        if call is not None:
            create = found_at(call) if isinstance(call, str) else call
            env = create(**windowless(create) | given)
            if not isinstance(env, gymnasium.Env):
                batched = hasattr(env, "num_envs") or hasattr(env, "possible_agents")
                hint = ""
                if batched:
                    hint = "; env=vector or env=on_device takes what steps many at once"
                elif hasattr(env, "reset") and hasattr(env, "step"):
                    hint = "; one of the old gym needs a few lines around it (docs/own-environment.md)"
                raise TypeError(f"it gives a {type(env).__name__}, which is no gymnasium.Env{hint}")
        else:
            # Gymnasium's checker is replaced by `Guard`, which also looks at every step after the first.
            env = registered(
                id,
                lambda: gymnasium.make(id, disable_env_checker=True, **windowless(entry_point(id)) | given),
            )
    except gymnasium.error.UnregisteredEnv as error:
        near = difflib.get_close_matches(id.partition(":")[2] or id, gymnasium.registry, n=3, cutoff=0.5)
        hint = f"; the closest known: {', '.join(near)}" if near else ""
        raise ValueError(
            f"{id!r} is no environment that Gymnasium knows{hint} ('module:Name-v0' imports a module first)"
        ) from error
    except (Exception, SystemExit) as error:  # user code: may raise anything
        told = str(kwargs) if len(str(kwargs)) <= LONGEST else f"{str(kwargs)[:LONGEST]} …"
        raise ValueError(
            f"{id!r} could not be made with {told}: {type(error).__name__}: {error}{wanted(error, call)}"
        ) from error
    modes = env.metadata.get("render_modes") or []
    if render_mode is not None and env.render_mode != render_mode and render_mode not in modes:
        raise ValueError(f"{id}: render_mode {render_mode!r} is not one of {modes}")
    return env


def wanted(error: BaseException, call: str | Callable[..., Any] | None) -> str:
    """How to give an array, where a list will not do, and arguments that have no default, of which Python
    says: missing 2 required …: 'a' and 'b'. Those of a function within the constructor are not the user's."""
    if "'list' object has no attribute" in str(error):
        return "; env.kwargs.<name>={_target_: numpy.array, object: [...]} gives an array in place of a list"
    name = call.rpartition(":")[2].rpartition(".")[2] if isinstance(call, str) else name_of(call)
    of_these = rf"(__init__|\b{re.escape(name)})\(\)"
    missing = re.search(of_these + r" missing \d+ required [^:]*: ('\w+'(,? and |, )?)+", str(error))
    typed = [f"env.kwargs.{key}=..." for key in re.findall(r"'(\w+)'", missing[0])] if missing else []
    return f"; {' '.join(typed)} gives what it needs" if typed else ""


def registered(id: str, make: Callable[[], Made]) -> Made:
    """What `make` gives; some packages register `id` only where a function is called or `envs` imported."""
    try:
        return make()
    except gymnasium.error.UnregisteredEnv:
        module, colon, _ = id.partition(":")
        package = importlib.import_module(module) if colon else None
        if package is None:
            raise
        registering, inside = _registering(package), _has_envs(package)
        if not registering and not inside:
            raise
        for call in registering:
            call()
        if inside:
            importlib.import_module(f"{module}.envs")
        return make()


def _has_envs(module: ModuleType) -> bool:
    """Whether it is a package with a module `envs`, as Gymnasium's template lays them out."""
    return hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.envs") is not None


def _registering(module: ModuleType) -> list[Callable[[], Any]]:
    """Its functions `register()`, `register_envs()` and the like that need no argument."""
    named = [call for name, call in vars(module).items() if _REGISTERS.fullmatch(name) and callable(call)]
    return [
        call
        for call in named
        if all(
            parameter.default is not parameter.empty or parameter.kind in _OPEN
            for parameter in inspect.signature(call).parameters.values()
        )
    ]


def found_at(place: str) -> Callable[..., Any]:
    """What `module:name` names, in the module or else in its `envs`. Raises ImportError or AttributeError."""
    module, _, name = place.partition(":")
    if not name:
        parts = place.rpartition(".")
        example = f", {parts[0]}:{parts[2]} for example" if parts[0] and parts[2] else ""
        raise ImportError(
            f"{place} is not written as module:callable{example}. If it was given to equipoise.train as an "
            "object that no module has a name for, give it again from Python, equipoise.load(…, env=…), or "
            "define it at the top of a module"
        )
    found: Any = importlib.import_module(module)
    first, *inner = name.split(".")
    if not hasattr(found, first) and _has_envs(found):
        inside = importlib.import_module(f"{module}.envs")
        found = inside if hasattr(inside, first) else found  # the message is to name what was typed
    for part in (first, *inner):
        found = getattr(found, part)
    call: Callable[..., Any] = found
    return call
