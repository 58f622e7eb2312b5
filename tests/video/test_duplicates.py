"""Repeated frames are found under coding noise, and slow motion is not taken for repetition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manvatar.video import DuplicateFinder, frames, open_clip


def _moving(step_px: list[float], noise: float) -> list[torch.Tensor]:
    """A textured disc moving before a still background by given steps."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:180, 0:320]
    position, images = 100.0, []
    for step in step_px:
        position += step
        disc = (x - position) ** 2 + (y - 90) ** 2 < 40**2
        texture = 128 + 90 * np.sin((x - position) / 5) * np.cos(y / 6)
        image = np.where(disc, texture, 60 + y / 3) + rng.normal(0, noise, x.shape)
        images.append(torch.from_numpy(np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, 2)))
    return images


def _found(images: list[torch.Tensor]) -> list[bool]:
    finder = DuplicateFinder()
    for image in images:
        finder.add(image)
    return finder.duplicate().tolist()


@pytest.mark.parametrize("every", [2, 3, 7])
def test_repeats_are_found(every: int) -> None:
    repeats = [i > 0 and i % every == 0 for i in range(40)]
    assert _found(_moving([0.0 if repeat else 2.5 for repeat in repeats], noise=0.6)) == repeats


def test_two_of_three_repeated() -> None:
    repeats = [i % 3 != 0 for i in range(40)]
    assert _found(_moving([0.0 if repeat else 3.0 for repeat in repeats], noise=0.4)) == repeats


def test_slow_motion_is_no_repeat() -> None:
    assert not any(_found(_moving([0.3] * 40, noise=0.6)))


def test_stillness_under_noise_is_no_repeat() -> None:
    """Where nothing moves, repeats cannot be told from stillness, and dropping frames would gain nothing."""
    assert not any(_found(_moving([0.0] * 20, noise=1.0)))


def test_identical_pixels_are_repeats() -> None:
    assert _found(_moving([0.0] * 5, noise=0)) == [False, True, True, True, True]


def test_empty_and_single() -> None:
    assert _found([]) == []
    assert _found(_moving([0.0], noise=0)) == [False]


def test_real_clip_with_a_seventh_repeated(shared_data: Path) -> None:
    clip = open_clip(shared_data / "clips" / "address_1280x720.mp4")
    finder = DuplicateFinder()
    for frame in frames(clip, 0, 150, size_px=(640, 360), accurate=False):
        finder.add(frame.image)
    share = float(finder.duplicate().float().mean())
    assert 0.10 < share < 0.18


def test_two_finders_joined_are_as_one() -> None:
    images = _moving([0.0 if i % 3 == 0 else 2.5 for i in range(30)], noise=0.6)
    whole, first, later = DuplicateFinder(), DuplicateFinder(), DuplicateFinder()
    for image in images:
        whole.add(image)
    for image in images[:12]:
        first.add(image)
    for image in images[11:]:
        later.add(image)
    first.join(later, 12)
    assert np.array_equal(first.changes(), whole.changes())
    assert torch.equal(first.duplicate(), whole.duplicate())
    short = DuplicateFinder()
    for image in images[:10]:  # two frames did not decode
        short.add(image)
    short.join(later, 12)
    assert len(short.changes()) == 30 and np.array_equal(short.changes()[12:], whole.changes()[12:])
    assert np.isinf(short.changes()[10:12]).all()
