"""Settings from TOML files into frozen dataclasses: only what differs from the defaults stands in a file."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from manvatar.errors import UserError

T = TypeVar("T")

# A link to the top-level folder in a checkout, a copy of it in a wheel.
_FOLDER = Path(__file__).parent / "configs"


def preset_names() -> tuple[str, ...]:
    """The presets that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def read_toml(name_or_path: str) -> dict[str, Any]:
    """The tables of a preset that comes with the package, or of a TOML file.

    Raises:
        UserError: there is no such preset or file, or it is not TOML.
    """
    path = _FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(preset_names())
        raise UserError(f"there is no preset {name_or_path!r}; choose one of {known}, or give a .toml file")
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}); mend it or use a preset") from error


def from_table(kind: type[T], table: dict[str, Any], where: str) -> T:
    """Make the dataclass ``kind`` from a table; missing keys keep their defaults, nested tables become dataclasses.

    Args:
        where: how messages call the table, e.g. ``fast.toml [training]``.

    Raises:
        UserError: an unknown key or a value of the wrong kind.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for key, value in table.items():
        if key not in names:
            raise UserError(f"{where} has an unknown key {key!r}; it can have {', '.join(names)}")
        values[key] = _converted(hints[key], value, f"{where} {key}")
    return kind(**values)


def _converted(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a table")
        return from_table(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(arguments[0], item, where) for item in value)
    if origin is typing.Literal and value in arguments:
        return value
    if origin in (typing.Union, types.UnionType):
        return _converted(next(a for a in arguments if a is not type(None)), value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise UserError(f"{where} cannot be {value!r}; expected {getattr(hint, '__name__', hint)}")
