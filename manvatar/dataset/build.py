"""From a tracked clip to the square, matted crops an avatar is trained and scored on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from manvatar.dataset.bounds import head_bounds
from manvatar.dataset.crop import Crop, fitted_crop, head_crop
from manvatar.dataset.split import split_extreme, split_tail
from manvatar.dataset.store import map_images, save_dataset
from manvatar.matting import ClipMatte
from manvatar.threads import one_thread
from manvatar.tracking import landmarks_head_m, landmarks_px
from manvatar.types import Clip, Dataset, FaceModel, Track
from manvatar.video import ahead, frames, some_frames

Progress = Callable[[int, int], None]  # (frames done, frames in all)

_SAMPLE_FRAMES = 16  # looked at to learn the neck's cut and how large the head with its hair is
_HULL_FRAMES = 32


@dataclass(frozen=True)
class DatasetConfig:
    """What the dataset of a clip is made like."""

    size_px: int = 256  # of the square images, a multiple of 8
    holdout: float = 0.1  # below 1 a fraction of the clip, otherwise a number of frames
    holdout_kind: Literal["tail", "extreme"] = "tail"  # the last part of the clip, or what is turned furthest


def build_dataset(
    clip: Clip,
    track: Track,
    face_model: FaceModel,
    duplicate: Bool[Tensor, "frames"],
    folder: Path,
    config: DatasetConfig,
    run_id: str,
    progress: Progress | None = None,
) -> Dataset:
    """Crop and matte every frame of a clip; write the dataset into ``folder`` and return it.

    Args:
        track: of the same clip.
        face_model: the one the track was made with.
        duplicate: frames that repeat their predecessor.
        run_id: what the dataset was made from; :func:`manvatar.dataset.load_dataset` asks for the same.
        progress: called after every frame.

    Raises:
        UserError: too few usable frames, or the folder cannot be written.
    """
    if config.holdout_kind == "extreme":
        train, held_out = split_extreme(track.valid, duplicate, track.cam_from_head, config.holdout)
    else:
        train, held_out = split_tail(track.valid, duplicate, config.holdout)
    landmarks_m = landmarks_head_m(track, face_model, "ibug68")
    with one_thread():
        crop, matte = _look_at_samples(clip, track, landmarks_m, config.size_px)
        camera = crop.camera(track.camera)
        images = map_images(folder, clip.frame_count, camera.size_px, write=True)
        _fill(images, clip, crop, matte, progress)
    some = train[torch.linspace(0, len(train) - 1, min(_HULL_FRAMES, len(train))).long()]
    poses = track.cam_from_head.float()
    dataset = Dataset(
        images=images,
        camera=camera,
        cam_from_head=poses,
        expression=track.expression.float(),
        landmarks_px=_in_crop(landmarks_px(track, face_model, "ibug68").float(), crop),
        surface_m=_surface_m(track, face_model),
        bounds=head_bounds(images[some][..., 3].float() / 255, camera, poses[some]),
        clip_frame=torch.arange(clip.frame_count),
        train=train,
        held_out=held_out,
        frame_rate_hz=clip.frame_rate_hz,
    )
    save_dataset(dataset, folder, run_id)
    return dataset


def _fill(images: Tensor, clip: Clip, crop: Crop, matte: ClipMatte, progress: Progress | None) -> None:
    """Write crop and matte of every frame into ``images`` (frames, size, size, 4)."""
    context = crop.context()

    def crops() -> Generator[tuple[int, Tensor]]:
        for frame in frames(clip):
            yield frame.index, context.cut(frame.image)

    def roughs() -> Generator[tuple[int, Tensor, Tensor]]:
        for index, wide in ahead(crops()):
            yield index, wide, matte.rough_person(wide)

    def persons() -> Generator[tuple[int, Tensor, Tensor]]:
        for index, wide, rough in ahead(roughs()):
            yield index, wide, matte.person_alpha(wide, rough)

    for index, wide, person_alpha in ahead(persons()):
        alpha = crop.inner(matte.head_alpha(index, wide, person_alpha))
        images[index, :, :, :3] = crop.inner(wide)
        images[index, :, :, 3] = (alpha * 255).round().to(torch.uint8)
        if progress is not None:
            progress(index + 1, clip.frame_count)


def _look_at_samples(clip: Clip, track: Track, landmarks_m: Tensor, size_px: int) -> tuple[Crop, ClipMatte]:
    """Learn from a few frames how large the head is and where the neck ends: the final crop, and the matte for it."""
    usable = track.valid.nonzero()[:, 0]
    chosen = usable[torch.linspace(0, len(usable) - 1, min(_SAMPLE_FRAMES, len(usable))).round().long()].unique()
    generous = head_crop(track, size_px).context()
    images = [(frame.index, generous.cut(frame.image)) for frame in some_frames(clip, chosen.tolist())]
    poses = track.cam_from_head.float()
    rough = ClipMatte(landmarks_m, poses, generous.camera(track.camera))
    rough.fit(images)
    alphas = torch.stack([rough(index, image) for index, image in images])
    crop = fitted_crop(generous, alphas, size_px)
    matte = ClipMatte(landmarks_m, poses, crop.context().camera(track.camera))
    matte.head = rough.head  # what was learnt about the neck lies in the head frame: it holds for any crop
    return crop, matte


def _in_crop(pixels: Tensor, crop: Crop) -> Tensor:
    return (pixels - torch.tensor([crop.left_px, crop.top_px])) * crop.scale


def _surface_m(track: Track, face_model: FaceModel) -> Tensor:
    """Skin vertices of the tracked person at the mean expression: what lies inside says nothing about the front."""
    vertices = face_model.vertices_m(track.identity.float(), track.face_expression[track.valid].float().mean(0))
    if face_model.vertex_part is None:
        return vertices
    skin = [
        index for index, name in enumerate(face_model.part_names) if name in ("face", "neck", "skin", "head", "skull")
    ]
    return vertices[torch.isin(face_model.vertex_part, torch.tensor(skin))]
