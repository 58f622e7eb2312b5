"""Cases on which our ``paper`` field and AvatarMAV's released code are compared; all from seeds.

``tools/parity_avatarmav.py`` runs both sides where the released code is at hand and writes ``parity.json``; the tests
compare our side with those numbers. ``numpy.random.RandomState`` gives the same stream in every version of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from manvatar.exporting.avatarmav import density_scale_per_m, from_released, released_camera, released_near_far
from manvatar.fields import PaperField, PaperFieldConfig
from manvatar.rendering import camera_rays, render, uniform_samples
from manvatar.training import TrainingConfig, load_preset
from manvatar.training.losses import image_loss, sample_loss
from manvatar.training.optimizer import make_optimizer
from manvatar.types import Rendering

NUMBERS = Path(__file__).with_name("parity.json")
CONFIG = PaperFieldConfig(exact_sampling=False)
SMALL = replace(CONFIG, motion_cells=8, canonical_cells=16, hidden=32)  # for what runs in every test
SAMPLES_PER_RAY = 64
IMAGE_PX = 256  # the released camera's unit of pixels


@dataclass(frozen=True)
class Case:
    """One frame in the released code's terms, float64."""

    pose: Tensor  # (6,)
    scale: float
    expression: Tensor  # (64,)


def case(seed: int) -> Case:
    random = np.random.RandomState(seed)
    turn, shift = random.uniform(-0.6, 0.6, 3), random.uniform(-0.04, 0.04, 3)
    scale, expression = random.uniform(0.06, 0.11), 1.5 * random.standard_normal(64)
    return Case(torch.from_numpy(np.concatenate([turn, shift])), float(scale), torch.from_numpy(expression))


def weights(config: PaperFieldConfig, seed: int) -> dict[str, Tensor]:
    """Tensors of a ``paper`` field, float64, under which pictures show something: holes, haze, contrast."""
    result = start(config, seed)
    random = np.random.RandomState(seed + 1000)
    for name in ("canonical", "motion_basis", "motion_mean"):
        result[name] = torch.from_numpy(random.uniform(-0.4, 0.4, tuple(result[name].shape)))
    result["density.out.weight"] *= 6
    result["color.out.weight"] *= 8
    return result


def start(config: PaperFieldConfig, seed: int) -> dict[str, Tensor]:
    """Tensors as training starts from, float64: grids of zeros, networks uniform as PyTorch makes them."""
    random = np.random.RandomState(seed)
    field = PaperField(config, config.box(), config.expressions)
    result = {}
    for name, parameter in sorted(field.named_parameters()):
        layer = name.rsplit(".", 1)[0]
        bound = 0.0 if "." not in name else field.get_parameter(f"{layer}.weight").shape[1] ** -0.5
        result[name] = torch.from_numpy(random.uniform(-bound, bound, tuple(parameter.shape)))
    result["density.out.bias"] += 0.3  # visible in every frame; a field that is not learns nothing
    return result


def field_for(config: PaperFieldConfig, tensors: dict[str, Tensor], scale: float) -> PaperField:
    """Our field for frames of one scale, in the dtype of the tensors."""
    config = replace(config, density_scale_per_m=density_scale_per_m(scale, config.unit_m))
    field = PaperField(config, config.box(), config.expressions).to(tensors["canonical"].dtype)
    field.load_state_dict(tensors)
    return field


def pixels(resolution: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Where the released code's rays go through an image of so many pixels: (y, x, 2), in pixels of 256."""
    line = torch.linspace(0.5, IMAGE_PX - 0.5, resolution, dtype=dtype)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1)


