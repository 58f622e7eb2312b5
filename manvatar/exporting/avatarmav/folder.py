"""Dataset folders of AvatarMAV's released code.

    images/img_%05d.jpg     the square crop, numbered from 0 without gaps
    images/mask_%05d.jpg    its matte; a missing one counts as all head
    params/params_%05d.npz  pose (1, 6), scale (1,), exp_coeff (1, 64), id_coeff (1, 80)

Poses and the camera that all frames share: :mod:`manvatar.exporting.avatarmav.camera`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from manvatar.dataset.bounds import head_bounds
from manvatar.dataset.split import split_tail
from manvatar.dataset.store import map_images, save_dataset
from manvatar.errors import UserError
from manvatar.exporting.avatarmav.camera import (
    density_scale_per_m,
    from_released,
    refitted_poses,
    released_camera,
    scale_at_distance,
    to_released,
)
from manvatar.exporting.avatarmav.parameters import (
    FACE_MODEL,
    FrameParameters,
    expression_names,
    read_parameters,
    write_parameters,
)
from manvatar.face_models import load
from manvatar.fields import PaperFieldConfig
from manvatar.files import make_folder, replacing
from manvatar.geometry import project, transform
from manvatar.types import Clip, Dataset, FaceModel, Track

_QUALITY = 95  # of JPEG files
_SIZE_STEP_PX = 8
_HULL_FRAMES = 32
_FRAME_RATE_HZ = 25.0

Progress = Callable[[int, int], None]  # (frames done, frames in all)


@dataclass(frozen=True)
class Export:
    """What :func:`write_folder` wrote."""

    frames: int
    scale: float  # of every frame
    residual_px: Float[Tensor, "frames"]  # rms: how far our camera and theirs disagree about the face's points


def write_folder(
    dataset: Dataset,
    points_m: Float[Tensor, "frames points 3"],
    folder: Path,
    rows: Int[Tensor, "some"] | None = None,
    progress: Progress | None = None,
) -> Export:
    """Write frames of a dataset so that the released code trains on them unchanged.

    That code has one camera, which sees heads from far away. Poses are fitted to it anew so that the points of the
    face stay where they are in the picture; what perspective makes of the rest cannot be kept.

    Args:
        points_m: of the face in each frame of the dataset, head frame (``manvatar.tracking.landmarks_head_m``).
        rows: which frames; None = those to train on. The released code has no held-out frames.
        progress: called after every frame.

    Raises:
        UserError: the images are not square, there are frames already in the folder, or it cannot be written.
    """
    rows = dataset.train if rows is None else rows
    width, height = dataset.camera.size_px
    if width != height:
        raise UserError(f"AvatarMAV's images are square, but these are {width} x {height}")
    images = make_folder(folder / "images")
    make_folder(folder / "params")
    if any(images.glob("img_*")):
        raise UserError(f"{images} holds frames already; choose an empty folder")
    config = PaperFieldConfig()
    target = released_camera(width)
    poses, residual = refitted_poses(dataset.camera, dataset.cam_from_head[rows], points_m[rows], target)
    scale = scale_at_distance(poses, config)
    parameters = FrameParameters(
        to_released(poses, scale, config).float(), torch.full((len(rows),), scale), dataset.expression[rows]
    )
    write_parameters(folder, parameters)
    for index, row in enumerate(rows.tolist()):
        rgba = dataset.images[row].numpy()
        for name, pixels in (("img", rgba[..., :3]), ("mask", rgba[..., 3:].repeat(3, -1))):
            with replacing(images / f"{name}_{index:05d}.jpg") as temporary:
                Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, quality=_QUALITY, subsampling=0)
        if progress is not None:
            progress(index + 1, len(rows))
    return Export(len(rows), scale, residual)


def folder_clip(folder: Path) -> Clip:
    """What a folder is as a video: its frames, at 25 Hz, which it does not say.

    Raises:
        UserError: it is no dataset folder of AvatarMAV.
    """
    count = len(read_parameters(folder).pose)
    height, width = _read(_image_path(folder, "img", 0)).shape[:2]
    return Clip(folder, _FRAME_RATE_HZ, (width, height), count)


def folder_track(dataset: Dataset) -> Track:
    """The track of what :func:`read_folder` read; its landmarks and identity are unknown and 0."""
    count, expressions = dataset.expression.shape
    return Track(
        camera=dataset.camera,
        cam_from_head=dataset.cam_from_head,
        identity=torch.zeros(0),
        expression=dataset.expression,
        landmark_offsets_m=torch.zeros(68, 3),
        residual_px=torch.zeros(count),
        valid=torch.ones(count, dtype=torch.bool),
        frame_rate_hz=dataset.frame_rate_hz,
        landmark_scheme="ibug68",
        face_model=FACE_MODEL,
        expression_names=expression_names(expressions),
        focal_source="given",
    )


def folder_config(folder: Path, config: PaperFieldConfig) -> PaperFieldConfig:
    """``config`` with densities that weigh what they weigh in the released code on this folder."""
    scale = float(read_parameters(folder).scale.median())
    return replace(config, density_scale_per_m=density_scale_per_m(scale, config.unit_m))


def read_folder(
    folder: Path,
    work: Path,
    run_id: str,
    holdout: float = 0.1,
    frame_rate_hz: float = _FRAME_RATE_HZ,
    progress: Progress | None = None,
) -> Dataset:
    """A dataset from a folder; its images go to ``work``, as those of :func:`manvatar.dataset.build_dataset`.

    The folder says nothing of landmarks and of the face's shape: those of the builtin face model's mean stand in, which
    is near enough for crops of mouth and eyes and a first guess of depth.

    Args:
        run_id: what the dataset was made from; :func:`manvatar.dataset.load_dataset` asks for the same.
        holdout: last part that is not trained on: below 1 a fraction, otherwise a number of frames.

    Raises:
        UserError: a file is missing or not what it should be, images differ in size, or too few frames are left.
    """
    parameters, config = read_parameters(folder), PaperFieldConfig()
    count = len(parameters.pose)
    every = torch.ones(count, dtype=torch.bool)
    train, held_out = split_tail(every, ~every, holdout)
    width, height = _read(_image_path(folder, "img", 0)).shape[1::-1]
    if width != height or width % _SIZE_STEP_PX:
        raise UserError(f"the images of {folder} are {width} x {height}; expected squares, a multiple of 8 wide")
    images = map_images(make_folder(work), count, (width, height), write=True)
    for index in range(count):
        images[index] = torch.from_numpy(_rgba(folder, index, width))
        if progress is not None:
            progress(index + 1, count)
    camera, poses = released_camera(width), from_released(parameters.pose, parameters.scale, config)
    some = train[torch.linspace(0, len(train) - 1, min(_HULL_FRAMES, len(train))).long()]
    model = load("builtin")
    landmarks_m, _, _ = model.landmark_bases("ibug68")
    dataset = Dataset(
        images=images,
        camera=camera,
        cam_from_head=poses,
        expression=parameters.expression,
        landmarks_px=project(camera, transform(poses, landmarks_m.float().expand(count, -1, -1))),
        surface_m=_skin_m(model),
        bounds=head_bounds(images[some][..., 3].float() / 255, camera, poses[some]),
        clip_frame=torch.arange(count),
        train=train,
        held_out=held_out,
        frame_rate_hz=frame_rate_hz,
    )
    save_dataset(dataset, work, run_id)
    return dataset


def _skin_m(model: FaceModel) -> Float[Tensor, "vertices 3"]:
    """Vertices of the mean face that can be seen from outside."""
    if model.vertex_part is None:
        return model.mean_m.float()
    inner = ("eyeball", "teeth", "mouth", "tongue")
    outer = [index for index, name in enumerate(model.part_names) if not any(word in name for word in inner)]
    return model.mean_m[torch.isin(model.vertex_part, torch.tensor(outer))].float()


def _rgba(folder: Path, index: int, size_px: int) -> np.ndarray:
    """One frame with its matte, (size, size, 4) uint8."""
    image, mask_path = _read(_image_path(folder, "img", index)), _image_path(folder, "mask", index)
    mask = _read(mask_path)[..., :1] if mask_path.is_file() else np.full_like(image[..., :1], 255)
    if image.shape != (size_px, size_px, 3) or mask.shape != (size_px, size_px, 1):
        raise UserError(f"frame {index} of {folder} has another size than the first; all must be {size_px} pixels wide")
    return np.concatenate([image, mask], -1)


def _image_path(folder: Path, name: str, index: int) -> Path:
    return folder / "images" / f"{name}_{index:05d}.jpg"


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; frames are numbered from 0 without gaps") from error
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); copy it again") from error
