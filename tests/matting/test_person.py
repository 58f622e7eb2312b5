"""The person matte on a photograph: the person in, the background out, steady, and of the right size."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch

from manvatar.matting import PersonMatte


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.from_numpy(skimage.data.astronaut())[0:400, 50:450].contiguous()


def test_person_and_background(image: torch.Tensor) -> None:
    alpha = PersonMatte()(image)
    assert alpha.shape == (400, 400) and alpha.dtype == torch.float32
    assert 0 <= alpha.min() and alpha.max() <= 1
    face = alpha[60:150, 140:205]  # face and hair
    assert face.min() > 0.98
    assert alpha[220:330, 70:280].mean() > 0.95  # the suit
    assert alpha[5:60, 250:300].mean() < 0.05  # grey wall beside the head
    assert ((alpha > 0.05) & (alpha < 0.95)).float().mean() < 0.12  # decided nearly everywhere


@pytest.mark.parametrize("size", [(256, 256), (384, 384), (301, 211)])
def test_any_size(image: torch.Tensor, size: tuple[int, int]) -> None:
    scaled = torch.nn.functional.interpolate(image.permute(2, 0, 1)[None].float(), size, mode="area")[0]
    scaled = scaled.permute(1, 2, 0).round().to(torch.uint8)
    alpha = PersonMatte()(scaled)
    assert alpha.shape == size
    reference = torch.nn.functional.interpolate(PersonMatte()(image)[None, None], size, mode="area")[0, 0]
    assert (alpha - reference).abs().mean() < 0.05


def test_view_restricts_what_is_looked_at(image: torch.Tensor) -> None:
    padded = torch.full((600, 700, 3), 128, dtype=torch.uint8)
    padded[100:500, 150:550] = image
    alpha = PersonMatte((150, 100, 550, 500))(padded)
    assert torch.equal(alpha[100:500, 150:550], PersonMatte()(image))
    assert alpha[:100].max() == 0 and alpha[:, 550:].max() == 0


def test_noise_is_steadied(image: torch.Tensor) -> None:
    """Sensor noise on a still picture flickers less with the memory of the frame before than without it."""
    rng = np.random.default_rng(0)
    noisy = [
        torch.from_numpy((image.numpy() + rng.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(8)
    ]
    flicker = {}
    for steadiness in (0.0, 0.6):
        matte = PersonMatte(steadiness=steadiness)
        alphas = torch.stack([matte(frame) for frame in noisy])
        flicker[steadiness] = float(alphas[3:].diff(dim=0).abs().mean())
    assert flicker[0.6] < 0.6 * flicker[0.0]


def test_motion_leaves_no_ghost(image: torch.Tensor) -> None:
    """After a jump of the picture the matte is that of the new picture alone."""
    moved = torch.roll(image, 60, 1)
    matte = PersonMatte()
    matte(image)
    assert (matte(moved) - PersonMatte()(moved)).abs().mean() < 0.004


def test_reset_forgets(image: torch.Tensor) -> None:
    matte = PersonMatte()
    first = matte(image)
    matte(torch.roll(image, 5, 1))
    matte.reset()
    assert torch.equal(matte(image), first)
