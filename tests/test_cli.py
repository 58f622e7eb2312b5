"""How commands parse their arguments, fail and are found, as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from manvatar import cli
from manvatar.cli import Output, Positional
from manvatar.errors import UserError


def polish(
    video: Annotated[Positional[Path], tyro.conf.arg(metavar="VIDEO")],
    out: Output,
    face_model: str = "builtin",
    resume: bool = False,
    max_seconds: float | None = None,
) -> int | None:
    """Polish a video."""
    if video.name == "missing.mp4":
        raise UserError("there is no file missing.mp4; name a video")
    if video.name == "stopped.mp4":
        raise KeyboardInterrupt
    print(video, out, face_model, resume, max_seconds)
    return 3 if video.name == "three.mp4" else None


def test_arguments_reach_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(polish, ["a.mp4", "-o", "x", "--face-model", "f.h5", "--resume", "--max-seconds", "2"]) == 0
    assert capsys.readouterr().out == "a.mp4 x f.h5 True 2.0\n"
    assert cli.run(polish, ["a.mp4", "--out", "x"]) == 0
    assert capsys.readouterr().out == "a.mp4 x builtin False None\n"


def test_an_integer_is_the_exit_status() -> None:
    assert cli.run(polish, ["three.mp4", "-o", "x"]) == 3


def test_a_user_error_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(polish, ["missing.mp4", "-o", "x"]) == 2
    assert capsys.readouterr().err == "manvatar polish: error: there is no file missing.mp4; name a video\n"


def test_stopping_is_no_failure_to_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(polish, ["stopped.mp4", "-o", "x"]) == 130
    assert capsys.readouterr().err == "manvatar polish: stopped\n"


@pytest.mark.parametrize("arguments", [[], ["a.mp4"], ["a.mp4", "-o", "x", "--devise", "cpu"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(polish, arguments) == 2
    error = capsys.readouterr().err
    assert "manvatar polish" in error and "Traceback" not in error and len(error.splitlines()) < 20


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(polish, ["--help"]) == 0
    text = capsys.readouterr().out
    assert "Polish a video." in text and "VIDEO" in text and "--no-resume" not in text


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = "import sys; from manvatar.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: manvatar COMMAND" in done.stdout and done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", cli._available())
def test_every_command_that_is_listed_starts(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert cli.main([name, "--help"]) == 0
    except SystemExit as stop:  # a command with subcommands may parse with argparse
        assert stop.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_module_is_the_console_script() -> None:
    done = subprocess.run([sys.executable, "-m", "manvatar", "polish"], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no command 'polish'" in done.stderr


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["polish"]) == 2
    assert capsys.readouterr().err.startswith("manvatar: error: there is no command 'polish'; choose one of ")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("manvatar 0.")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "manvatar.compare", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
