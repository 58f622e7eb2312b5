"""Reading arrays out of pickle files without running what is in them.

A pickle is a program. This reader lets it name only what files of numbers need: NumPy arrays, scalars and dtypes, SciPy
sparse matrices, chumpy's array holders, and tensors of torch, which are skipped. Even those are not called: each is
stood in for by a class of this module that only keeps what it is given, and the values are put together here. Anything
else that a file asks for is refused, by name. Nothing of NumPy's, SciPy's or chumpy's own unpickling runs, and chumpy
need not be installed.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_DEEPEST = 200  # nesting of values that is followed; real files need about 5


class RefusedError(ValueError):
    """The pickle asks for something that is not data."""


def read_pickle(path: Path) -> Any:
    """The value in a pickle file: dicts, lists, tuples, strings and numbers as they are; arrays as NumPy arrays.

    Sparse matrices become dense arrays, chumpy holders the arrays they hold, and torch tensors None.

    Raises:
        RefusedError: it asks for anything else; the message names it.
        ValueError: it is no pickle, or damaged.
        OSError: it cannot be read.
    """
    return _loaded(path.read_bytes())


def read_npy(path: Path) -> Any:
    """The value in an ``.npy`` file, also one that holds Python objects, which are read as :func:`read_pickle` does.

    Raises: as :func:`read_pickle`.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = reader(file)
        if dtype.hasobject:
            return _loaded(file.read())
    return np.load(path, allow_pickle=False)


def looks_like_pickle(path: Path) -> bool:
    """Whether the first bytes of a file are those of a pickled dict, of any protocol."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    if start[:1] == b"\x80":
        return len(start) > 2 and 2 <= start[1] <= 5
    return start[:3] in (b"(dp", b"}q\x00") or start[:2] == b"(d"


def _loaded(content: bytes) -> Any:
    try:
        return _plain(_Reader(io.BytesIO(content)).load())
    except RefusedError:
        raise
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # a damaged file can fail anywhere: struct.error, AssertionError, KeyError, ...
        raise ValueError(f"it is damaged or no pickle of arrays ({error})") from error


# --------------------------------------------------------------------------------------------------------- stand-ins


class _Held:
    """Stands in for an object: keeps its name and state."""

    name = ""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Held):
    """``numpy.dtype``: a kind, a size and a byte order."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        super().__init__()
        self.code, self.order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        if state[3] or state[4]:  # names, fields
            raise RefusedError("an array of records")
        self.order = {"<": "<", ">": ">"}.get(_text(state[1]), "=")

    def dtype(self) -> np.dtype:
        """Raises ``ValueError`` for anything but numbers, strings and objects."""
        if self.code[:1] not in set("biufcSUO?") or not (self.code[1:].isdigit() or len(self.code) == 1):
            raise ValueError(f"an array of dtype {self.code!r}")
        return np.dtype(self.code).newbyteorder(self.order)


class _Array(_Held):
    """``numpy.ndarray``, from what it leaves in a pickle: (version,) shape, dtype, Fortran order, contents."""

    array: Any = None

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, content = state[-4:]
        self.array = _built(shape, dtype, "F" if fortran else "C", content)


def _built(shape: Any, dtype: Any, order: str, content: Any) -> Any:
    shape = tuple(int(size) for size in (shape if isinstance(shape, tuple | list) else (shape,)))
    kind = dtype.dtype()
    if kind.hasobject:  # a container: its elements in a list, or the one of an array without axes
        return content if shape else content[0]
    raw = content.encode("latin-1") if isinstance(content, str) else bytes(content)
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} and {kind} with {len(raw)} bytes")
    return np.frombuffer(raw, kind).reshape(shape, order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    result = _Array()
    result.array = _built(shape, dtype, "F" if _text(order) == "F" else "C", content)
    return result


def _scalar(dtype: Any, content: Any = b"") -> Any:
    return np.asarray(_built((1,), dtype, "C", content)).item()  # a number of Python, which no state can be set on


def _encode(text: Any, encoding: Any = "latin-1") -> bytes:
    if _text(encoding).replace("-", "") not in ("latin1", "utf8", "ascii"):
        raise RefusedError(f"the encoding {encoding!r}")
    return str(text).encode(_text(encoding))


def _empty_bytes() -> bytes:
    return b""


def _members(items: Any = ()) -> list[Any]:
    return list(items)


def _instance(kind: Any, *_: Any) -> Any:
    """What ``copyreg._reconstructor`` and ``copyreg.__newobj__`` do, for the classes above only."""
    return kind()


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "_reconstruct": _reconstruct,
    "scalar": _scalar,
    "_frombuffer": _from_buffer,
}
_NUMPY_MODULES = {f"numpy.{core}.{module}" for core in ("core", "_core") for module in ("multiarray", "numeric")}
_OTHERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("copy_reg", "_reconstructor"): _instance,
    ("copyreg", "_reconstructor"): _instance,
    ("copyreg", "__newobj__"): _instance,
    ("__builtin__", "bytes"): _empty_bytes,  # how protocols before 3 write b""
    ("__builtin__", "set"): _members,
    ("builtins", "set"): _members,
}
_SKIPPED = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch.storage", "_load_from_bytes"),
    ("collections", "OrderedDict"),  # the hooks of a tensor
    ("__builtin__", "object"),
    ("builtins", "object"),
}


