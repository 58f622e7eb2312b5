"""The training loop on a head whose every pixel is known."""

from __future__ import annotations

import math
import types
from dataclasses import replace

import pytest
import torch
from ellipsoid import CENTER_M, RADII_M, ellipsoid_dataset
from torch import Tensor
from training.small import BRIEF, TRAINING, differing, small_dataset, small_trainer, state_of

from manvatar.metrics import white_composite
from manvatar.rendering import render_image
from manvatar.training import Trainer
from manvatar.training import trainer as trainer_module
from manvatar.types import Dataset


def shown(trainer: Trainer, row: int, expression: Tensor | None = None) -> Tensor:
    dataset = trainer.dataset
    return render_image(
        trainer.field,
        trainer.occupancy,
        dataset.camera,
        dataset.cam_from_head[row],
        dataset.expression[row] if expression is None else expression,
        trainer.config.march,
        background=torch.ones(3),
    ).rgb


def psnr_db(trainer: Trainer, part: str = "frame", expression: Tensor | None = None) -> float:
    """Of the held-out frames; ``part`` "mouth" looks at the box of the mouth alone."""
    errors = []
    for row in trainer.dataset.held_out.tolist():
        error = shown(trainer, row, expression) - white_composite(trainer.dataset.images[row])
        if part == "mouth":
            points = trainer.dataset.landmarks_px[row, 48:]
            (left, top), (right, bottom) = (points.amin(0).long() - 2).tolist(), (points.amax(0).long() + 3).tolist()
            error = error[top:bottom, left:right]
        errors.append(-10 * math.log10(float(error.square().mean())))
    return sum(errors) / len(errors)


@pytest.fixture(scope="module")
def trained() -> Trainer:
    trainer = small_trainer(ellipsoid_dataset(), TRAINING)
    trainer.untrained_db = psnr_db(trainer)
    trainer.run(show_progress=False)
    return trainer


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_dataset()


def test_frames_it_has_never_seen(trained: Trainer) -> None:
    """35 dB is an error of 2 % in colour; without a pose or with a blurred surface it would stay below 27."""
    assert trained.untrained_db < 20
    assert psnr_db(trained) > 35
    assert trained.progress.iteration == TRAINING.iterations and trained.progress.psnr_db > 33


def test_the_mouth_opens_by_its_coefficient(trained: Trainer) -> None:
    """With the coefficients taken away it is several times worse: the field has learnt what they mean."""
    assert psnr_db(trained, "mouth") > 27
    assert psnr_db(trained, "mouth") > psnr_db(trained, "mouth", torch.zeros(2)) + 4


def test_a_coefficient_without_meaning_changes_little(trained: Trainer) -> None:
    row = int(trained.dataset.held_out[0])
    here = trained.dataset.expression[row]
    of_noise = (shown(trained, row, here + torch.tensor([0.0, 1.0])) - shown(trained, row)).square().mean()
    of_mouth = (shown(trained, row, here + torch.tensor([1.0, 0.0])) - shown(trained, row)).square().mean()
    assert of_noise < 0.25 * of_mouth


def test_what_is_empty_is_found(trained: Trainer) -> None:
    occupied = trained.occupancy.occupied(trained.config.march.empty_below_per_m).flatten()
    centers = trained.occupancy.cell_centers_m()
    apart = ((centers - CENTER_M) / RADII_M).norm(dim=1)
    front = (apart - 1).abs() < 0.05
    front &= centers[:, 2] > CENTER_M[2] + 0.5 * RADII_M[2]
    assert front.sum() > 20 and occupied[front].float().mean() > 0.95
    assert occupied[(apart > 1.5) & (centers[:, 2] > CENTER_M[2])].float().mean() < 0.02


def test_the_hull_and_the_face_say_where_it_can_be(dataset: Dataset) -> None:
    trainer = small_trainer(dataset)
    allowed, centers = trainer.occupancy.allowed.flatten(), trainer.occupancy.cell_centers_m()
    inside = ((centers - CENTER_M) / RADII_M).norm(dim=1) < 1
    assert allowed[inside].float().mean() > 0.98
    assert not allowed[centers[:, 2] > CENTER_M[2] + RADII_M[2] + BRIEF.margin_before_surface_m + 0.015].any()
    assert 0.2 < allowed.float().mean() < 0.8