def ours(field: PaperField, frame: Case, at: Tensor, leak: float = 0.0) -> tuple[Rendering, object]:
    """What we render through image positions (rays, 2), and the field it was rendered from.

    Args:
        leak: light that every sample lets through whatever its density: 1e-10 in the released code, 0 in ours. In
            float64 it is the largest difference of the two, and training makes more of it with every step.
    """
    dtype = at.dtype
    scale = torch.full((1,), frame.scale, dtype=dtype)
    pose = from_released(frame.pose[None].to(dtype), scale, field.config)
    which = torch.zeros(len(at), dtype=torch.int64)
    rays = camera_rays(released_camera(IMAGE_PX, dtype), pose, at, which)
    bounds = released_near_far(rays, pose, field.config.box(dtype), frame.scale, field.config.unit_m)
    here = field.at(frame.expression[None].to(dtype))
    samples, white = uniform_samples(*bounds, SAMPLES_PER_RAY), torch.ones(3, dtype=dtype)
    if not leak:
        return render(here, rays, samples, white), here
    points = rays.origins_m[samples.ray] + rays.directions[samples.ray] * samples.distance_m[:, None]
    values = here(points, rays.directions[samples.ray], rays.frame[samples.ray])
    alpha = 1 - (-values.density_per_m * samples.length_m).exp().view(-1, SAMPLES_PER_RAY)
    through = functional.pad((1 - alpha + leak).cumprod(1), (1, 0), value=1.0)
    weight = alpha * through[:, :-1]
    rgb = (weight[..., None] * values.rgb.view(*weight.shape, 3)).sum(1) + through[:, -1:]
    return Rendering(rgb, weight.sum(1), weight.sum(1)), here


def picture(resolution: int, seed: int) -> Tensor:
    """A smooth target image (3, y, x), float64, white around a disc."""
    random = np.random.RandomState(seed)
    at = pixels(resolution) / IMAGE_PX - 0.5
    waves = [torch.sin(at @ torch.from_numpy(random.uniform(-20, 20, 2)) + random.uniform(0, 6)) for _ in range(3)]
    inside = torch.sigmoid((0.35 - at.norm(dim=-1)) * 40)
    return torch.stack([(0.5 + 0.4 * wave) * inside + 1 - inside for wave in waves])


def training_config(pace: float = 1.0) -> TrainingConfig:
    """The preset, with the released code's mean over the whole image, and rates times ``pace``."""
    config = load_preset("paper").training
    return replace(
        config,
        canonical_rate=config.canonical_rate * pace,
        motion_rate=config.motion_rate * pace,
        mlp_rate=config.mlp_rate * pace,
        loss=replace(config.loss, mean_over_image=True),
    )


def loss_of(
    field: PaperField, frame: Case, image: Tensor, resolution: int, rays: int, step: int, leak: float = 0.0
) -> tuple[Tensor, Rendering]:
    """Our loss of one training step as the released code counts it: pixels not drawn are white there, and count."""
    settings, dtype = training_config().loss, field.canonical.dtype
    target = image.flatten(1).T.to(dtype)
    chosen = torch.arange(len(target))
    if rays < len(target):
        chosen = torch.from_numpy(np.random.RandomState(step).choice(len(target), size=rays, replace=False))
    rendering, here = ours(field, frame, pixels(resolution, dtype).reshape(-1, 2)[chosen], leak)
    loss = image_loss(rendering, target[chosen], None, settings, resolution**2) + sample_loss(here, settings)
    rest = (1 - target).sum() - (1 - target[chosen]).sum()  # has no gradient
    return loss + rest / target.numel(), rendering


def losses(
    config: PaperFieldConfig,
    tensors: dict[str, Tensor],
    frames: list[int],
    resolution: int,
    rays: int,
    steps: int,
    leak: float = 0.0,
    pace: float = 1.0,
) -> list[float]:
    """Loss of each of our training steps; frame ``frames[step % n]`` is seen in each."""
    cases = [case(seed) for seed in frames]
    cases = [replace(frame, scale=cases[0].scale) for frame in cases]
    images = [picture(resolution, seed) for seed in frames]
    field = field_for(config, tensors, cases[0].scale)
    optimizer = make_optimizer(field.parameter_groups(), training_config(pace))
    found = []
    for step in range(steps):
        which = step % len(frames)
        loss, _ = loss_of(field, cases[which], images[which], resolution, rays, step, leak)
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found
