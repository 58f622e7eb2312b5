"""The fast forms equal the plain ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from baselines.bilayer.tiny_model import TINY, tiny_inputs, tiny_model
from torch import nn
from torch.nn import functional

from manvatar.baselines.bilayer.blocks import ResidualBlock
from manvatar.baselines.bilayer.fast import (
    DownConvolution,
    FastResidualBlock,
    FrameNetwork,
    UpConvolution,
    accelerated,
)
from manvatar.baselines.bilayer.generators import render
from manvatar.baselines.bilayer.model import BilayerModel, Person


@torch.no_grad()
def test_convolution_of_a_doubled_image() -> None:
    convolution = nn.Conv2d(3, 5, 3, padding=1).double()
    x, beside = torch.randn(2, 3, 6, 4).double(), torch.randn(2, 5, 6, 4).double()
    doubled = functional.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = convolution(doubled) + functional.interpolate(beside, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(UpConvolution(convolution)(x, beside), expected)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(UpConvolution(convolution)(last, beside), expected)


@torch.no_grad()
def test_mean_after_a_convolution() -> None:
    convolution = nn.Conv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 6, 4).double()
    torch.testing.assert_close(DownConvolution(convolution)(x), functional.avg_pool2d(convolution(x), 2))


@torch.no_grad()
@pytest.mark.parametrize("resize", ["none", "up", "down"])
def test_residual_blocks(resize: str) -> None:
    block = ResidualBlock(4, 6, resize).double()
    x = torch.randn(2, 4, 8, 8).double()
    before = x.clone()
    for mine, plain in zip(FastResidualBlock(block)(x), block(x), strict=True):
        torch.testing.assert_close(mine, plain)
    assert torch.equal(x, before)  # in-place steps must not reach the input


@torch.no_grad()
@pytest.mark.parametrize("people", [1, 2])
def test_the_accelerated_model_makes_the_same_person(people: int) -> None:
    model = tiny_model().double()
    photos, stickmen, keypoints = tiny_inputs(people, torch.float64)
    fast = accelerated(model)
    plain = model.enhanced(model.person(photos, stickmen), photos, keypoints)
    other = fast.enhanced(fast.person(photos, stickmen), photos, keypoints)
    assert plain.texture.std() > 0.05
    torch.testing.assert_close(other.texture, plain.texture)
    torch.testing.assert_close(other.adaptive.norms[3].scale, plain.adaptive.norms[3].scale)


def _person(model: BilayerModel) -> Person:
    photos, stickmen, _ = tiny_inputs(dtype=model.texture_generator.start.dtype)
    return model.person(photos, stickmen)


@torch.no_grad()
@pytest.mark.parametrize("exportable", [False, True])
@pytest.mark.parametrize("has_mask", [False, True])
def test_the_frame_network_makes_the_same_frame(exportable: bool, has_mask: bool) -> None:
    model = tiny_model(replace(TINY, masked=has_mask)).double()
    person = _person(model)
    keypoints = tiny_inputs(3, torch.float64)[2]
    output = model.pose(keypoints, person.adaptive)
    network = FrameNetwork(model.keypoint_embedder, model.inference_generator, person, exportable)
    image, mask = network(keypoints)
    assert output.warp.std() > 0.02
    torch.testing.assert_close(image, render(person.texture, output))
    if has_mask:
        torch.testing.assert_close(mask, output.mask_logits.sigmoid())
    else:
        assert (mask == 1).all()


@torch.no_grad()
def test_bfloat16_frames_are_close_and_not_the_same() -> None:
    model = tiny_model()
    person = _person(model)
    keypoints = tiny_inputs(2)[2]
    parts = model.keypoint_embedder, model.inference_generator, person
    exact, rounded = FrameNetwork(*parts)(keypoints)[0], FrameNetwork(*parts).bfloat16()(keypoints)[0]
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().mean() < 0.02


@torch.no_grad()
def test_the_switch_of_the_old_sampling_reaches_the_frame() -> None:
    model = tiny_model().double()
    person = _person(model)
    keypoints = tiny_inputs(dtype=torch.float64)[2]
    parts = model.keypoint_embedder, model.inference_generator, person
    old = FrameNetwork(*parts, align_corners=True)(keypoints)[0]
    expected = render(person.texture, model.pose(keypoints, person.adaptive), align_corners=True)
    torch.testing.assert_close(old, expected)
    assert not torch.equal(old, FrameNetwork(*parts)(keypoints)[0])


def test_frames_are_of_one_person() -> None:
    model = tiny_model()
    photos, stickmen, _ = tiny_inputs(2)
    with pytest.raises(ValueError, match="one person, got 2"):
        FrameNetwork(model.keypoint_embedder, model.inference_generator, model.person(photos, stickmen))
