"""A preset: which field, and how it is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from manvatar.config import from_table, read_toml
from manvatar.fields import FastFieldConfig
from manvatar.training.config import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """The settings of one way to make an avatar. ``configs/<name>.toml`` holds what differs from the defaults."""

    name: str = "fast"
    field_name: str = "fast"  # as in manvatar.fields.FIELDS
    field: FastFieldConfig = dataclasses.field(default_factory=FastFieldConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


def load_preset(name_or_path: str) -> Preset:
    """A preset by name, or from a TOML file. Raises ``UserError`` where it cannot be read."""
    return from_table(Preset, {"name": name_or_path, **read_toml(name_or_path)}, name_or_path)
