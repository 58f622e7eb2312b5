"""The fields this project has; all of them are :class:`manvatar.types.Field`."""

from manvatar.fields.fast import FastField, FastFieldConfig

__all__ = ["FastField", "FastFieldConfig"]
