"""The values that pass between stages.

video -> landmarks + matte -> tracking -> dataset -> field -> renderer -> training -> avatar file -> render / view

Every one is a frozen dataclass that checks itself once, when it is made. Tensors live on the CPU unless said
otherwise. Metres, radians, seconds and hertz; the unit is part of the name. Letters in shapes: F frames, R rays,
M samples, K landmarks, E expression, I identity, V vertices, T triangles, B frames of one batch.

Frames of reference: ``cam`` (OpenCV: x right, y down, z forward) and ``head`` (x to the subject's left, y up, z out
of the face). Matrices are named ``dst_from_src``: ``points_cam = cam_from_head @ points_head``. The centre of pixel
(column i, row j) is (i + 0.5, j + 0.5). ``size_px`` is (width, height); arrays are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

LandmarkScheme = Literal["mediapipe478", "ibug68"]
LANDMARK_COUNT: dict[str, int] = {"mediapipe478": 478, "ibug68": 68}
# Coefficients that no face model has (``manvatar.face_models.channels``); appended to those of any.
EYE_CHANNELS = ("eyelidLeft", "eyelidRight", "gazeYaw", "gazePitch")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


# ---------------------------------------------------------------------------------------------- video and landmarks


@dataclass(frozen=True)
class Clip:
    """A video on disk, opened once to learn its shape; frames are decoded on demand (``manvatar.video``)."""

    path: Path
    frame_rate_hz: float  # mean rate; single frames carry their own time
    size_px: tuple[int, int]  # (width, height) after rotation metadata has been applied
    frame_count: int  # frames that decode, counted, not what the container claims
    first_frame: int = 0  # of the file: the clip is the `frame_count` frames from here


@dataclass(frozen=True)
class Frame:
    """One decoded frame, upright, 8-bit sRGB."""

    index: int  # position in the clip, from 0
    time_s: float  # presentation time from the start of the clip
    image: UInt8[Tensor, "height width 3"]


@dataclass(frozen=True)
class Landmarks:
    """2D landmarks of one face in every frame of a clip; frames without a face hold NaN and confidence 0."""

    points_px: Float[Tensor, "frames landmarks 2"]  # (x, y), pixel centres at half-integers
    confidence: Float[Tensor, "frames landmarks"]  # [0, 1]
    detected: Bool[Tensor, "frames"]
    scheme: LandmarkScheme

    def __post_init__(self) -> None:
        count = LANDMARK_COUNT[self.scheme]
        _require(
            self.points_px.shape[1] == count,
            f"Landmarks: scheme {self.scheme} has {count} points, got {self.points_px.shape[1]}",
        )


# ------------------------------------------------------------------------------------------------------- face models


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Landmarks as points on a mesh: a triangle and barycentric weights each."""

    scheme: LandmarkScheme
    triangle: Int[Tensor, "landmarks"]
    barycentric: Float[Tensor, "landmarks 3"]
    weight: Float[Tensor, "landmarks"]  # 0 = this model has no such point, 1 = fully trusted


@dataclass(frozen=True)
class ArkitMap:
    """What Apple's 52 blendshapes at full activation are in coefficients; ``manvatar.face_models.arkit`` makes it."""

    coefficients: Float[Tensor, "52 expression"]  # standard deviations
    residual: Float[Tensor, "52"]  # share of the blendshape's displacement (rms) that they do not show; 1 = nothing
    source: Literal["named", "fitted"]  # from names in the model's own file, or to the builtin head's modes


