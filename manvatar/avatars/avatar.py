"""An avatar: expression and head pose in, image out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from manvatar.avatars.files import Precision, read_avatar, write_avatar
from manvatar.avatars.header import fitted_camera, header_box, header_camera
from manvatar.config import from_table
from manvatar.devices import Device, pick_device
from manvatar.errors import UserError
from manvatar.face_models.arkit import builtin_table
from manvatar.face_models.builtin import ID as BUILTIN_ID
from manvatar.fields import make_field
from manvatar.rendering import MarchConfig, OccupancyGrid, march_tables, render_image
from manvatar.types import AvatarHeader, Camera, Dataset, Rendering

Expression: TypeAlias = "Tensor | np.ndarray | Sequence[float] | Mapping[str, float]"


class Avatar:
    """A trained head that can be driven; see :meth:`render`.

    Attributes:
        header: everything the file says besides its tensors.
        field: the :class:`manvatar.types.Field`, on :attr:`device`.
        occupancy: where samples are worth taking, on :attr:`device`.
    """

    def __init__(self, header: AvatarHeader, field: nn.Module, occupancy: OccupancyGrid) -> None:
        self.header = header
        self.field = field.eval().requires_grad_(False)
        self.occupancy = occupancy
        self.march = from_table(MarchConfig, header.march, "the avatar's march settings")
        self._tables = march_tables(occupancy, self.march)

    @classmethod
    def load(cls, path: str | Path, device: Device = "auto") -> Avatar:
        """Read an avatar file.

        Args:
            device: "auto" is the GPU where there is one.

        Raises:
            UserError: no such file, not an avatar, cut off, damaged, of a newer version, or no such device.
        """
        where = pick_device(device)
        header, tensors = read_avatar(path)
        box = header_box(header)
        field = make_field(header.field_name, header.field, box, len(header.expression_names))
        occupancy = OccupancyGrid(box, header.occupancy_cell_m)
        try:
            field.load_state_dict(_part(tensors, "field."))
            occupancy.load_state_dict(_part(tensors, "occupancy."))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not hold what its header says ({reason}); make the avatar again") from error
        return cls(header, field.to(where), occupancy.to(where))

    def save(self, path: str | Path, precision: Precision = "half") -> None:
        """Write the avatar file, atomically.

        Args:
            precision: "half" is half the size and costs less than 0.02 dB; "full" gives the same bits back.

        Raises:
            UserError: the file cannot be written.
        """
        tensors = {f"field.{name}": tensor for name, tensor in self.field.state_dict().items()}
        tensors |= {f"occupancy.{name}": tensor for name, tensor in self.occupancy.state_dict().items()}
        write_avatar(path, self.header, tensors, precision)

    @property
    def device(self) -> torch.device:
        return self.occupancy.highest.device

    @property
    def expression_names(self) -> tuple[str, ...]:
        return self.header.expression_names

    @property
    def expression_range(self) -> tuple[Float[Tensor, "expression"], Float[Tensor, "expression"]]:
        """Lowest and highest value of each coefficient in training, standard deviations."""
        return torch.tensor(self.header.expression_lower), torch.tensor(self.header.expression_upper)

    @property
    def neutral(self) -> Float[Tensor, "expression"]:
        """The face model's neutral expression (zeros), or as near to it as training came."""
        lower, upper = self.expression_range
        return torch.zeros(len(lower)).clamp(lower, upper)

    @property
    def head_pose(self) -> Float[Tensor, "4 4"]:
        """The default pose, ``cam_from_head``: the mean over the training frames."""
        return torch.tensor(self.header.cam_from_head)

    @property
    def camera(self) -> Camera:
        """The default camera: that of the training images."""
        return header_camera(self.header)

    @property
    def arkit(self) -> Float[Tensor, "52 expression"] | None:
        """Coefficients of each of Apple's 52 blendshapes at full activation (``manvatar.face_models.arkit``).

        None where the avatar's face model is not the builtin head and the avatar file does not say.
        """
        if self.header.arkit:
            return torch.tensor(self.header.arkit)
        return builtin_table(self.expression_names) if self.header.face_model == BUILTIN_ID else None

    def with_scores(self, scores: dict) -> Avatar:
        """The same avatar, whose header says how good it is."""
        return Avatar(dataclasses.replace(self.header, scores=scores), self.field, self.occupancy)

    def expression(self, values: Expression) -> Float[Tensor, "expression"]:
        """Coefficients in the avatar's order, in standard deviations of its face model.

        Args:
            values: all coefficients in order, or some of them by name; those not named are 0.

        Raises:
            UserError: a name the avatar does not have, the wrong number, or a value that is not a finite number.
        """
        names = self.expression_names
        if isinstance(values, Mapping):
            if unknown := [name for name in values if name not in names]:
                raise UserError(f"this avatar has no expression {', '.join(unknown)}; it has {', '.join(names)}")
            values = [float(values.get(name, 0.0)) for name in names]
        coefficients = torch.as_tensor(values).detach().to("cpu", torch.float32)
        if coefficients.shape != (len(names),):
            shape = tuple(coefficients.shape)
            raise UserError(f"an expression of this avatar has {len(names)} coefficients, but shape {shape} was given")
        if not bool(coefficients.isfinite().all()):
            raise UserError("an expression coefficient is not a finite number; give standard deviations")
        return coefficients

    def render(
        self,
        expression: Expression,
        head_pose: Float[Tensor, "4 4"] | np.ndarray | None = None,
        camera: Camera | None = None,
        size_px: int | tuple[int, int] | None = None,
    ) -> UInt8[Tensor, "height width 4"]:
        """One image of the avatar.

        Args:
            expression: see :meth:`expression`.
            head_pose: ``cam_from_head``, rigid, metres; None = the mean pose in training.
            camera: None = the camera of the training images.
            size_px: (width, height), or one number for both; the camera's view is scaled to it. None = the camera's.

        Returns:
            8-bit sRGB with straight alpha, on the CPU; ``.numpy()`` gives what image libraries take.

        Raises:
            UserError: an expression or pose that cannot be used.
        """
        return rgba8(self.rendering(expression, head_pose, camera, size_px))

    def rendering(
        self,
        expression: Expression,
        head_pose: Float[Tensor, "4 4"] | np.ndarray | None = None,
        camera: Camera | None = None,
        size_px: int | tuple[int, int] | None = None,
        background: Float[Tensor, "3"] | None = None,
    ) -> Rendering:
        """As :meth:`render`, in floating point and with depth, on :attr:`device`.

        Args:
            background: colour behind the head, [0, 1]; None gives premultiplied colour.
        """
        coefficients = self.expression(expression)
        pose = self.head_pose if head_pose is None else _checked_pose(head_pose)
        camera = self.camera if camera is None else camera
        if size_px is not None:
            camera = fitted_camera(camera, size_px)
        return render_image(
            self.field,
            self.occupancy,
            camera,
            pose.to(self.device),
            coefficients.to(self.device),
            self.march,
            background=background,
            tables=self._tables,
        )


