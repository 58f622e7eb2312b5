"""Networks of the few-shot model: counts of the reference architecture, shapes, AdaIN by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from manvatar.baselines.fewshot.networks import (
    Embedder,
    FewShotModel,
    Generator,
    ProjectionDiscriminator,
    _adaptive,
)
from manvatar.errors import UserError


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_counts_of_the_reference() -> None:
    """Published: embedder 15 M, generator 38 M (with its projection), discriminator 20 M; 13,056 AdaIN values."""
    with torch.device("meta"):
        embedder, generator, discriminator = Embedder(), Generator(), ProjectionDiscriminator(1000)
    assert count(embedder) == 14_825_024
    assert generator.adaptive_values == 13_056
    projection = 512 * 13_056 + 13_056
    assert round((count(generator) + projection) / 1e6, 1) == 37.9
    assert round(count(discriminator) / 1e6, 2) == 20.06


def test_shapes() -> None:
    model, judge = FewShotModel(8, 32, 64), ProjectionDiscriminator(5, 8, 32, 64)
    images, stickmen = torch.rand(2, 2, 3, 3, 64, 64) * 2 - 1
    vectors = model.embedder(images, stickmen)
    assert vectors.shape == (2, 3, 32)
    shown = model.generator(stickmen[:, 0], model.person(vectors.mean(1)))
    assert shown.shape == (2, 3, 64, 64) and shown.abs().max() <= 1
    verdict = judge(shown, stickmen[:, 0], torch.tensor([4, 0]))
    assert verdict.score.shape == (2,) and len(verdict.features) == 5  # 4 halvings of 64 to 4, and one block more


def test_adain_by_hand() -> None:
    x = torch.randn(2, 3, 5, 5)
    shift, factor = torch.randn(2, 3), torch.randn(2, 3)
    normal = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), unbiased=False, keepdim=True) + 1e-4).sqrt()
    torch.testing.assert_close(
        _adaptive(x, shift, factor), normal * factor[..., None, None] + shift[..., None, None], atol=1e-5, rtol=1e-4
    )


def test_neutral_values_are_plain_instance_norms() -> None:
    generator = Generator(8, 32, 64).eval()
    neutral = generator.neutral()
    assert neutral.shape == (1, generator.adaptive_values)
    x = torch.randn(1, 32, 4, 4)
    parts = neutral.split([32, 32, generator.adaptive_values - 64], dim=1)
    torch.testing.assert_close(_adaptive(x, *parts[:2]), functional.instance_norm(x, eps=1e-4))


def test_a_person_matters() -> None:
    """One row serves all images; another row shows something else."""
    generator = Generator(8, 32, 64).eval()
    stickmen = torch.rand(2, 3, 64, 64)
    one, other = generator.neutral(), generator.neutral() + 0.3 * torch.randn(1, generator.adaptive_values)
    with torch.no_grad():
        same = generator(stickmen, one)
        torch.testing.assert_close(same, generator(stickmen, one.expand(2, -1)))
        assert (same - generator(stickmen, other)).abs().max() > 0.01
    with pytest.raises(ValueError, match="AdaIN values, got 7"):
        generator(stickmen, torch.zeros(1, 7))


def test_the_projection_score() -> None:
    """V . (W_i + w0) + b, with V the pooled features."""
    judge = ProjectionDiscriminator(3, 8, 32, 32).eval()
    image, stickman = torch.rand(2, 1, 3, 32, 32)
    with torch.no_grad():
        verdicts = [judge(image, stickman, torch.tensor([i])) for i in range(3)]
        pooled = functional.relu(verdicts[0].features[-1]).sum((2, 3))
        linear = judge.linear(pooled)[0, 0]
    for i in range(3):
        assert verdicts[i].score.item() == pytest.approx(float((pooled[0] * judge.videos[i]).sum() + linear), rel=1e-4)


def test_weights_are_spectrally_normal() -> None:
    generator = Generator(8, 32, 64)
    for _ in range(30):
        generator(torch.rand(1, 3, 64, 64), generator.neutral())
    weight = generator.blocks[0].conv1.weight.detach().flatten(1)
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [48, 16, 100])
def test_sizes_that_are_not_possible(size: int) -> None:
    with pytest.raises(UserError, match=f"image_size_px = {size} is not possible"):
        Generator(8, 32, size)
