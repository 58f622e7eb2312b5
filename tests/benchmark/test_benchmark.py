"""The benchmark: floors, a case for every op, the command and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from manvatar import ops
from manvatar.benchmark import command, main, tracking
from manvatar.benchmark.cases import Case, cases
from manvatar.benchmark.machine import Machine, best_seconds, look_at
from manvatar.benchmark.pipeline import measure


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ops, and a machine that needs no measuring."""
    machine = Machine("cpu", "test", 1, 10e9, 100e9, {})
    monkeypatch.setattr(command, "look_at", lambda device: machine)
    few = [
        Case("one", "small", lambda: torch.zeros(10), lambda: torch.zeros(10), 1e4, 1e3),
        Case("two, both ways", "small", lambda: torch.ones(3), lambda: torch.ones(3), 1e2, 1e6),
    ]
    monkeypatch.setattr(command, "cases", lambda device: iter(few))


def test_floor_is_the_slower_of_moving_and_counting() -> None:
    machine = Machine("cpu", "test", 1, 10e9, 100e9, {})
    assert machine.floor_s(1e9, 1e9) == pytest.approx(0.1)
    assert machine.floor_s(1e6, 1e9) == pytest.approx(0.01)


def test_measured_rates_are_possible() -> None:
    machine = look_at("cpu")
    assert 5e8 < machine.bytes_per_s < 2e12 and 1e9 < machine.flops_per_s < 1e14
    assert machine.name and machine.versions["torch"] == torch.__version__


def test_time_is_that_of_the_call() -> None:
    import time

    assert 0.01 <= best_seconds(lambda: time.sleep(0.01), budget_s=0.05) < 0.05


def test_every_op_has_a_case_that_runs() -> None:
    seen = set()
    for case in cases("cpu"):
        with torch.set_grad_enabled("both ways" in case.name):
            case.run()
        assert case.moved_bytes > 0 and case.flops > 0
        seen.add(case.name.split(",")[0])
    functions = {
        name for name in ops.__all__ if name + "_reference" in ops.__all__ or name in ("blend", "sparse_adam_")
    }
    # sample_warped is sample_grid twice, and blend's gradient is add_outer_.
    assert functions - {"sample_grid"} <= seen


def test_file_and_comparison(quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tmp_path / "first.json"
    assert main(["--ops-only", "--json-out", str(first)]) == 0
    report = json.loads(first.read_text())
    row = report["devices"][0]["ops"][0]
    assert row["name"] == "one" and row["seconds"] > 0 and row["limit"] == "bandwidth"
    assert report["devices"][0]["ops"][1]["limit"] == "arithmetic"
    capsys.readouterr()
    assert main(["--ops-only", "--compare", str(first)]) == 0
    assert "before" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "not json", '{"version": 99}', "[]"])
def test_a_comparison_that_cannot_be(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    assert main(["--ops-only", "--compare", str(path)]) == 2
    error = capsys.readouterr().err
    assert "old.json" in error and "--json-out" in error and "Traceback" not in error


def test_too_few_iterations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--iterations", "50"]) == 2
    assert "200" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pipeline_has_rates() -> None:
    rates = measure("fast", 200)
    assert min(vars(rates).values()) > 0.1
    assert rates.render_256_frames_per_s > rates.render_512_frames_per_s


def test_tracking_is_a_word_of_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr(tracking, "lines", lambda truth, model: asked.append((truth.id, model.id)) or ["a line"])
    assert main(["tracking"]) == 0
    assert asked == [("builtin-1", "builtin-1")] and capsys.readouterr().out == "a line\n"
    assert main(["tracking", "--model", "nowhere.npz"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("manvatar benchmark tracking: error: ") and "nowhere.npz" in error
