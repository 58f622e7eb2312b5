"""Photos to people: embedder, projectors in both forms, enhancer, discriminator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from baselines.bilayer.tiny_model import TINY, tiny_inputs, tiny_model

from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.enhancer import TextureEnhancer, enhanced
from manvatar.baselines.bilayer.generators import InferenceOutput, render
from manvatar.baselines.bilayer.identity import IdentityEmbedder, Projector
from manvatar.baselines.bilayer.model import (
    BilayerModel,
    add_spectral_norm,
    make_discriminator,
    normed_layers,
    remove_spectral_norm,
)
from manvatar.errors import UserError


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_of_the_released_sizes() -> None:
    with torch.device("meta"):
        assert _count(IdentityEmbedder()) == 31_442_304
        assert _count(TextureEnhancer()) == 2_715_331
        assert _count(Discriminator()) == 19_517_633
        assert _count(Projector([512, 512, 512, 512, 256, 128, 64], spade=True)) == 23_115_550
        for width, expected in ((128, 5_569_278), (256, 7_720_286), (512, 12_022_302)):
            widths = [min(width // 8 * 2**step, width) for step in range(6, -1, -1)]
            assert _count(Projector(widths, spade=False)) == expected


@pytest.mark.parametrize("which", ["texture_projector", "inference_projector"])
def test_a_collapsed_projector_is_the_same_function(which: str) -> None:
    model = tiny_model().double()
    photos, stickmen, _ = tiny_inputs(2)
    embeddings = model.identity_embedder(torch.cat([photos, stickmen], 1).double())
    projector = getattr(model, which)
    collapsed = projector.collapsed()
    assert _count(collapsed) < _count(projector) / 4
    first, second = projector(embeddings), collapsed(embeddings)
    for mine, theirs in zip(first.norms + first.skips, second.norms + second.skips, strict=True):
        for name, value in _values(mine):
            torch.testing.assert_close(dict(_values(theirs))[name], value, rtol=1e-9, atol=1e-12)


def _values(item: object) -> list[tuple[str, torch.Tensor]]:
    found = []
    for name, value in vars(item).items():
        found += [(name, value)] if isinstance(value, torch.Tensor) else [(f"{name}.{k}", v) for k, v in _values(value)]
    return found


def test_collapsing_where_pooling_averages() -> None:
    """Maps pooled to less than 8x8: not replication but means."""
    projector = Projector([2, 2, 1], spade=False, embedder_width=8, embedder_max_width=16)
    assert projector.rows[0].size_px < 8
    embeddings = [torch.randn(3, 16, 8, 8), torch.randn(3, 8, 8, 8)]
    first, second = projector(embeddings), projector.collapsed()(embeddings)
    torch.testing.assert_close(first.skips[1].weight, second.skips[1].weight, rtol=1e-4, atol=1e-5)


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="12 channels beside an embedder of 32"):
        BilayerModel(replace(TINY, width=3, max_width=12))


def test_several_photos_of_a_person_are_averaged_and_people_kept_apart() -> None:
    model = tiny_model().double()
    photos, stickmen, _ = tiny_inputs(4, torch.float64)
    x = torch.cat([photos, stickmen], 1)
    same = model.identity_embedder(x[:2].repeat_interleave(2, 0), photos_per_person=2)
    for one, two in zip(same, model.identity_embedder(x[:2]), strict=True):
        torch.testing.assert_close(one, two)
    both = model.person(photos, stickmen, photos_per_person=2)
    first = model.person(photos[:2], stickmen[:2], photos_per_person=2)
    assert both.texture.shape[0] == 2
    torch.testing.assert_close(both.texture[:1], first.texture)


def test_what_the_matte_leaves_out_is_not_seen() -> None:
    model = tiny_model()
    photos, stickmen, _ = tiny_inputs()
    matte = torch.zeros(1, 1, 32, 32)
    matte[..., :16] = 1
    other = photos.clone()
    other[..., 16:] = 0.3
    assert torch.equal(model.person(photos, stickmen, matte).texture, model.person(other, stickmen, matte).texture)
    assert not torch.equal(model.person(photos, stickmen).texture, model.person(other, stickmen).texture)


# ---------------------------------------------------------------------------------------------------------- enhancer


class _Descent(torch.nn.Module):
    """In place of the network: plain gradient descent."""

    def forward(self, texture: torch.Tensor, gradient: torch.Tensor, photos_per_person: int) -> torch.Tensor:
        return -0.5 * gradient.reshape(-1, photos_per_person, *gradient.shape[1:]).mean(1)


@pytest.mark.parametrize("photos_per_person", [1, 2])
def test_enhancing_descends_on_the_error_of_the_photo(photos_per_person: int) -> None:
    photo = torch.rand(1, 3, 16, 16).repeat(photos_per_person, 1, 1, 1)
    source = InferenceOutput(torch.zeros(photos_per_person, 2, 16, 16), torch.zeros(photos_per_person, 3, 16, 16), None)
    texture = torch.zeros(1, 3, 16, 16)
    better = enhanced(_Descent(), texture, source, photo, steps=4, photos_per_person=photos_per_person)
    error = (render(better, source) - photo).abs().mean() / photo.abs().mean()
    torch.testing.assert_close(error, torch.tensor(0.5**4), rtol=1e-3, atol=0)


def test_where_the_mask_is_zero_nothing_is_learned() -> None:
    logits = torch.full((1, 1, 8, 8), 40.0)
    logits[..., 4:] = -120.0
    source = InferenceOutput(torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 8, 8), logits)
    better = enhanced(_Descent(), torch.zeros(1, 3, 8, 8), source, torch.rand(1, 3, 8, 8) + 0.5)
    assert (better[..., 4:] == 0).all() and (better[..., :4] > 0).all()


def test_gradients_reach_the_enhancer_and_nothing_else() -> None:
    model = tiny_model()
    photos, stickmen, keypoints = tiny_inputs()
    person = model.person(photos, stickmen)
    better = model.enhanced(person, photos, keypoints)
    better.texture.square().sum().backward()
    assert all(p.grad is not None for p in model.texture_enhancer.parameters())
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("texture_enhancer"))
    with torch.no_grad():
        torch.testing.assert_close(model.enhanced(person, photos, keypoints).texture, better.texture)


def test_a_model_without_enhancer_says_so() -> None:
    model = tiny_model(enhancer=False)
    photos, stickmen, keypoints = tiny_inputs()
    with pytest.raises(ValueError, match="no texture enhancer"):
        model.enhanced(model.person(photos, stickmen), photos, keypoints)


# ------------------------------------------------------------------------------------------- discriminator and norms


def test_discriminator_scores_patches_and_gives_features() -> None:
    discriminator = make_discriminator(TINY)
    photos, stickmen, _ = tiny_inputs(3)
    scores, features = discriminator(photos, stickmen)
    assert scores.shape == (3, 1, 8, 8)
    assert [f.shape[2] for f in features] == [32, 16, 8]  # before each block halves the size
    assert not torch.equal(scores, discriminator(photos, -stickmen)[0])


def test_spectral_norm_is_removed_exactly_and_bounds_the_layers() -> None:
    model = tiny_model()
    add_spectral_norm(model)
    photos, stickmen, keypoints = tiny_inputs(2)
    model.train()
    for _ in range(30):  # each pass is one power iteration
        model.pose(keypoints, model.person(photos, stickmen).adaptive)
    model.eval()
    before = model.pose(keypoints, model.person(photos, stickmen).adaptive)
    remove_spectral_norm(model)
    after = model.pose(keypoints, model.person(photos, stickmen).adaptive)
    assert torch.equal(before.warp, after.warp)
    weight = normed_layers(model)["inference_generator.blocks.0.conv1"].weight.flatten(1)
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.05)
