"""What is believed before looking: plausible faces, small expressions, and motion that is smooth in time.

* Shape. Neutral landmarks ``s = m + B a + d`` with ``a ~ N(0, 1)`` and personal offsets ``d ~ N(0, offset_sd^2)``, so
  ``s ~ N(m, B^T B + offset_sd^2)``: identity and offsets are integrated out of the fit and read off afterwards. The
  precision is multiplied by (frames / effective_frames): a detector repeats its error in every frame, so a thousand
  frames are not a thousand independent votes (without it, identities of 7 to 9 standard deviations were found).
* Expression. ``|b|^2`` in every frame.
* Motion. Second differences: ``v_f - v_{f-1}`` with ``v_f = log(R_{f+1} R_f^T)`` for the rotation, plain ones for
  position and expression, over frames that follow each other without a gap. Their Huber penalty lets fast motion
  pass. The gradient is exact; the Gauss-Newton matrix takes ``dv_f = w_{f+1} - w_f``, which is the first order for the
  small rotations between frames and keeps the coupling diagonal.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manvatar.geometry import skew, vector_from_rotation
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.problem import POSE, State, huber_energy, huber_weight
from manvatar.tracking.solver import Coupling

LOG_FOCAL_SD = 0.3
REFERENCE_RATE_HZ = 25.0
# Lids and jaws move as fast as a frame lasts; smoothing them erases blinks.
FAST = re.compile(r"blink|squint|eyewide|jaw|close", re.IGNORECASE)
FAST_FACTOR = 4.0


@dataclass(frozen=True)
class ShapePrior:
    """Gaussian prior of the shared columns ``[s, l]``."""

    mean_m: Float[Tensor, "n 3"]
    identity_basis_m: Float[Tensor, "I n 3"]
    offset_sd_m: float
    precision: Float[Tensor, "S S"]
    log_focal: float

    def deviation(self, state: State) -> Float[Tensor, "S"]:
        """Shared unknowns minus their means."""
        focal = (state.log_focal - self.log_focal).reshape(1)
        return torch.cat([(state.shape_m - self.mean_m).flatten(), focal])

    def split(self, shape_m: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "I"], Float[Tensor, "n 3"]]:
        """Most probable identity (standard deviations) and offsets (metres) behind a shape."""
        basis = self.identity_basis_m.flatten(1)
        difference = (shape_m - self.mean_m).flatten()
        matrix = basis @ basis.T / self.offset_sd_m**2 + torch.eye(len(basis), dtype=basis.dtype)
        identity = torch.linalg.solve(matrix, basis @ difference / self.offset_sd_m**2)
        return identity, (difference - identity @ basis).reshape(-1, 3)


def shape_prior(
    mean_m: Float[Tensor, "n 3"],
    identity_basis_m: Float[Tensor, "I n 3"],
    frames: int,
    log_focal: float,
    config: TrackerConfig,
) -> ShapePrior:
    """The prior of the shape for a clip fitted on ``frames`` frames."""
    basis = identity_basis_m.flatten(1)
    covariance = basis.T @ basis + config.offset_sd_m**2 * torch.eye(basis.shape[1], dtype=basis.dtype)
    precision = torch.zeros(basis.shape[1] + 1, basis.shape[1] + 1, dtype=basis.dtype)
    precision[:-1, :-1] = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    precision *= max(frames / config.effective_frames, 1.0)
    precision[-1, -1] = 1 / LOG_FOCAL_SD**2
    return ShapePrior(mean_m, identity_basis_m, config.offset_sd_m, precision, log_focal)


@dataclass(frozen=True)
class MotionPrior:
    """Second-difference prior over a clip's fitted frames."""

    middle: Bool[Tensor, "f"]  # frame f has a neighbour on either side without a gap
    sd: Float[Tensor, "x"]  # of each column's second difference
    huber: float

    def _differences(self, state: State) -> Float[Tensor, "f x"]:
        """Second differences in standard deviations; 0 where a frame is no middle."""
        velocity = vector_from_rotation(state.rotation[1:] @ state.rotation[:-1].transpose(1, 2))
        result = torch.zeros(len(state.rotation), len(self.sd), dtype=velocity.dtype)
        linear = torch.cat([state.translation_m, state.expression], 1)
        result[1:-1, :3] = velocity[1:] - velocity[:-1]
        result[1:-1, 3:] = linear[2:] - 2 * linear[1:-1] + linear[:-2]
        return torch.where(self.middle[:, None], result / self.sd, torch.zeros_like(result))

    def _lengths(self, difference: Float[Tensor, "f x"]) -> Float[Tensor, "f x"]:
        """What the Huber penalty sees: rotation and position as vectors, each expression alone."""
        pose = difference[:, :POSE].reshape(-1, 2, 3).norm(dim=-1).repeat_interleave(3, 1)
        return torch.cat([pose, difference[:, POSE:].abs()], 1)

    def energy(self, state: State) -> Float[Tensor, ""]:
        """Energy of the whole clip."""
        length = self._lengths(self._differences(state))
        once = torch.cat([length[:, 0:1], length[:, 3:4], length[:, POSE:]], 1)
        return huber_energy(once, self.huber).sum()

    def linearise(self, state: State) -> tuple[Coupling, Float[Tensor, "f x"]]:
        """Coupling and gradient."""
        difference = self._differences(state)
        weight = torch.where(
            self.middle[:, None], huber_weight(self._lengths(difference), self.huber), torch.zeros_like(difference)
        )
        slope = weight * difference / self.sd  # d energy / d second difference, halved
        gradient = torch.zeros_like(slope)
        gradient[:, 3:] = -2 * slope[:, 3:]
        gradient[1:, 3:] += slope[:-1, 3:]
        gradient[:-1, 3:] += slope[1:, 3:]
        velocity = vector_from_rotation(state.rotation[1:] @ state.rotation[:-1].transpose(1, 2))
        # v_f enters the difference at f with + and at f + 1 with -.
        pull = slope[:-1, :3].clone()
        pull -= slope[1:, :3]
        inverse = left_jacobian_inverse(velocity)  # dv = inverse w_{f+1} - inverse^T w_f
        gradient[1:, :3] += (inverse.transpose(1, 2) @ pull[..., None])[..., 0]
        gradient[:-1, :3] -= (inverse @ pull[..., None])[..., 0]
        return second_difference_coupling(weight / self.sd**2), gradient


