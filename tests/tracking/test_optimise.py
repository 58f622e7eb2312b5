"""Levenberg-Marquardt finds the minimum of the whole energy."""

from __future__ import annotations

from dataclasses import replace

import torch
from tracking.small import small_problem

from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.optimise import Terms, minimise
from manvatar.tracking.priors import motion_prior, shape_prior

NAMES = ("jawOpen", "smile", "frown")


def test_all_gradients_vanish_where_it_ends() -> None:
    problem, state = small_problem(frames=8, points=12, huber=3.0)
    basis = 0.003 * torch.randn(3, 12, 3, dtype=torch.float64)
    shape = shape_prior(state.shape_m + 0.001, basis, 8, float(state.log_focal) + 0.05, TrackerConfig())
    motion = motion_prior(problem.frame, NAMES, 25.0, TrackerConfig(rotation_sd_deg=3.0, translation_sd_m=0.01))
    terms = Terms(problem, motion=motion, shape=shape, free_focal=True)
    before = float(terms.energy(state))
    outcome = minimise(terms, state, max_steps=200, tolerance=1e-14)
    assert outcome.energy < before and outcome.energy == float(terms.energy(outcome.state))
    step = torch.zeros(8, 9, dtype=torch.float64, requires_grad=True)
    shared = torch.zeros(37, dtype=torch.float64, requires_grad=True)
    terms.energy(outcome.state.moved(step, shared)).backward()
    start = torch.zeros(8, 9, dtype=torch.float64, requires_grad=True)
    terms.energy(state.moved(start, None)).backward()
    scale = float(start.grad.norm())
    assert float(step.grad.norm()) < 1e-4 * scale
    assert float(shared.grad.norm()) < 1e-4 * scale


def test_a_fixed_focal_length_and_shape_stay() -> None:
    problem, state = small_problem(frames=5, points=12)
    shape = shape_prior(state.shape_m, 0.003 * torch.randn(3, 12, 3).double(), 5, 6.0, TrackerConfig())
    with_shape = minimise(Terms(problem, shape=shape), state, max_steps=10, tolerance=1e-9)
    assert torch.equal(with_shape.state.log_focal, state.log_focal)
    assert not torch.equal(with_shape.state.shape_m, state.shape_m)
    assert with_shape.schur is not None
    alone = minimise(Terms(problem), state, max_steps=10, tolerance=1e-9)
    assert torch.equal(alone.state.shape_m, state.shape_m) and alone.schur is None
    pose = minimise(Terms(problem, pose_only=True), state, max_steps=10, tolerance=1e-9)
    assert torch.equal(pose.state.expression, state.expression)
    assert alone.energy < pose.energy + float((state.expression**2).sum())


def test_energy_never_rises() -> None:
    problem, state = small_problem(frames=5, points=12, huber=1.0)
    problem = replace(problem, target_px=problem.target_px + 30 * torch.randn_like(problem.target_px))
    energies = [minimise(Terms(problem), state, max_steps=k, tolerance=0.0).energy for k in range(6)]
    assert all(later <= earlier for earlier, later in zip(energies, energies[1:], strict=False))
    assert energies[5] < energies[0]
