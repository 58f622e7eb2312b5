"""The demo clip: a person this project has made up talks to the camera; everything about the clip is known."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from manvatar.errors import UserError
from manvatar.face_models.builtin import build_head, load
from manvatar.synthesis.motion import Motion, make_motion, rotation_from_angles
from manvatar.synthesis.scene import Person, make_person, make_torso
from manvatar.synthesis.shading import Backdrop, make_background, shade_frame
from manvatar.synthesis.textures import random_colors
from manvatar.types import Camera, Track
from manvatar.video import writer

PIVOT_M = np.array([0.0, -0.080, -0.085])  # head frame: where the head turns on the neck
# Neck skin above the first height (m) goes with the head, below the second it stays with the body.
NECK_M = (-0.105, -0.165)
EYES_AT_M = np.array([0.0, -0.030, 0.585])  # camera frame, looking straight ahead
FOCAL = 1.5  # in picture sizes
LOOKING_AHEAD = np.diag([1.0, -1.0, -1.0])  # cam_from_head


@dataclass(frozen=True)
class Scene:
    """All that is needed to draw any frame."""

    person: Person
    backdrop: Backdrop  # with the torso
    neck: np.ndarray  # (V,) 1 where a vertex stays with the body
    focal_px: float
    center_px: np.ndarray

    def draw(self, expression: np.ndarray, cam_from_head: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 for coefficients (E,) and a pose (4, 4)."""
        vertices = self.person.vertices_m(expression)
        moving = vertices @ cam_from_head[:3, :3].T + cam_from_head[:3, 3]
        still = vertices @ LOOKING_AHEAD.T + EYES_AT_M
        moving += self.neck[:, None] * (still - moving)
        return shade_frame(moving, self.person.paint, self.focal_px, self.center_px, self.backdrop)


def make_clip(
    path: str | os.PathLike[str],
    *,
    frames: int = 250,
    size_px: int = 512,
    frame_rate_hz: float = 25.0,
    seed: int = 5,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Track:
    """Write the clip as H.264 and return the truth about it.

    The same arguments give the same clip (but for rounding). The last tenth shows no pose and no expression beyond
    what the frames before it have shown.

    Args:
        path: ends in ``.mp4``, ``.mov`` or ``.mkv``.
        size_px: side of the square picture.
        seed: picks the person, the room and the motion.
        workers: frames drawn at once, by default one per processor core.
        progress: called with the number of frames that are done.

    Returns: camera, poses, identity and expression in the terms of the builtin face model; every frame valid.

    Raises:
        UserError: no frames or too small a size were asked for, or the path cannot be written to.
    """
    if frames < 1 or not 64 <= size_px <= 4096 or frame_rate_hz <= 0:
        raise UserError(
            f"cannot make a clip of {frames} frames of {size_px} pixels at {frame_rate_hz:g} Hz; "
            "give at least one frame, 64 to 4096 pixels and a positive rate"
        )
    track = make_track(frames, size_px, frame_rate_hz, seed)
    with writer(Path(path), frame_rate_hz, (size_px, size_px), synthetic=True) as video:
        for done, image in enumerate(_drawn(make_scene(track, seed), track, workers or os.cpu_count() or 1), 1):
            video.write(image)
            if progress is not None:
                progress(done)
    return track


def make_track(frames: int, size_px: int, frame_rate_hz: float, seed: int) -> Track:
    """The truth alone, without a picture being drawn."""
    model = load()
    motion = make_motion(frames, frame_rate_hz, model.expression_names, _lip_apertures_mm(), seed)
    identity = 0.6 * np.random.default_rng(seed).standard_normal(model.identity_basis_m.shape[0])
    camera = Camera(torch.full((2,), FOCAL * size_px), torch.full((2,), size_px / 2), (size_px, size_px))
    return Track(
        camera=camera,
        cam_from_head=torch.from_numpy(_poses(motion)).float(),
        identity=torch.from_numpy(identity).float(),
        expression=torch.from_numpy(motion.expression).float(),
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        frame_rate_hz=float(frame_rate_hz),
        landmark_scheme="mediapipe478",
        face_model=model.id,
        expression_names=model.expression_names,
        focal_source="given",
    )


def make_scene(track: Track, seed: int) -> Scene:
    """Person, clothes and room for a track that :func:`make_track` has made with the same seed."""
    person = make_person(track.identity.numpy(), random_colors(np.random.default_rng(seed + 1)), seed)
    torso, paint = make_torso(seed)
    focal, center = float(track.camera.focal_px[0]), track.camera.center_px.double().numpy()
    room = make_background(track.camera.size_px, seed)
    backdrop = room.with_mesh(torso @ LOOKING_AHEAD.T + EYES_AT_M, paint, focal, center)
    depth = (NECK_M[0] - person.neutral_m[:, 1]) / (NECK_M[0] - NECK_M[1])
    neck = np.clip(depth, 0, 1)
    # The chin hangs over the neck: it is part of the head however low it is.
    neck *= np.clip((-0.030 - person.neutral_m[:, 2]) / 0.02, 0, 1)
    return Scene(person, backdrop, neck**2 * (3 - 2 * neck), focal, center)


def _drawn(scene: Scene, track: Track, workers: int) -> Iterator[np.ndarray]:
    """The pictures in order; a few are drawn ahead, NumPy leaving the interpreter free meanwhile."""
    expression, poses = track.expression.double().numpy(), track.cam_from_head.double().numpy()
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque = deque()
        for index in range(track.frame_count):
            ahead.append(pool.submit(scene.draw, expression[index], poses[index]))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _poses(motion: Motion) -> np.ndarray:
    """``cam_from_head`` (F, 4, 4): turned about the pivot, which shifts a little."""
    rotation = rotation_from_angles(motion.angles_rad)
    pivot = LOOKING_AHEAD @ PIVOT_M + EYES_AT_M + motion.shift_m
    poses = np.tile(np.eye(4), (len(rotation), 1, 1))
    poses[:, :3, :3] = rotation
    poses[:, :3, 3] = pivot - rotation @ PIVOT_M
    return poses


def _lip_apertures_mm() -> np.ndarray:
    """(P, E): how much one standard deviation of each mode parts the lips at places along the slit."""
    head, model = build_head(), load()
    row = head.skin.rows["mouth"]
    x = head.vertices[head.skin.upper[row], 0]
    columns = np.flatnonzero((head.skin.upper[row] != head.skin.lower[row]) & (np.abs(x) < 19))[::2]
    basis = model.expression_basis_m.numpy()[..., 1] * 1e3
    return (basis[:, head.skin.upper[row, columns]] - basis[:, head.skin.lower[row, columns]]).T
