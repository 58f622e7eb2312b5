"""A preset: which field, and how it is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from manvatar.config import from_table, read_toml
from manvatar.errors import UserError
from manvatar.fields import FastFieldConfig, PaperFieldConfig, field_config
from manvatar.training.config import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """The settings of one way to make an avatar. ``configs/<name>.toml`` holds what differs from the defaults."""

    name: str = "fast"
    field_name: str = "fast"  # as in manvatar.fields.FIELDS
    size_px: int = 256  # of the training images, where nobody asks for another
    field: FastFieldConfig | PaperFieldConfig = dataclasses.field(default_factory=FastFieldConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def load_preset(name_or_path: str) -> Preset:
    """A preset by name, or from a TOML file. Raises ``UserError`` where it cannot be read.

    With ``base = "paper"`` a file says only what differs from that preset.
    """
    table = read_toml(name_or_path)
    if "base" in table:
        table = _merged(read_toml(str(table.pop("base"))), table)
    field_table = table.pop("field", {})
    preset = from_table(Preset, {"name": name_or_path, **table}, name_or_path)
    if not isinstance(field_table, dict):
        raise UserError(f"{name_or_path} field must be a table")
    preset = dataclasses.replace(preset, field=field_config(preset.field_name, field_table, f"{name_or_path} field"))
    _require_fit(preset)
    return preset


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the entries of ``changes``, tables entry by entry."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if both else value
    return result


def _require_fit(preset: Preset) -> None:
    """Raise ``UserError`` where training asks the field for what it does not have."""
    loss, where = preset.training.loss, f"{preset.name} trains the field {preset.field_name!r}"
    if not isinstance(preset.field, FastFieldConfig):
        if preset.training.start_from_surface:
            raise UserError(f"{where}, which starts from nothing; give start_from_surface = false")
        if loss.displacement or loss.motion_smoothness:
            raise UserError(f"{where}, whose grids hold no displacements; give displacement = motion_smoothness = 0.0")
    elif loss.sample_displacement:
        raise UserError(f"{where}, which has no sample_displacement; give 0.0, and displacement instead")
