"""Heads whose motion, shape and camera are known, what a detector would say of them, and how far a track is off.

A random identity turns and talks in front of a known camera; its landmarks are projected and then spoilt as detectors
spoil them. White noise alone flatters every tracker, hence bias that stays with the head, noise that is correlated in
time, gross outliers, lost frames and a hidden half of the face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.geometry import project, rigid, rotation_from_vector, transform, vector_from_rotation
from manvatar.tracking import landmarks_px
from manvatar.types import LANDMARK_COUNT, Camera, FaceModel, Landmarks, LandmarkScheme, Track

_FACE_M = 0.18  # height of a face, chin to hairline
_MIXED_M = 0.02  # how far biases of neighbouring landmarks agree
_AR_TAU = 5.0  # frames in which correlated noise falls to 1 / e


@dataclass(frozen=True)
class Scene:
    """How a head moves. Deviations of 0 make it still."""

    frames: int = 300
    yaw_sd_deg: float = 20.0  # pitch 0.4 and roll 0.3 of it
    turn_tau: float = 10.0  # frames over which turns are smooth
    expression_sd: float = 0.5  # the mean displacement of the face is then 1.8 mm (ICT), 2.0 mm (builtin)
    blinks: bool = False  # instead of random expressions: three blinks and an open mouth of four frames each
    size_px: tuple[int, int] = (512, 512)
    focal_px: float = 1.35 * 512
    face_share: float = 0.48  # of the picture's height
    scheme: LandmarkScheme = "mediapipe478"
    seed: int = 0


@dataclass(frozen=True)
class Truth:
    """What a tracker should find, and the clean landmarks; float64."""

    model: FaceModel
    camera: Camera
    cam_from_head: Float[Tensor, "frames 4 4"]
    identity: Float[Tensor, "I"]
    expression: Float[Tensor, "frames E"]
    neutral_m: Float[Tensor, "landmarks 3"]
    moved_m: Float[Tensor, "frames landmarks 3"]  # displacement of the landmarks by the expression
    points_px: Float[Tensor, "frames landmarks 2"]
    unit_px: float  # distance of the outer eye corners, seen from the front

    @property
    def unit_m(self) -> float:
        """Distance of the outer eye corners."""
        first, second = (33, 263) if len(self.neutral_m) == 478 else (36, 45)
        return float((self.neutral_m[first] - self.neutral_m[second]).norm())


@dataclass(frozen=True)
class Spoiling:
    """What a detector does to landmarks. Lengths in pixels, or in fractions of the outer eye corners' distance."""

    noise_px: float = 1.0  # white, each axis
    bias: float = 0.0  # rms length of a displacement that each landmark keeps in the head frame
    correlated_px: float = 0.0  # AR(1) noise, each axis
    outliers: float = 0.0  # share of points that are 25 px (standard deviation, each axis) off
    lost: float = 0.0  # share of frames without a face, in runs of up to five
    hidden: float = 0.0  # share of the clip in which the left half of the face is guessed: AR(1) of 4 % of the unit
    seed: int = 0


def band_limited(frames: int, columns: int, tau: float, generator: torch.Generator) -> Float[Tensor, "frames columns"]:
    """Gaussian noise of unit deviation, smoothed over ``tau`` frames."""
    reach = int(4 * tau) + 1
    noise = torch.randn(frames + 2 * reach, columns, generator=generator, dtype=torch.float64)
    time = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (time / tau) ** 2)
    kernel = kernel / kernel.square().sum().sqrt()
    return torch.nn.functional.conv1d(noise.T[:, None], kernel[None, None])[:, 0].T


def make_truth(model: FaceModel, scene: Scene) -> Truth:
    """A head of ``model`` with a random identity that moves as ``scene`` says."""
    generator = torch.Generator().manual_seed(scene.seed)
    shares = torch.tensor([0.4, 1.0, 0.3], dtype=torch.float64)
    turn = band_limited(scene.frames, 3, scene.turn_tau, generator) * shares * math.radians(scene.yaw_sd_deg)
    facing = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    sway = band_limited(scene.frames, 3, 1.5 * scene.turn_tau, generator) * 0.01 * (scene.yaw_sd_deg > 0)
    distance = scene.focal_px * _FACE_M / (scene.face_share * scene.size_px[1])
    cam_from_head = rigid(rotation_from_vector(turn) @ facing, sway + torch.tensor([0.0, 0.0, distance]))
    talk = band_limited(scene.frames, model.expression_basis_m.shape[0], 3.0, generator) * scene.expression_sd
    expression = impulses(model, scene.frames) if scene.blinks else talk
    identity = torch.randn(model.identity_basis_m.shape[0], generator=generator, dtype=torch.float64)
    camera = Camera(torch.full((2,), scene.focal_px), torch.tensor(scene.size_px) / 2.0, scene.size_px)
    mean, identity_basis, expression_basis = (x.double() for x in model.landmark_bases(scene.scheme))
    neutral = mean + torch.einsum("i,inc->nc", identity, identity_basis)
    moved = torch.einsum("fe,enc->fnc", expression, expression_basis)
    points = project(camera, transform(cam_from_head, neutral + moved))
    truth = Truth(model, camera, cam_from_head, identity, expression, neutral, moved, points, 1.0)
    return Truth(**{**truth.__dict__, "unit_px": scene.focal_px / distance * truth.unit_m})


