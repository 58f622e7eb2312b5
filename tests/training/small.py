"""A training run small enough to do often."""

from __future__ import annotations

from dataclasses import replace

import torch
from ellipsoid import ellipsoid_dataset

from manvatar.fields import FastField, FastFieldConfig
from manvatar.rendering import MarchConfig
from manvatar.training import Trainer, TrainingConfig
from manvatar.types import Dataset

FIELD = FastFieldConfig(
    motion_voxel_m=0.03, canonical_voxels_m=(0.02, 0.01, 0.006), canonical_features=(4, 4, 4), hidden=16
)
TRAINING = TrainingConfig(
    iterations=400,
    rays_per_iteration=1024,
    frames_per_iteration=4,
    coarse_step_m=0.01,
    coarse_iterations=60,
    warmup_iterations=20,
    motion_delay_iterations=40,
    occupancy_cell_m=0.01,
    march=MarchConfig(step_m=0.005),
)
# For what does not depend on how well it has learnt.
BRIEF = replace(TRAINING, iterations=24, rays_per_iteration=128, warmup_iterations=4, motion_delay_iterations=6)


def small_dataset() -> Dataset:
    return ellipsoid_dataset(frames=12, held_out=2, size_px=32)


def small_trainer(
    dataset: Dataset, config: TrainingConfig = BRIEF, seed: int = 0, device: torch.device | None = None
) -> Trainer:
    torch.manual_seed(seed)
    return Trainer(dataset, FastField(FIELD, dataset.bounds, dataset.expression.shape[1]), config, seed, device)


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything a run has learnt."""
    tensors = {f"field.{name}": value.clone() for name, value in trainer.field.state_dict().items()}
    return tensors | {f"occupancy.{name}": value.clone() for name, value in trainer.occupancy.state_dict().items()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not the same bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
