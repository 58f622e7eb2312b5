"""Tracks on disk: one safetensors file, tensors named like the fields of ``Track``, the rest as JSON metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from manvatar.errors import UserError
from manvatar.files import replacing
from manvatar.types import LANDMARK_COUNT, Camera, Track

FORMAT = "manvatar-track"
VERSION = 1
_TENSORS = ("cam_from_head", "identity", "expression", "landmark_offsets_m", "residual_px", "valid")


def save_track(track: Track, path: str | os.PathLike[str]) -> None:
    """Write ``track``; what was at ``path`` stays until the new file is whole.

    Raises:
        UserError: the folder cannot be written to.
    """
    tensors = {name: getattr(track, name).contiguous() for name in _TENSORS}
    tensors["focal_px"], tensors["center_px"] = track.camera.focal_px, track.camera.center_px
    header = {
        "version": VERSION,
        "size_px": list(track.camera.size_px),
        "frame_rate_hz": track.frame_rate_hz,
        "landmark_scheme": track.landmark_scheme,
        "face_model": track.face_model,
        "expression_names": list(track.expression_names),
        "focal_source": track.focal_source,
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, "header": json.dumps(header)})


def load_track(path: str | os.PathLike[str]) -> Track:
    """Read a track that :func:`save_track` wrote.

    Raises:
        UserError: there is no such file, it is not a track, it is damaged, or a newer version wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no track file {path}; make one with: python -m manvatar.track VIDEO -o {path.name}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a whole track file ({error}); track the video again") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is a safetensors file but not a track; make one with python -m manvatar.track")
    try:
        header = json.loads(metadata["header"])
        version = int(header["version"])
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"the header of {path} is damaged ({error}); track the video again") from error
    if version > VERSION:
        raise UserError(
            f"{path} has track format {version}, this manvatar reads up to {VERSION}; update manvatar or track again"
        )
    try:
        return _track(tensors, header)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); track the video again") from error


def _track(tensors: dict[str, torch.Tensor], header: dict) -> Track:
    frames = tensors["cam_from_head"].shape[0]
    names = tuple(header["expression_names"])
    shapes = {
        "cam_from_head": (frames, 4, 4),
        "expression": (frames, len(names)),
        "landmark_offsets_m": (LANDMARK_COUNT[header["landmark_scheme"]], 3),
        "residual_px": (frames,),
        "valid": (frames,),
        "focal_px": (2,),
        "center_px": (2,),
    }
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {shape}")
    width, height = header["size_px"]
    return Track(
        camera=Camera(tensors["focal_px"], tensors["center_px"], (int(width), int(height))),
        **{name: tensors[name] for name in _TENSORS},
        frame_rate_hz=float(header["frame_rate_hz"]),
        landmark_scheme=header["landmark_scheme"],
        face_model=str(header["face_model"]),
        expression_names=names,
        focal_source=header["focal_source"],
    )
