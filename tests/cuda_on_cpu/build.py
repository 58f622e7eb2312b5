"""Builds ``csrc/cuda`` for the CPU, as a library whose kernels are registered under another key.

The kernels are compiled as they are; ``include/`` stands in for the CUDA headers, ``machine.cpp`` for the device. The
objects are kept in ``build/cuda_on_cpu`` and used again while nothing they depend on has changed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEY = "PrivateUse1"  # a dispatch key that nothing else uses here
_FLAGS = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-w"]
_DEFINITIONS = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA", f"-DMANVATAR_CUDA_KEY={KEY}"]


def compiler() -> list[str] | None:
    """The command of a C++ compiler, as ``setup.py`` finds it."""
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"])
    return next(([name] for name in ("g++", "c++", "clang++") if shutil.which(name)), None)


def build(cxx: list[str]) -> Path:
    """The library, up to date.

    Raises:
        subprocess.CalledProcessError: the compiler refused; its messages are on the standard error.
    """
    folder = ROOT / "build" / "cuda_on_cpu"
    folder.mkdir(parents=True, exist_ok=True)
    sources = [HERE / "machine.cpp", HERE / "mistakes.cu", *sorted((ROOT / "csrc" / "cuda").glob("*.cu"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compile(cxx, source, folder), sources))
    library = folder / f"cuda_on_cpu-{_digest(path.name for path in objects)}.so"
    if not library.is_file():
        torch_libraries = ["-L" + str(Path(torch.__path__[0]) / "lib"), "-ltorch", "-ltorch_cpu"]
        # Its own functions in the place of PyTorch's, where machine.cpp has them.
        _call([*cxx, "-shared", "-Wl,-Bsymbolic", *map(str, objects), *torch_libraries, "-o"], library)
    return library


def _compile(cxx: list[str], source: Path, folder: Path) -> Path:
    includes = [f"-I{HERE / 'include'}", f"-I{ROOT / 'csrc' / 'include'}", f"-I{Path(torch.__path__[0]) / 'include'}"]
    command = [*cxx, *_FLAGS, *_DEFINITIONS, *includes, "-x", "c++", "-c", str(source), "-o"]
    headers = [*(HERE / "include").rglob("*.*"), *(ROOT / "csrc" / "include").glob("*.h")]
    texts = [path.read_text() for path in (source, *sorted(headers))]
    target = folder / f"{source.stem}-{_digest([*command, torch.__version__, *texts])}.o"
    if not target.is_file():
        for old in folder.glob(f"{source.stem}-*.o"):
            old.unlink()
        _call(command, target)
    return target


def _call(command: list[str], target: Path) -> None:
    unfinished = target.with_suffix(f".{os.getpid()}.part")
    subprocess.run([*command, str(unfinished)], check=True)
    unfinished.replace(target)


def _digest(parts: object) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
