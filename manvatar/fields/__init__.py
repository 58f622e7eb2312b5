"""The fields this project has; all of them are :class:`manvatar.types.Field`."""

from __future__ import annotations

from typing import Any

from torch import nn

from manvatar.config import from_table
from manvatar.errors import UserError
from manvatar.fields.fast import FastField, FastFieldConfig
from manvatar.types import Box

__all__ = ["FIELDS", "FastField", "FastFieldConfig", "make_field"]

# name -> (field, its config); a field's constructor takes (config, box, expression_count).
FIELDS = {"fast": (FastField, FastFieldConfig)}


def make_field(name: str, config: dict[str, Any], box: Box, expression_count: int) -> nn.Module:
    """A fresh field from what an avatar file or a preset says about it.

    Args:
        config: fields of the config's dataclass, as TOML, JSON or ``dataclasses.asdict`` give them; what is left out
            keeps its default.

    Raises:
        UserError: there is no field of that name, or the config does not fit it.
    """
    if name not in FIELDS:
        raise UserError(f"there is no field {name!r}; this version of manvatar has {', '.join(FIELDS)}")
    field, kind = FIELDS[name]
    return field(from_table(kind, config, f"the config of the field {name!r}"), box, expression_count)
