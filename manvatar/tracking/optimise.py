"""Levenberg-Marquardt over many frames at once.

One damping factor for the whole clip; Marquardt's scaling by the diagonal makes it free of units. A step that
does not lower the energy is taken back and damped more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.tracking.photometric import Photometric
from manvatar.tracking.priors import MotionPrior, ShapePrior
from manvatar.tracking.problem import POSE, Problem, State, System, energy, linearise
from manvatar.tracking.solver import Coupling, NotPositive, Step, solve

# A column without any information (an expression that moves no fitted point) keeps its prior; this keeps it solvable.
_FLOOR = 1e-9


@dataclass(frozen=True)
class Terms:
    """What is minimised. A prior that is absent is not part of the energy, and shape without a prior stays fixed."""

    problem: Problem
    motion: MotionPrior | None = None
    shape: ShapePrior | None = None
    pose_only: bool = False
    free_focal: bool = False
    photometric: Photometric | None = None
    landmark_trust: float = 1.0  # of the landmark term: its errors repeat from frame to frame

    def energy(self, state: State) -> Float[Tensor, ""]:
        """The whole energy, in squared standard deviations."""
        value = self.landmark_trust * energy(self.problem, state).sum()
        if self.photometric is not None:
            value = value + self.photometric.energy(state).sum()
        if not self.pose_only:
            value = value + (state.expression**2).sum()
        if self.motion is not None:
            value = value + self.motion.energy(state)
        if self.shape is not None:
            deviation = self.shape.deviation(state)
            value = value + deviation @ self.shape.precision @ deviation
        return value

    def system(self, state: State) -> tuple[System, Coupling | None]:
        """Gauss-Newton blocks of all terms, undamped."""
        data = linearise(self.problem, state, pose_only=self.pose_only, shared=self.shape is not None)
        gradient, coupling = data.gradient, None
        if self.photometric is not None:
            matrix, pull = self.photometric.linearise(state, pose_only=self.pose_only)
            data.frame.mul_(self.landmark_trust).add_(matrix)
            gradient.mul_(self.landmark_trust).add_(pull)
        if not self.pose_only:
            data.frame.diagonal(dim1=1, dim2=2)[:, POSE:] += 1
            gradient[:, POSE:] += state.expression
        if self.motion is not None:
            coupling, pull = self.motion.linearise(state)
            gradient += pull
        if self.shape is not None:
            data.corner.add_(self.shape.precision)
            data.shared_gradient.add_(self.shape.precision @ self.shape.deviation(state))
            if not self.free_focal:
                _freeze_focal(data)
        return data, coupling


@dataclass(frozen=True)
class Outcome:
    """Where the minimisation ended."""

    state: State
    energy: float
    steps: int
    schur: Float[Tensor, "S S"] | None  # information about the shared columns, damping nearly 0


def minimise(terms: Terms, state: State, *, max_steps: int, tolerance: float) -> Outcome:
    """Minimise until a step gains less than ``tolerance`` of the energy, or ``max_steps`` are taken."""
    damping, value, taken, schur = 1e-4, float(terms.energy(state)), 0, None
    while taken < max_steps:
        system, coupling = terms.system(state)
        while True:
            step = _damped_step(system, coupling, damping)
            if step is not None:
                candidate = state.moved(step.frame, step.shared)
                lower = float(terms.energy(candidate))
                if lower <= value:
                    break
            damping = max(damping * 8, 1e-6)
            if damping > 1e6:  # no direction goes down: this is the minimum to rounding
                return Outcome(state, value, taken, schur)
        gained, state, value, schur = value - lower, candidate, lower, step.schur
        damping = max(damping / 8, 1e-9)
        taken += 1
        if gained <= tolerance * value:
            break
    return Outcome(state, value, taken, schur)


def _damped_step(system: System, coupling: Coupling | None, damping: float) -> Step | None:
    frame = system.frame.clone()
    diagonal = frame.diagonal(dim1=1, dim2=2)
    total = diagonal if coupling is None else diagonal + coupling.own
    diagonal += damping * total + _FLOOR
    corner = system.corner
    if corner is not None:
        corner = corner + torch.diag(damping * corner.diagonal())
    try:
        return solve(frame, system.gradient, coupling, system.border, corner, system.shared_gradient)
    except NotPositive:
        return None


def _freeze_focal(system: System) -> None:
    system.border[..., -1] = 0
    system.corner[-1, :] = 0
    system.corner[:, -1] = 0
    system.corner[-1, -1] = 1
    system.shared_gradient[-1] = 0
