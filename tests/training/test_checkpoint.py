"""Resuming equals not stopping, bit for bit; a checkpoint that cannot be used says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from training.small import BRIEF, differing, small_dataset, small_trainer, state_of

from manvatar.errors import UserError
from manvatar.training import Trainer, restore_checkpoint, save_checkpoint
from manvatar.types import Dataset

RUN = "0123456789abcdef"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_dataset()


@pytest.fixture
def half_way(dataset: Dataset, tmp_path: Path) -> Path:
    """The checkpoint of a run after 11 of 24 iterations, off every beat of the loop."""
    path = tmp_path / "c.safetensors"
    trainer = small_trainer(dataset)

    def stop(trainer: Trainer) -> None:
        if trainer.progress.iteration == 11:
            save_checkpoint(trainer, path, RUN)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(every=stop, show_progress=False)
    return path


def test_resuming_equals_not_stopping(dataset: Dataset, half_way: Path) -> None:
    whole = small_trainer(dataset)
    whole.run(show_progress=False)
    resumed = small_trainer(dataset)
    resumed.step(0.0)  # what a fresh trainer has done meanwhile must not matter
    restore_checkpoint(resumed, half_way, RUN)
    assert resumed.progress.iteration == 11
    resumed.run(show_progress=False)
    assert resumed.progress.iteration == 24 and resumed.progress.psnr_db == whole.progress.psnr_db
    assert differing(state_of(resumed), state_of(whole)) == []
    moments, expected = resumed.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"]
    for index in expected:
        assert differing(moments[index], expected[index]) == []


def test_saving_changes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    plain, saving = small_trainer(dataset), small_trainer(dataset)
    plain.run(show_progress=False)
    saving.run(every=lambda t: save_checkpoint(t, tmp_path / "c.safetensors", RUN), show_progress=False)
    assert differing(state_of(plain), state_of(saving)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_of_a_run_that_has_not_begun(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(small_trainer(dataset), path, RUN)
    resumed, whole = small_trainer(dataset), small_trainer(dataset)
    restore_checkpoint(resumed, path, RUN)
    for trainer in (resumed, whole):
        trainer.run(show_progress=False)
    assert differing(state_of(resumed), state_of(whole)) == []


def rewritten(path: Path, **changes: object) -> None:
    """Change what the header says."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["manvatar.checkpoint"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors, path, metadata={"manvatar.checkpoint": json.dumps(header | changes)})


def test_of_another_run(dataset: Dataset, half_way: Path) -> None:
    trainer = small_trainer(dataset)
    before = state_of(trainer)
    with pytest.raises(
        UserError, match="belongs to another video, preset, size or seed; delete it, or leave out --resume"
    ):
        restore_checkpoint(trainer, half_way, "another")
    assert differing(before, state_of(trainer)) == []


def test_of_a_newer_version(dataset: Dataset, half_way: Path) -> None:
    rewritten(half_way, format_version=99)
    with pytest.raises(UserError, match="was written by a newer manvatar; update manvatar"):
        restore_checkpoint(small_trainer(dataset), half_way, RUN)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no header", "missing"])
def test_a_damaged_file(dataset: Dataset, half_way: Path, damage: str) -> None:
    content = half_way.read_bytes()
    if damage == "missing":
        half_way.unlink()
    elif damage == "no header":
        save_file({"generator": torch.zeros(1)}, half_way)
    else:
        half_way.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello " * 50}[damage])
    trainer = small_trainer(dataset)
    before = state_of(trainer)
    with pytest.raises(
        UserError, match="the checkpoint .* cannot be read .*; delete it, or leave out --resume"
    ) as caught:
        restore_checkpoint(trainer, half_way, RUN)
    assert "\n" not in str(caught.value) and differing(before, state_of(trainer)) == []


def test_tensors_of_another_size(dataset: Dataset, half_way: Path) -> None:
    """The run's id has been forged: what is inside must still not be half-loaded without a word."""
    other = small_trainer(dataset, replace(BRIEF, occupancy_cell_m=0.02))
    with pytest.raises(UserError, match="delete it, or leave out --resume"):
        restore_checkpoint(other, half_way, RUN)
