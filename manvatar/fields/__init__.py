"""The fields this project has; all of them are :class:`manvatar.types.Field`."""

from __future__ import annotations

from typing import Any

from torch import nn

from manvatar.config import from_table
from manvatar.errors import UserError
from manvatar.fields.fast import FastField, FastFieldConfig
from manvatar.fields.paper import PaperField, PaperFieldConfig
from manvatar.types import Box

__all__ = ["FIELDS", "FastField", "FastFieldConfig", "PaperField", "PaperFieldConfig", "field_config", "make_field"]

# name -> (field, its config); a field's constructor takes (config, box, expression_count).
FIELDS = {"fast": (FastField, FastFieldConfig), "paper": (PaperField, PaperFieldConfig)}


def field_config(name: str, config: dict[str, Any], where: str) -> Any:
    """The settings of the field ``name`` from a table; what is left out keeps its default.

    Args:
        where: how messages call the table.

    Raises:
        UserError: there is no field of that name, or the table does not fit it.
    """
    if name not in FIELDS:
        raise UserError(f"there is no field {name!r}; this version of manvatar has {', '.join(FIELDS)}")
    return from_table(FIELDS[name][1], config, where)


def make_field(name: str, config: dict[str, Any], box: Box, expression_count: int) -> nn.Module:
    """A fresh field from what an avatar file or a preset says about it.

    Its ``box`` is what it fills: ``box``, or one of its own where the method fixes it.

    Args:
        config: fields of the config's dataclass, as TOML, JSON or ``dataclasses.asdict`` give them; what is left out
            keeps its default.

    Raises:
        UserError: there is no field of that name, or the config does not fit it.
    """
    settings = field_config(name, config, f"the config of the field {name!r}")
    return FIELDS[name][0](settings, box, expression_count)
