"""What the terminal shows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from equipoise.trainer.monitor.progress import Progress, balance_bar, closing_table
from equipoise.trainer.monitor.summary import Summary

FIGURES = {
    "episode/return": 12.345,
    "episode/success": 0.5,
    "evaluation/score": 0.714,
    "time/steps_per_second": 12_345.0,
    "gradient_scaling/gradient_scaling_active": 1.0,
    "gradient_scaling/warmup_progress": 1.0,
    "gradient_scaling/balance_ratio": 1.02,
    "gradient_scaling/discrete_weight_used": 0.264,
    "gradient_scaling/continuous_weight_used": 0.736,
}


def terminal(monkeypatch: pytest.MonkeyPatch, no_color: bool = False) -> Console:
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    return Console(file=io.StringIO(), force_terminal=True, width=80, height=24, legacy_windows=False)


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def view(progress: Progress, console: Console) -> str:
    """What the live view shows now, as plain text."""
    plain = Console(file=io.StringIO(), width=console.width, color_system=None)
    plain.print(progress.view())
    return written(plain)


def test_the_live_view_has_everything_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(monkeypatch)
    with Progress(1_000_000_000, title="topology_spawn · balanced", console=console) as progress:
        progress.update(7, 433_000_000, FIGURES | {"episode/return": -12345.678})
        shown = view(progress, console)
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
    for part in (
        "43%",
        "433M / 1G steps",
        "12.3k steps/s",
        "eta",
        "-12345.68",
        "0.71",
        "50%",
        "1.02",
        "0.264",
        "0.736",
    ):
        assert part in shown
    assert "adaptive" in shown
    assert "…" not in shown


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        (
            {"gradient_scaling/warmup_progress": 0.25, "gradient_scaling/gradient_scaling_active": 0.0},
            "warm-up 25%",
        ),
        ({"gradient_scaling/gradient_scaling_active": 0.0}, "fixed weights"),
    ],
)
def test_the_state_of_scaling(monkeypatch: pytest.MonkeyPatch, changed: dict[str, float], state: str) -> None:
    console = terminal(monkeypatch)
    progress = Progress(100, console=console)
    progress.update(1, 10, FIGURES | changed)
    assert state in view(progress, console)


def test_a_run_without_figures_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(monkeypatch)
    shown = view(Progress(100, console=console), console)
    assert shown.count("n/a") == 8  # speed, eta, three results, ratio and two weights
    assert "no scaling" in shown


def test_a_figure_stays_until_the_next_one() -> None:
    console = pipe()
    with Progress(100, console=console) as progress:
        progress.update(1, 10, {"evaluation/score": 0.5})
        progress.update(2, 20, {"evaluation/score": float("nan")})
        progress.update(3, 30, {})
    scores = [line.split("score ")[1][:4] for line in written(console).splitlines()]
    assert scores == ["0.50", "n/a ", "n/a "]


def test_the_terminal_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(monkeypatch)
    with pytest.raises(RuntimeError), Progress(100, console=console):
        raise RuntimeError
    assert written(console).rindex("\x1b[?25h") > written(console).rindex("\x1b[?25l")  # cursor shown again


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    colored, plain = terminal(monkeypatch), terminal(monkeypatch, no_color=True)
    assert "[32m" in _drawn(colored)  # the green of a balanced ratio
    assert "[32m" not in _drawn(plain)
    assert "[38;5" not in written(plain)


def _drawn(console: Console) -> str:
    with Progress(100, console=console) as progress:
        progress.update(1, 100, FIGURES)
    return written(console)


def test_without_a_terminal_there_is_a_plain_line_an_interval() -> None:
    console = pipe()
    with Progress(100, every=3, console=console) as progress:
        for iteration in range(1, 11):
            progress.update(iteration, 10 * iteration, FIGURES)
        progress.message("a [notice] of 1.0 " + "x" * 100)
    output = written(console)
    assert "\x1b" not in output
    *lines, notice = output.splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["iteration 3", "30%", "30 steps"],
        ["iteration 6", "60%", "60 steps"],
        ["iteration 9", "90%", "90 steps"],
        ["iteration 10", "100%", "100 steps"],
    ]
    assert lines[0].endswith("return 12.35  score 0.71  balance 1.02  weights 0.26 / 0.74")
    assert notice == "a [notice] of 1.0 " + "x" * 100


def test_the_eta_of_a_resumed_run_is_of_this_session(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr("equipoise.trainer.monitor.progress.time.monotonic", lambda: next(clock))
    console = pipe()
    with Progress(1000, start_env_steps=800, console=console) as progress:
        progress.update(81, 810, {})  # 10 steps in 10 seconds, 190 to go
    assert "eta 3:10" in written(console)


@pytest.mark.parametrize(
    ("ratio", "position", "color"),
    [
        (1.0, 8, "green"),
        (1.24, 9, "green"),
        (1 / 1.9, 4, "yellow"),
        (2.1, 12, "red"),
        (4.0, 16, "red"),
        (1000.0, 16, "red"),
        (0.25, 0, "red"),
        (0.0, 0, "red"),
    ],
)
def test_the_balance_bar(ratio: float, position: int, color: str) -> None:
    bar = balance_bar(ratio, ascii_only=True)
    cells = bar.plain.removeprefix("continuous ").removesuffix(" discrete")
    assert len(cells) == 17
    assert cells.index("o") == position
    assert color in [str(span.style) for span in bar.spans]


SUMMARY = {
    "status": "finished",
    "env": "topology_spawn",
    "preset": "balanced",
    "env_steps": 245_760,
    "seconds": 3675.2,
    "steps_per_second": 12_345.6,
    "return_mean": 41.2,
    "return_std": 3.14,
    "normalized_score": 0.973,
    "success_rate": 0.97,
    "evaluation_episodes": 100,
    "sampled_return_mean": 41.0,
    "sampled_return_std": 4.0,
    "sampled_success_rate": 0.9,
    "random_return_mean": -3.5,
    "clock": 2.5,
    "decision_accuracy": 0.911,
    "spawn_parameter_error": None,
    "balance_ratio_before": 6.5,
    "balance_ratio": 1.01,
    "discrete_weight_used": 0.264,
    "continuous_weight_used": 0.736,
    "clamped_fraction": 0.1,
}


def table(summary: dict[str, object], run_dir: Path) -> str:
    console = pipe()
    closing_table(Summary.of(summary), run_dir, console)
    return written(console)


def test_the_closing_table(tmp_path: Path) -> None:
    output = table(SUMMARY, tmp_path)
    rows = {
        cells[1].strip(): cells[2].strip()
        for line in output.splitlines()
        if len(cells := line.split("│")) == 4
    }
    assert rows == {
        "normalized score (0 random, 1 expert)": "0.973",
        "return, deterministic": "41.20 ± 3.14",
        "return, sampled": "41.00 ± 4.00",
        "return of random actions": "-3.50",
        "success rate": "97.0% / 90.0%",
        "decision accuracy": "91.1%",
        "clock": "2.5",
        "balance ratio, before → after weighting": "6.50 → 1.01",
        "weights, discrete / continuous": "0.264 / 0.736",
        "updates with a scale at its bound": "10.0%",
        "environment steps": "245,760",
        "steps per second": "12,346",
        "time": "1:01:15",
    }
    assert "at its bound in" not in output
    assert f"results: {tmp_path}" in output.splitlines()


def test_the_closing_table_keeps_its_values_on_a_narrow_terminal(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    closing_table(Summary.of(SUMMARY), tmp_path, console)
    for value in ("0.973", "41.20 ± 3.14", "6.50 → 1.01", "0.264 / 0.736"):
        assert value in written(console)


def test_the_closing_table_of_nothing(tmp_path: Path) -> None:
    output = table({"status": "interrupted"}, tmp_path)
    assert output.count("n/a") == 1 + 2  # the return; environment and preset in the title
    assert "None" not in output


@pytest.mark.parametrize(
    ("sampled", "sentence"),
    [
        (41.0, None),  # chance: 0.2 of 41, and 0.5 is the standard error
        (38.0, None),  # more than chance, and less than a fifth of 41.2 + 3.5
        (20.0, "The deterministic policy does much better than the sampled one (41.2 against 20)"),
        (60.0, "deterministic=false, and let trainer.best_by=sampled choose"),
    ],
)
def test_a_sentence_where_the_two_policies_differ_widely(
    sampled: float, sentence: str | None, tmp_path: Path
) -> None:
    output = " ".join(table(SUMMARY | {"sampled_return_mean": sampled}, tmp_path).split())
    assert ("policy does much better" in output) is (sentence is not None)
    assert sentence is None or sentence in output


def test_the_warning_where_a_side_was_clamped(tmp_path: Path) -> None:
    output = table(SUMMARY | {"clamped_fraction": 0.101}, tmp_path)
    assert "at its bound in 10% of the updates" in " ".join(output.split())


def test_the_next_commands_name_the_best_checkpoint_and_are_never_wrapped(tmp_path: Path) -> None:
    run_dir = tmp_path / ("long" * 20) / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    assert "trainer.evaluate" not in table(SUMMARY, run_dir)
    (run_dir / "checkpoints" / "last.pt").touch()
    assert (
        f"  equipoise play checkpoint={run_dir}/checkpoints/last.pt" in table(SUMMARY, run_dir).splitlines()
    )
    (run_dir / "checkpoints" / "best.pt").touch()
    commands = table(SUMMARY, run_dir).splitlines()
    assert f"  equipoise evaluate checkpoint={run_dir}/checkpoints/best.pt episodes=100" in commands


def test_the_next_commands_allow_the_users_own_code(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").touch()
    target = "equipoise.envs.gymnasium_adapter.GymnasiumEnv"
    config = {
        "env": {"_target_": target, "id": "tank.envs:Tank-v0"},
        "policy": {"encoder": {"_target_": "net.Net"}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    summary = SUMMARY | {"status": "interrupted"}
    commands = [line for line in table(summary, tmp_path).splitlines() if "equipoise " in line]
    assert [line.split()[0] for line in commands] == ["resume", "equipoise", "equipoise", "equipoise"]
    assert all("'allow=[tank,net]'" in line for line in commands[:3])
    assert "  equipoise dashboard" in commands
