"""The native libraries; everything else about the package is in ``pyproject.toml``.

``manvatar/ops/_cpu.so`` is always built; ``manvatar/ops/_cuda.so`` where ``nvcc`` is found (no GPU is needed to
build). Both are written against PyTorch's stable ABI: they contain no Python symbol and no unstable torch symbol, so
one build serves every Python and every torch from 2.10 on. ``torch.utils.cpp_extension`` is not used because it
refuses to compile CUDA beside a CPU build of torch.

Environment:
    CXX                  the C++20 compiler (default: g++, else c++, else clang++)
    MANVATAR_CUDA        0 = no CUDA library, 1 = fail when nvcc is missing (default: build it where nvcc is found)
    MANVATAR_CUDA_ARCHS  compute capabilities, e.g. "8.6" or "9.0;12.0+PTX" (default: those of DEFAULT_ARCHS nvcc knows)
    MAX_JOBS             compilers running at once (default: the number of cores)
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# Machine code for one chip of each generation serves the later chips of that generation; PTX serves what comes after.
DEFAULT_ARCHS = "7.5;8.0;9.0;10.0;12.0+PTX"
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # the oldest torch the libraries load into: 2.10


def fail(sentence: str) -> None:
    """Stop the build with one sentence, without a traceback."""
    raise SystemExit(f"manvatar: error: {sentence}")


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        fail("building needs torch 2.10 or newer in this environment; run 'pip install torch' first, or 'make install'")
    folder = Path(spec.submodule_search_locations[0])
    if not (folder / "include/torch/csrc/stable/library.h").is_file():
        fail(f"the torch in {folder} is too old; building needs torch 2.10 or newer")
    return folder


def find_cxx() -> list[str]:
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"])
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    fail("building needs a C++20 compiler and found none; install one ('apt install g++') or name it in CXX")


def find_nvcc() -> str | None:
    wish = os.environ.get("MANVATAR_CUDA", "")
    if wish == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if nvcc is None and wish == "1":
        fail("MANVATAR_CUDA=1 asks for the CUDA library but nvcc was not found; put it on PATH or set CUDA_HOME")
    return nvcc


def arch_flags(nvcc: str) -> list[str]:
    """``-gencode`` flags of MANVATAR_CUDA_ARCHS, or of those of DEFAULT_ARCHS that this nvcc knows."""
    wanted = os.environ.get("MANVATAR_CUDA_ARCHS")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    known = {name.removeprefix("compute_") for name in listed}
    flags: list[str] = []
    for entry in (wanted or DEFAULT_ARCHS).replace(",", ";").replace(" ", ";").split(";"):
        number, _, extra = entry.partition("+")
        digits = number.replace(".", "")
        if digits in known:
            flags += ["-gencode", f"arch=compute_{digits},code=sm_{digits}"]
            if extra.upper() == "PTX":
                flags += ["-gencode", f"arch=compute_{digits},code=compute_{digits}"]
        elif wanted and entry:
            fail(f"MANVATAR_CUDA_ARCHS names {entry}, which {nvcc} does not know; it knows {', '.join(sorted(known))}")
    if not any("code=compute_" in flag for flag in flags) and not wanted:
        newest = max(int(flag.rpartition("_")[2]) for flag in flags if "code=sm_" in flag)
        flags += ["-gencode", f"arch=compute_{newest},code=compute_{newest}"]
    return flags


CUDA_LIBRARY = "manvatar.ops._cuda"


class Native(Extension):
    """One library: its compiler command and link command. ``sources`` are relative to the repository."""

    def __init__(self, name: str, compiler: list[str], sources: list[str], flags: list[str], link: list[str]) -> None:
        super().__init__(name, sources, depends=sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/include/*.h")))
        self.compiler, self.flags, self.link = compiler, flags, link


def compile_source(source: str, extension: Native, folder: Path) -> Path:
    """Compile ``source`` unless its object is newer than it and every header; a changed command has another name."""
    command = [*extension.compiler, *extension.flags, "-c", source, "-o"]
    key = hashlib.sha256("\0".join(command).encode()).hexdigest()[:12]
    target = folder / f"{Path(source).stem}-{key}.o"
    newest = max((ROOT / name).stat().st_mtime for name in [source, *extension.depends])
    if not target.is_file() or target.stat().st_mtime <= newest:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}.part.o")  # an interrupted build must not look finished
        call([*command, str(unfinished)], source)
        unfinished.replace(target)
    return target


def call(command: list[str], what: str) -> None:
    print("manvatar:", shlex.join(command), flush=True)
    try:
        subprocess.run(command, cwd=ROOT, check=True)
    except FileNotFoundError:
        fail(f"building {what} needs the compiler {command[0]}, which was not found; install it or name another in CXX")
    except subprocess.CalledProcessError as error:
        hint = "; MANVATAR_CUDA=0 builds without CUDA" if what.endswith(".cu") or "_cuda" in what else ""
        fail(f"{Path(command[0]).name} failed on {what} with status {error.returncode}; its messages are above{hint}")


class BuildNative(build_ext):
    """Compiles and links the :class:`Native` libraries; setuptools places them in the wheel or the checkout."""

    def get_ext_filename(self, ext_name: str) -> str:
        return os.path.join(*ext_name.split(".")) + ".so"  # no Python ABI in the name: there is none in the library

    def build_extensions(self) -> None:
        folder = ROOT / "build" / "native"
        jobs = [(source, extension) for extension in self.extensions for source in extension.sources]
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count() or 1) as pool:
            objects = list(pool.map(lambda job: compile_source(*job, folder / job[1].name), jobs))
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name)).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            # Beside and then renamed: a process that has the old library loaded keeps it.
            unfinished = target.with_suffix(f".{os.getpid()}.part")
            mine = [str(path) for path, (_, owner) in zip(objects, jobs, strict=True) if owner is extension]
            call([*extension.compiler, "-shared", *mine, *extension.link, "-o", str(unfinished)], extension.name)
            unfinished.replace(target)
        self.drop_what_is_not_built()

    def drop_what_is_not_built(self) -> None:
        """An older library beside a newer one would be loaded with it, and not know its ops."""
        if all(extension.name != CUDA_LIBRARY for extension in self.extensions):
            Path(self.get_ext_fullpath(CUDA_LIBRARY)).unlink(missing_ok=True)


class PlatformWheel(bdist_wheel):
    """The wheel depends on the platform and on no Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def libraries() -> list[Native]:
    torch = torch_folder()
    includes = ["-Icsrc/include", "-isystem", str(torch / "include")]
    common = ["-std=c++20", "-O3", TORCH_TARGET, *includes]
    # Torch is loaded before the libraries are, so its libraries need no path, only a name.
    link = [f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu"]
    names = {kind: sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(f"csrc/{kind}/*.c*")) for kind in ("cpu", "cuda")}

    keep = [] if sys.platform == "darwin" else ["-Wl,--no-as-needed"]
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    cpu_flags = [*common, *warnings, "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
    cxx = find_cxx()
    built = [Native("manvatar.ops._cpu", cxx, ["csrc/library.cpp", *names["cpu"]], cpu_flags, [*keep, *link])]

    nvcc = find_nvcc()
    if nvcc is not None and names["cuda"]:
        host = ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall", "-ccbin", cxx[0]]
        flags = [*common, *host, "-DUSE_CUDA", "-lineinfo", "--expt-relaxed-constexpr", *arch_flags(nvcc)]
        # libtorch.so of a CUDA build brings libtorch_cuda.so, which holds the stream; a CPU build links all the same.
        cuda_link = [*(["-Xlinker", "--no-as-needed"] if keep else []), "-ccbin", cxx[0], *link]
        built.append(Native(CUDA_LIBRARY, [nvcc], names["cuda"], flags, cuda_link))
    return built


setup(ext_modules=libraries(), cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel})
