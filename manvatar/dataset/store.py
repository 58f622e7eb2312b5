"""A dataset on disk: the pixels as one raw memory-mapped file, everything else as safetensors beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manvatar.errors import UserError
from manvatar.files import replacing
from manvatar.types import Box, Camera, Dataset

FORMAT_VERSION = 1
DATASET_FILES = _PIXELS, _REST = "images.rgba", "dataset.safetensors"


def map_images(
    folder: Path, count: int, size_px: tuple[int, int], write: bool
) -> UInt8[Tensor, "frames height width 4"]:
    """Memory-map the pixels of ``count`` frames, creating the file when ``write``."""
    width, height = size_px
    length = count * height * width * 4
    path = folder / _PIXELS
    if not write and (not path.is_file() or path.stat().st_size != length):
        raise UserError(f"{path} is missing or has the wrong length; start again without --resume")
    # Only a shared mapping may create and write the file; reading uses a private one, which cannot alter it.
    return torch.from_file(str(path), shared=write, size=length, dtype=torch.uint8).view(count, height, width, 4)


def save_dataset(dataset: Dataset, folder: Path, run_id: str) -> None:
    """Write everything but the pixels, which :func:`map_images` has put there already."""
    tensors = {
        "focal_px": dataset.camera.focal_px,
        "center_px": dataset.camera.center_px,
        "cam_from_head": dataset.cam_from_head,
        "expression": dataset.expression,
        "landmarks_px": dataset.landmarks_px,
        "surface_m": dataset.surface_m,
        "lower_m": dataset.bounds.lower_m,
        "upper_m": dataset.bounds.upper_m,
        "clip_frame": dataset.clip_frame,
        "train": dataset.train,
        "held_out": dataset.held_out,
    }
    header = {
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "size_px": dataset.camera.size_px,
        "frame_rate_hz": dataset.frame_rate_hz,
    }
    with replacing(folder / _REST) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"manvatar.dataset": json.dumps(header)})


def load_dataset(folder: Path, run_id: str) -> Dataset | None:
    """The dataset of an earlier, interrupted run, or None when it is not there or was made from something else.

    Raises:
        UserError: it is there but broken.
    """
    path = folder / _REST
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["manvatar.dataset"])
            t = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read; delete it, or start again without --resume") from error
    if header["format_version"] != FORMAT_VERSION or header["run_id"] != run_id:
        return None
    size_px = (header["size_px"][0], header["size_px"][1])
    return Dataset(
        images=map_images(folder, len(t["cam_from_head"]), size_px, write=False),
        camera=Camera(t["focal_px"], t["center_px"], size_px),
        cam_from_head=t["cam_from_head"],
        expression=t["expression"],
        landmarks_px=t["landmarks_px"],
        surface_m=t["surface_m"],
        bounds=Box(t["lower_m"], t["upper_m"]),
        clip_frame=t["clip_frame"],
        train=t["train"],
        held_out=t["held_out"],
        frame_rate_hz=header["frame_rate_hz"],
    )