def dataset_renderer(avatar: Avatar, dataset: Dataset) -> Callable[[int], Float[Tensor, "height width 3"]]:
    """Shows each row of a dataset as the avatar renders it, on white; what ``manvatar.metrics`` scores.

    Raises:
        UserError: the dataset's expressions are not those of the avatar.
    """
    count = dataset.expression.shape[1]
    if count != len(avatar.expression_names):
        raise UserError(
            f"the video was tracked with {count} expression coefficients but the avatar has "
            f"{len(avatar.expression_names)}; track it with the avatar's face model, {avatar.header.face_model}"
        )
    white = torch.ones(3, device=avatar.device)

    def render(row: int) -> Float[Tensor, "height width 3"]:
        expression, pose = dataset.expression[row], dataset.cam_from_head[row]
        return avatar.rendering(expression, pose, dataset.camera, background=white).rgb

    return render


def rgba8(rendering: Rendering) -> UInt8[Tensor, "height width 4"]:
    """An image with straight alpha from a premultiplied rendering (one made without a background)."""
    opacity = rendering.opacity.clamp(0, 1)[..., None]
    rgb = torch.where(opacity > 0, rendering.rgb / opacity.clamp_min(1e-6), 0.0)
    return (torch.cat([rgb, opacity], -1).clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def _checked_pose(head_pose: Tensor | np.ndarray) -> Float[Tensor, "4 4"]:
    pose = torch.as_tensor(head_pose).detach().to("cpu", torch.float32)
    if pose.shape != (4, 4):
        raise UserError(f"a head pose is a 4x4 matrix, but shape {tuple(pose.shape)} was given; give cam_from_head")
    rotation = pose[:3, :3]
    rigid = bool(pose.isfinite().all()) and torch.allclose(pose[3], torch.tensor([0.0, 0.0, 0.0, 1.0]))
    if not (rigid and torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-3) and rotation.det() > 0):
        raise UserError("the head pose is not a rotation and a translation in metres; give a rigid cam_from_head")
    return pose


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
