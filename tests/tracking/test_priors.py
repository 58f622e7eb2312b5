"""Priors against automatic differentiation and dense formulas."""

from __future__ import annotations

import math

import pytest
import torch
from tracking.small import small_problem

from manvatar.geometry import rotation_from_vector, vector_from_rotation
from manvatar.tracking.config import TrackerConfig
from manvatar.tracking.priors import left_jacobian_inverse, motion_prior, second_difference_coupling, shape_prior

NAMES = ("eyeBlinkLeft", "mouthSmileLeft", "jawOpen")


@pytest.mark.parametrize("huber", [1e9, 2.0])
def test_gradient_of_the_motion_prior(huber: float) -> None:
    _, state = small_problem(frames=9)
    frame = torch.tensor([0, 1, 2, 3, 4, 7, 8, 9, 10])  # a gap after the fifth
    prior = motion_prior(frame, NAMES, 25.0, TrackerConfig(rotation_sd_deg=5.0, motion_huber=huber))
    step = torch.zeros(9, 9, dtype=torch.float64, requires_grad=True)
    prior.energy(state.moved(step, None)).backward()
    torch.testing.assert_close(2 * prior.linearise(state)[1], step.grad, rtol=1e-7, atol=1e-7)


def test_frames_on_both_sides_of_a_gap_are_not_tied() -> None:
    prior = motion_prior(torch.tensor([0, 1, 2, 5, 6, 7]), NAMES, 25.0, TrackerConfig())
    assert prior.middle.tolist() == [False, True, False, False, True, False]
    assert not motion_prior(torch.tensor([3]), NAMES, 25.0, TrackerConfig()).middle.any()


def test_deviation_scales_with_the_frame_rate_and_spares_lids_and_jaw() -> None:
    slow, fast = (motion_prior(torch.arange(5), NAMES, rate, TrackerConfig()).sd for rate in (25.0, 50.0))
    torch.testing.assert_close(fast, slow / 4)
    assert slow[0] == pytest.approx(math.radians(TrackerConfig().rotation_sd_deg)) and slow[7] == pytest.approx(1.0)
    assert slow[6] > slow[7] and slow[8] > slow[7]


def test_constant_velocity_costs_nothing() -> None:
    _, state = small_problem(frames=6)
    turn = rotation_from_vector(torch.arange(6)[:, None] * torch.tensor([0.01, 0.05, -0.02], dtype=torch.float64))
    time = torch.arange(6, dtype=torch.float64)[:, None]
    steady = type(state)(
        turn @ state.rotation[0],
        time * 0.01 + torch.ones(1, 3),
        time * torch.ones(1, 3),
        state.shape_m,
        state.log_focal,
    )
    prior = motion_prior(torch.arange(6), NAMES, 25.0, TrackerConfig())
    assert float(prior.energy(steady)) < 1e-15
    assert float(prior.energy(state)) > 1


def test_coupling_is_the_product_of_the_difference_matrix() -> None:
    frames, weight = 7, torch.rand(7, 2, dtype=torch.float64)
    weight[0] = weight[3] = weight[-1] = 0
    coupling = second_difference_coupling(weight)
    difference = torch.zeros(frames, frames, dtype=torch.float64)
    for f in range(1, frames - 1):
        difference[f, f - 1], difference[f, f], difference[f, f + 1] = 1, -2, 1
    for x in range(2):
        dense = difference.T @ torch.diag(weight[:, x]) @ difference
        torch.testing.assert_close(coupling.own[:, x], dense.diagonal())
        torch.testing.assert_close(coupling.next[:-1, x], dense.diagonal(1))
        torch.testing.assert_close(coupling.after[:-2, x], dense.diagonal(2))


@pytest.mark.parametrize("size", [0.0, 1e-5, 0.3, 2.5])
def test_left_jacobian_inverse(size: float) -> None:
    v = size * torch.tensor([0.6, -0.64, 0.48], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    rotation = rotation_from_vector(v)
    left = torch.autograd.functional.jacobian(lambda w: vector_from_rotation(rotation_from_vector(w) @ rotation), zero)
    right = torch.autograd.functional.jacobian(lambda w: vector_from_rotation(rotation @ rotation_from_vector(w)), zero)
    torch.testing.assert_close(left_jacobian_inverse(v), left, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(left_jacobian_inverse(v).T, right, rtol=1e-6, atol=1e-6)


def test_shape_prior_is_identity_and_offsets_integrated_out() -> None:
    basis = 0.01 * torch.randn(2, 4, 3, dtype=torch.float64)
    mean = torch.randn(4, 3, dtype=torch.float64)
    prior = shape_prior(mean, basis, frames=1, log_focal=6.0, config=TrackerConfig())
    flat, sd = basis.flatten(1), TrackerConfig().offset_sd_m
    # Samples of the generative model have the prior's covariance ...
    identity, offsets = torch.randn(200_000, 2, dtype=torch.float64), sd * torch.randn(200_000, 12, dtype=torch.float64)
    covariance = torch.cov((identity @ flat + offsets).T)
    exact = torch.linalg.inv(prior.precision[:-1, :-1])
    assert float((covariance - exact).abs().max()) < 0.02 * float(exact.abs().max())
    # ... and a shape without offsets is read back as its identity, shrunk a little towards 0.
    true = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found, rest = prior.split(mean + (true @ flat).reshape(4, 3))
    assert torch.allclose(found, true, atol=0.25)
    assert float(rest.abs().max()) < sd


def test_more_frames_do_not_make_the_prior_weaker() -> None:
    basis, mean = 0.01 * torch.randn(2, 4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    few, many = (shape_prior(mean, basis, n, 6.0, TrackerConfig()).precision[:-1, :-1] for n in (100, 1000))
    torch.testing.assert_close(many, 10 * few)
