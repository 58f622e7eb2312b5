"""The restricted pickle reader: numbers come back, whatever wrote them; code is refused and never run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, csc_array, csc_matrix, csr_matrix

from manvatar.face_models.pickles import RefusedError, looks_like_pickle, read_npy, read_pickle

ARRAYS = {
    "float64": np.arange(12.0).reshape(3, 4) / 7,
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    "uint32": np.array([0, 1, 2**32 - 1], np.uint32),
    "big endian": np.arange(5, dtype=">f4"),
    "slice": np.arange(20.0)[::3],
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3)),
    "no axes": np.array(2.5),
    "scalar": np.float32(1.25),
    "text": "lbs",
    "nested": [1, (2.0, np.arange(3))],
}


def assert_equal(found: object, expected: object) -> None:
    if isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, np.ndarray):
        assert np.asarray(found).shape == expected.shape and np.array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_back_from_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(ARRAYS, protocol))
    found = read_pickle(path)
    assert list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert_equal(found[name], expected)
    assert looks_like_pickle(path)


class _Python2(pickle._Pickler):  # the pickler in Python can be taught the strings of Python 2
    dispatch = dict(pickle._Pickler.dispatch)

    def _string(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = _string
    dispatch[str] = lambda self, value: self._string(value.encode("latin-1"))


def test_files_of_python_2(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    _Python2(buffer, 2).dump({"v_template": np.arange(6.0).reshape(2, 3), "f": np.arange(3, dtype=np.uint32)})
    content = buffer.getvalue().replace(b"numpy._core.", b"numpy.core.")
    # NumPy 1 under Python 2 had its raw bytes in the state itself, where Python 3 writes a call of _codecs.encode.
    assert b"numpy.core.multiarray" in content
    (tmp_path / "a.pkl").write_bytes(content)
    found = read_pickle(tmp_path / "a.pkl")
    assert np.array_equal(found["v_template"], np.arange(6.0).reshape(2, 3)) and found["f"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [csc_matrix, csr_matrix, coo_matrix, csc_array])
def test_sparse_matrices_become_dense(kind: type, tmp_path: Path) -> None:
    dense = np.array([[0, 1.5, 0], [2, 0, 0], [0, 0, 0], [0, 3, 4]])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(kind(dense)))
    if kind is coo_matrix and "coords" in pickle.loads(pickle.dumps(kind(dense))).__dict__:
        with pytest.raises(ValueError, match="damaged"):  # FLAME has none of these
            read_pickle(tmp_path / "a.pkl")
    else:
        assert np.array_equal(read_pickle(tmp_path / "a.pkl"), dense)


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """Classes called as chumpy's are, while a file is written; chumpy itself is not there when it is read."""
    classes = {}
    for module, name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select"), ("chumpy.ch_ops", "add")):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        classes[name] = type(name, (), {"__module__": module})
        monkeypatch.setattr(sys.modules[module], name, classes[name], raising=False)
    monkeypatch.setitem(sys.modules, "chumpy", ModuleType("chumpy"))
    return classes


def _object(kind: type, **state: object) -> object:
    made = kind()
    made.__dict__.update(state)
    return made


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_chumpy_without_chumpy(protocol: int, chumpy: dict[str, type], tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(4, 6)
    whole = _object(chumpy["Ch"], x=values, _dirty_vars={"x"} if protocol == 4 else 1, dterms=["x"])
    chosen = _object(chumpy["Select"], a=whole, idxs=np.array([1, 3, 5, 7]), preferred_shape=(2, 2))
    data = {"shapedirs": whole, "some": chosen, "sum": _object(chumpy["add"], a=whole, b=whole)}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(data, protocol))
    for module in ("chumpy", "chumpy.ch", "chumpy.reordering", "chumpy.ch_ops"):
        del sys.modules[module]
    found = read_pickle(path)
    assert np.array_equal(found["shapedirs"], values)
    assert found["some"].tolist() == [[1, 3], [5, 7]] and found["sum"] is None


def test_tensors_are_skipped(tmp_path: Path) -> None:
    value = {"static_lmk_faces_idx": np.arange(51), "dynamic_lmk_faces_idx": torch.arange(12).reshape(3, 4)}
    np.save(tmp_path / "landmark_embedding.npy", np.array(value, dtype=object), allow_pickle=True)
    found = read_npy(tmp_path / "landmark_embedding.npy")
    assert np.array_equal(found["static_lmk_faces_idx"], np.arange(51)) and found["dynamic_lmk_faces_idx"] is None


def test_plain_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(4.0))
    assert read_npy(tmp_path / "a.npy").tolist() == [0, 1, 2, 3]


class _Runs:
    """Its unpickling calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["top", "in a dict", "in chumpy", "in an array"])
def test_code_is_refused_and_not_run(where: str, protocol: int, chumpy: dict[str, type], tmp_path: Path) -> None:
    made = tmp_path / "made"
    evil = _Runs(os.mkdir, str(made))
    value = {
        "top": evil,
        "in a dict": {"v_template": np.zeros(3), "x": evil},
        "in chumpy": _object(chumpy["Ch"], x=evil),
        "in an array": np.array([evil], dtype=object),
    }[where]
    content = pickle.dumps(value, protocol)
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(RefusedError, match=r"posix\.mkdir|nt\.mkdir"):
        read_pickle(tmp_path / "a.pkl")
    assert not made.exists()
    pickle.loads(content)  # it would have been run
    assert made.is_dir()


@pytest.mark.parametrize(
    "function",
    [eval, exec, getattr, __import__, open, pickle.loads, np.load, np.fromfile, torch.load, os.system, bytearray],
    ids=lambda function: function.__name__,
)
def test_nothing_that_can_be_called_is_known(function: object, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(_Runs(function, "1")))
    with pytest.raises(RefusedError, match="not data"):
        read_pickle(tmp_path / "a.pkl")


def test_dotted_names_do_not_lead_elsewhere(tmp_path: Path) -> None:
    """Protocol 4 may name attributes of attributes; a known module is no way to unknown functions."""
    for module, name in (("numpy", "ndarray.tofile"), ("scipy.sparse", "os.x_matrix"), ("numpy", "os.system")):
        content = (
            b"\x80\x04" + b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)) + b"\x93)R."
        )
        (tmp_path / "a.pkl").write_bytes(content)
        try:
            assert read_pickle(tmp_path / "a.pkl") is None  # a name only: nothing is looked up in any module
        except RefusedError:
            pass


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_files_cut_short(share: float, tmp_path: Path) -> None:
    content = pickle.dumps(ARRAYS, 2)
    (tmp_path / "a.pkl").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="damaged|it asks for"):
        read_pickle(tmp_path / "a.pkl")


def test_sizes_that_disagree(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(6.0).reshape(2, 3), 2)
    assert content.count(b"K\x02K\x03\x86") == 1
    (tmp_path / "a.pkl").write_bytes(content.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86"))
    with pytest.raises(ValueError, match=r"127, 127.*48 bytes"):
        read_pickle(tmp_path / "a.pkl")


def test_random_changes_never_do_more_than_fail(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = pickle.dumps({"a": np.arange(6.0), "b": csc_matrix(np.eye(3))}, 2)
    for _ in range(300):
        changed = bytearray(content)
        for place in rng.integers(len(content), size=3):
            changed[place] = rng.integers(256)
        (tmp_path / "a.pkl").write_bytes(changed)
        try:
            read_pickle(tmp_path / "a.pkl")
        except ValueError:
            pass
