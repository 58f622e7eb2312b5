"""The photometric term: points on the skin look the same in every frame.

Point v of the skin has the local contrast ``m_v`` whatever the frame. With ``C_f`` the patch of frame f and ``u_fv``
the projection of the point (``problem.py`` has the notation), the residual is ``r_fv = C_f(u_fv) - m_v``, its row of
the Jacobian ``grad C_f . du_fv``, its penalty that of Geman and McClure, ``k^2 s^2 / (k^2 + s^2)`` of ``s = r / sd_v``.
This is direct image alignment (Lucas and Kanade 1981) to a template that the clip itself supplies; template and poses
are found in turns. What a point shows, how much it varies (``sd_v``) and where it can be seen are constants of one
such turn, so that the energy of a turn has a minimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from manvatar.tracking.parallel import over_blocks
from manvatar.tracking.patches import Patches
from manvatar.tracking.problem import POSE, State
from manvatar.tracking.skin import Skin

_GEMAN_MCCLURE = 3.0  # standard deviations at which an outlier is one
_LEAST_SD = 0.05  # of local contrast
_SEEN_IN = 3.0  # frames a point must be seen in (weighted) to have a look of its own
_COS_RANGE = (0.25, 0.60)  # cosine to the line of sight at which a point begins to count, and counts in full
_BLOCK = 16  # frames at once, so that they stay in the cache
_FEW = 2  # the same for a Jacobian, which is sixty times as large


@dataclass(frozen=True)
class Photometric:
    """One turn of the photometric term, for the frames of a state (``rows`` of the patches)."""

    patches: Patches
    skin: Skin
    rows: Int[Tensor, "f"]
    strength: float  # neighbouring points are not independent: what one is worth
    look: Float[Tensor, "n"]  # m_v
    sd: Float[Tensor, "n"]
    weight: Float[Tensor, "f n"]  # how well each point can be seen, [0, 1]

    @staticmethod
    def start(patches: Patches, skin: Skin, rows: Int[Tensor, "f"], strength: float) -> Photometric:
        """A term that knows nothing yet; :meth:`seen` and :meth:`learnt` make it useful."""
        count = len(skin.points_m)
        nothing = torch.zeros(count)
        return Photometric(patches, skin, rows, strength, nothing, nothing + 1, torch.zeros(len(rows), count))

    def select(self, rows: Tensor) -> Photometric:
        """The same turn with some of the frames."""
        return replace(self, rows=self.rows[rows], weight=self.weight[rows])

    def thinned(self, step: int) -> Photometric:
        """The same turn with one in ``step`` of the points, each worth so many times as much."""
        count = len(self.skin.points_m) // step
        return replace(
            self,
            skin=self.skin.first(count),
            strength=self.strength * step,
            look=self.look[:count],
            sd=self.sd[:count],
            weight=self.weight[:, :count],
        )

    def of_frames(self, rows: Int[Tensor, "f"]) -> Photometric:
        """The same look in other frames, whose visibility is not known yet."""
        return replace(self, rows=rows, weight=torch.zeros(len(rows), len(self.look)))

    def seen(self, state: State) -> Photometric:
        """With visibility as in ``state``, frames and all."""
        weight = torch.empty(len(self.rows), len(self.skin.points_m))
        low, high = _COS_RANGE

        def look(block: Tensor) -> None:
            some = state.select(block)
            normals = self.skin.normals @ some.rotation.float().transpose(1, 2)
            toward = functional.normalize(self._points_m(some)[1], dim=-1)
            cosine = -(normals * toward).sum(-1)
            weight[block] = ((cosine - low) / (high - low)).clamp(0, 1)

        over_blocks(look, len(self.rows), _BLOCK)
        return replace(self, weight=weight)

    def learnt(self, state: State, rounds: int = 3) -> Photometric:
        """With what the points look like in the frames of ``state``: a robust mean and deviation of each."""
        value = self._values(state)
        look = (value * self.weight).sum(0) / self.weight.sum(0).clamp_min(1e-6)
        for _ in range(rounds):
            residual = value - look
            # Median absolute deviation to standard deviation of a normal variable.
            spread = (1.4826 * residual.abs().median(0).values).clamp_min(_LEAST_SD / 2)
            weight = self.weight * _slope(residual / (2 * spread), 1.0)
            total = weight.sum(0).clamp_min(1e-6)
            look = (value * weight).sum(0) / total
        sd = ((weight * (value - look) ** 2).sum(0) / total).sqrt().clamp_min(_LEAST_SD)
        often = self.weight.sum(0) > min(_SEEN_IN, 0.5 * len(self.rows))
        return replace(self, look=look, sd=torch.where(often, sd, torch.full_like(sd, torch.inf)))

    def energy(self, state: State) -> Float[Tensor, "f"]:
        """Energy of every frame."""
        squared = ((self._values(state) - self.look) / self.sd) ** 2
        limit = _GEMAN_MCCLURE**2
        return self.strength * (self.weight * squared * limit / (limit + squared)).sum(1).double()

    def linearise(self, state: State, *, pose_only: bool) -> tuple[Float[Tensor, "f x x"], Float[Tensor, "f x"]]:
        """Gauss-Newton blocks and gradients of the frames, columns as in ``problem.py``."""
        blocks = over_blocks(
            lambda rows: self.select(rows)._linearise(state.select(rows), pose_only), len(self.rows), _BLOCK
        )
        return torch.cat([matrix for matrix, _ in blocks]), torch.cat([gradient for _, gradient in blocks])

    def _linearise(self, state: State, pose_only: bool) -> tuple[Tensor, Tensor]:
        rotated, points = self._points_m(state)
        value, slope = _sample_with_slope(self.patches.contrast[self.rows].float(), self._pixels(points))
        residual = value - self.look
        root = (self.strength * self.weight).sqrt() / self.sd / (1 + (residual / self.sd / _GEMAN_MCCLURE) ** 2)
        # grad C . D, with D the derivative of the projection: (f, n, 3)
        x, y, z = points.unbind(-1)
        along = slope * self.patches.focal_px() * (root / z)[..., None]
        shift = torch.stack([along[..., 0], along[..., 1], -(along[..., 0] * x + along[..., 1] * y) / z], -1)
        turning = torch.linalg.cross(rotated, shift).transpose(1, 2)
        in_head = None if pose_only else (shift @ state.rotation.float()).permute(2, 0, 1)[:, :, None]
        weighted = (root * residual)[..., None]
        width = POSE if pose_only else POSE + self.skin.expression_basis_m.shape[0]
        matrix, gradient = torch.empty(len(x), width, width), torch.empty(len(x), width)
        for few in torch.arange(len(x)).split(_FEW):
            rows = slice(int(few[0]), int(few[-1]) + 1)
            jacobian = self._jacobian(
                turning[rows], shift[rows].transpose(1, 2), None if in_head is None else in_head[:, rows]
            )
            torch.bmm(jacobian, jacobian.transpose(1, 2), out=matrix[rows])
            gradient[rows] = (jacobian @ weighted[rows])[..., 0]
        return matrix.double(), gradient.double()

    def _jacobian(
        self, turning: Float[Tensor, "f 3 n"], shift: Float[Tensor, "f 3 n"], in_head: Float[Tensor, "3 f 1 n"] | None
    ) -> Float[Tensor, "f x n"]:
        """Columns of the Jacobian as rows: long ones, written once, never copied."""
        basis = self.skin.expression_planes_m
        width = POSE if in_head is None else POSE + basis.shape[1]
        jacobian = torch.empty(len(shift), width, shift.shape[2])
        jacobian[:, :3], jacobian[:, 3:POSE] = turning, shift
        if in_head is not None:
            moving = jacobian[:, POSE:]
            torch.mul(in_head[0], basis[0], out=moving)
            moving.addcmul_(in_head[1], basis[1]).addcmul_(in_head[2], basis[2])
        return jacobian

    def _points_m(self, state: State) -> tuple[Float[Tensor, "f n 3"], Float[Tensor, "f n 3"]]:
        """Rotated points, and points in the camera frame."""
        rotated = self.skin.moved_m(state.expression.float()) @ state.rotation.float().transpose(1, 2)
        return rotated, rotated + state.translation_m.float()[:, None]

    def _pixels(self, points_cam_m: Float[Tensor, "f n 3"]) -> Float[Tensor, "f n 2"]:
        focal, center = self.patches.focal_px(), self.patches.center_px(self.rows)
        return points_cam_m[..., :2] / points_cam_m[..., 2:].clamp_min(1e-3) * focal + center[:, None]

    def _values(self, state: State) -> Float[Tensor, "f n"]:
        """What each patch shows at each point."""
        value = torch.empty(len(self.rows), len(self.skin.points_m))

        def look(block: Tensor) -> None:
            part = self.select(block)
            pixels = part._pixels(part._points_m(state.select(block))[1])
            value[block] = _sample(part.patches.contrast[part.rows].float()[:, None], pixels)[:, 0]

        over_blocks(look, len(self.rows), _BLOCK)
        return value


def _slope(ratio: Tensor, scale: float) -> Tensor:
    """Weight of the square that has the slope of Geman and McClure's penalty."""
    return 1 / (1 + (ratio / scale) ** 2) ** 2


def _sample(images: Float[Tensor, "f c h w"], pixels: Float[Tensor, "f n 2"]) -> Float[Tensor, "f c n"]:
    """Bilinear; beyond the border its pixels are repeated."""
    size = torch.tensor([images.shape[-1], images.shape[-2]], dtype=pixels.dtype)
    grid = (pixels / size * 2 - 1)[:, None]
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]


def _sample_with_slope(
    images: Float[Tensor, "f h w"], pixels: Float[Tensor, "f n 2"]
) -> tuple[Float[Tensor, "f n"], Float[Tensor, "f n 2"]]:
    """Values and central differences, per pixel."""
    right = functional.pad(images[..., 2:] - images[..., :-2], (1, 1)) / 2
    down = functional.pad(images[:, 2:] - images[:, :-2], (0, 0, 1, 1)) / 2
    sampled = _sample(torch.stack([images, right, down], 1), pixels)
    return sampled[:, 0], sampled[:, 1:].transpose(1, 2)