def motion_prior(
    frame: Tensor, expression_names: tuple[str, ...], frame_rate_hz: float, config: TrackerConfig
) -> MotionPrior:
    """The prior for frames numbered ``frame`` (ascending, with gaps) of a clip at ``frame_rate_hz``."""
    middle = torch.zeros(len(frame), dtype=torch.bool)
    if len(frame) > 2:
        middle[1:-1] = frame[2:] - frame[:-2] == 2
    expression = [config.expression_sd * (FAST_FACTOR if FAST.search(name) else 1.0) for name in expression_names]
    pose = [math.radians(config.rotation_sd_deg)] * 3 + [config.translation_sd_m] * 3
    # An acceleration moves (1 / rate)^2 times as far in one frame.
    sd = torch.tensor(pose + expression, dtype=torch.float64) * (REFERENCE_RATE_HZ / frame_rate_hz) ** 2
    return MotionPrior(middle, sd, config.motion_huber)


def second_difference_coupling(weight: Float[Tensor, "f x"]) -> Coupling:
    """``D^T diag(weight) D`` for second differences centred on each frame; first and last weights must be 0."""
    own, following, after = 4 * weight, torch.zeros_like(weight), torch.zeros_like(weight)
    own[:-1] += weight[1:]
    own[1:] += weight[:-1]
    following[:-1] = -2 * (weight[:-1] + weight[1:])
    after[:-2] = weight[1:-1]
    return Coupling(own, following, after)


def left_jacobian_inverse(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """d log(exp(w) exp(v)) / dw at w = 0 (Chirikjian 2012, eq. 10.86); its transpose is the right one."""
    squared = (v * v).sum(-1)[..., None, None]
    small = squared < 1e-6
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    exact = 1 / angle**2 - (1 + angle.cos()) / (2 * angle * angle.sin())
    factor = torch.where(small, 1 / 12 + squared / 720, exact)
    cross = skew(v)
    return torch.eye(3, dtype=v.dtype) - cross / 2 + factor * (cross @ cross)