def impulses(model: FaceModel, frames: int) -> Float[Tensor, "frames E"]:
    """Blinks at 0.2, 0.5 and 0.8 of the clip and an open mouth at 0.35, four frames each.

    Raises:
        ValueError: the model's expressions have no names of that kind.
    """
    names = model.expression_names
    expression = torch.zeros(frames, len(names), dtype=torch.float64)
    impulse = torch.tensor([0.7, 2.0, 2.0, 0.7], dtype=torch.float64)
    for share, name in ((0.2, "eyeBlink"), (0.35, "jawOpen"), (0.5, "eyeBlink"), (0.8, "eyeBlink")):
        start, found = int(share * frames), [k for k, own in enumerate(names) if own.startswith(name)]
        if not found:
            raise ValueError(f"impulses: {model.id} has no expression {name}")
        expression[start : start + len(impulse), found] = impulse[:, None]
    return expression


def observe(truth: Truth, spoiling: Spoiling) -> Landmarks:
    """What a detector with these faults says about the head."""
    generator = torch.Generator().manual_seed(spoiling.seed + 1)
    scheme: LandmarkScheme = "mediapipe478" if truth.points_px.shape[1] == 478 else "ibug68"
    frames, count = len(truth.points_px), LANDMARK_COUNT[scheme]
    points = truth.points_px
    if spoiling.bias:
        shift = _mixed(truth.neutral_m, generator) * spoiling.bias * truth.unit_m / 3**0.5
        points = project(truth.camera, transform(truth.cam_from_head, truth.neutral_m + shift + truth.moved_m))
    points = points + spoiling.noise_px * _normal(generator, frames, count, 2)
    if spoiling.correlated_px:
        points = points + spoiling.correlated_px * _autoregressive(generator, frames, count)
    if spoiling.hidden:
        span = slice(int(0.3 * frames), int((0.3 + spoiling.hidden) * frames))
        left = truth.neutral_m[:, 0] > 0
        guessed = points + 0.04 * truth.unit_px * _autoregressive(generator, frames, count)
        points = points.clone()
        points[span, left] = guessed[span, left]
    gross = torch.rand(frames, count, 1, generator=generator) < spoiling.outliers
    points = points + gross * 25 * _normal(generator, frames, count, 2)
    detected = ~lost_frames(frames, spoiling.lost, generator)
    points = torch.where(detected[:, None, None], points, math.nan)
    confidence = detected[:, None].expand(frames, count).float()
    return Landmarks(points.float(), confidence, detected, scheme)


def lost_frames(frames: int, share: float, generator: torch.Generator) -> Bool[Tensor, "frames"]:
    """Runs of one to five frames until ``share`` of them is covered."""
    lost = torch.zeros(frames, dtype=torch.bool)
    while int(lost.sum()) < share * frames:
        start, length = (
            int(torch.randint(low, high, (1,), generator=generator)) for low, high in ((0, frames), (1, 6))
        )
        lost[start : start + length] = True
    return lost


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _autoregressive(generator: torch.Generator, frames: int, count: int) -> Float[Tensor, "frames count 2"]:
    noise = _normal(generator, frames, count, 2)
    keep = math.exp(-1 / _AR_TAU)
    for frame in range(1, frames):
        noise[frame] = keep * noise[frame - 1] + math.sqrt(1 - keep**2) * noise[frame]
    return noise