@dataclass(frozen=True)
class FaceModel:
    """A linear 3D morphable model: vertices = mean + identity @ identity_basis + expression @ expression_basis.

    Bases are in metres per standard deviation. Head frame; the origin is the midpoint of the mean's four eye corners.
    """

    id: str  # "builtin-1", "ict-facekit-light", ...; written into tracks and avatars
    mean_m: Float[Tensor, "vertices 3"]
    identity_basis_m: Float[Tensor, "identity vertices 3"]
    expression_basis_m: Float[Tensor, "expression vertices 3"]
    expression_names: tuple[str, ...]
    triangles: Int[Tensor, "triangles 3"]  # counter-clockwise seen from outside
    embeddings: tuple[LandmarkEmbedding, ...]
    part_names: tuple[str, ...] = ("face",)  # e.g. face, neck, left_eyeball, right_eyeball, upper_teeth, ...
    vertex_part: Int[Tensor, "vertices"] | None = None  # index into part_names; None = all of part 0
    arkit: ArkitMap | None = None  # where the model's own file names Apple's blendshapes

    def __post_init__(self) -> None:
        _require(
            len(self.expression_names) == self.expression_basis_m.shape[0],
            f"FaceModel {self.id}: {len(self.expression_names)} names for "
            f"{self.expression_basis_m.shape[0]} expressions",
        )

    def embedding(self, scheme: LandmarkScheme) -> LandmarkEmbedding:
        """The embedding of ``scheme``. Raises ``ValueError`` when the model has none."""
        for embedding in self.embeddings:
            if embedding.scheme == scheme:
                return embedding
        raise ValueError(f"FaceModel {self.id} has no {scheme} landmarks")

    def vertices_m(
        self, identity: Float[Tensor, "identity"], expression: Float[Tensor, "*frames expression"]
    ) -> Float[Tensor, "*frames vertices 3"]:
        """Vertices in the head frame; differentiable in both coefficient vectors (in standard deviations)."""
        person = self.mean_m + torch.einsum("i,ivc->vc", identity, self.identity_basis_m)
        return person + torch.einsum("...e,evc->...vc", expression, self.expression_basis_m)

    def landmark_bases(
        self, scheme: LandmarkScheme
    ) -> tuple[
        Float[Tensor, "landmarks 3"], Float[Tensor, "identity landmarks 3"], Float[Tensor, "expression landmarks 3"]
    ]:
        """Mean, identity basis and expression basis (metres) of the landmark points themselves."""
        embedding = self.embedding(scheme)
        corners = self.triangles[embedding.triangle]  # (K, 3)
        weights = embedding.barycentric[..., None]
        mean = (self.mean_m[corners] * weights).sum(1)
        identity = (self.identity_basis_m[:, corners] * weights).sum(2)
        expression = (self.expression_basis_m[:, corners] * weights).sum(2)
        return mean, identity, expression


# ---------------------------------------------------------------------------------------------------------- tracking


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion."""

    focal_px: Float[Tensor, "2"]
    center_px: Float[Tensor, "2"]
    size_px: tuple[int, int]  # (width, height)


@dataclass(frozen=True)
class Track:
    """One person through one clip: one identity and camera, a pose and an expression for each frame."""

    camera: Camera
    cam_from_head: Float[Tensor, "frames 4 4"]  # rigid; metres
    identity: Float[Tensor, "identity"]  # standard deviations
    expression: Float[Tensor, "frames expression"]  # standard deviations; the face model's first, then EYE_CHANNELS
    landmark_offsets_m: Float[Tensor, "landmarks 3"]  # personal offset of every landmark, head frame
    residual_px: Float[Tensor, "frames"]  # rms over the fitted landmarks
    valid: Bool[Tensor, "frames"]  # False: no face, or the fit failed; pose and expression are then interpolated
    frame_rate_hz: float
    landmark_scheme: LandmarkScheme
    face_model: str  # FaceModel.id
    expression_names: tuple[str, ...]
    focal_source: Literal["prior", "estimated", "given"] = "prior"

    @property
    def frame_count(self) -> int:
        return self.cam_from_head.shape[0]

    @property
    def face_expression(self) -> Float[Tensor, "frames face_expression"]:
        """The coefficients that move the face model: all but the channels of lids and gaze, which come last."""
        count = sum(name not in EYE_CHANNELS for name in self.expression_names)
        return self.expression[:, :count]


# --------------------------------------------------------------------------------------------- sampling and rendering


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in the head frame."""

    lower_m: Float[Tensor, "3"]
    upper_m: Float[Tensor, "3"]

    def __post_init__(self) -> None:
        _require(bool((self.upper_m > self.lower_m).all()), "Box: every upper bound must exceed its lower bound")


@dataclass(frozen=True)
class Rays:
    """Rays in the head frame. ``frame`` says which row of the batch's expressions belongs to each ray."""

    origins_m: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]  # unit length
    frame: Int[Tensor, "rays"]  # row of RayBatch.expression (or of the expressions being rendered)


@dataclass(frozen=True)
class RayBatch:
    """What one training iteration sees."""

    rays: Rays
    expression: Float[Tensor, "batch expression"]
    cam_from_head: Float[Tensor, "batch 4 4"]
    rgb: Float[Tensor, "rays 3"]  # composited on white, [0, 1]
    alpha: Float[Tensor, "rays"]  # the head matte


