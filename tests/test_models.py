"""The model store: where files come from, that they are checked, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from manvatar import models
from manvatar.errors import UserError


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and two small stand-ins for the network files."""
    monkeypatch.setenv("MANVATAR_CACHE", str(tmp_path / "cache"))
    content = {"first": b"one" * 100, "second": b"two" * 50}
    small = {
        name: models.Model(name, f"mediapipe/modules/{name}.tflite", len(data), hashlib.sha256(data).hexdigest(), "")
        for name, data in content.items()
    }
    monkeypatch.setattr(models, "MODELS", small)
    monkeypatch.setattr(models, "_copy_installed", lambda model: False)
    with zipfile.ZipFile(tmp_path / "good.whl", "w") as wheel:
        for name, data in content.items():
            wheel.writestr(f"mediapipe/modules/{name}.tflite", data)
    return tmp_path


def _downloads(monkeypatch: pytest.MonkeyPatch, wheel: Path | None) -> list[list[str]]:
    """Replace pip: it copies ``wheel``, or fails as it does without a network; returns the commands it was given."""
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        commands.append(command)
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: a\nERROR: No matching distribution found")
        (Path(command[command.index("--dest") + 1]) / "mediapipe.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MANVATAR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert models.cache_folder() == Path.home() / ".cache" / "manvatar"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.cache_folder() == tmp_path / "xdg" / "manvatar"
    monkeypatch.setenv("MANVATAR_CACHE", str(tmp_path / "mine"))
    assert models.cache_folder() == tmp_path / "mine"


def test_downloads_once(store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    commands = _downloads(monkeypatch, store / "good.whl")
    path = models.ensure("first")
    assert path.read_bytes() == b"one" * 100
    assert models.ensure("second").read_bytes() == b"two" * 50
    assert models.ensure("first") == path
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0] and commands[0][-1] == "mediapipe==0.10.21"
    assert "fetching" in caplog.text and str(store / "cache") in caplog.text
    assert sorted(p.name for p in path.parent.iterdir()) == ["first.tflite", "second.tflite"]


def test_a_damaged_file_is_fetched_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.import_wheel(store / "good.whl")
    path = models.stored_path("first")
    path.write_bytes(b"ONE" * 100)  # the same length
    commands = _downloads(monkeypatch, store / "good.whl")
    assert models.ensure("first").read_bytes() == b"one" * 100
    assert len(commands) == 1


def test_an_installed_mediapipe_is_used(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("MANVATAR_CACHE", str(store / "other"))
    data = b"installed"
    model = models.Model("only", "mediapipe/only.tflite", len(data), hashlib.sha256(data).hexdigest(), "")
    monkeypatch.setattr(models, "MODELS", {"only": model})
    site = store / "site"
    (site / "mediapipe").mkdir(parents=True)
    (site / "mediapipe" / "only.tflite").write_bytes(data)
    (site / "mediapipe-0.10.21.dist-info").mkdir()
    (site / "mediapipe-0.10.21.dist-info" / "METADATA").write_text("Name: mediapipe\nVersion: 0.10.21\n")
    monkeypatch.syspath_prepend(str(site))
    commands = _downloads(monkeypatch, None)
    assert models.ensure("only").read_bytes() == data
    assert commands == []


def test_without_a_network(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _downloads(monkeypatch, None)
    with pytest.raises(UserError, match="No matching distribution found.*manvatar.models import WHEEL") as caught:
        models.ensure("first")
    assert "\n" not in str(caught.value)
    assert not models.stored_path("first").exists()


def test_a_wheel_with_other_files_changes_nothing(store: Path) -> None:
    with zipfile.ZipFile(store / "other.whl", "w") as wheel:
        wheel.writestr("mediapipe/modules/first.tflite", b"one" * 100)
        wheel.writestr("mediapipe/modules/second.tflite", b"something else")
    with pytest.raises(UserError, match="second.tflite in .*other.whl is not the expected file"):
        models.import_wheel(store / "other.whl")
    assert not models.stored_path("first").exists()


def test_bad_wheels(store: Path) -> None:
    with pytest.raises(UserError, match="no such file: .*none.whl"):
        models.import_wheel(store / "none.whl")
    (store / "text.whl").write_text("no wheel")
    with pytest.raises(UserError, match="cannot read .*text.whl as a wheel"):
        models.import_wheel(store / "text.whl")
    with zipfile.ZipFile(store / "empty.whl", "w") as wheel:
        wheel.writestr("readme", b"")
    with pytest.raises(UserError, match="empty.whl holds no first.tflite; give a wheel of mediapipe==0.10.21"):
        models.import_wheel(store / "empty.whl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_write_permission(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store / "cache").mkdir(mode=0o500)
    commands = _downloads(monkeypatch, store / "good.whl")
    with pytest.raises(UserError, match="permission denied|cannot make the folder"):
        models.ensure("first")
    assert commands == []


def test_threads_at_the_same_time(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _downloads(monkeypatch, store / "good.whl")
    threads = [threading.Thread(target=models.ensure, args=("first",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(commands) == 1 and models.ensure("first").read_bytes() == b"one" * 100


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown model 'nothing'"):
        models.ensure("nothing")


def test_commands(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert models.main(["list"]) == 0
    assert capsys.readouterr().out.count("not there") == 2
    assert models.main(["import", str(store / "good.whl")]) == 0
    assert capsys.readouterr().out.count("ready") == 2
    assert models.main(["import", str(store / "none.whl")]) == 2
    assert "error: no such file" in capsys.readouterr().err
    assert models.main(["import"]) == 2
    assert "name the wheel" in capsys.readouterr().err
    for name in models.MODELS:
        models.stored_path(name).unlink()
    _downloads(monkeypatch, store / "good.whl")
    assert models.main(["fetch"]) == 0
    assert capsys.readouterr().out.count("ready") == 2


def test_the_real_files_are_pinned_in_full() -> None:
    for model in models.MODELS.values():
        assert len(model.sha256) == 64 and model.bytes > 100_000
        assert model.wheel_path.endswith(f"{model.name}.tflite")
