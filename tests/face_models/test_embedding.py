"""Closest points, similarities, and carrying landmarks from model to model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from manvatar.face_models import load
from manvatar.face_models.embedding import closest_points, embedded_points, similarity, transfer_embedding
from manvatar.types import FaceModel


def _closest_by_sampling(point: np.ndarray, corners: np.ndarray, steps: int = 60) -> float:
    """Distance to triangles (T, 3, 3) by trying a fine grid of barycentric weights."""
    a, b = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1))
    keep = a + b <= steps
    weights = np.stack([a[keep], b[keep], steps - a[keep] - b[keep]], 1) / steps
    return float(np.linalg.norm(np.einsum("wk,tkc->twc", weights, corners) - point, axis=-1).min())


def test_closest_points_agree_with_brute_force() -> None:
    rng = np.random.default_rng(1)
    vertices = rng.standard_normal((30, 3))
    triangles = np.array([rng.choice(30, 3, replace=False) for _ in range(40)])
    points = rng.standard_normal((25, 3)) * 1.5
    triangle, barycentric, distance = closest_points(points, vertices, triangles)
    assert barycentric.min() >= 0 and np.allclose(barycentric.sum(1), 1)
    found = (vertices[triangles[triangle]] * barycentric[..., None]).sum(1)
    assert np.allclose(np.linalg.norm(found - points, axis=1), distance)
    for point, own in zip(points, distance, strict=True):
        brute = _closest_by_sampling(point, vertices[triangles])
        assert own <= brute + 1e-9 and own > brute - 0.06  # the grid is 1/60 of edges a few units long


def test_similarity_is_recovered() -> None:
    rng = np.random.default_rng(2)
    points = rng.standard_normal((20, 3))
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    scale, found, shift = similarity(points, 1.7 * points @ rotation.T + (1, -2, 3))
    assert scale == pytest.approx(1.7)
    assert np.allclose(found, rotation) and np.allclose(shift, (1, -2, 3))


def test_similarity_never_mirrors() -> None:
    points = np.random.default_rng(3).standard_normal((20, 3))
    _, rotation, _ = similarity(points, points * (-1, 1, 1))
    assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.fixture(scope="module")
def builtin() -> FaceModel:
    return load("builtin")


def test_transfer_to_another_person_of_the_same_topology_is_nearly_the_identity(builtin: FaceModel) -> None:
    person = builtin.vertices_m(torch.randn(80, generator=torch.Generator().manual_seed(0)), torch.zeros(32))
    target = replace(builtin, mean_m=1.1 * person + 0.01, embeddings=(builtin.embedding("ibug68"),))
    embedding, median_m = transfer_embedding(builtin, "mediapipe478", target)
    assert median_m < 1e-3
    true = embedded_points(replace(target, embeddings=builtin.embeddings), "mediapipe478")
    found = embedded_points(replace(target, embeddings=(embedding,)), "mediapipe478")
    assert np.median(np.linalg.norm(true - found, axis=1)) < 2e-3
    assert embedding.weight.mean() > 0.97


def test_lips_keep_their_sides(builtin: FaceModel) -> None:
    """Points of the lower lip go with the jaw, those of the upper do not: on the builtin head and on ICT-FaceKit."""
    lower, upper = [95, 88, 178, 87, 14, 317, 402, 318, 324, 17], [80, 81, 82, 13, 312, 311, 310, 0]
    jaw = builtin.landmark_bases("mediapipe478")[2][builtin.expression_names.index("jawOpen"), :, 1]
    assert jaw[lower].max() < -0.006 and jaw[upper].min() > -0.003


def test_lips_keep_their_sides_on_ict(shared_data: object) -> None:
    model = load(f"{shared_data}/face_models/ict_facekit_light.npz")
    _, _, basis = model.landmark_bases("mediapipe478")
    _, _, basis_68 = model.landmark_bases("ibug68")
    rate = (basis_68[:, 62] - basis_68[:, 66])[:, 1]
    opening = torch.einsum("e,ek->k", rate / rate.norm(), basis[..., 1])
    assert opening[[95, 88, 178, 87, 14, 317, 402, 318, 324]].max() < opening[[80, 81, 82, 13, 312, 311, 310]].min()


def test_lids_stay_off_the_eyeballs_on_ict(shared_data: object) -> None:
    model = load(f"{shared_data}/face_models/ict_facekit_light.npz")
    part = model.vertex_part[model.triangles[model.embedding("mediapipe478").triangle]]
    balls = torch.tensor([name.endswith("eyeball") for name in model.part_names])
    assert bool(balls[part[468:]].all()) and not bool(balls[part[:468]].any())
