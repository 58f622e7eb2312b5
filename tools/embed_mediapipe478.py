"""Make ``manvatar/face_models/builtin/mediapipe478.py``: where the 478 MediaPipe points are on the builtin head.

Renders textured builtin heads of several people, poses and expressions, runs the real network on the pictures, takes
each detected point to the skin (or eyeball) seen there, back to the mean head, and combines the views by medians, then
both sides by mirroring. Needs the landmark models (``python -m manvatar.models fetch``); takes about a minute.

    python tools/embed_mediapipe478.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from manvatar.face_models.builtin import build_head, load
from manvatar.face_models.builtin.head import PARTS
from manvatar.face_models.builtin.landmarks import MEDIAPIPE_IRIS, MEDIAPIPE_LOWER_LIP, MEDIAPIPE_UPPER_LIP
from manvatar.face_models.embedding import closest_points
from manvatar.landmarks import MediaPipeDetector
from manvatar.synthesis import scene, shading, textures
from manvatar.synthesis.motion import rotation_from_angles
from manvatar.synthesis.rasterize import rasterize

SIZE, FOCAL = 640, 1500.0
VIEWS = [(yaw, pitch) for yaw in (-38, -25, -12, 0, 12, 25, 38) for pitch in (-12, 0, 12)]
PEOPLE = 5
NOSE_TIP = 1


class Sample(NamedTuple):
    """One landmark in one view."""

    weight: float
    place: np.ndarray  # (3,) on the mean head, mm
    yaw: float  # degrees, positive to the subject's left


def main() -> int:
    head, model = build_head(), load()
    rng = np.random.default_rng(0)
    detector = MediaPipeDetector()
    target = Path(__file__).parents[1] / "manvatar/face_models/builtin/mediapipe478.py"
    skin = np.isin(head.part, [PARTS.index(name) for name in ("face", "skull", "neck")])
    ball = np.isin(head.part, [PARTS.index(name) for name in ("left_eyeball", "right_eyeball")])
    row = head.skin.rows["mouth"]
    lower = np.isin(head.triangles, head.skin.lower[row:]).all(1)
    kind = np.select([skin[head.triangles].all(1) & ~lower, lower, ball[head.triangles].all(1)], [0, 1, 2], -1)
    found: list[list[Sample]] = [[] for _ in range(478)]
    center = np.array([SIZE / 2, SIZE * 0.42])
    side: list[np.ndarray] = []  # of every landmark: -0.5 the subject's right edge of the face, 0.5 the left
    for _ in range(PEOPLE):
        identity = 0.5 * rng.standard_normal(model.identity_basis_m.shape[0])
        person = scene.make_person(identity, textures.random_colors(rng), int(rng.integers(1000)))
        backdrop = shading.make_background((SIZE, SIZE), int(rng.integers(1000)))
        for yaw, pitch in VIEWS:
            expression = np.zeros(len(model.expression_names))
            expression[0] = rng.choice([0.0, 0.0, 0.8, 1.5])
            rotation = rotation_from_angles(np.radians([yaw + rng.normal(0, 3), pitch, rng.normal(0, 4)]))
            points = person.vertices_m(expression) @ rotation.T + (0, 0.01, 0.75)
            image = shading.shade_frame(points, person.paint, FOCAL, center, backdrop)
            faces = detector.discover(torch.from_numpy(image))
            if faces:
                detected = faces[0].points_px
                _collect(found, detected, points, person.paint.triangles, kind, head.vertices, center, yaw)
                if (yaw, pitch) == (0, 0):
                    side.append((detected[:, 0] - detected[NOSE_TIP, 0]) / np.ptp(detected[:, 0]))
    points, seen = _combined(found, np.mean(side, 0))
    _write(target, points)
    print(f"{target}: 478 points, seen in {np.median(seen):.0f} of {PEOPLE * len(VIEWS)} views each (median)")
    skin_kind = np.flatnonzero((kind == 0) | (kind == 1))
    distance = closest_points(points[:468], head.vertices, head.triangles[skin_kind])[2]
    print(f"distance to the skin: median {np.median(distance):.2f}, largest {distance.max():.2f} mm")
    return 0


def _collect(
    found: list[list[Sample]],
    detected: np.ndarray,
    points: np.ndarray,
    triangles: np.ndarray,
    kind: np.ndarray,
    mean: np.ndarray,
    center: np.ndarray,
    yaw: float,
) -> None:
    """Add, for every landmark, the point of the mean head under it and how squarely it is seen."""
    scale = 2
    pixels = (points[:, :2] / points[:, 2:] * FOCAL + center) * scale
    seen = rasterize(pixels, points[:, 2], triangles, (SIZE * scale, SIZE * scale))
    mine = seen.triangle < len(kind)  # hair comes after the head
    triangle, barycentric, pixel = seen.triangle[mine], seen.barycentric[mine], seen.pixel[mine]
    place = np.stack([pixel % (SIZE * scale) + 0.5, pixel // (SIZE * scale) + 0.5], 1) / scale
    corners = points[triangles[triangle]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-15)
    facing = -(normal * corners.mean(1)).sum(1) / np.linalg.norm(corners.mean(1), axis=1)
    upper, lower, iris = (np.array(group) for group in (MEDIAPIPE_UPPER_LIP, MEDIAPIPE_LOWER_LIP, MEDIAPIPE_IRIS))
    others = np.setdiff1d(np.arange(478), np.concatenate([upper, lower, iris]))
    for rows, kinds in ((others, (0, 1)), (upper, (0,)), (lower, (1,)), (iris, (2,))):
        usable = np.flatnonzero(np.isin(kind[triangle], kinds))
        distance, near = cKDTree(place[usable]).query(detected[rows])
        for landmark, gap, fragment in zip(rows, distance, usable[near], strict=True):
            # A point that misses the head by more than 3 pixels (2 mm) says nothing about the surface.
            if gap < 3 and facing[fragment] > 0.25:
                on_mean = barycentric[fragment] @ mean[triangles[triangle[fragment]]]
                found[landmark].append(Sample(float(facing[fragment]) ** 2, on_mean, yaw))


def _combined(found: list[list[Sample]], side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted medians over the views that see a landmark's own side, averaged with its mirrored partner."""
    points, seen = np.zeros((478, 3)), np.zeros(478)
    for landmark, samples in enumerate(found):
        # The network puts points of the far side on the outline: the head turned towards them shows where they are.
        turned = np.array([sample.yaw * np.sign(side[landmark]) for sample in samples])
        usable = turned <= 3 if abs(side[landmark]) > 0.12 else np.ones(len(turned), bool)
        if not usable.any():
            raise SystemExit(f"landmark {landmark} was never seen")
        weight = np.array([sample.weight for sample in samples])[usable]
        place = np.array([sample.place for sample in samples])[usable]
        seen[landmark] = len(weight)
        for axis in range(3):
            order = place[:, axis].argsort()
            total = weight[order].cumsum()
            points[landmark, axis] = place[order[np.searchsorted(total, total[-1] / 2)], axis]
    mirrored = points * (-1, 1, 1)
    partner = cKDTree(points).query(mirrored)[1]
    mutual = partner[partner] == np.arange(478)
    print(f"{int(mutual.sum())} of 478 landmarks have a mirrored partner", file=sys.stderr)
    points[mutual] = 0.5 * (points[mutual] + mirrored[partner[mutual]])
    return points, seen


def _write(target: Path, points: np.ndarray) -> None:
    triples = [f"{x:.2f},{y:.2f},{z:.2f}" for x, y, z in points + 0.0]
    lines = ["; ".join(triples[first : first + 4]) for first in range(0, len(triples), 4)]
    made = "Made by tools/embed_mediapipe478.py."
    head = f'"""MediaPipe\'s landmarks 0 to 477 on the mean builtin head: x,y,z in mm. {made}"""'
    text = "\n".join([head, "", 'POINTS_MM = """', *lines, '"""', ""])
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
