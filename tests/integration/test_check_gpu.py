"""The check of a GPU: its parts exist, and one that fails is told and leaves the others alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from equipoise.scripts import check_gpu
from equipoise.scripts.speed import gpu_parts


def test_there_is_a_function_for_every_part_and_time_for_all() -> None:
    assert all(getattr(gpu_parts, part).__doc__ for part in check_gpu.PARTS)
    assert check_gpu.BUDGET <= 600
    assert all(Path(path).exists() for path, _ in gpu_parts.TESTS)


def test_a_part_that_fails_and_one_that_hangs_are_told_and_the_next_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["not done after 60 s", None])
    monkeypatch.setattr(check_gpu, "_in_process", lambda part, seconds: next(said))
    assert check_gpu.main(["machine", "waits"]) == 1
    out = capsys.readouterr().out
    assert "machine: not done after 60 s" in out
    assert out.index("== machine") < out.index("== waits") < out.index("== done")
    assert check_gpu.main(["speed", "--seconds", "1"]) == 1
    assert "speed: no time left" in capsys.readouterr().out


def test_a_real_part_is_ended_with_its_time() -> None:
    assert check_gpu._in_process("machine", 0.1) == "not done after 0 s"


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        check_gpu.main(["rocket"])
    assert "'rocket': the parts are machine, waits," in capsys.readouterr().err


def test_an_iteration_can_be_watched_phase_by_phase() -> None:
    with gpu_parts.loop("env=moving", "env.num_envs=8", "trainer.batch.rollout_steps=4") as made:
        found = gpu_parts._waits_of(made.trainer)
    assert list(found) == ["collect", "check the rollout", "prepare", "learn", "read", "check the targets"]
