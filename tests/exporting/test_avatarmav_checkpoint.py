"""Checkpoints of AvatarMAV's released code, in and out."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from pathlib import Path

import pytest
import torch
from exporting.parity import SMALL, case, weights
from tiny_avatar import tiny_avatar

from manvatar.avatars import Avatar
from manvatar.errors import UserError
from manvatar.exporting.avatarmav import (
    NAMES,
    FrameParameters,
    avatar_from_checkpoint,
    read_checkpoint,
    write_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """As the released code saves one: ``torch.save`` of a state dict."""
    ours = weights(SMALL, 2)
    path = tmp_path / "headnerf_latest"
    torch.save({theirs: ours[name].float() for theirs, name in NAMES.items()}, path)
    return path


def parameters() -> FrameParameters:
    frames = [case(seed) for seed in range(3)]
    return FrameParameters(
        torch.stack([f.pose for f in frames]).float(),
        torch.tensor([f.scale for f in frames]),
        torch.stack([f.expression for f in frames]).float(),
    )


def test_sizes_come_from_the_tensors(checkpoint: Path) -> None:
    config, tensors = read_checkpoint(checkpoint)
    assert dataclasses.asdict(config) == dataclasses.asdict(SMALL)
    assert all(torch.equal(tensors[name], value.float()) for name, value in weights(SMALL, 2).items())


def test_an_avatar_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """It can be saved, loaded and rendered as any other; out again, the weights are the same."""
    avatar = avatar_from_checkpoint(checkpoint, parameters(), size_px=32)
    avatar.save(tmp_path / "avatar.mav", "full")
    loaded = Avatar.load(tmp_path / "avatar.mav", "cpu")
    assert loaded.header == avatar.header and loaded.camera.size_px == (32, 32)
    image = loaded.render(loaded.neutral)
    assert image.shape == (32, 32, 4) and image[..., 3].float().std() > 1
    assert not torch.equal(image, loaded.render({"bfm_exp_03": 4.0}))
    scale = float(parameters().scale.median())
    write_checkpoint(loaded, tmp_path / "again", scale)
    _, again = read_checkpoint(tmp_path / "again")
    for name, value in read_checkpoint(checkpoint)[1].items():
        torch.testing.assert_close(again[name], value)


def test_a_scale_changes_densities_alone(checkpoint: Path, tmp_path: Path) -> None:
    """Twice the size there is twice the way through the head: densities are halved, and the picture stays."""
    avatar = avatar_from_checkpoint(checkpoint, size_px=24)
    write_checkpoint(avatar, tmp_path / "double", scale=0.2)
    _, before = read_checkpoint(checkpoint)
    _, after = read_checkpoint(tmp_path / "double")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"density.out.weight", "density.out.bias"}
    torch.testing.assert_close(after["density.out.weight"], before["density.out.weight"] / 2)
    double = FrameParameters(torch.zeros(1, 6), torch.tensor([0.2]), torch.zeros(1, 32))
    other = avatar_from_checkpoint(tmp_path / "double", double, size_px=24)
    pose = avatar.head_pose
    one, two = (a.rendering(torch.zeros(32), pose, avatar.camera).rgb for a in (avatar, other))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_exact_sampling_is_warned_of(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    avatar = avatar_from_checkpoint(checkpoint, size_px=16)
    with caplog.at_level(logging.WARNING):
        write_checkpoint(avatar, tmp_path / "one")
        assert caplog.records == []
        avatar.field.config = dataclasses.replace(avatar.field.config, exact_sampling=True)
        write_checkpoint(avatar, tmp_path / "two")
    assert "samples its grids exactly" in caplog.text


def test_only_the_papers_field_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can only use 'paper'"):
        write_checkpoint(tiny_avatar(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Harmful:
    """Pickled, it asks the reader to make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"feature_volume": Harmful(trap)}, tmp_path / "bad")
    (tmp_path / "worse").write_bytes(pickle.dumps(Harmful(trap)))
    for name in ("bad", "worse"):
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not trap.exists()


def test_what_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(tmp_path / "none")
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "text")
    state = torch.load(checkpoint, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "feature_volume"}, tmp_path / "lacking")
    with pytest.raises(UserError, match="lacks feature_volume"):
        read_checkpoint(tmp_path / "lacking")
    state["deform_linear.layers.0.weight"] = torch.zeros(32, 55)
    torch.save(state, tmp_path / "unfit")
    with pytest.raises(UserError, match="do not fit together"):
        read_checkpoint(tmp_path / "unfit")
