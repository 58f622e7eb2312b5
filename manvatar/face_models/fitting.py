"""The builtin head fitted to the mean of a model of which no landmark is known.

Both surfaces look the same way and the target's eyeballs are known, so eyes give the first pose and size. Then rounds
of closest points (Besl and McKay 1992) over the face, each solving a similarity and then identity coefficients with
their Gaussian prior, find the rest. What the identity cannot explain is left: landmarks go to the closest surface
after.
"""

from __future__ import annotations

import numpy as np
import torch

from manvatar.face_models import builtin
from manvatar.face_models.embedding import EYEBALLS, closest_points, embedded_points, similarity
from manvatar.threads import one_thread
from manvatar.types import FaceModel

ROUNDS = 15
POINTS = 700  # of the builtin face that take part
NOISE_M = 1.5e-3  # of a closest point, against the unit prior of the coefficients
FAR_M = 0.02  # points further from the other surface have no counterpart there


def fitted_landmarks(vertices_m: np.ndarray, triangles: np.ndarray, eyes_m: np.ndarray) -> np.ndarray:
    """The 68 landmarks (68, 3) near a face with a closed mouth, in its own frame (axes of the head frame).

    Args:
        vertices_m: (V, 3). triangles: (T, 3) of the skin only.
        eyes_m: (2, 3), centres of the left and the right eyeball.
    """
    model = builtin.load()
    mean = model.mean_m.double().numpy()
    basis = model.identity_basis_m.double().numpy()
    chosen = _front_of_face(model)
    coefficients = np.zeros(len(basis))
    scale, rotation, shift = _from_eyes(model, eyes_m)
    for _ in range(ROUNDS):
        person = mean[chosen] + np.einsum("i,ivc->vc", coefficients, basis[:, chosen])
        points = scale * person @ rotation.T + shift
        triangle, barycentric, distance = closest_points(points, vertices_m, triangles, candidates=12)
        near = distance < max(FAR_M, 2 * float(np.median(distance)))
        found = (vertices_m[triangles[triangle]] * barycentric[..., None]).sum(1)
        scale, rotation, shift = similarity(person[near], found[near])
        target = (found - shift) @ rotation / scale - mean[chosen]
        coefficients = _most_probable(basis[:, chosen][:, near], target[near])
    person = mean + np.einsum("i,ivc->vc", coefficients, basis)
    return scale * embedded_points(model, "ibug68", person) @ rotation.T + shift


def _most_probable(basis: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Coefficients (I,) of modes (I, N, 3) that move points by ``target`` (N, 3), given noise and a unit prior."""
    with one_thread():  # and PyTorch rather than NumPy, whose threads wait busily and stand still on a busy machine
        matrix = torch.from_numpy(basis.reshape(len(basis), -1)) / NOISE_M
        normal = matrix @ matrix.T + torch.eye(len(basis), dtype=matrix.dtype)
        return torch.linalg.solve(normal, matrix @ torch.from_numpy(target.ravel() / NOISE_M)).numpy()


def _front_of_face(model: FaceModel) -> np.ndarray:
    """Vertices of the builtin face between hairline and chin, evenly thinned out."""
    part = model.vertex_part.numpy() == model.part_names.index("face")
    mean = model.mean_m.numpy()
    front = np.flatnonzero(part & (mean[:, 2] > -0.06) & (mean[:, 1] < 0.05))
    return front[:: max(1, len(front) // POINTS)]


def _from_eyes(model: FaceModel, eyes_m: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that bring the builtin eyeballs onto the given ones; both look along +z."""
    mean, part = model.mean_m.double().numpy(), model.vertex_part.numpy()
    own = np.stack([mean[part == model.part_names.index(name)].mean(0) for name in EYEBALLS])
    scale = float(np.linalg.norm(eyes_m[0] - eyes_m[1]) / np.linalg.norm(own[0] - own[1]))
    return scale, np.eye(3), eyes_m.mean(0) - scale * own.mean(0)
