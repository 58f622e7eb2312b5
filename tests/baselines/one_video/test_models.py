"""The two networks of one person."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from manvatar.baselines.one_video.config import NetworkConfig
from manvatar.baselines.one_video.models import Portrait, make_model
from manvatar.errors import UserError

SMALL = NetworkConfig(width=8, max_width=32, image_size_px=32)


def test_counts_of_the_bilayer_form() -> None:
    """Generator 4,123,782, adaptive values 244,576, keypoint embedder 1,219,328, texture 196,608."""
    model = make_model("bilayer", NetworkConfig())
    groups = {name: sum(p.numel() for p in members) for name, members in model.parameter_groups().items()}
    assert groups.pop("mode") == 16 * 196_608
    assert groups == {"network": 4_123_782 + 1_219_328, "adaptive": 244_576, "texture": 196_608}
    one_texture = make_model("bilayer", NetworkConfig(texture_modes=0))
    assert sum(groups.values()) == sum(p.numel() for p in one_texture.parameters())


def test_counts_of_the_fewshot_form() -> None:
    model = make_model("fewshot", NetworkConfig(64, 512, aligned=False))
    groups = {name: sum(p.numel() for p in members) for name, members in model.parameter_groups().items()}
    assert (
        set(groups) == {"network", "adaptive"} and groups["adaptive"] == 13_056 and 31.1e6 < groups["network"] < 31.3e6
    )


@pytest.mark.parametrize("name", ["bilayer", "fewshot"])
def test_shapes_and_gradients(name: str) -> None:
    model = make_model(name, SMALL)
    model.start_from(torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 1, 32, 32), torch.rand(9, 136), 0.01)
    portrait = model((torch.rand(3, 136) - 0.5).requires_grad_())
    assert portrait.image.shape == (3, 3, 32, 32)
    assert (portrait.mask_logits is None) == (name == "fewshot")
    portrait.on_white().square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("aligned", [True, False])
def test_it_begins_with_the_texture_and_its_mask(aligned: bool) -> None:
    """Where landmarks are where the texture has them; without alignment the mask is on its own."""
    model = make_model("bilayer", dataclasses.replace(SMALL, aligned=aligned)).eval()
    texture, mask = torch.rand(1, 3, 32, 32) * 2 - 1, 0.1 + 0.8 * torch.rand(1, 1, 32, 32)
    keypoints = torch.rand(9, 136) * 2 - 1
    model.start_from(texture, mask, keypoints, 0.0)
    with torch.no_grad():
        for head in (model.generator.warp_head, model.generator.low_frequency_head, model.generator.mask_head):
            head.weight.zero_()
        portrait = model(keypoints.mean(0, keepdim=True))
    torch.testing.assert_close(portrait.image, texture, atol=1e-4, rtol=0)
    shown = portrait.mask_logits.sigmoid()
    torch.testing.assert_close(shown, mask if aligned else torch.full_like(mask, 0.5), atol=1e-4, rtol=0)


def test_the_texture_follows_the_landmarks() -> None:
    """All landmarks a quarter to the right: so is the picture."""
    model = make_model("bilayer", SMALL).eval()
    texture, keypoints = torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(9, 136) - 0.5
    model.start_from(texture, torch.ones(1, 1, 32, 32), keypoints, 0.0)
    moved = keypoints.mean(0).view(68, 2) + torch.tensor([0.5, 0.0])
    with torch.no_grad():
        for head in (model.generator.warp_head, model.generator.low_frequency_head):
            head.weight.zero_()
        portrait = model(moved.view(1, 136))
    torch.testing.assert_close(portrait.image[..., 8:], texture[..., :-8], atol=1e-4, rtol=0)


def _mouth_opens(frames: int = 60, wandering: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints of a head that wanders and tilts while its lips part; (frames, 136), and by how much they part."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(1, 68, 2, generator=generator) - 0.5).repeat(frames, 1, 1)
    opening = torch.linspace(0, 1, frames).sqrt()
    points[:, 48:58, 1] += 0.1 * opening[:, None]
    place = torch.randn(frames, 4, generator=generator) * wandering
    turn = torch.stack([1 + place[:, 0], place[:, 1], -place[:, 1], 1 + place[:, 0]], 1).view(frames, 2, 2)
    return (points @ turn + place[:, None, 2:]).flatten(1), opening


def test_modes_say_how_the_face_is_and_not_where() -> None:
    keypoints, opening = _mouth_opens()
    model = make_model("bilayer", SMALL)
    model.start_from(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32), keypoints, 0.01)
    weights = model.mode_weights(keypoints)
    wanted = (opening - opening.mean()) / opening.std(correction=0)
    torch.testing.assert_close(weights[:, 0].abs(), wanted.abs(), atol=0.1, rtol=0)
    elsewhere = model.mode_weights(_mouth_opens(wandering=0.3)[0])
    torch.testing.assert_close(elsewhere[:, 0], weights[:, 0], atol=0.05, rtol=0)
    further = keypoints + 3 * (keypoints[-1] - keypoints[0])
    assert model.mode_weights(further)[:, 0].abs().max() <= weights[:, 0].abs().max()


def test_the_texture_changes_with_the_face() -> None:
    keypoints, opening = _mouth_opens()
    model = make_model("bilayer", SMALL)
    model.start_from(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32), keypoints, 0.01)
    with torch.no_grad():
        model.modes[0, 1, 5, 7] = 0.5
    found = model.textures(keypoints)
    wanted = model.texture[0, 1, 5, 7] + 0.5 * model.mode_weights(keypoints)[:, 0]
    torch.testing.assert_close(found[:, 1, 5, 7], wanted)
    assert (found != model.texture).sum() <= len(keypoints)


def test_the_few_shot_generator_sees_an_upright_head_and_draws_it_in_place() -> None:
    """Turn, size and place of the head pass the generator by: its picture is laid where the landmarks are."""
    points = torch.rand(1, 68, 2) - 0.5
    turn = torch.tensor([[0.9, 0.3], [-0.3, 0.9]])
    keypoints = torch.cat([points, points @ turn.T + 0.1]).flatten(1)
    model = make_model("fewshot", SMALL)
    model.start_from(torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32), keypoints[:1], 0.0)
    seen = []
    model.generator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        image = model(keypoints).image
    assert (seen[0][0] != seen[0][1]).float().mean() < 0.03  # points may fall to the next pixel
    x, y = torch.meshgrid(*[(2 * torch.arange(32) + 1) / 32 - 1] * 2, indexing="xy")
    back = (torch.stack([x, y], -1) - 0.1) @ torch.linalg.inv(turn).T
    expected = functional.grid_sample(image[:1] - 1, back[None], align_corners=False) + 1
    assert (image[1:] - expected).abs().mean() < 0.05


def test_the_few_shot_generator_begins_with_the_mean_picture() -> None:
    """Nearly, in place for the mean landmarks and before white; without alignment there is nothing to begin with."""
    line = (2 * torch.arange(32) + 1) / 32 - 1
    texture = torch.stack([line.expand(32, 32), line[:, None].expand(32, 32), torch.zeros(32, 32)])[None] * 0.5
    mask = ((line[:, None] - 0.1) ** 2 + line**2 < 0.36).float()[None, None]
    keypoints = torch.rand(9, 136) - 0.5
    model = make_model("fewshot", SMALL)
    model.start_from(texture, mask, keypoints, 0.0)
    with torch.no_grad():
        image = model(keypoints.mean(0, keepdim=True)).image
    inside = functional.avg_pool2d(mask, 5, 1, 2)[0, 0] == 1
    assert (image - texture)[0, :, inside].abs().mean() < 0.1 and image[..., 0].min() > 0.8
    plain = make_model("fewshot", dataclasses.replace(SMALL, aligned=False))
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    plain.start_from(texture, mask, keypoints, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_whitened_keypoints_vary_alike() -> None:
    """Large and small movements come in at the same size, those below the floor do not, and noise stays out."""
    time = torch.arange(400.0)
    keypoints = torch.zeros(400, 136)
    for column, size in ((0, 0.5), (7, 0.05), (100, 1e-4)):
        keypoints[:, column] = size * (time * (0.1 + 0.037 * column)).sin() + 0.1
    model = make_model("bilayer", SMALL)
    model.start_from(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32), keypoints, 1e-3)
    seen = (keypoints - model.keypoint_mean) @ model.keypoint_map
    deviation = seen.square().mean(0).sqrt().sort(descending=True).values
    torch.testing.assert_close(deviation[:2], torch.ones(2), atol=0.01, rtol=0)
    assert 0.05 < deviation[2] < 0.1 and deviation[3] == 0


def test_positions_are_not_rounded_to_bfloat16() -> None:
    model = make_model("bilayer", SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        portrait = model(torch.rand(2, 136))
    assert portrait.image.dtype == portrait.warp.dtype == torch.float32
    model.start_from(torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 1, 32, 32), torch.rand(9, 136) * 0.1, 0.001)
    keypoints, seen = torch.rand(2, 136) * 0.1, []
    model.embedder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model(keypoints)
    assert torch.equal(*seen)


def test_a_portrait_without_a_mask_has_its_own_background() -> None:
    image = torch.rand(1, 3, 4, 4)
    assert Portrait(image, None).on_white() is image


def test_no_such_model() -> None:
    with pytest.raises(UserError, match="no 2D model 'voxels'"):
        make_model("voxels", SMALL)
    with pytest.raises(UserError, match="image_size_px = 48"):
        make_model("bilayer", NetworkConfig(image_size_px=48))
