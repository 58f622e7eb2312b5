"""Numbers from .npz, .csv and .json files, as named arrays.

=======  ==============================================================================================
.npz     every array under its name; nothing pickled is read
.csv     a first line of names, then a line of numbers for each frame; or numbers alone. Columns ``a_x``,
         ``a_y``, ``a_z`` become one array ``a`` of three columns; a column ``Timecode`` is text
.json    an object of numbers and lists, or a list with one object for each frame (a name that a frame
         leaves out is 0 there), or a list of lists of numbers
=======  ==============================================================================================
"""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from manvatar.errors import UserError

TEXT_COLUMNS = ("timecode",)
UNNAMED = ""  # the key of numbers that came without names


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """Named arrays of a file; the first axis of each is frames, except where it holds a single number.

    Raises:
        UserError: no such file, another kind of file, or not what the table above says.
    """
    source = Path(path)
    readers = {".npz": _read_npz, ".csv": _read_csv, ".json": _read_json}
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise UserError(f"{source} is none of {', '.join(readers)}; convert it to one of them")
    try:
        table = reader(source)
    except FileNotFoundError as error:
        raise UserError(f"no such file: {source}; give {', '.join(readers)}") from error
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"{source} cannot be read ({reason}); check its content") from error
    if not table:
        raise UserError(f"{source} is empty; give at least one frame")
    for name, array in table.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{name or 'a row'} in {source} has a value that is not a finite number; mend the file")
    return table


def _read_npz(source: Path) -> dict[str, np.ndarray]:
    if source.stat().st_size == 0:
        raise ValueError("it is empty")
    with np.load(source, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array; save it with numpy.savez")
        return {name: _array(file[name], name) for name in file.files}


def _read_csv(source: Path) -> dict[str, np.ndarray]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    if not lines:
        return {}
    names = [cell.strip() for cell in lines[0]]
    named = any(_number(cell) is None for cell in names)
    rows = lines[1:] if named else lines
    if not rows:
        raise ValueError("it has a line of names and no numbers")
    first_line = 2 if named else 1
    for line, row in enumerate(rows, first_line):
        if len(row) != len(names):
            raise ValueError(f"line {line} has {len(row)} values instead of {len(names)}")
    columns = [
        _csv_column(cells, first_line, named and name.lower() in TEXT_COLUMNS)
        for name, cells in zip(names, zip(*rows, strict=True), strict=True)
    ]
    if not named:
        return {UNNAMED: np.stack(columns, 1)}
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    return _joined_axes(dict(zip(names, columns, strict=True)))


def _csv_column(cells: tuple[str, ...], first_line: int, text: bool) -> np.ndarray:
    if text:
        return np.array([cell.strip() for cell in cells])
    values = [_number(cell) for cell in cells]
    if None in values:
        line = values.index(None)
        raise ValueError(f"line {first_line + line} has {cells[line].strip()!r} where a number should be")
    return np.array(values)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _joined_axes(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``a_x``, ``a_y`` and ``a_z`` as one array ``a``; only where all three are there."""
    joined = dict(table)
    for name in table:
        stem = name.removesuffix("_x")
        parts = [f"{stem}_{axis}" for axis in "xyz"]
        if stem != name and all(part in table and table[part].dtype.kind == "f" for part in parts):
            joined[stem] = np.stack([joined.pop(part) for part in parts], -1)
    return joined


def _read_json(source: Path) -> dict[str, np.ndarray]:
    content: Any = json.loads(source.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        return {name: _array(value, name) for name, value in content.items()}
    if not isinstance(content, list):
        raise ValueError("it holds neither an object nor a list")
    if content and all(isinstance(entry, dict) for entry in content):
        names = dict.fromkeys(name for entry in content for name in entry)
        return {name: _array([entry.get(name, 0.0) for entry in content], name) for name in names}
    return {UNNAMED: _array(content, "the list")} if content else {}


def _array(value: Any, name: str) -> np.ndarray:
    """Numbers as float64, text as it is."""
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return array.astype(str)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} holds something that is not a number")
    return array.astype(np.float64)
