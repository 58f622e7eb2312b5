"""Landmarks of a head whose shape, motion and camera are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.geometry import project, rigid, rotation_from_vector, transform, vector_from_rotation
from manvatar.types import LANDMARK_COUNT, Camera, FaceModel, Landmarks, LandmarkScheme, Track


@dataclass(frozen=True)
class Truth:
    """What a tracker should find, and the clean landmarks."""

    camera: Camera
    cam_from_head: Float[Tensor, "frames 4 4"]
    identity: Float[Tensor, "I"]
    expression: Float[Tensor, "frames E"]
    points_px: Float[Tensor, "frames landmarks 2"]


def band_limited(frames: int, columns: int, tau: float, generator: torch.Generator) -> Float[Tensor, "frames columns"]:
    """Gaussian noise of unit deviation, smoothed over ``tau`` frames."""
    reach = int(4 * tau) + 1
    noise = torch.randn(frames + 2 * reach, columns, generator=generator, dtype=torch.float64)
    time = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (time / tau) ** 2)
    kernel = kernel / kernel.square().sum().sqrt()
    return torch.nn.functional.conv1d(noise.T[:, None], kernel[None, None])[:, 0].T


def make_truth(
    model: FaceModel,
    frames: int,
    *,
    seed: int = 0,
    size_px: tuple[int, int] = (512, 512),
    focal_px: float = 1.35 * 512,
    yaw_sd_deg: float = 12.0,
    expression_sd: float = 1.0,
    scheme: LandmarkScheme = "ibug68",
    expression: Float[Tensor, "frames E"] | None = None,
) -> Truth:
    """A head turning and talking, its face about 40 % of the picture's height. Zero deviations make it static."""
    generator = torch.Generator().manual_seed(seed)
    turn = band_limited(frames, 3, 10, generator) * torch.tensor([0.4, 1.0, 0.3]) * math.radians(yaw_sd_deg)
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    rotation = rotation_from_vector(turn) @ facing
    sway = band_limited(frames, 3, 15, generator) * 0.01 * (yaw_sd_deg > 0)
    distance = focal_px * 0.18 / (0.4 * size_px[1])
    translation = sway + torch.tensor([0.0, 0.0, distance])
    talk = band_limited(frames, model.expression_basis_m.shape[0], 3, generator) * expression_sd
    expression = talk if expression is None else expression.double()
    identity = torch.randn(model.identity_basis_m.shape[0], generator=generator, dtype=torch.float64)
    camera = Camera(torch.tensor([focal_px, focal_px]), torch.tensor(size_px) / 2.0, size_px)
    mean, identity_basis, expression_basis = (x.double() for x in model.landmark_bases(scheme))
    points = mean + torch.einsum("i,inc->nc", identity, identity_basis)
    points = points + torch.einsum("fe,enc->fnc", expression, expression_basis)
    cam_from_head = rigid(rotation, translation)
    return Truth(camera, cam_from_head, identity, expression, project(camera, transform(cam_from_head, points)))


def observe(
    truth: Truth,
    scheme: LandmarkScheme = "ibug68",
    *,
    noise_px: float = 1.0,
    bias_px: float = 0.0,
    outliers: float = 0.0,
    missing: tuple[int, ...] = (),
    seed: int = 0,
) -> Landmarks:
    """What a detector would say: noise, a constant bias of each landmark, gross outliers of 25 px, lost frames."""
    generator = torch.Generator().manual_seed(seed + 1)
    frames = len(truth.points_px)
    shape = (frames, LANDMARK_COUNT[scheme], 2)
    points = truth.points_px + noise_px * torch.randn(shape, generator=generator, dtype=torch.float64)
    points = points + bias_px * torch.randn(1, *shape[1:], generator=generator, dtype=torch.float64)
    gross = torch.rand(*shape[:2], 1, generator=generator) < outliers
    points = points + gross * 25 * torch.randn(shape, generator=generator, dtype=torch.float64)
    confidence = torch.ones(shape[:2])
    detected = torch.ones(frames, dtype=torch.bool)
    rows = list(missing)
    points[rows], confidence[rows], detected[rows] = math.nan, 0, False
    return Landmarks(points.float(), confidence, detected, scheme)


def rotation_errors_deg(track: Track, truth: Truth, *, gauge: bool) -> Float[Tensor, "frames"]:
    """Angle between found and true rotations; with ``gauge`` after the best constant rotation of the head frame."""
    found, true = track.cam_from_head[:, :3, :3].double(), truth.cam_from_head[:, :3, :3]
    if gauge:
        left, _, right = torch.linalg.svd((found.transpose(1, 2) @ true)[track.valid].mean(0))
        flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.det(left @ right)))]).double())
        found = found @ (left @ flip @ right)
    return torch.rad2deg(vector_from_rotation(found @ true.transpose(1, 2)).norm(dim=1))
