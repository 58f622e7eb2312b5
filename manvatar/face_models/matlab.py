"""MATLAB files up to version 7.2, looked into without reading them whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

_HEADER = b"MATLAB 5.0 MAT-file"


def variables(path: Path) -> set[str]:
    """Names of the variables in ``path``; empty when it is no such file."""
    try:
        with path.open("rb") as file:
            if file.read(len(_HEADER)) != _HEADER:
                return set()
        return {name for name, _, _ in whosmat(path)}
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError):
        return set()


def read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named variables.

    Raises:
        ValueError: the file is damaged or lacks one of them.
    """
    try:
        data = loadmat(path, variable_names=list(names))
    except Exception as error:  # scipy raises what its parser stumbles over: zlib.error, TypeError, KeyError, ...
        raise ValueError(f"{path.name} is damaged ({error})") from error
    lacking = [name for name in names if name not in data]
    if lacking:
        raise ValueError(f"{path.name} lacks {' and '.join(lacking)}")
    return {name: np.asarray(data[name]) for name in names}