class _Reader(pickle._Unpickler):
    """Knows the names above and no others.

    The reader in Python, not the one in C: a few bytes can make the latter ask for any amount of memory.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin-1")

    def find_class(self, module: str, name: str) -> Any:
        # What comes back is made anew each time, so that no file can leave anything behind in this module.
        if module in _NUMPY_MODULES and name in _BUILDERS:
            return _calling(_BUILDERS[name])
        if (module, name) in _OTHERS:
            return _calling(_OTHERS[module, name])
        if module == "numpy" and name in ("ndarray", "dtype"):
            return type(name, (_Array if name == "ndarray" else _Dtype,), {})
        sparse = module.startswith("scipy.sparse") and name.endswith(("_matrix", "_array"))
        if sparse or module.split(".")[0] == "chumpy" or (module, name) in _SKIPPED:
            return type("Held", (_Held,), {"name": f"{module}.{name}"})
        raise RefusedError(f"it asks for {module}.{name}, which is not data, so it is not read")

    def persistent_load(self, _: Any) -> Any:
        raise RefusedError("it refers to objects outside itself, so it is not read")


def _calling(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments)


# ------------------------------------------------------------------------------------------------------ values of them


def _plain(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, _Array):
        return _plain(value.array, depth + 1)
    if isinstance(value, _Held):
        return _held(value, depth)
    if isinstance(value, dict):
        return {_text(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, depth + 1) for item in value)
    return value


def _held(value: _Held, depth: int) -> Any:
    """A chumpy holder or sparse matrix as an array; None for what is skipped."""
    if not isinstance(value.state, dict):
        return None
    state = {_text(key): item for key, item in value.state.items()}
    family = value.name.split(".")[0]
    if family == "scipy":
        return _dense(value.name, {key: _plain(item, depth + 1) for key, item in state.items()})
    if family != "chumpy":
        return None
    if "x" in state:  # chumpy.ch.Ch
        return _plain(state["x"], depth + 1)
    if {"a", "idxs", "preferred_shape"} <= set(state):  # chumpy.reordering.Select
        whole, chosen = _plain(state["a"], depth + 1), _plain(state["idxs"], depth + 1)
        return np.asarray(whole).ravel()[np.asarray(chosen)].reshape(state["preferred_shape"])
    return None  # computed by chumpy from other values


def _dense(name: str, state: dict[str, Any]) -> np.ndarray:
    kind = name.rpartition(".")[2][:3]
    rows, columns = (int(size) for size in state.get("_shape", state.get("shape", (0, 0))))
    if not 0 < rows * columns <= 1 << 26:
        raise ValueError(f"a sparse matrix of {rows} x {columns}")
    result = np.zeros((rows, columns))
    data = np.asarray(state["data"])
    if kind == "coo":
        first, second = np.asarray(state["row"]), np.asarray(state["col"])
    elif kind in ("csc", "csr"):
        second = np.asarray(state["indices"])
        first = np.repeat(np.arange(len(state["indptr"]) - 1), np.diff(state["indptr"]))
        first, second = (first, second) if kind == "csr" else (second, first)
    else:
        raise ValueError(f"a sparse matrix of kind {name}")
    if len(first) != len(data) or len(second) != len(data) or min(first.min(initial=0), second.min(initial=0)) < 0:
        raise ValueError("a sparse matrix whose parts disagree")
    np.add.at(result, (first, second), data)
    return result
