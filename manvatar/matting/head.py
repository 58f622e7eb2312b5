"""The head matte: a person's matte without the body, cut around the neck so that all frames of a clip agree."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import max_pool2d

from manvatar.geometry import pixel_grid, project, transform
from manvatar.matting.colors import color_index, density, skin_density
from manvatar.matting.filters import box_mean, resized
from manvatar.matting.neck import (
    ANGLES,
    NeckCoordinates,
    NeckCut,
    generic_cut,
    height_over_cut_m,
    neck_coordinates,
    rise_m,
)
from manvatar.matting.person import shrunk
from manvatar.types import Camera

_STRIDE = 4  # smooth maps are computed at a quarter of the resolution
_HAIR_HANGS = 0.15  # share of the space beside the jaw
_BEARDED = 0.5  # share of the chin
_HAIR_END = 0.25  # below the chin; in heights of the chin under the eyes
_FRONT_RAD, _SIDE_RAD = math.radians(55), math.radians(80)  # hair hangs beside and behind the neck, not before it


@dataclass(frozen=True)
class HeadSample:
    """One frame as the head matte sees it; ``camera`` is that of the image given."""

    image: Tensor  # (height, width, 3) uint8, or float32 in [0, 1]
    person_alpha: Float[Tensor, "height width"]
    camera: Camera
    cam_from_head: Float[Tensor, "4 4"]
    landmarks_m: Float[Tensor, "68 3"]  # iBUG-68 in the head frame, with this frame's expression


class HeadMatte:
    """Turns a person's matte into that of the head; learns once per clip how far down the bare neck goes.

    Args:
        landmarks_m: iBUG-68 points of the person in the head frame, neutral or averaged over the clip; they give the
            generic cut, which :meth:`fit` raises where it would show clothes.

    Attributes:
        cut: the surface that is used.
    """

    def __init__(self, landmarks_m: Float[Tensor, "68 3"]) -> None:
        self.cut: NeckCut = generic_cut(landmarks_m)
        self._clothes: tuple[Tensor, Tensor] | None = None  # probability of every colour: before, beside the neck

    def fit(self, samples: Iterable[HeadSample]) -> None:
        """Learn the colours of skin, hair and clothes, and raise the cut above what is not bare neck.

        Args:
            samples: some frames of the clip, a few dozen spread over it; they are gone through once.
        """
        kept = [_Reduced.of(sample, self.cut) for sample in samples]
        skin = torch.cat([frame.colors[frame.inner_face] for frame in kept])
        if len(skin) < 100:
            return
        s = skin_density(skin)
        h = density(torch.cat([frame.colors[frame.hair(self.cut)] for frame in kept]))
        # Beside the neck hair may hang; if it does not at the height of the jaw, then nor further down. Before the
        # neck it is a beard; if there is none on the chin, then nor under it.
        hangs = np.mean([frame.hanging(self.cut, h > 2 * s) for frame in kept]) > _HAIR_HANGS
        bearded = np.mean([frame.bearded(h > 2 * s) for frame in kept]) > _BEARDED
        generic = self.cut
        clothes = [frame.body(generic) for frame in kept]
        for _ in range(2):
            c = density(torch.cat([frame.colors[body] for frame, body in zip(kept, clothes, strict=True)]))
            bare, with_hair = (c + h) / (c + h + 2 * s), c / (c + torch.maximum(s, h))
            self._clothes = with_hair if bearded else bare, with_hair if hangs else bare
            evidence = [(frame, self._foreign(frame)) for frame in kept]
            self.cut = generic.with_heights(
                _raised(generic, generic.height_m, evidence, (0.0, 1.02)),
                _raised(generic, generic.beside_m, evidence, (1.05, 1.8)),
            )
            # A collar may have another colour than the rest: what the first cut removed shows it.
            clothes = [frame.below(self.cut, bare > 0.5) | frame.body(generic) for frame in kept]

    def __call__(self, sample: HeadSample) -> Float[Tensor, "height width"]:
        """Alpha of the head in [0, 1], float32, of the image's size."""
        height, width = sample.person_alpha.shape
        frame = _Reduced.of(sample, self.cut)
        over = height_over_cut_m(self.cut, frame.where) / self.cut.unit_m
        if self._clothes is not None:
            # Clothes that come above the cut for a while, and background between collar and ear that the person
            # network took for the person; only so far up that nothing of the face can look like them.
            level = frame.where.height_m / self.cut.unit_m
            aside = ((frame.where.distance_m / self.cut.radius_m - 1.0) / 0.05).clamp(0, 1)
            near = torch.lerp((0.5 - over) / 0.15, torch.maximum(0.5 - over, 0.62 - level) / 0.1, aside).clamp(0, 1)
            strength = torch.lerp(torch.ones_like(over), 1 + over.clamp(0, 1), aside)
            over = over - near * strength * (self._foreign_region(frame) - 0.5).clamp(min=0)
        inside = torch.maximum(over / 0.03, frame.face_distance / (0.02 * frame.face_px))
        (inside,) = resized(inside[None].clamp(-4, 4), (height, width))
        alpha = sample.person_alpha * (0.5 + inside / 2).clamp(0, 1)
        return alpha * _connected(alpha, frame)

    def _foreign_region(self, frame: _Reduced) -> Tensor:
        """:meth:`_foreign` without speckles on the neck, and beside it including the edges of clothes, (h, w)."""
        foreign = self._foreign(frame)
        certain = (foreign * frame.alpha)[None]
        smooth = box_mean(certain, 1) / box_mean(frame.alpha[None], 1).clamp(min=0.05)
        grown = torch.maximum(max_pool2d(certain, 3, 1, 1), foreign)
        aside = ((frame.where.distance_m / self.cut.radius_m - 1.0) / 0.05).clamp(0, 1)
        return torch.lerp(smooth, grown, aside)[0]

    def _foreign(self, frame: _Reduced) -> Tensor:
        """Probability that a pixel near the neck shows clothes, (h, w)."""
        before, beside = self._clothes
        index = color_index(frame.colors)
        side = ((frame.where.angle_rad.abs() - _FRONT_RAD) / (_SIDE_RAD - _FRONT_RAD)).clamp(0, 1)
        # Further down, hair lies on the shoulders and moves with them.
        high = ((frame.where.height_m / self.cut.unit_m + _HAIR_END) / 0.12).clamp(0, 1)
        return torch.lerp(before[index], beside[index], side * high)


