"""Metric values against plain loops and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from manvatar.errors import UserError
from manvatar.metrics import LearnedDistance, Region, compare, psnr_db, regions, white_composite
from manvatar.metrics.images import HIGHEST_PSNR_DB, ssim_map


def _pair(height: int = 24, width: int = 31) -> tuple[torch.Tensor, torch.Tensor]:
    truth = torch.rand(height, width, 3)
    return truth, (truth + 0.1 * torch.randn(height, width, 3)).clamp(0, 1)


def _region(mask: torch.Tensor) -> Region:
    return Region(mask, ((0, 0, mask.shape[1], mask.shape[0]),))


def _ssim_at(a: np.ndarray, b: np.ndarray, row: int, column: int) -> float:
    """SSIM of one 7x7 window of one channel (Wang et al. 2004, equation 13, sample covariance)."""
    x = a[row - 3 : row + 4, column - 3 : column + 4].ravel()
    y = b[row - 3 : row + 4, column - 3 : column + 4].ravel()
    c1, c2 = 0.01**2, 0.03**2
    vx, vy, cxy = x.var(ddof=1), y.var(ddof=1), np.cov(x, y)[0, 1]
    mx, my = x.mean(), y.mean()
    return float((2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


def test_whole_frame_equals_scikit_image() -> None:
    truth, image = _pair()
    score = compare(truth, image, {"frame": _region(torch.ones(24, 31, dtype=torch.bool))})["frame"]
    assert score is not None
    a, b = truth.numpy(), image.numpy()
    assert score.psnr_db == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-5)
    assert score.ssim == pytest.approx(structural_similarity(a, b, data_range=1, channel_axis=-1), abs=1e-6)
    assert score.mse == pytest.approx(float(((a - b).astype(np.float64) ** 2).mean()), rel=1e-6)
    assert score.lpips_alex is None and score.lpips_vgg is None


def test_a_region_against_plain_loops() -> None:
    truth, image = _pair()
    mask = torch.zeros(24, 31, dtype=torch.bool)
    mask[5:11, 8:20] = True
    mask[7, 9] = False
    score = compare(truth, image, {"head": _region(mask)})["head"]
    assert score is not None
    a, b = truth.double().numpy(), image.double().numpy()
    places = [(r, c) for r in range(24) for c in range(31) if mask[r, c]]
    mse = sum((a[r, c, k] - b[r, c, k]) ** 2 for r, c in places for k in range(3)) / (3 * len(places))
    ssim = sum(_ssim_at(a[..., k], b[..., k], r, c) for r, c in places for k in range(3)) / (3 * len(places))
    assert score.mse == pytest.approx(mse, rel=1e-5)
    assert score.psnr_db == pytest.approx(10 * math.log10(1 / mse), abs=1e-4)
    assert score.ssim == pytest.approx(ssim, abs=1e-5)


def test_equal_images_are_finite_and_perfect() -> None:
    truth, _ = _pair()
    score = compare(truth, truth.clone(), {"frame": _region(torch.ones(24, 31, dtype=torch.bool))})["frame"]
    assert score is not None
    assert (score.psnr_db, score.mse) == (HIGHEST_PSNR_DB, 0.0) and score.ssim == pytest.approx(1)
    assert psnr_db(1e-30) == HIGHEST_PSNR_DB and psnr_db(1.0) == 0.0


def test_errors_outside_a_region_do_not_count() -> None:
    truth, _ = _pair(40, 40)
    image = truth.clone()
    image[30:] = 1 - image[30:]
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:20] = True
    score = compare(truth, image, {"head": _region(mask)})["head"]
    assert score is not None and score.mse == 0 and score.ssim == pytest.approx(1)


def test_tiny_images_have_no_ssim() -> None:
    truth, image = _pair(6, 20)
    assert ssim_map(truth, image) is None
    score = compare(truth, image, {"frame": _region(torch.ones(6, 20, dtype=torch.bool))})["frame"]
    assert score is not None and score.ssim is None and score.mse > 0


def test_wrong_arguments() -> None:
    truth, image = _pair()
    everywhere = {"frame": _region(torch.ones(24, 31, dtype=torch.bool))}
    with pytest.raises((ValueError, TypeError)):
        compare(truth, image[:-1], everywhere)
    image[3, 3, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        compare(truth, image, everywhere)


def test_white_composite() -> None:
    rgba = torch.tensor([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=torch.uint8)
    expected = torch.tensor([[[1.0, 0, 0], [1, 1, 1], [0.8, 0.8, 0.8]]])
    torch.testing.assert_close(white_composite(rgba), expected)


def test_regions_by_hand() -> None:
    alpha = torch.zeros(100, 120)
    alpha[10:90, 20:100] = 1
    alpha[10, 20:100] = 0.5  # exactly one half is not head
    points = torch.full((68, 2), 60.0)
    points[48:68, 0] = torch.linspace(50, 70, 20)
    points[48:68, 1] = torch.linspace(70, 78, 20)
    points[36:42, 0], points[36:42, 1] = torch.linspace(30, 40, 6), 40
    points[42:48, 0], points[42:48, 1] = torch.linspace(80, 90, 6), 40
    found = regions(alpha, points)
    assert found["frame"].mask.all()
    assert torch.equal(found["head"].mask, alpha > 0.5) and found["head"].boxes == ((20, 11, 100, 90),)
    assert found["mouth"].boxes == ((45, 65, 75, 83),)  # a quarter of 20 px around
    assert found["mouth"].mask.sum() == 30 * 18
    assert found["eyes"].boxes == ((25, 35, 45, 45), (75, 35, 95, 45))  # half of 10 px around
    assert found["eyes"].mask.sum() == 2 * 20 * 10


def test_regions_that_cannot_be_seen() -> None:
    points = torch.full((68, 2), float("nan"))
    found = regions(torch.zeros(50, 50), points)
    assert found["head"] is found["mouth"] is found["eyes"] is None
    points = torch.full((68, 2), 500.0)
    points[36:42] = torch.tensor([[10.0, 10], [20, 10], [20, 14], [15, 15], [10, 14], [12, 12]])
    found = regions(torch.zeros(50, 50), points)
    assert found["mouth"] is None and len(found["eyes"].boxes) == 1
    scores = compare(*_pair(50, 50), found)
    assert scores["mouth"] is None and scores["eyes"] is not None


def test_lpips_without_package_or_weights(tmp_path: object) -> None:
    with pytest.raises(UserError, match="lpips package|no such file"):
        LearnedDistance("alex", f"{tmp_path}/nothing.pth")


def test_lpips_with_random_weights(tmp_path: object) -> None:
    """The backbone's weights come from the named file, and the distance is that of the package."""
    lpips = pytest.importorskip("lpips", reason="needs the lpips package")
    models = pytest.importorskip("torchvision.models", reason="needs torchvision, as lpips does")
    path = f"{tmp_path}/alex.pth"
    backbone = models.alexnet(weights=None)
    torch.save(backbone.state_dict(), path)
    distance = LearnedDistance("alex", path)
    expected = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    for layer, weights in backbone.features.state_dict().items():
        matches = [name for name in expected.net.state_dict() if name.split(".", 1)[1] == layer]
        assert len(matches) == 1
        expected.net.state_dict()[matches[0]].copy_(weights)
    truth, image = _pair(80, 70)
    mask = torch.ones(80, 70, dtype=torch.bool)
    found = distance(truth, image, _region(mask))
    pair = torch.stack([truth, image]).permute(0, 3, 1, 2) * 2 - 1
    assert found == pytest.approx(float(expected(pair[:1], pair[1:])), rel=1e-4)
    assert found > 0 and distance(truth, truth, _region(mask)) == pytest.approx(0, abs=1e-6)
    score = compare(truth, image, {"frame": _region(mask)}, (distance,))["frame"]
    assert score is not None and score.lpips_alex == pytest.approx(found) and score.lpips_vgg is None
    (tmp_path / "bad.pth").write_text("no")
    with pytest.raises(UserError, match="state dict"):
        LearnedDistance("alex", f"{tmp_path}/bad.pth")
    with pytest.raises(UserError, match="backbone"):
        LearnedDistance("vgg", path)
