"""The preset ``paper``: its schedule, its rays, its loss, and that it learns."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from ellipsoid import ellipsoid_dataset
from torch import Tensor
from training.small import differing, state_of

from manvatar.errors import UserError
from manvatar.fields import PaperFieldConfig, make_field
from manvatar.metrics import white_composite
from manvatar.rendering import render_image
from manvatar.training import (
    LossConfig,
    Preset,
    Trainer,
    TrainingConfig,
    load_preset,
    restore_checkpoint,
    save_checkpoint,
)
from manvatar.training.losses import image_loss, photometric, sample_loss
from manvatar.training.sampler import WholeImageSampler
from manvatar.types import Dataset, Rendering

PAPER = load_preset("paper")
FIELD = PaperFieldConfig(motion_cells=8, canonical_cells=32, hidden=32)
BRIEF = replace(
    PAPER.training,
    iterations=10,
    half_size_iterations=6,
    rays_per_iteration=200,
    march=replace(PAPER.training.march, samples_per_ray=24),
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return ellipsoid_dataset(frames=12, held_out=2, size_px=32)


def trainer_on(dataset: Dataset, config: TrainingConfig = BRIEF, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    field = make_field("paper", asdict(FIELD), dataset.bounds, dataset.expression.shape[1])
    return Trainer(dataset, field, config, seed)


def psnr_db(trainer: Trainer) -> float:
    dataset, errors = trainer.dataset, []
    for row in dataset.held_out.tolist():
        pose, expression = dataset.cam_from_head[row], dataset.expression[row]
        shown = render_image(
            trainer.field,
            trainer.occupancy,
            dataset.camera,
            pose,
            expression,
            trainer.config.march,
            background=torch.ones(3),
        )
        errors.append(float((shown.rgb - white_composite(dataset.images[row])).square().mean()))
    return -10 * math.log10(sum(errors) / len(errors))


def test_the_preset_says_what_the_paper_says() -> None:
    training = PAPER.training
    assert (PAPER.field_name, PAPER.size_px, PAPER.field) == ("paper", 512, PaperFieldConfig())
    assert (training.iterations, training.half_size_iterations, training.rays_per_iteration) == (10000, 6000, 4096)
    assert (training.canonical_rate, training.motion_rate, training.mlp_rate) == (1e-2, 1e-2, 1e-3)
    assert training.march.samples_per_ray == 64 and training.final_rate_fraction == 1
    loss = training.loss
    assert (loss.charbonnier_epsilon, loss.sample_displacement, loss.opacity, loss.mean_over_image) == (
        0,
        1e-3,
        0,
        False,
    )


def test_it_learns_a_head(dataset: Dataset) -> None:
    trainer = trainer_on(dataset, replace(BRIEF, iterations=120, half_size_iterations=60, rays_per_iteration=300))
    before = psnr_db(trainer)
    trainer.run(show_progress=False)
    assert psnr_db(trainer) > max(20.0, before + 6)


def test_rates_stay(dataset: Dataset) -> None:
    trainer = trainer_on(dataset)
    for schedule in (0.0, 0.5, 1.0):
        trainer.step(schedule)
        rates = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
        assert rates == {"canonical": 1e-2, "motion": 1e-2, "mlp": 1e-3}


def test_small_images_first(dataset: Dataset) -> None:
    trainer = trainer_on(dataset)
    seen = []
    trainer.run(every=lambda t: seen.append(t.sampler.shrink), show_progress=False)
    assert seen == [2] * 6 + [1] * 4


def test_stopping_and_going_on_is_not_stopping(dataset: Dataset, tmp_path: Path) -> None:
    whole = trainer_on(dataset)
    whole.run(show_progress=False)
    first = trainer_on(dataset)
    for _ in range(5):  # just before the images grow
        first.step(first.progress.iteration / BRIEF.iterations)
    save_checkpoint(first, tmp_path / "checkpoint", "run")
    second = trainer_on(dataset, seed=3)
    restore_checkpoint(second, tmp_path / "checkpoint", "run")
    second.run(show_progress=False)
    assert differing(state_of(whole), state_of(second)) == []


def test_with_skipping(dataset: Dataset) -> None:
    """For those who cannot wait: what is empty is found and left out, and that costs little."""
    march = replace(BRIEF.march, skip_empty=True, empty_below_per_m=1.0)
    config = replace(
        BRIEF, iterations=130, rays_per_iteration=300, occupancy_every=1, occupancy_cell_m=0.02, march=march
    )
    trainer = trainer_on(dataset, config)
    trainer.run(show_progress=False)
    assert psnr_db(trainer) > 20
    occupied = trainer.occupancy.occupied(march.empty_below_per_m).float().mean()
    assert 0.05 < float(occupied) < 0.8
    skipping = psnr_db(trainer)
    trainer.config = replace(config, march=BRIEF.march)
    assert psnr_db(trainer) == pytest.approx(skipping, abs=0.3)


def sampler(dataset: Dataset, rays: int, seed: int = 0) -> WholeImageSampler:
    return WholeImageSampler(dataset, rays, 2, torch.Generator().manual_seed(seed))


def test_rays_of_whole_images(dataset: Dataset) -> None:
    """All pixels of two frames, each once."""
    batch = sampler(dataset, 2 * 32 * 32).next()
    rows = [int((dataset.expression == e).all(1).nonzero()) for e in batch.expression]
    for position, row in enumerate(rows):
        mine = batch.rays.frame == position
        expected = white_composite(dataset.images[row]).flatten(0, 1)
        torch.testing.assert_close(batch.rgb[mine].sum(0), expected.sum(0))
        assert len(batch.rays.directions[mine].unique(dim=0)) == 32 * 32
    assert len(sampler(dataset, 10**6).next().rgb) == 2 * 32 * 32  # more there are not


def test_shrunk_images_are_means(dataset: Dataset) -> None:
    made = sampler(dataset, 2 * 16 * 16)
    made.shrink = 2
    batch = made.next()
    assert len(batch.rgb) == 2 * 16 * 16
    row = int((dataset.expression == batch.expression[0]).all(1).nonzero())
    whole = white_composite(dataset.images[row])
    small = whole.view(16, 2, 16, 2, 3).mean((1, 3))
    found, expected = batch.rgb[batch.rays.frame == 0], small.flatten(0, 1)
    torch.testing.assert_close(found.sort(0).values, expected.sort(0).values)
    rays = batch.rays.directions[batch.rays.frame == 0]
    column = rays @ dataset.cam_from_head[row, 0, :3] / (rays @ dataset.cam_from_head[row, 2, :3])
    pixel = column * dataset.camera.focal_px[0] + dataset.camera.center_px[0]
    torch.testing.assert_close((pixel / 2).frac(), torch.full_like(pixel, 0.5), rtol=0, atol=1e-3)


def test_terms_of_the_loss() -> None:
    rgb, target = torch.rand(6, 3, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)
    rendering = Rendering(rgb, torch.ones(6), torch.ones(6))
    plain = LossConfig(charbonnier_epsilon=0.0, opacity=0.0)
    expected = (rgb - target).abs().sum() / 18
    torch.testing.assert_close(image_loss(rendering, target, None, plain, 100), expected)
    torch.testing.assert_close(photometric(rgb, target, 0.0), photometric(rgb, target, 1e-9), rtol=0, atol=1e-8)
    over_image = replace(plain, mean_over_image=True)
    torch.testing.assert_close(image_loss(rendering, target, None, over_image, 100), expected * 6 / 100)

    class Here:
        displacement: Tensor = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])

    assert float(sample_loss(Here(), LossConfig(sample_displacement=0.5))) == pytest.approx(1.5)
    assert sample_loss(object(), LossConfig()) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('field_name = "papre"', "there is no field 'papre'"),
        ('field_name = "paper"\n[field]\nhidden_units = 3', "field has an unknown key 'hidden_units'"),
        ("field = 3", "field must be a table"),
        ('field_name = "paper"', "start_from_surface = false"),
        ('field_name = "paper"\n[training]\nstart_from_surface = false', "grids hold no displacements"),
        ("[training.loss]\nsample_displacement = 0.1", "has no sample_displacement"),
        ("[training]\nhalf_size_iterations = 5", "needs whole_image"),
        ("[training]\noccupancy_every = 0", "occupancy_every = 0 is not possible"),
        ("[training]\nadam_betas = [0.9]", "adam_betas"),
    ],
)
def test_presets_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_preset(str(path))


def test_own_presets_of_the_papers_field(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = (Path(__file__).parents[2] / "configs" / "paper.toml").read_text()
    path.write_text(text + "\n[field]\nexact_sampling = false\nmotion_lower = [-1, -1, -1]\n")
    preset = load_preset(str(path))
    expected = PaperFieldConfig(exact_sampling=False, motion_lower=(-1.0, -1.0, -1.0))
    assert isinstance(preset, Preset) and preset.field == expected and preset.training == PAPER.training