@dataclass(frozen=True)
class RaySamples:
    """Samples on rays, packed: those of ray r are ``offsets[r]:offsets[r + 1]``, ordered by distance."""

    distance_m: Float[Tensor, "samples"]  # from the ray origin to the middle of the interval
    length_m: Float[Tensor, "samples"]  # of the interval
    ray: Int[Tensor, "samples"]
    offsets: Int[Tensor, "rays_plus_one"]


@dataclass(frozen=True)
class FieldValues:
    """What a field says about each sample; differentiable."""

    density_per_m: Float[Tensor, "samples"]  # >= 0
    rgb: Float[Tensor, "samples 3"]  # [0, 1]


@runtime_checkable
class FieldAtExpressions(Protocol):
    """A field whose expressions are fixed: one for each frame of a batch."""

    def __call__(
        self,
        points_m: Float[Tensor, "samples 3"],
        directions: Float[Tensor, "samples 3"],
        frame: Int[Tensor, "samples"],
    ) -> FieldValues: ...


@runtime_checkable
class Field(Protocol):
    """Anything that can be volume-rendered. ``at`` does what is done once a frame, its result what is done per sample.

    A field may look at the head's pose, too: neck and hair hang differently in a turned head. None is the mean pose.
    """

    def at(
        self,
        expression: Float[Tensor, "batch expression"],
        cam_from_head: Float[Tensor, "batch 4 4"] | None = None,
    ) -> FieldAtExpressions: ...


@dataclass(frozen=True)
class Rendering:
    """Rays (or, reshaped, pixels) after volume rendering; differentiable."""

    rgb: Float[Tensor, "*rays 3"]  # over the background colour
    opacity: Float[Tensor, "*rays"]  # [0, 1]
    depth_m: Float[Tensor, "*rays"]  # expected distance, weighted by opacity; 0 where nothing was hit


# ----------------------------------------------------------------------------------------------------- dataset, avatar


@dataclass(frozen=True)
class Dataset:
    """The frames an avatar is trained and scored on: square crops with their head matte, and their track.

    ``images`` is memory-mapped: it is read as needed and never wholly in memory.
    """

    images: UInt8[Tensor, "frames height width 4"]  # straight RGBA, A = head matte
    camera: Camera  # of the crop
    cam_from_head: Float[Tensor, "frames 4 4"]
    expression: Float[Tensor, "frames expression"]
    landmarks_px: Float[Tensor, "frames 68 2"]  # projected iBUG-68 points of the track, for mouth and eye crops
    surface_m: Float[Tensor, "vertices 3"]  # tracked face, mean expression, head frame: a first guess of depth
    bounds: Box  # of the head and hair, from the mattes
    clip_frame: Int[Tensor, "frames"]  # which frame of the clip each one is
    train: Int[Tensor, "train"]  # rows to train on; near-duplicates and failed frames left out
    held_out: Int[Tensor, "held_out"]  # rows never trained on
    frame_rate_hz: float


@dataclass(frozen=True)
class AvatarHeader:
    """Everything an avatar file says about itself besides its tensors; written as JSON."""

    format_version: int
    created_with: str  # "manvatar 0.1.0"
    preset: str
    field_name: str  # which field, as `manvatar.fields.make_field` knows it
    field: dict  # the field's config, as its dataclass's fields
    march: dict  # how densely rays were sampled: the fields of `manvatar.rendering.MarchConfig`
    occupancy_cell_m: float
    bounds_lower_m: tuple[float, float, float]
    bounds_upper_m: tuple[float, float, float]
    face_model: str
    expression_names: tuple[str, ...]
    expression_lower: tuple[float, ...]  # range seen in training, standard deviations
    expression_upper: tuple[float, ...]
    camera_focal_px: tuple[float, float]  # the training crop's camera, the default view
    camera_center_px: tuple[float, float]
    camera_size_px: tuple[int, int]
    cam_from_head: tuple[tuple[float, ...], ...]  # 4x4, the mean pose in training, the default pose
    training: dict = field(default_factory=dict)  # iterations, seconds, seed, device, held-out clip frames
    scores: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)  # source clip name and hash, date; "synthetic": True
    arkit: tuple[tuple[float, ...], ...] = ()  # 52 rows of coefficients (``ArkitMap``); none = not known
