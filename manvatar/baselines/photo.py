"""A photo as the models of many people take it: cropped around the face, with its landmarks, matte and fitted face."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from manvatar.baselines.stickman import draw_stickman
from manvatar.errors import UserError
from manvatar.landmarks import LandmarkDetector, as_ibug68, make_detector
from manvatar.matting import PersonMatte
from manvatar.tracking import track
from manvatar.types import FaceModel, Landmarks, Track

_WORKING_PX = 1280  # longer side of the image in which the face is looked for
_ERODED_PX = 5  # diameter of the disc by which the matte shrinks, at the network's size
_STEADINESS = 0.6  # of mattes of a clip, see PersonMatte
_VIEW = 1.5  # side of the square the matte network sees, in sides of the crop


@dataclass(frozen=True)
class Crop:
    """A square of a picture; it may reach beyond the picture."""

    left_px: int
    top_px: int
    side_px: int

    @classmethod
    def around(cls, points_px: Float[Tensor, "68 2"]) -> Crop:
        """The square the released model was made for: twice the face's longer side, a little upward."""
        low, high = points_px.amin(0), points_px.amax(0)
        half = int((high - low).amax())
        if half < 1:
            raise ValueError("Crop.around: the points of the face coincide")
        x, y = ((low + high) / 2).round().int().tolist()
        return cls(x - half, y - half // 6 - half, 2 * half)

    def keypoints(self, points_px: Float[Tensor, "frames 68 2"]) -> Float[Tensor, "frames 136"]:
        """Points of the picture, with -1 and 1 on the borders of the crop."""
        corner = torch.tensor([self.left_px, self.top_px], dtype=points_px.dtype)
        return ((points_px - corner) / self.side_px * 2 - 1).flatten(1)

    def cut(self, picture: Image.Image, size_px: int) -> Image.Image:
        """The square at ``size_px``, black where it leaves the picture."""
        right, bottom = self.left_px + self.side_px, self.top_px + self.side_px
        square = picture.crop((self.left_px, self.top_px, right, bottom))
        return square.resize((size_px, size_px), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Photo:
    """One photo of a person, ready for the networks; batch size 1."""

    image: Float[Tensor, "1 3 size size"]  # RGB in [-1, 1], with its background
    matte: Float[Tensor, "1 1 size size"]  # [0, 1]
    keypoints: Float[Tensor, "1 136"]
    crop: Crop
    track: Track  # of one frame: camera, pose, identity and expression of the photo

    @property
    def stickman(self) -> Float[Tensor, "1 3 size size"]:
        return draw_stickman(self.keypoints, self.image.shape[-1])


def read_picture(path: str | os.PathLike[str]) -> UInt8[Tensor, "height width 3"]:
    """An image file, upright.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(Path(path)) as opened:
            return torch.from_numpy(np.array(ImageOps.exif_transpose(opened).convert("RGB")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read {path} as a picture: {error}; give a PNG or JPEG file") from error


def prepare_photo(
    picture: UInt8[Tensor, "height width 3"], face_model: FaceModel, size_px: int = 256, landmarks: str = "auto"
) -> Photo:
    """Find the largest face of a picture, and make all of it that the networks need.

    Args:
        landmarks: the detector: ``auto``, ``mediapipe`` or ``face-alignment``.

    Raises:
        UserError: there is no face, or what the detector needs is missing.
    """
    found = detect(picture, make_detector(landmarks))
    height, width = picture.shape[:2]
    fitted = track(found, face_model, (width, height), 25.0)
    points = as_ibug68(found).points_px
    crop = Crop.around(points[0])
    image = torch.from_numpy(np.array(crop.cut(Image.fromarray(picture.numpy()), size_px)))
    matte = MovingMatte(crop)(picture, size_px)
    return Photo(
        image.permute(2, 0, 1)[None].float() / 127.5 - 1, matte[None, None], crop.keypoints(points), crop, fitted
    )


def detect(picture: UInt8[Tensor, "height width 3"], detector: LandmarkDetector) -> Landmarks:
    """The landmarks of the largest face, as those of a clip of one frame."""
    height, width = picture.shape[:2]
    scale = min(1.0, _WORKING_PX / max(height, width))
    small = picture
    if scale < 1:
        size = round(width * scale), round(height * scale)
        resized = Image.fromarray(picture.numpy()).resize(size, Image.Resampling.BOX, reducing_gap=2.0)
        small = torch.from_numpy(np.array(resized))
    faces = detector.discover(small, thorough=True)
    if not faces:
        raise UserError("no face was found in the photo; give one with a face that is larger or better lit")
    ratio = torch.tensor([width / small.shape[1], height / small.shape[0]])
    points = torch.from_numpy(faces[0].points_px)[None].float() * ratio
    confidence = torch.from_numpy(faces[0].confidence)[None].float()
    return Landmarks(points, confidence, torch.ones(1, dtype=torch.bool), detector.scheme)


class MovingMatte:
    """Mattes of a person in one crop of the pictures of a clip, given in order.

    They are shrunk a little, so that no background shines in; 0 beyond the picture.
    """

    def __init__(self, crop: Crop) -> None:
        self.crop = crop
        self._person: PersonMatte | None = None

    def __call__(self, picture: UInt8[Tensor, "height width 3"], size_px: int) -> Float[Tensor, "size size"]:
        self._person = self._person or PersonMatte(self._view(picture), steadiness=_STEADINESS)
        alpha = (self._person(picture) * 255).round().byte()
        cut = self.crop.cut(Image.fromarray(alpha.numpy()), size_px)
        return eroded(torch.from_numpy(np.array(cut)).float() / 255)

    def _view(self, picture: UInt8[Tensor, "height width 3"]) -> tuple[int, int, int, int]:
        """More than the crop: the network wants to see shoulders."""
        crop, grown = self.crop, round(self.crop.side_px * (_VIEW - 1) / 2)
        right, bottom = crop.left_px + crop.side_px + grown, crop.top_px + crop.side_px + grown
        height, width = picture.shape[:2]
        return max(crop.left_px - grown, 0), max(crop.top_px - grown, 0), min(right, width), min(bottom, height)


def eroded(matte: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """The least value within a disc around each pixel."""
    radius = _ERODED_PX // 2
    low = matte[None, None]
    offsets = torch.arange(-radius, radius + 1)
    padded = functional.pad(low, [radius] * 4, mode="replicate")[0, 0]
    height, width = matte.shape
    windows = [
        padded[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
        for dy in offsets.tolist()
        for dx in offsets.tolist()
        if dx**2 + dy**2 <= radius**2
    ]
    return torch.stack(windows).amin(0)