def _mixed(points_m: Float[Tensor, "n 3"], generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Unit variance each axis: half of it each point's own, half shared with its neighbours."""
    near = torch.exp(-0.5 * (torch.cdist(points_m, points_m) / _MIXED_M) ** 2)
    near = near / near.square().sum(1, keepdim=True).sqrt()
    return (near @ _normal(generator, len(points_m), 3) + _normal(generator, len(points_m), 3)) / 2**0.5


@dataclass(frozen=True)
class Errors:
    """How far a track is from the truth, over its valid frames."""

    rotation_deg: float  # mean angle
    rotation_gauge_deg: float  # after the best constant rotation of the head frame
    rotation_p95_deg: float  # of the same, 95th percentile
    shift_mm: float  # mean distance across the line of sight, after the best constant shift
    depth: float  # mean relative error, after the best constant factor
    reprojection_px: float  # rms distance from the true landmarks that are fitted
    identity_mm: float  # rms of the neutral landmarks after a similarity
    expression: float  # mean error of the displacements over their mean true length
    expression_gauge: float  # the same with the clip's mean taken from both
    jitter_deg: float  # rms second difference of the rotation's error, over sqrt(6): noise from frame to frame
    lost: int  # detected frames that the track gives up


def rotation_errors_deg(track: Track, truth: Truth) -> Float[Tensor, "frames"]:
    """Angles between found and true rotations, after the constant one of the head frame that fits valid frames best."""
    found, true = track.cam_from_head[:, :3, :3].double(), truth.cam_from_head[:, :3, :3]
    return _angle_deg(found @ _best_rotation((found.transpose(1, 2) @ true)[track.valid].mean(0)), true)


def errors(track: Track, face_model: FaceModel, truth: Truth, landmarks: Landmarks) -> Errors:
    """Compare a track made with ``face_model`` with the truth, at the landmarks both models have."""
    scheme = landmarks.scheme
    valid = track.valid
    found, true = track.cam_from_head.double()[valid], truth.cam_from_head[valid]
    gauge = _best_rotation((found[:, :3, :3].transpose(1, 2) @ true[:, :3, :3]).mean(0))
    angle = rotation_errors_deg(track, truth)[valid]
    both = (face_model.embedding(scheme).weight > 0) & (truth.model.embedding(scheme).weight > 0)
    both[468:] = False  # irises move with the gaze
    mean, identity_basis, expression_basis = (x.double()[..., both, :] for x in face_model.landmark_bases(scheme))
    offsets = track.landmark_offsets_m.double()[both]
    neutral = mean + torch.einsum("i,inc->nc", track.identity.double(), identity_basis) + offsets
    moved = torch.einsum("fe,enc->fnc", track.expression.double()[valid], expression_basis) @ gauge
    expected = truth.moved_m[valid][:, both]
    length = expected.norm(dim=-1).mean().clamp_min(1e-9)
    free, free_expected = moved - moved.mean(0), expected - expected.mean(0)
    centre = _centres(found, neutral.mean(0)), _centres(true, truth.neutral_m[both].mean(0))
    ratio = centre[0][:, 2] / centre[1][:, 2]
    side = (centre[0] / ratio[:, None] - centre[1])[:, :2]
    pixels = landmarks_px(track, face_model).double()[valid][:, both] - truth.points_px[valid][:, both]
    return Errors(
        rotation_deg=float(_angle_deg(found[:, :3, :3], true[:, :3, :3]).mean()),
        rotation_gauge_deg=float(angle.mean()),
        rotation_p95_deg=float(angle.quantile(0.95)),
        shift_mm=1000 * float((side - side.mean(0)).norm(dim=1).mean()),
        depth=float((ratio / ratio.median() - 1).abs().mean()),
        reprojection_px=float(pixels.square().sum(-1).mean().sqrt()),
        identity_mm=1000 * similarity_rms(neutral, truth.neutral_m[both]),
        expression=float((moved - expected).norm(dim=-1).mean() / length),
        expression_gauge=float((free - free_expected).norm(dim=-1).mean() / length),
        jitter_deg=jitter_deg(found[:, :3, :3] @ gauge @ true[:, :3, :3].transpose(1, 2)),
        lost=int((landmarks.detected & ~valid).sum()),
    )


def gain(found: Float[Tensor, "frames"], true: Float[Tensor, "frames"]) -> float:
    """Slope of what was found over what is true, both without their means."""
    found, true = found.double() - found.double().mean(), true.double() - true.double().mean()
    return float((found * true).sum() / (true * true).sum().clamp_min(1e-12))


def openings(points_px: Float[Tensor, "frames landmarks 2"], pairs: tuple) -> Float[Tensor, "frames"]:
    """Mean distance of paired lid or lip points."""
    upper, lower = (list(side) for side in zip(*pairs, strict=True))
    return (points_px[:, upper] - points_px[:, lower]).norm(dim=-1).mean(1)


def similarity_rms(found: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"]) -> float:
    """Rms distance after the best similarity (Umeyama 1991), in the units of ``true``."""
    source, target = found - found.mean(0), true - true.mean(0)
    rotation = _best_rotation(source.T @ target)
    turned = source @ rotation
    scale = (turned * target).sum() / turned.square().sum()
    return float((scale * turned - target).square().sum(-1).mean().sqrt())


def _centres(cam_from_head: Float[Tensor, "f 4 4"], point_m: Float[Tensor, "3"]) -> Float[Tensor, "f 3"]:
    return transform(cam_from_head, point_m.expand(len(cam_from_head), 1, 3))[:, 0]


def _best_rotation(moment: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation nearest to a matrix (Kabsch 1976)."""
    left, _, right = torch.linalg.svd(moment)
    sign = torch.ones(3, dtype=moment.dtype)
    sign[2] = torch.sign(torch.det(left @ right))
    return left @ torch.diag(sign) @ right


def _angle_deg(one: Float[Tensor, "f 3 3"], two: Float[Tensor, "f 3 3"]) -> Float[Tensor, "f"]:
    return torch.rad2deg(vector_from_rotation(one @ two.transpose(1, 2)).norm(dim=1))


def jitter_deg(rotation: Float[Tensor, "f 3 3"], *, typical: bool = False) -> float:
    """Noise of rotations from frame to frame: rms second difference over sqrt(6), each axis, degrees.

    Args:
        typical: from the median instead, which is the same for noise and does not count rare fast motion.
    """
    velocity = vector_from_rotation(rotation[1:] @ rotation[:-1].transpose(1, 2))
    second = torch.rad2deg(velocity[1:] - velocity[:-1])
    size = 1.4826 * second.abs().median() if typical else second.square().mean().sqrt()
    return float(size) / 6**0.5
