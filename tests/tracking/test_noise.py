"""What residuals say about a detector, where its errors are known."""

from __future__ import annotations

from dataclasses import replace

import torch

from manvatar.benchmark.track_truth import Scene, Spoiling, band_limited, make_truth, observe
from manvatar.tracking.noise import sharing_errors, typical_deviation
from manvatar.tracking.problem import residuals_px
from manvatar.tracking.tracker import fit_landmarks
from manvatar.types import FaceModel

FRAMES, POINTS = 300, 60
ALL = torch.ones(FRAMES, POINTS, dtype=torch.bool)


def _shared(residual: torch.Tensor, seen: torch.Tensor = ALL) -> torch.Tensor:
    return sharing_errors(residual, seen, typical_deviation(residual, seen))


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_deviation_is_measured_in_spite_of_outliers_and_gaps() -> None:
    residual, seen = 0.7 * _normal(2000, 3, 2), torch.ones(2000, 3, dtype=torch.bool)
    residual[::10, 1] += 50
    seen[::3, 2] = False
    residual[::3, 2] = 1e3
    found = typical_deviation(residual, seen)
    assert abs(float(found[0]) - 0.7) < 0.03 and abs(float(found[2]) - 0.7) < 0.04
    assert 0.7 < float(found[1]) < 0.85
    assert typical_deviation(residual, torch.zeros_like(seen)).isnan().all()


def test_errors_of_their_own_are_shared_with_none() -> None:
    white = _normal(FRAMES, POINTS, 2) * (0.2 + torch.rand(POINTS, 1, dtype=torch.float64))
    assert float(_shared(white).mean()) < 1.15 and float(_shared(white).max()) < 1.6
    slow = band_limited(FRAMES, 2 * POINTS, 3.0, torch.Generator().manual_seed(0)).reshape(FRAMES, POINTS, 2)
    assert float(_shared(slow).mean()) < 1.6  # as many samples that repeat would say 3 or more


def test_regions_that_err_alike_are_found() -> None:
    residual = _normal(FRAMES, POINTS, 2)
    residual[:, :20] = 3 * _normal(FRAMES, 1, 2)
    residual[:, :20] += 0.3 * _normal(FRAMES, 20, 2)
    residual[:, 5] *= 10  # in any unit
    shared = _shared(residual)
    assert 18 < float(shared[:20].min()) and float(shared[:20].max()) < 21 and float(shared[20:].max()) < 2


def test_outliers_and_points_never_seen_make_no_correlation() -> None:
    residual, seen = _normal(FRAMES, POINTS, 2), ALL.clone()
    residual[::20] += 40
    residual[:, 7], seen[:, 7] = 1e9, False
    shared = _shared(residual, seen)
    assert float(shared.mean()) < 12 and torch.isfinite(shared).all() and float(shared[7]) == 1


def test_points_count_more_where_they_err_for_themselves(builtin: FaceModel) -> None:
    truth = make_truth(builtin, Scene(frames=120))
    fitted = fit_landmarks(observe(truth, Spoiling()), builtin, (512, 512), 25.0)
    points, problem = fitted.fit.points, fitted.fit.problem
    assert float((problem.weight / points.most).median()) > 0.5
    assert float((problem.weight / points.weight).min()) >= 1 - 1e-6
    typical = typical_deviation(residuals_px(problem, fitted.state), problem.weight > 0)
    assert abs(float(typical.median()) - 1) < 0.2


def test_points_count_least_where_a_network_draws_the_whole_face(builtin: FaceModel) -> None:
    truth = make_truth(builtin, Scene(frames=120))
    landmarks = observe(truth, Spoiling(noise_px=0.2))
    near = torch.exp(-0.5 * (torch.cdist(truth.neutral_m, truth.neutral_m) / 0.03) ** 2)
    near = near / near.square().sum(1, keepdim=True).sqrt()
    common = near @ band_limited(120, 2 * 478, 2.0, torch.Generator().manual_seed(1)).reshape(120, 478, 2)
    drawn = replace(landmarks, points_px=landmarks.points_px + common.float())
    fit = fit_landmarks(drawn, builtin, (512, 512), 25.0).fit
    skin = fit.points.weight < 0.15
    assert int(skin.sum()) == 120 and float(fit.problem.weight[:, skin].median()) < 0.2