def test_the_same_seed_gives_the_same_bits(dataset: Dataset) -> None:
    runs = []
    for seed in (0, 0, 1):
        trainer = small_trainer(dataset, seed=seed)
        trainer.run(show_progress=False)
        runs.append(state_of(trainer))
    assert differing(runs[0], runs[1]) == []
    assert "field.motion_basis" in differing(runs[0], runs[2])


def test_it_goes_on_where_it_is(dataset: Dataset) -> None:
    trainer = small_trainer(dataset, replace(BRIEF, iterations=6))
    seen: list[int] = []
    trainer.run(every=lambda t: seen.append(t.progress.iteration), show_progress=False)
    assert seen == [1, 2, 3, 4, 5, 6]
    trainer.run(every=lambda t: seen.append(t.progress.iteration), show_progress=False)
    assert seen == [1, 2, 3, 4, 5, 6]  # it was at the end already


def rates(trainer: Trainer) -> dict[str, float]:
    """Of each group, as a part of what it was set to."""
    return {group["name"]: group["lr"] / group["initial_rate"] for group in trainer.optimizer.param_groups}


def test_rates_warm_up_and_fall(dataset: Dataset) -> None:
    trainer = small_trainer(dataset)
    trainer.step(0.0)
    assert rates(trainer) == pytest.approx({"canonical": 0.25, "motion": 0.0, "mlp": 0.25})  # 1 of 4 warm-up iterations
    still = trainer.field.motion_basis.clone()
    trainer.progress.iteration = 100
    trainer.step(0.0)
    assert rates(trainer) == pytest.approx({"canonical": 1.0, "motion": 1.0, "mlp": 1.0})
    assert (still == 0).all() and (trainer.field.motion_basis != 0).any()
    trainer.step(0.5)
    assert rates(trainer) == pytest.approx(dict.fromkeys(rates(trainer), BRIEF.final_rate_fraction**0.5))
    trainer.step(1.0)
    assert rates(trainer) == pytest.approx(dict.fromkeys(rates(trainer), BRIEF.final_rate_fraction))


def test_a_time_limit_shortens_the_schedule(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second passes between any two looks at the clock: ten iterations fit into five seconds."""
    clock = iter(range(10**6))
    monkeypatch.setattr(trainer_module, "time", types.SimpleNamespace(perf_counter=lambda: next(clock) / 2))
    trainer = small_trainer(dataset, replace(BRIEF, iterations=1000, warmup_iterations=1))
    found: list[float] = []
    trainer.run(5.0, every=lambda t: found.append(rates(t)["canonical"]), show_progress=False)
    assert trainer.progress.iteration == 10 and trainer.progress.seconds == pytest.approx(5.0)
    assert found == pytest.approx([BRIEF.final_rate_fraction ** (index / 10) for index in range(10)])


def test_white_images_give_an_empty_head(dataset: Dataset) -> None:
    """Nothing is anywhere: rays, hull and boxes are still defined, and what was assumed at first goes away."""
    empty = replace(dataset, images=torch.zeros_like(dataset.images))
    trainer = small_trainer(empty)
    trainer.run(show_progress=False)
    assert all(bool(value.isfinite().all()) for value in trainer.field.parameters())
    assert (shown(trainer, 0) > 0.9).all()


def test_what_no_ray_saw_is_forgotten(trained: Trainer) -> None:
    """The ellipsoid's middle and far side began opaque and were never looked at; its pictures do not need them."""
    before, allowed = psnr_db(trained), trained.occupancy.allowed.clone()
    try:
        trained.config = replace(trained.config, least_light=0.0)
        trained.forget_unseen()
        assert torch.equal(trained.occupancy.allowed, allowed)
        trained.config = replace(trained.config, least_light=0.015)
        trained.forget_unseen()
        assert psnr_db(trained) > before - 0.2
        once = trained.occupancy.allowed.clone()
        kept, middle = once.flatten(), trained.occupancy.cell_index(torch.as_tensor(CENTER_M))[0]
        assert kept.sum() < 0.8 * allowed.sum() and not kept[middle]
        trained.forget_unseen()  # a resumed run ends as the uninterrupted one
        assert torch.equal(trained.occupancy.allowed, once)
    finally:
        trained.occupancy.allowed.copy_(allowed)
        trained.refresh_tables()
