"""Meshes, cameras and transforms of PyTorch3D from ours, and back; and its rasteriser with the results of ours.

PyTorch3D (Ravi et al. 2020, arXiv 2007.08501) differs in four things:

* its cameras look along +z as ours, but have x to the left and y up: F = diag(-1, -1, 1) turns one into the other;
* points are rows: where we write ``cam_from_head @ x``, it writes ``x @ R + T``, so its matrices are transposed;
* NDC run from +1 on the left to -1 on the right of the smaller side of an image, and y from +1 at the top likewise;
  an image position p (pixels, centres at half-integers in both) is (size / 2 - p) 2 / smaller side;
* sizes of images are (height, width).

Rotation vectors and rotation matrices themselves are the same: ``axis_angle_to_matrix`` is our
``rotation_from_vector``. Lengths stay metres. Everything is differentiable but :func:`rasterize`.

The functions that name no type of PyTorch3D need no PyTorch3D; the others import it and raise ``UserError`` where it is
not there. Its types are in single precision, so matrices and vertices lose what is beyond it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manvatar.errors import UserError
from manvatar.geometry import rigid
from manvatar.ops.rasterize import Rasterized
from manvatar.types import Camera, FaceModel, Track

_SAME = 1e-4  # relative difference up to which the cameras of all frames count as one


# ----------------------------------------------------------------------------------------- the maths, without pytorch3d


def view_from_pose(
    cam_from_head: Float[Tensor, "frames 4 4"],
) -> tuple[Float[Tensor, "frames 3 3"], Float[Tensor, "frames 3"]]:
    """``R`` and ``T`` of PyTorch3D's cameras for poses of the head: ``points_head @ R + T`` is in its camera frame."""
    flip = _flip(cam_from_head)
    return cam_from_head[:, :3, :3].mT * flip, cam_from_head[:, :3, 3] * flip


def pose_from_view(
    rotation: Float[Tensor, "frames 3 3"], translation_m: Float[Tensor, "frames 3"]
) -> Float[Tensor, "frames 4 4"]:
    """The inverse of :func:`view_from_pose`."""
    flip = _flip(rotation)
    return rigid((rotation * flip).mT, translation_m * flip)


