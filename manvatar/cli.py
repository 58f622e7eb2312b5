"""How every command parses its arguments and fails: ``run``; and how ``manvatar COMMAND`` finds it: ``main``.

A command is a module ``manvatar/<verb>.py`` with one typed, documented function and::

    def main(argv: list[str] | None = None) -> int:
        return run(track, argv)

    if __name__ == "__main__":
        raise SystemExit(main())

The function's parameters are the options, its defaults the defaults, and its docstring the help.

Exit status: 0 done; 1 an unexpected failure, with its traceback; 2 a usage error or a :class:`UserError`, in one
sentence; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import tyro

from manvatar.errors import UserError

# Threads that wait let others have the core; read when torch is loaded, which is after this. Waiting busily makes a
# machine with other work many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The annotations commands share. ``Positional[Path]`` is written without a flag; ``Output`` is ``-o`` or ``--out``.
Positional = tyro.conf.Positional
Output: TypeAlias = Annotated[Path, tyro.conf.arg(name="out", aliases=("-o",), metavar="PATH")]

# Every command there may be, in the order of the help; one whose module does not exist is not offered.
COMMANDS = {
    "fit": "make an avatar from a video: track, train, score, preview",
    "track": "camera, head pose and expression for each frame of a video",
    "render": "an avatar and expression coefficients to a video or images",
    "eval": "score an avatar on the frames of a video",
    "demo": "make the synthetic demo clip",
    "face_models": "what a face model file is, in words and as a picture",
    "models": "list, fetch or import the landmark and matte models",
    "view": "look at an avatar in the browser",
    "export": "write an avatar in another program's format",
    "bilayer": "animate a photo with the bi-layer model; train it on a corpus",
    "fewshot": "train the few-shot model on a corpus, make it a person's, animate them",
    "compare": "several avatars or methods side by side",
    "benchmark": "measure time, memory and quality",
}


def run(function: Callable[..., object], argv: list[str] | None = None) -> int:
    """Parse ``argv`` (default: the process's own) into the arguments of ``function``, call it, return the exit status.

    An ``int`` the function returns is the exit status; anything else is ignored.
    """
    program = f"manvatar {_command_name(function)}"
    # --resume is a flag of its own, without a --no-resume beside it in the help.
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    try:
        result = tyro.cli(function, prog=program, args=sys.argv[1:] if argv is None else argv, config=config)
    except SystemExit as stop:  # tyro's own: --help or a usage error, whose text it has printed
        return stop.code if isinstance(stop.code, int) else 2
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough, as in ``--help | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
        return 141
    return result if isinstance(result, int) else 0


def run_verb(command: str, verbs: dict[str, Callable[..., object]], argv: list[str] | None = None) -> int:
    """For a command of several verbs: :func:`run` that which comes first in ``argv``; the list of them otherwise."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in verbs:
        return run(verbs[arguments[0]], arguments[1:])
    width = max(map(len, verbs)) + 3
    lines = [f"  {name:{width}}{(verb.__doc__ or '').splitlines()[0]}" for name, verb in verbs.items()]
    text = "\n".join([f"usage: manvatar {command} VERB [options]    (VERB --help lists them)", "", *lines])
    if arguments and arguments[0] in ("-h", "--help"):
        print(text)
        return 0
    print(text, file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    """``manvatar COMMAND ...``: the rest of the line goes to ``manvatar.COMMAND.main``; no other is imported."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        print(f"manvatar {importlib.import_module('manvatar').__version__}")
        return 0
    if command not in _available():
        known = ", ".join(_available())
        print(f"manvatar: error: there is no command {command!r}; choose one of {known}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"manvatar.{command}")
    except UserError as error:  # the native library is missing, for one
        print(f"manvatar {command}: error: {error}", file=sys.stderr)
        return 2
    return module.main(rest)


def _available() -> list[str]:
    return [name for name in COMMANDS if importlib.util.find_spec(f"manvatar.{name}") is not None]


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{COMMANDS[name]}" for name in _available()]
    return "\n".join(["usage: manvatar COMMAND [options]    (manvatar COMMAND --help lists them)", "", *lines])


def _command_name(function: Callable[..., object]) -> str:
    """The verb, and what follows it: ``fit``, ``benchmark tracking``.

    It is the name of the module that holds ``function``, also when that runs as ``__main__``; ``command`` is a folder's
    own.
    """
    spec = getattr(sys.modules.get(function.__module__), "__spec__", None)
    name = spec.name if spec is not None else function.__module__
    package, *parts = name.split(".")
    words = [part for part in parts if part not in ("command", "__main__")]
    return " ".join(words) if package == "manvatar" and words else function.__name__
