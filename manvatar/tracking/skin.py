"""Points spread over the skin of the tracked face: what dense refinement compares between frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.types import FaceModel

_FRONT = 0.15  # least z of a normal: sides and back of the head say little, and hair covers them
_NOTHING_M = 1e-9


@dataclass(frozen=True)
class Skin:
    """Points on the surface of one person's face, head frame, neutral expression; float32."""

    points_m: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]  # unit length, outwards
    expression_basis_m: Float[Tensor, "E n 3"]

    @cached_property
    def expression_planes_m(self) -> Float[Tensor, "3 E n"]:
        """The basis with x, y and z apart."""
        return self.expression_basis_m.permute(2, 0, 1).contiguous()

    def first(self, count: int) -> Skin:
        """The first ``count`` points, which are as evenly spread as all of them."""
        return Skin(self.points_m[:count], self.normals[:count], self.expression_basis_m[:, :count].contiguous())

    def moved_m(self, expression: Float[Tensor, "f E"]) -> Float[Tensor, "f n 3"]:
        """The points at expressions in standard deviations."""
        basis = self.expression_basis_m
        return self.points_m + (expression @ basis.flatten(1)).reshape(-1, *basis.shape[1:])


def skin_of(face_model: FaceModel, identity: Float[Tensor, "I"], count: int, seed: int = 0) -> Skin:
    """``count`` points, spread evenly over the area of the part ``face`` that looks forward.

    Args:
        identity: of the person, standard deviations.
        seed: picks the points.
    """
    generator = torch.Generator().manual_seed(seed)
    triangles = face_model.triangles
    if face_model.vertex_part is not None:
        part = face_model.part_names.index("face")
        triangles = triangles[(face_model.vertex_part == part)[triangles].all(1)]
    mean = _area_normals(face_model.mean_m[triangles])
    area = mean.norm(dim=1)
    area = torch.where(mean[:, 2] > _FRONT * area, area, torch.zeros_like(area))
    chosen = triangles[torch.multinomial(area, count, replacement=True, generator=generator)]
    # Uniform over a triangle: Osada et al. 2002, eq. 1.
    first, second = torch.rand(2, count, generator=generator).unbind(0)
    root = first.sqrt()
    weight = torch.stack([1 - root, root * (1 - second), root * second], 1)[..., None]
    person = face_model.mean_m + torch.einsum("i,ivc->vc", identity.float(), face_model.identity_basis_m)
    normals = _area_normals(person[chosen])
    basis = (face_model.expression_basis_m[:, chosen] * weight).sum(2)
    # Modes fade out to denormal numbers, with which processors are twenty times slower.
    basis = torch.where(basis.abs() < _NOTHING_M, torch.zeros_like(basis), basis)
    return Skin((person[chosen] * weight).sum(1), normals / normals.norm(dim=1, keepdim=True).clamp_min(1e-12), basis)


def _area_normals(corners: Float[Tensor, "t 3 3"]) -> Float[Tensor, "t 3"]:
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
