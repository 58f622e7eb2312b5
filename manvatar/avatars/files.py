"""The avatar file: one safetensors file, its header as JSON in the metadata.

Nothing in it is executed. It holds all that rendering needs: the field's tensors under ``field.``, those of the
occupancy grid under ``occupancy.``, and an :class:`~manvatar.types.AvatarHeader`. A file of a newer format version is
refused, never guessed at.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from manvatar.errors import UserError
from manvatar.face_models.arkit import ARKIT_NAMES
from manvatar.files import replacing
from manvatar.types import AvatarHeader

FORMAT_VERSION = 1
SUFFIX = ".mav"
_KEY = "manvatar.avatar"
_LONGEST_HEADER = 100_000_000  # safetensors' own limit

Precision = Literal["half", "full"]


def write_avatar(path: str | Path, header: AvatarHeader, tensors: dict[str, Tensor], precision: Precision) -> None:
    """Write an avatar file; what was there before stays until the new one is whole.

    Args:
        precision: "full" stores every tensor as it is, so that loading gives the same bits; "half" stores floating
            point as float16, half the size.

    Raises:
        UserError: the file cannot be written, or a value does not fit the precision.
    """
    stored = {name: _stored(name, tensor, precision) for name, tensor in tensors.items()}
    text = json.dumps(dataclasses.asdict(header), allow_nan=False)
    with replacing(path) as temporary:
        # save_file would make the file readable by its owner alone, whatever the umask says.
        temporary.write_bytes(save(stored, metadata={_KEY: text}))


def read_avatar(path: str | Path) -> tuple[AvatarHeader, dict[str, Tensor]]:
    """Header and tensors of an avatar file; floating point as float32, on the CPU.

    Raises:
        UserError: no such file, not an avatar, cut off, damaged, or of a newer format version.
    """
    source = Path(path)
    header = read_header(source)
    try:
        tensors = load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{source} is damaged and cannot be read; make the avatar again or take a copy") from error
    return header, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def read_header(path: str | Path) -> AvatarHeader:
    """The header alone, without loading any tensor. Raises ``UserError`` as :func:`read_avatar`."""
    source = Path(path)
    layout, length = _layout(source)
    metadata = layout.get("__metadata__")
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{source} is not an avatar; give a {SUFFIX} file made by manvatar fit")
    try:
        values = json.loads(text)
        version = values["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"the header of {source} is damaged; make the avatar again or take a copy") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(
            f"{source} has format version {version} but this manvatar reads up to {FORMAT_VERSION}; update manvatar"
        )
    expected = length + max((entry["data_offsets"][1] for name, entry in layout.items() if name[:2] != "__"), default=0)
    size = source.stat().st_size
    if size != expected:
        raise UserError(f"{source} is cut off: {size} of {expected} bytes are there; copy or make the avatar again")
    try:
        return _header(values)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"the header of {source} is damaged ({error}); make the avatar again or take a copy") from error


def _layout(source: Path) -> tuple[dict[str, Any], int]:
    """The JSON at the head of a safetensors file, and where the data begin."""
    advice = f"give a {SUFFIX} file made by manvatar fit"
    try:
        with source.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= _LONGEST_HEADER:
                raise UserError(f"{source} is not an avatar; {advice}")
            text = file.read(length)
    except FileNotFoundError as error:
        raise UserError(f"no such file: {source}; {advice}") from error
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}; {advice}") from error
    if text[:1] == b"{" and len(text) < length:
        raise UserError(f"{source} is cut off in its header; copy or make the avatar again")
    try:
        layout = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is not an avatar; {advice}") from error
    if not isinstance(layout, dict):
        raise UserError(f"{source} is not an avatar; {advice}")
    return layout, 8 + length


def _header(values: dict[str, Any]) -> AvatarHeader:
    """A header from its JSON; lists become the tuples the dataclass has."""
    names = {field.name for field in dataclasses.fields(AvatarHeader)}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"unknown entries {', '.join(unknown)}")
    header = AvatarHeader(**{name: _tuples(value) for name, value in values.items()})
    count = len(header.expression_names)
    if not count == len(header.expression_lower) == len(header.expression_upper):
        raise ValueError("the expression range does not fit the expression names")
    if header.arkit and [len(row) for row in header.arkit] != [count] * len(ARKIT_NAMES):
        raise ValueError("the table of ARKit's blendshapes does not fit the expression names")
    if [len(row) for row in header.cam_from_head] != [4, 4, 4, 4]:
        raise ValueError("the default pose is not a 4x4 matrix")
    return header


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _stored(name: str, tensor: Tensor, precision: Precision) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if precision == "full" or not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    # The occupancy grid's infinities mean "not looked at yet" and stay what they are.
    if bool((torch.isinf(half) & ~torch.isinf(tensor)).any()):
        if name.startswith("occupancy."):
            return half.clamp_max(torch.finfo(torch.float16).max).where(~torch.isinf(tensor), tensor.half())
        raise UserError(f"{name} has values beyond half precision; save the avatar with precision='full'")
    return half
