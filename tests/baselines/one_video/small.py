"""A person small enough to learn in seconds: the ellipsoid head, whose lips open with its first coefficient."""

from __future__ import annotations

import dataclasses

import torch
from ellipsoid import ellipsoid_camera, ellipsoid_dataset, landmarks_head_m

from manvatar.baselines.one_video import LandmarkRig, NetworkConfig, OneVideoConfig, PortraitTrainer
from manvatar.baselines.one_video.config import PortraitLossConfig
from manvatar.face_models import load
from manvatar.types import Clip, Dataset, FaceModel, Track

CONFIG = OneVideoConfig(
    iterations=150,
    images_per_iteration=8,
    rate=3e-3,
    adaptive_rate=3e-3,
    warmup_iterations=10,
    average_decay=0.9,
    augmentation=0.0,
    precision="float32",
    loss=PortraitLossConfig(mouth=0.5),
    network=NetworkConfig(width=8, max_width=32, image_size_px=32),
)


def small_rig() -> LandmarkRig:
    points = landmarks_head_m()
    moved = torch.zeros(2, 68, 3)
    lips = slice(48, 68)
    moved[0, lips, 1] = 0.9 * (points[lips, 1] - points[lips, 1].mean())
    return LandmarkRig(points, moved)


def small_dataset(frames: int = 40, held_out: int = 6, size_px: int = 32) -> Dataset:
    """As the ellipsoid's, with lips that follow the mouth."""
    dataset, rig = ellipsoid_dataset(frames, held_out, size_px), small_rig()
    keypoints = rig.keypoints(dataset.expression, dataset.cam_from_head, ellipsoid_camera(size_px))
    return dataclasses.replace(dataset, landmarks_px=(keypoints.view(frames, 68, 2) + 1) / 2 * size_px)


def small_trainer(dataset: Dataset, model: str = "bilayer", seed: int = 0, **changes: object) -> PortraitTrainer:
    return PortraitTrainer(dataset, model, dataclasses.replace(CONFIG, **changes), seed)


def builtin_track(frames: int = 3) -> tuple[Track, FaceModel]:
    """A track of the builtin face with an identity, personal offsets and expressions at random."""
    model = load("builtin")
    generator = torch.Generator().manual_seed(3)
    camera = ellipsoid_camera(64)
    poses = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])).expand(frames, 4, 4).clone()
    poses[:, 2, 3] = torch.linspace(0.5, 0.7, frames)
    track = Track(
        camera=camera,
        cam_from_head=poses,
        identity=torch.randn(len(model.identity_basis_m), generator=generator),
        expression=torch.randn(frames, len(model.expression_names), generator=generator),
        landmark_offsets_m=1e-3 * torch.randn(478, 3, generator=generator),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model=model.id,
        expression_names=model.expression_names,
    )
    return track, model


def clip_at(path: object) -> Clip:
    return Clip(path, 25.0, (64, 64), 3)
