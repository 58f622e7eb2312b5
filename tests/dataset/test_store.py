"""A dataset on disk comes back as it was, or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_avatar import tiny_dataset

from manvatar.dataset import DATASET_FILES, load_dataset
from manvatar.dataset.store import map_images, save_dataset
from manvatar.errors import UserError
from manvatar.types import Dataset

PIXELS, REST = DATASET_FILES


@pytest.fixture
def stored(tmp_path: Path) -> Dataset:
    made = tiny_dataset()
    images = map_images(tmp_path, len(made.images), made.camera.size_px, write=True)
    images.copy_(torch.randint(256, images.shape, dtype=torch.uint8))
    dataset = dataclasses.replace(made, images=images, frame_rate_hz=29.97)
    save_dataset(dataset, tmp_path, "run")
    return dataset


def flat(value: object) -> list:
    """All tensors and plain values in a dataset."""
    if dataclasses.is_dataclass(value):
        return [leaf for field in dataclasses.fields(value) for leaf in flat(getattr(value, field.name))]
    return [value]


def test_round_trip(stored: Dataset, tmp_path: Path) -> None:
    again = load_dataset(tmp_path, "run")
    assert again is not None
    for one, other in zip(flat(stored), flat(again), strict=True):
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one, other)
        else:
            assert one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(DATASET_FILES)


def test_pixels_are_where_a_reader_expects_them(stored: Dataset, tmp_path: Path) -> None:
    raw = torch.frombuffer(bytearray((tmp_path / PIXELS).read_bytes()), dtype=torch.uint8)
    assert torch.equal(raw.view(12, 48, 48, 4), stored.images)


def test_what_is_read_cannot_alter_the_file(stored: Dataset, tmp_path: Path) -> None:
    before = (tmp_path / PIXELS).read_bytes()
    again = load_dataset(tmp_path, "run")
    again.images[0].zero_()
    del again
    assert (tmp_path / PIXELS).read_bytes() == before


def test_none_where_there_is_nothing_or_something_else(stored: Dataset, tmp_path: Path) -> None:
    assert load_dataset(tmp_path, "another run") is None
    assert load_dataset(tmp_path / "nowhere", "run") is None


def test_another_format_is_made_again(stored: Dataset, tmp_path: Path) -> None:
    path = tmp_path / REST
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["manvatar.dataset"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors, path, metadata={"manvatar.dataset": json.dumps(header | {"format_version": 0})})
    assert load_dataset(tmp_path, "run") is None


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no header"])
def test_a_damaged_file(stored: Dataset, tmp_path: Path, damage: str) -> None:
    path = tmp_path / REST
    content = path.read_bytes()
    if damage == "no header":
        save_file({"train": torch.zeros(1)}, path)
    else:
        path.write_bytes({"cut": content[:-100], "empty": b"", "text": b"hello " * 50}[damage])
    with pytest.raises(UserError, match="cannot be read; delete it, or start again without --resume"):
        load_dataset(tmp_path, "run")


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damaged_pixels(stored: Dataset, tmp_path: Path, damage: str) -> None:
    path = tmp_path / PIXELS
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="is missing or has the wrong length; start again without --resume"):
        load_dataset(tmp_path, "run")