@dataclass(frozen=True)
class _Reduced:
    """A sample at a quarter of its resolution, with where its pixels are relative to neck and face."""

    colors: Tensor  # (h, w, 3)
    alpha: Tensor  # (h, w)
    where: NeckCoordinates
    face_distance: Tensor  # (h, w), pixels of the full image inside the outline of face and jaw; negative outside
    face_px: float  # height of the face, pixels of the full image
    sample: HeadSample

    @classmethod
    def of(cls, sample: HeadSample, cut: NeckCut) -> _Reduced:
        height, width = sample.person_alpha.shape
        size = (max(1, height // _STRIDE), max(1, width // _STRIDE))
        colors, (alpha,) = shrunk(sample.image, size), resized(sample.person_alpha[None], size)
        where = neck_coordinates(cut, sample.camera, sample.cam_from_head, size[::-1])
        points = project(sample.camera, transform(sample.cam_from_head.float(), sample.landmarks_m.float()))
        scale = torch.tensor([width / size[1], height / size[0]])
        distance = _inside_face(points, pixel_grid(size[::-1]) * scale)
        face_px = float((points[8] - points[36:48].mean(0)).norm())
        return cls(colors.permute(1, 2, 0), alpha, where, distance, face_px, sample)

    @property
    def inner_face(self) -> Tensor:
        """Pixels that are skin for sure, or nearly."""
        return (self.face_distance > 0.12 * self.face_px) & (self.alpha > 0.9)

    def hair(self, cut: NeckCut) -> Tensor:
        """Pixels of the person around the upper face."""
        return (
            (self.face_distance < -0.1 * self.face_px) & (self.where.height_m > 0.5 * cut.unit_m) & (self.alpha > 0.9)
        )

    def hanging(self, cut: NeckCut, like_hair: Tensor) -> float:
        """Share of the band beside the jaw, outside the neck, that shows the person in the colour of hair."""
        height, distance = self.where.height_m / cut.unit_m, self.where.distance_m / cut.radius_m
        beside = (height > 0) & (height < 0.3) & (distance > 1.1) & (distance < 1.6)
        beside &= self.face_distance < -0.05 * self.face_px
        return float((like_hair[color_index(self.colors)] & (self.alpha > 0.7))[beside].float().mean())

    def bearded(self, like_hair: Tensor) -> float:
        """Share of the chin, between lower lip and jaw line, that has the colour of hair."""
        points = project(
            self.sample.camera, transform(self.sample.cam_from_head.float(), self.sample.landmarks_m.float())
        )
        lip, down = points[57], points[8] - points[57]
        height, width = self.sample.person_alpha.shape
        size = self.alpha.shape[1], self.alpha.shape[0]
        offset = pixel_grid(size) * torch.tensor([width / size[0], height / size[1]]) - lip
        along = (offset * down).sum(-1) / (down * down).sum()
        chin = (along > 0.35) & (self.face_distance > 0.01 * self.face_px)
        return float(like_hair[color_index(self.colors)][chin].float().mean()) if chin.any() else 0.0

    def body(self, cut: NeckCut) -> Tensor:
        """Pixels of the person that belong to the trunk."""
        low = self.where.height_m < -cut.unit_m
        aside = (self.where.height_m < -0.45 * cut.unit_m) & (self.where.distance_m > 2 * cut.radius_m)
        return (low | aside) & (self.alpha > 0.9)

    def below(self, cut: NeckCut, like_clothes: Tensor) -> Tensor:
        """Pixels of the person just below the cut that are not bare neck."""
        near = (height_over_cut_m(cut, self.where) < -0.06 * cut.unit_m) & (self.face_distance < -0.03 * self.face_px)
        return near & like_clothes[color_index(self.colors)] & (self.alpha > 0.9)


def _inside_face(points: Float[Tensor, "68 2"], pixels: Float[Tensor, "h w 2"]) -> Float[Tensor, "h w"]:
    """Distance inside the outline of the face, which is star-shaped around the nose: jaw below, brows above."""
    center = points[30]
    outline = torch.cat([points[:17], points[17:27].flip(0)]) - center
    angle = torch.atan2(outline[:, 0], outline[:, 1]).numpy()
    order = np.argsort(angle)
    radius = outline.norm(dim=-1).numpy()[order]
    offset = pixels - center
    at = np.interp(torch.atan2(offset[..., 0], offset[..., 1]).numpy(), angle[order], radius, period=2 * math.pi)
    return torch.from_numpy(at).float() - offset.norm(dim=-1)


def _raised(
    cut: NeckCut,
    height_m: Float[Tensor, "angles"],
    frames: list[tuple[_Reduced, Tensor]],
    distance: tuple[float, float],
) -> Float[Tensor, "angles"]:
    """Heights, raised at each angle above the highest place that mostly does not show bare neck (or hanging hair).

    Args:
        cut: the generic one.
        height_m: the heights to start from; they are never lowered.
        frames: with the probability of clothes at each pixel.
        distance: from the axis, in radii, of the pixels that count.
    """
    rows = torch.arange(0.25, -0.55, -0.025) * cut.unit_m  # from above the chin's level downward
    foreign, seen = torch.zeros(2, len(rows), ANGLES)
    for frame, probability in frames:
        away = frame.where.distance_m / cut.radius_m
        usable = (frame.alpha > 0.7) & (frame.face_distance < -0.03 * frame.face_px)
        usable &= (away >= distance[0]) & (away < distance[1])
        height = frame.where.height_m - rise_m(cut, frame.where)
        row = ((rows[0] - height) / (rows[0] - rows[1])).round().long()
        column = ((frame.where.angle_rad / (2 * math.pi) + 0.5) * ANGLES).round().long() % ANGLES
        usable &= (row >= 0) & (row < len(rows))
        index = (row * ANGLES + column)[usable]
        count = torch.bincount(index, minlength=foreign.numel()).reshape(foreign.shape)
        total = torch.bincount(index, (probability[usable] > 0.5).float(), foreign.numel()).reshape(foreign.shape)
        seen += count > 0
        foreign += total / count.clamp(min=1)
    enough = seen >= max(2, 0.05 * len(frames))
    covered = enough & (foreign > 0.25 * seen)
    # Clothes go on to the bottom. What has bare neck under it is a beard, a necklace, a fold or a shadow.
    below = covered.flip(0).cumsum(0).flip(0) / enough.flip(0).cumsum(0).flip(0).clamp(min=1)
    covered &= below > 0.6
    height = height_m.clone()
    for column in range(ANGLES):
        hits = torch.nonzero(covered[:, column])
        if len(hits):
            height[column] = torch.maximum(height[column], rows[int(hits[0])] + 0.05 * cut.unit_m)
    return _smoothed(height)


def _smoothed(height: Float[Tensor, "angles"]) -> Float[Tensor, "angles"]:
    """Without single outliers, and gentle, around the neck."""
    values = ndimage.median_filter(height.numpy(), 3, mode="wrap")
    values = ndimage.maximum_filter1d(values, 3, mode="wrap")
    return torch.from_numpy(ndimage.gaussian_filter1d(values, 1.5, mode="wrap"))


def _connected(alpha: Tensor, frame: _Reduced) -> Tensor:
    """1 for what hangs together with the face, 0 for islands of background, hands and shoulders; (height, width)."""
    size = frame.alpha.shape
    coarse = resized(alpha[None], size)[0]
    parts, _ = ndimage.label((coarse > 0.2).numpy())
    in_face = parts[(frame.face_distance > 0).numpy()]
    in_face = in_face[in_face > 0]
    if not len(in_face):
        return torch.ones_like(alpha)
    main = parts == np.bincount(in_face).argmax()
    grown = torch.from_numpy(ndimage.binary_dilation(main, iterations=2)).float()
    return (resized(grown[None], tuple(alpha.shape))[0] * 2).clamp(0, 1)
