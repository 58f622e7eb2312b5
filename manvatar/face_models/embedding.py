"""Landmarks as points on a mesh: closest surface points, and carrying an embedding from one model to another."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from manvatar.types import FaceModel, LandmarkEmbedding, LandmarkScheme

# Parts of face models that landmarks lie on, by name.
SKIN = ("face", "neck", "skull", "left_ear", "right_ear")
EYEBALLS = ("left_eyeball", "right_eyeball")


def closest_points(
    points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray, candidates: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The closest point of a mesh to each of ``points`` (K, 3): triangle (K,), barycentric (K, 3), distance (K,).

    Only the ``candidates`` triangles with the nearest centroids are looked at, which is exact for meshes whose
    triangles are of similar size around a point.
    """
    corners = vertices[triangles]
    _, near = cKDTree(corners.mean(1)).query(points, k=min(candidates, len(triangles)))
    near = near.reshape(len(points), -1)
    barycentric = _closest_barycentric(points[:, None], corners[near])
    found = (barycentric[..., None] * corners[near]).sum(2)
    distance = np.linalg.norm(found - points[:, None], axis=2)
    best = distance.argmin(1)
    row = np.arange(len(points))
    return near[row, best], barycentric[row, best], distance[row, best]


def embed(
    scheme: LandmarkScheme,
    points: np.ndarray,
    vertices: np.ndarray,
    triangles: np.ndarray,
    weight: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
) -> LandmarkEmbedding:
    """Points (K, 3) near a surface as a :class:`LandmarkEmbedding`; ``allowed`` (T,) bool limits the triangles."""
    subset = np.arange(len(triangles)) if allowed is None else np.flatnonzero(allowed)
    triangle, barycentric, _ = closest_points(points, vertices, triangles[subset])
    weight = np.ones(len(points)) if weight is None else weight
    return LandmarkEmbedding(
        scheme,
        torch.from_numpy(subset[triangle]),
        torch.from_numpy(barycentric.astype(np.float32)),
        torch.from_numpy(np.asarray(weight, np.float32)),
    )


def embedded_points(model: FaceModel, scheme: LandmarkScheme, vertices_m: np.ndarray | None = None) -> np.ndarray:
    """The landmarks (K, 3) on the given vertices (V, 3) of the model, by default its mean; metres, float64."""
    embedding = model.embedding(scheme)
    vertices_m = model.mean_m.double().numpy() if vertices_m is None else vertices_m
    corners = vertices_m[model.triangles[embedding.triangle].numpy()]
    return (corners * embedding.barycentric.double().numpy()[..., None]).sum(1)


def transfer_embedding(
    source: FaceModel, scheme: LandmarkScheme, target: FaceModel, far_m: float = 0.006
) -> tuple[LandmarkEmbedding, float]:
    """The landmarks ``scheme`` of ``source`` on ``target``, and how far (m, median) they were off its surface at first.

    Both models know the 68 iBUG landmarks. Both open their mouths, so that upper and lower lips are apart; the
    source is brought onto the target by a similarity on the inner 51, then by a smooth warp (linear radial basis
    functions) that makes all 68 agree; each warped landmark goes to the closest surface point. Points that end
    further than ``far_m`` from the target's surface get weight 0.

    Raises:
        ValueError: one of the models lacks the landmarks needed.
    """
    source_m, target_m = _open_mouth(source), _open_mouth(target)
    from_68, to_68 = embedded_points(source, "ibug68", source_m), embedded_points(target, "ibug68", target_m)
    scale, rotation, shift = similarity(from_68[17:], to_68[17:])
    points = embedded_points(source, scheme, source_m) @ rotation.T * scale + shift
    controls = from_68 @ rotation.T * scale + shift
    # Jaw points slide along the outline between models, so they only guide the warp; the others may miss a little.
    loose = np.where(np.arange(68) < 17, 5e-3, 1e-4)
    warp = RBFInterpolator(controls, to_68 - controls, kernel="linear", degree=1, smoothing=loose)
    points = points + warp(points)
    triangles = target.triangles.numpy()
    embedding = embed(scheme, points, target_m, triangles, allowed=_in_parts(target, SKIN))
    balls = _in_parts(target, EYEBALLS)
    irises = _in_parts(source, EYEBALLS)[source.embedding(scheme).triangle.numpy()]
    if irises.any() and balls.any():  # the irises go to the eyeballs, and nothing else does: lids are close by
        own = embed(scheme, points[irises], target_m, triangles, allowed=balls)
        embedding.triangle[irises], embedding.barycentric[irises] = own.triangle, own.barycentric
    found = (target_m[triangles[embedding.triangle]] * embedding.barycentric.double().numpy()[..., None]).sum(1)
    distance = np.linalg.norm(found - points, axis=1)
    weight = source.embedding(scheme).weight * torch.from_numpy((distance < far_m).astype(np.float32))
    result = LandmarkEmbedding(scheme, embedding.triangle, embedding.barycentric, weight)
    return result, float(np.median(distance))


def _open_mouth(model: FaceModel, gap_m: float = 0.015) -> np.ndarray:
    """Vertices (V, 3) of the mean with the inner lips ``gap_m`` apart, by the smallest expression that does it."""
    _, _, basis = model.landmark_bases("ibug68")
    rate = (basis[:, [61, 62, 63], 1] - basis[:, [67, 66, 65], 1]).mean(1)
    return model.vertices_m(torch.zeros(len(model.identity_basis_m)), rate * gap_m / (rate @ rate)).double().numpy()


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation (3, 3) and shift (3,) with ``target ~ scale * source @ rotation.T + shift`` (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = (s * sign).sum() / (a**2).sum()
    return float(scale), rotation, target.mean(0) - scale * rotation @ source.mean(0)


def _in_parts(model: FaceModel, names: tuple[str, ...]) -> np.ndarray:
    """Which triangles (T,) belong to the named parts; a model that is not divided has one part, ``face``."""
    if model.vertex_part is None:
        return np.full(len(model.triangles), "face" in names)
    parts = torch.tensor([name in names for name in model.part_names])
    return parts[model.vertex_part[model.triangles]].all(1).numpy()


def _closest_barycentric(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Weights (..., 3) of the closest points of triangles (..., 3, 3): the plane, else the best of the three edges."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    determinant = np.maximum(uu * vv - uv * uv, 1e-30)
    second, third = (vv * wu - uv * wv) / determinant, (uu * wv - uv * wu) / determinant
    inside = np.stack([1 - second - third, second, third], -1)
    best, least = inside, np.where((inside >= 0).all(-1), 0.0, np.inf)
    for first, last in ((0, 1), (1, 2), (2, 0)):
        start, axis = corners[..., first, :], corners[..., last, :] - corners[..., first, :]
        t = ((points - start) * axis).sum(-1) / np.maximum((axis * axis).sum(-1), 1e-30)
        t = np.clip(t, 0, 1)
        distance = ((start + t[..., None] * axis - points) ** 2).sum(-1)
        weights = np.zeros_like(inside)
        weights[..., first], weights[..., last] = 1 - t, t
        better = distance < least
        best = np.where(better[..., None], weights, best)
        least = np.where(better, distance, least)
    return best
