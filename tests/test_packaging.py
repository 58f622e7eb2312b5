"""What an installation carries, and what a build says when it cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_CPU = _ROOT / "manvatar" / "ops" / "_cpu.so"


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the native build into ``tmp_path`` with changed environment variables."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)]
    settings = os.environ | {"MANVATAR_CUDA": "0"} | environment
    return subprocess.run(command, cwd=_ROOT, env=settings, capture_output=True, text=True)


def test_a_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    done = build(tmp_path, CXX="no-such-compiler")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "needs the compiler no-such-compiler, which was not found" in done.stderr


def test_a_missing_nvcc_is_one_sentence_where_cuda_was_asked_for(tmp_path: Path) -> None:
    done = build(tmp_path, MANVATAR_CUDA="1", PATH=str(tmp_path), CUDA_HOME=str(tmp_path), CXX=shutil.which("true"))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "MANVATAR_CUDA=1 asks for the CUDA library but nvcc was not found" in done.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_an_unknown_architecture_is_one_sentence(tmp_path: Path) -> None:
    done = build(tmp_path, MANVATAR_CUDA="1", MANVATAR_CUDA_ARCHS="1.0")
    assert done.returncode != 0 and "MANVATAR_CUDA_ARCHS names 1.0, which" in done.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_library_uses_the_stable_abi_alone() -> None:
    """No Python symbol and no C++ symbol of torch: that is what lets one build serve every Python and torch."""
    symbols = subprocess.run(["nm", "-D", "--undefined-only", _CPU], capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in symbols.splitlines()]
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in names)
    assert [name for name in names if name.startswith(("Py", "_Py", "_ZN2at", "_ZN3c10", "_ZN5torch"))] == []


def test_presets_are_in_the_package() -> None:
    from manvatar.config import preset_names, read_toml

    assert preset_names() == tuple(sorted(path.stem for path in (_ROOT / "configs").glob("*.toml")))
    assert "fast" in preset_names() and isinstance(read_toml("fast"), dict)


@pytest.mark.slow
def test_a_wheel_carries_libraries_presets_and_licence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", tmp_path, "."]
    subprocess.run(command, cwd=_ROOT, env=os.environ | {"MANVATAR_CUDA": "0"}, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("manvatar/ops/_cpu.so", "manvatar/configs/fast.toml"):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "csrc/")) for name in names)