def ndc_intrinsics(camera: Camera) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Focal length and principal point of a camera in NDC."""
    return camera.focal_px * _per_pixel(camera.size_px), ndc_from_pixels(camera.center_px, camera.size_px)


def camera_from_ndc(focal: Float[Tensor, "2"], principal: Float[Tensor, "2"], size_px: tuple[int, int]) -> Camera:
    """The inverse of :func:`ndc_intrinsics`; ``size_px`` is (width, height)."""
    return Camera(focal / _per_pixel(size_px), pixels_from_ndc(principal, size_px), size_px)


def ndc_from_pixels(pixels: Float[Tensor, "*batch 2"], size_px: tuple[int, int]) -> Float[Tensor, "*batch 2"]:
    """Image positions (x, y) in NDC; ``size_px`` is (width, height)."""
    return (pixels.new_tensor(size_px) / 2 - pixels) * _per_pixel(size_px)


def pixels_from_ndc(ndc: Float[Tensor, "*batch 2"], size_px: tuple[int, int]) -> Float[Tensor, "*batch 2"]:
    """The inverse of :func:`ndc_from_pixels`."""
    return ndc.new_tensor(size_px) / 2 - ndc / _per_pixel(size_px)


def _per_pixel(size_px: tuple[int, int]) -> float:
    """NDC units a pixel is wide."""
    return 2 / min(size_px)


def _flip(like: Tensor) -> Float[Tensor, "3"]:
    return like.new_tensor([-1.0, -1.0, 1.0])


# ------------------------------------------------------------------------------------------------------ with pytorch3d


def to_transform(dst_from_src: Float[Tensor, "*batch 4 4"]) -> Any:
    """``pytorch3d.transforms.Transform3d`` that does what our matrix does, axes unchanged.

    Raises:
        UserError: PyTorch3D is not installed.
    """
    matrices = dst_from_src.reshape(-1, 4, 4).mT.contiguous()
    return _pytorch3d("transforms").Transform3d(matrix=matrices, dtype=matrices.dtype, device=matrices.device)


def from_transform(transform: Any) -> Float[Tensor, "batch 4 4"]:
    """The matrix ``dst_from_src`` of a ``pytorch3d.transforms.Transform3d``."""
    return transform.get_matrix().mT


def to_cameras(camera: Camera, cam_from_head: Float[Tensor, "frames 4 4"], in_ndc: bool = False) -> Any:
    """``pytorch3d.renderer.PerspectiveCameras``, one a frame, whose world is the head frame.

    Args:
        in_ndc: intrinsics in NDC rather than pixels. Both show the same.

    Raises:
        UserError: PyTorch3D is not installed.
    """
    rotation, translation = view_from_pose(cam_from_head)
    frames = len(cam_from_head)
    focal, center = ndc_intrinsics(camera) if in_ndc else (camera.focal_px, camera.center_px)
    width, height = camera.size_px
    return _pytorch3d("renderer").PerspectiveCameras(
        focal_length=focal.to(rotation).expand(frames, 2),
        principal_point=center.to(rotation).expand(frames, 2),
        R=rotation,
        T=translation,
        in_ndc=in_ndc,
        image_size=rotation.new_tensor([[height, width]]).expand(frames, 2),
        device=rotation.device,
    )


def from_cameras(cameras: Any, size_px: tuple[int, int] | None = None) -> tuple[Camera, Float[Tensor, "frames 4 4"]]:
    """The inverse of :func:`to_cameras`, for any ``PerspectiveCameras``: their world becomes the head frame.

    Args:
        size_px: (width, height) of the images; None = what the cameras say.

    Raises:
        UserError: the cameras are of another kind, are defined by a matrix K, do not say how large their images are,
            or differ between frames in more than their pose.
    """
    if not (hasattr(cameras, "focal_length") and cameras.is_perspective()):
        raise UserError(f"{type(cameras).__name__} of PyTorch3D cannot be converted; give PerspectiveCameras")
    if getattr(cameras, "K", None) is not None:
        raise UserError("these PyTorch3D cameras are defined by a matrix K; give focal_length and principal_point")
    frames = cameras.R.shape[0]
    focal = _one(cameras.focal_length.reshape(frames, -1).expand(frames, 2), "focal lengths")
    principal = _one(cameras.principal_point.reshape(frames, -1).expand(frames, 2), "principal points")
    if size_px is None:
        size = getattr(cameras, "image_size", None)
        if size is None:
            raise UserError("these PyTorch3D cameras have no image_size; give size_px = (width, height)")
        height, width = _one(size.reshape(-1, 2).float(), "sizes").round().int().tolist()
        size_px = (width, height)
    camera = camera_from_ndc(focal, principal, size_px) if cameras.in_ndc() else Camera(focal, principal, size_px)
    return camera, pose_from_view(cameras.R, cameras.T)


def to_meshes(vertices_m: Float[Tensor, "frames vertices 3"], triangles: Int[Tensor, "triangles 3"]) -> Any:
    """``pytorch3d.structures.Meshes``, one a frame, in the axes of ``vertices_m``.

    Raises:
        UserError: PyTorch3D is not installed.
    """
    faces = triangles.long().to(vertices_m.device).expand(len(vertices_m), -1, -1)
    return _pytorch3d("structures").Meshes(verts=vertices_m, faces=faces)


def track_meshes(track: Track, model: FaceModel) -> Any:
    """The tracked face in every frame, in the head frame: ``pytorch3d.structures.Meshes``.

    Raises:
        UserError: PyTorch3D is not installed, or the track was made with another face model.
    """
    if track.face_model != model.id:
        raise UserError(f"the track was made with the face model {track.face_model}, not {model.id}; load that one")
    return to_meshes(model.vertices_m(track.identity, track.face_expression), model.triangles)


def track_cameras(track: Track, in_ndc: bool = False) -> Any:
    """The camera in every frame of a track, see :func:`to_cameras`."""
    return to_cameras(track.camera, track.cam_from_head, in_ndc)


@torch.no_grad()
def rasterize(
    vertices_m: Float[Tensor, "frames vertices 3"],
    triangles: Int[Tensor, "triangles 3"],
    camera: Camera,
    cam_from_head: Float[Tensor, "frames 4 4"],
    cull_back_faces: bool = False,
) -> Rasterized:
    """What :func:`manvatar.ops.rasterize` returns, from PyTorch3D's ``MeshRasterizer``.

    It does not round corners to fractions of a pixel, so a pixel whose centre lies next to an edge may see the
    neighbour; one whose centre lies exactly on it sees neither triangle.

    Args:
        vertices_m: float32, in the head frame.

    Raises:
        UserError: PyTorch3D is not installed.
    """
    renderer = _pytorch3d("renderer")
    width, height = camera.size_px
    settings = renderer.RasterizationSettings(
        image_size=(height, width),
        blur_radius=0.0,
        faces_per_pixel=1,
        bin_size=0,  # no bins: they may overflow, and then leave triangles out
        perspective_correct=True,
        cull_backfaces=cull_back_faces,
    )
    rasterizer = renderer.MeshRasterizer(to_cameras(camera, cam_from_head), settings)
    fragments = rasterizer(to_meshes(vertices_m, triangles))
    face = fragments.pix_to_face[..., 0]  # numbered through all frames
    hit = face >= 0
    triangle = torch.where(hit, face % max(len(triangles), 1), -1)
    barycentric = torch.where(hit[..., None], fragments.bary_coords[..., 0, :], 0.0)
    return Rasterized(triangle.int(), barycentric, torch.where(hit, fragments.zbuf[..., 0], 0.0))


def require() -> None:
    """Raises ``UserError`` when PyTorch3D's renderer is not there."""
    _pytorch3d("renderer")


def _one(rows: Float[Tensor, "frames 2"], what: str) -> Float[Tensor, "2"]:
    """The row that all are."""
    if bool(((rows - rows[0]).abs() > _SAME * rows.abs().amax().clamp_min(1)).any()):
        raise UserError(f"the {what} of these PyTorch3D cameras differ between frames; give frames of one camera")
    return rows[0]


def _pytorch3d(part: str) -> ModuleType:
    """A module of PyTorch3D."""
    import importlib

    try:
        return importlib.import_module(f"pytorch3d.{part}")
    except ImportError as error:
        raise UserError(
            "PyTorch3D is not installed (or does not fit this PyTorch); build it with: pip install "
            "--no-build-isolation git+https://github.com/facebookresearch/pytorch3d.git"
        ) from error
