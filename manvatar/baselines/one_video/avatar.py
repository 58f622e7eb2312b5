"""A 2D model of one person as an avatar: expression and head pose in, image out.

It is driven as the voxel avatar is, and written into the same kind of file. Expression and pose become the avatar's own
landmarks in the picture (:class:`~manvatar.baselines.one_video.rig.LandmarkRig`), and the network sees only those.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from manvatar.avatars import Avatar, fitted_camera
from manvatar.avatars.avatar import Expression, _checked_pose, _part
from manvatar.avatars.files import Precision, read_avatar, write_avatar
from manvatar.baselines.one_video.config import NetworkConfig
from manvatar.baselines.one_video.models import PortraitModel, make_model
from manvatar.baselines.one_video.rig import LandmarkRig
from manvatar.config import from_table
from manvatar.devices import Device, pick_device
from manvatar.errors import UserError
from manvatar.types import AvatarHeader, Camera, Rendering


class PortraitAvatar(Avatar):
    """A 2D model of one person; has all that an :class:`~manvatar.avatars.Avatar` has but a field.

    Attributes:
        header: as of any avatar; ``field_name`` is ``bilayer`` or ``fewshot``.
        model: the network, in eval mode.
        rig: the person's landmarks.
    """

    def __init__(self, header: AvatarHeader, model: PortraitModel, rig: LandmarkRig) -> None:
        self.header = header
        self.model = model.eval().requires_grad_(False)
        self.rig = rig.to(self.device)

    @classmethod
    def load(cls, path: str | Path, device: Device = "auto") -> PortraitAvatar:
        """Read a file that :meth:`save` wrote.

        Raises:
            UserError: no such file, not an avatar, the avatar of another method, damaged, or no such device.
        """
        where = pick_device(device)
        header, tensors = read_avatar(path)
        # Files of the first version have a single texture and do not say so.
        config = from_table(NetworkConfig, {"texture_modes": 0} | header.field, f"the network of {path}")
        model = make_model(header.field_name, config)
        try:
            model.load_state_dict(_part(tensors, "model."))
            rig = LandmarkRig.from_tensors(_part(tensors, "rig."))
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} does not hold what its header says ({reason}); make the avatar again") from error
        return cls(header, model.to(where), rig)

    def save(self, path: str | Path, precision: Precision = "half") -> None:
        """Write the avatar file, atomically. ``half`` is half the size, ``full`` gives the same bits back."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"rig.{name}": tensor for name, tensor in self.rig.tensors().items()}
        write_avatar(path, self.header, tensors, precision)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def with_scores(self, scores: dict) -> PortraitAvatar:
        """The same avatar, whose header says how good it is."""
        return PortraitAvatar(dataclasses.replace(self.header, scores=scores), self.model, self.rig)

    @torch.no_grad()
    def rendering(
        self,
        expression: Expression,
        head_pose: Float[Tensor, "4 4"] | np.ndarray | None = None,
        camera: Camera | None = None,
        size_px: int | tuple[int, int] | None = None,
        background: Float[Tensor, "3"] | None = None,
    ) -> Rendering:
        """As that of the voxel avatar; there is no depth, it is 0 everywhere.

        The network has one size. Other sizes are scaled from it, and a camera that is not square shows its image in its
        largest square. A model without a mask brings its own white background.

        Raises:
            UserError: an expression or pose that cannot be used, or a background that the model cannot have.
        """
        pose = self.head_pose if head_pose is None else _checked_pose(head_pose)
        camera = self.camera if camera is None else camera
        if size_px is not None:
            camera = fitted_camera(camera, size_px)
        coefficients = self.expression(expression).to(self.device)
        keypoints = self.rig.keypoints(coefficients[None], pose[None].to(self.device), camera)
        portrait = self.model(keypoints)
        image = (portrait.image + 1) / 2
        if portrait.mask_logits is None:
            if background is not None and not bool((background == 1).all()):
                name = self.header.field_name
                raise UserError(f"an avatar of --model {name} draws its own white background; leave out --background")
            mask = torch.ones_like(image[:, :1])
        else:
            mask = portrait.mask_logits.sigmoid()
        premultiplied = _placed(torch.cat([image.clamp(0, 1) * mask, mask], 1), camera.size_px)
        rgb, opacity = premultiplied[..., :3], premultiplied[..., 3]
        if background is not None:
            rgb = rgb + (1 - opacity)[..., None] * background.to(rgb)
        return Rendering(rgb, opacity, torch.zeros_like(opacity))


def _placed(image: Float[Tensor, "1 4 size size"], size_px: tuple[int, int]) -> Float[Tensor, "height width 4"]:
    """The square image scaled into the middle of one of ``size_px`` (width, height); empty beside it."""
    width, height = size_px
    side = min(width, height)
    if image.shape[-1] != side:
        smaller = side < image.shape[-1]
        image = functional.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=smaller)
    left, top = (width - side) // 2, (height - side) // 2
    padded = functional.pad(image, (left, width - side - left, top, height - side - top))
    return padded[0].permute(1, 2, 0)
