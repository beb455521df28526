"""Terminal output of a run: a live view on a terminal, plain lines elsewhere, and a closing table."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from equipoise.commands import typed
from equipoise.trainer.configuration.imports import allowance
from equipoise.trainer.monitor.notebook import NotebookView
from equipoise.trainer.monitor.summary import Summary, read_config

quiet: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether runs that begin in this context print nothing."""

_REFRESH_SECONDS = 0.1
_CLAMPED_TOO_OFTEN = 0.1


class Progress:
    """Shows the state of a run. A context manager, which restores the terminal when left.

    On a terminal it is a live view, drawn by `update` itself: a thread that redraws would take the
    interpreter from the training loop. Elsewhere it is one plain line every so often.

    Args:
        total_env_steps: where the run ends.
        title: what is trained.
        start_env_steps: where this session begins; the ETA counts from there.
        every: iterations between two plain lines.
        console: where to print; None: standard output.
    """

    def __init__(
        self,
        total_env_steps: int,
        *,
        title: str = "",
        start_env_steps: int = 0,
        every: int = 1,
        console: Console | None = None,
    ) -> None:
        self._total = total_env_steps
        self._title = title
        self._start = self._env_steps = start_env_steps
        self._every = every
        self._console = console or _LastingConsole(quiet=quiet.get())
        self._metrics: dict[str, float] = {}
        self._began = self._drawn = time.monotonic()
        self._live: Live | NotebookView | None = None
        if self._console.is_jupyter:
            self._live = NotebookView(self.view)
        elif self._console.is_interactive:
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self.view)

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()

    def update(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Show the state after an iteration. Of each tag in `metrics` the last value stays in view."""
        self._env_steps = env_steps
        self._metrics.update(metrics)
        if self._live is not None:
            now = time.monotonic()
            if now - self._drawn >= _REFRESH_SECONDS or env_steps >= self._total:
                self._drawn = now
                self._live.refresh()
        elif iteration % self._every == 0 or env_steps >= self._total:
            self._print(self._line(iteration))

    def message(self, text: str) -> None:
        """Print a line that stays, above the live view or between the plain lines."""
        self._print(text)

    def _print(self, text: str) -> None:
        # A full disk under the log must not end the run; lines stay in the buffer until there is room.
        with contextlib.suppress(OSError):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            self._console.file.flush()

    def _value(self, *tags: str) -> float | None:
        """The value of the first of `tags` that has a finite one."""
        values = (self._metrics.get(tag, math.nan) for tag in tags)
        return next((value for value in values if math.isfinite(value)), None)

    def _eta(self) -> str:
        done = self._env_steps - self._start
        if done <= 0:
            return "n/a"
        elapsed = time.monotonic() - self._began
        return _duration(elapsed / done * max(self._total - self._env_steps, 0))

    def _fraction(self) -> float:
        return min(self._env_steps / self._total, 1.0) if self._total else 1.0

    def _line(self, iteration: int) -> str:
        weights = " / ".join(
            _number(self._value(f"gradient_scaling/{side}_weight_used"), ".2f")
            for side in ("discrete", "continuous")
        )
        parts = (
            f"iteration {iteration}",
            f"{self._fraction():.0%}",
            f"{self._env_steps:,} steps",
            f"{_number(self._value('time/steps_per_second'), ',.0f')} steps/s",
            f"eta {self._eta()}",
            f"return {_number(self._value('episode/return', 'evaluation/return'), '.2f')}",
            f"score {_number(self._value('evaluation/score'), '.2f')}",
            f"balance {_number(self._value('gradient_scaling/balance_ratio'), '.2f')}",
            f"weights {weights}",
        )
        return "  ".join(parts)

    def view(self) -> RenderableType:
        """What the live view shows now."""
        ascii_only = self._console.options.ascii_only
        bar = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None, None):
            bar.add_column(no_wrap=True, ratio=ratio)
        bar.add_row(
            Text(f"{self._fraction():4.0%}", "bold"),
            ProgressBar(total=1.0, completed=self._fraction()),
            f"{_short(self._env_steps)} / {_short(self._total)} steps",
            f"{_short(self._value('time/steps_per_second'))} steps/s",
            f"eta {self._eta()}",
        )
        balance = self._value("gradient_scaling/balance_ratio")
        metrics = Table.grid(padding=(0, 2))
        metrics.add_row(
            *_pair("return", self._value("episode/return", "evaluation/return"), ".2f"),
            *_pair("score", self._value("evaluation/score"), ".2f"),
            *_pair("success", self._value("evaluation/success", "episode/success"), ".0%"),
        )
        metrics.add_row(
            *_pair("balance", balance, ".2f"),
            *_pair("discrete", self._value("gradient_scaling/discrete_weight_used"), ".3f"),
            *_pair("continuous", self._value("gradient_scaling/continuous_weight_used"), ".3f"),
        )
        state = Table.grid(padding=(0, 2))
        state.add_row(
            Text("push", "dim"), balance_bar(balance, ascii_only), Text(self._scaling_state(), "dim")
        )
        return Group(Text(self._title, "bold", no_wrap=True, overflow="ellipsis"), bar, metrics, state)

    def _scaling_state(self) -> str:
        active, warmup = (
            self._value(f"gradient_scaling/{name}") for name in ("gradient_scaling_active", "warmup_progress")
        )
        if active is None:
            return "no scaling"
        if warmup is not None and warmup < 1.0:
            return f"warm-up {warmup:.0%}"
        return "adaptive" if active else "fixed weights"


class _LastingConsole(Console):
    """Keeps the run going, silently, after its reader has gone (`| head`, a pager that was left)."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def balance_bar(ratio: float | None, ascii_only: bool = False, half: int = 8) -> Text:
    """Draw a ratio on a logarithmic line from 1/4 to 4, with a mark at 1 in the middle.

    Green within a factor of 1.25 of balance, yellow within 2, red beyond that.
    """
    line, middle, dot = ("-", "|", "o") if ascii_only else ("─", "┼", "●")
    cells = [line] * half + [middle] + [line] * half
    style = "dim"
    if ratio is not None:
        distance = math.log(ratio, 4.0) if ratio > 0.0 else -1.0
        cells[half + round(half * max(-1.0, min(1.0, distance)))] = dot
        size = abs(distance) * math.log(4.0)
        style = "green" if size <= math.log(1.25) else "yellow" if size <= math.log(2.0) else "red"
    return Text.assemble(("continuous ", "dim"), ("".join(cells), style), (" discrete", "dim"))


def closing_table(summary: Summary, run_dir: str | Path, console: Console | None = None) -> None:
    """Print a run's summary as a table, where its folder is, and what to type next."""
    console = console or Console(quiet=quiet.get())
    run_dir = Path(run_dir)
    title = " · ".join((summary.env or "n/a", summary.preset or "n/a", summary.status))
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("value", justify="right", no_wrap=True)  # on a narrow terminal the names are broken
    for name, value in _closing_rows(summary):
        table.add_row(name, value)
    console.print(table)
    for warning in filter(None, (summary.disagreement, _clamping_warning(summary))):
        console.print(Text(warning, "yellow"))
    checkpoint = next(
        (path for name in ("best.pt", "last.pt") if (path := run_dir / "checkpoints" / name).exists()), None
    )
    lines, allow = [f"results: {run_dir}"], allowance(read_config(run_dir))
    if summary.status == "interrupted":
        lines.append(f"resume with: {typed('train', f'resume={run_dir}', *allow)}")
    if checkpoint is not None:
        arguments = (f"checkpoint={checkpoint}", *allow)
        commands = [("evaluate", *arguments, "episodes=100"), ("play", *arguments), ("dashboard",)]
        if "<" in "".join(allow):  # no other process can make the environment
            commands = commands[-1:]
        lines += ["next:", *(f"  {typed(*command)}" for command in commands)]
    if summary.stopped:
        lines.append(f"stopped early: {summary.stopped}")
    for line in lines:  # never wrapped: they are there to be copied
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.file.flush()


def _closing_rows(summary: Summary) -> list[tuple[str, str]]:
    def pair(first: float | None, between: str, second: float | None, form: str) -> str:
        if first is None or second is None:
            return _number(first, form)
        return f"{_number(first, form)} {between} {_number(second, form)}"

    def both(name: str, form: str) -> str:
        of_sampled = getattr(summary, f"sampled_{name}")
        return pair(getattr(summary, name), "/", of_sampled, form)

    weights = summary.discrete_weight_used, "/", summary.continuous_weight_used
    ratios = summary.balance_ratio_before, "→", summary.balance_ratio
    random = pair(summary.random_return_mean, "±", summary.random_return_std, ".2f")
    own = {n: x for n, x in summary.metrics.items() if isinstance(x, int | float)}
    rows = [
        ("normalized score (0 random, 1 expert)", both("normalized_score", ".3f")),
        ("return, deterministic", pair(summary.return_mean, "±", summary.return_std, ".2f")),
        ("return, sampled", pair(summary.sampled_return_mean, "±", summary.sampled_return_std, ".2f")),
        ("return of random actions", random),
        ("success rate", both("success_rate", ".1%")),
        ("decision accuracy", _number(summary.decision_accuracy, ".1%")),
        ("spawn parameter error", _number(summary.spawn_parameter_error, ".3f")),
        *((name.replace("_", " "), _number(value, ".4g")) for name, value in own.items()),
        ("balance ratio, before → after weighting", pair(*ratios, ".2f")),
        ("weights, discrete / continuous", pair(*weights, ".3f")),
        ("updates with a scale at its bound", _number(summary.clamped_fraction, ".1%")),
        ("environment steps", _number(summary.env_steps, ",d")),
        ("steps per second", _number(summary.steps_per_second, ",.0f")),
        ("time", "n/a" if summary.seconds is None else _duration(summary.seconds)),
    ]
    return [(name, value) for name, value in rows if value != "n/a" or name == "return, deterministic"]


def _clamping_warning(summary: Summary) -> str | None:
    clamped = summary.clamped_fraction
    if clamped is None or clamped <= _CLAMPED_TOO_OFTEN:
        return None
    return (
        f"A side's scale was at its bound in {clamped:.0%} of the updates, so balancing was limited there: "
        f"widen trainer.gradient_scaling.min_scaling_factor and max_scaling_factor."
    )


def _pair(name: str, value: float | None, form: str) -> tuple[Text, Text]:
    return Text(name, "dim"), Text(_number(value, form), justify="right")


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None or not math.isfinite(value) else format(value, form)


def _short(value: float | None) -> str:
    """Shorten 1234567 to 1.23M."""
    if value is None:
        return "n/a"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    """Format 75 as 1:15."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
