"""Released checkpoints: all 1,161 names, round trips, options from shapes, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baselines.bilayer.tiny_model import TINY, tiny_inputs, tiny_model

from manvatar.baselines.bilayer.model import BilayerConfig, BilayerModel, add_spectral_norm, make_discriminator
from manvatar.baselines.bilayer.official import (
    checkpoint_files,
    load_official,
    load_official_discriminator,
    official_entries,
    save_official,
)
from manvatar.baselines.bilayer.official_names import parts
from manvatar.errors import UserError

# Of the lines "<network> <entry> <shape>" of the six released networks, sorted.
_NAMES_SHA256 = "8abd627ec180b31a4957f787caadbb7899e98183201f4a2c4dadcdedfb1bd9fd"


def _normed(config: BilayerConfig = TINY, enhancer: bool = True) -> BilayerModel:
    model = tiny_model(config, enhancer)
    add_spectral_norm(model)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    discriminator = make_discriminator(TINY)
    add_spectral_norm(discriminator)
    save_official(tmp_path, _normed(), discriminator, epoch=2225)
    return tmp_path


def test_all_names_and_shapes_of_the_released_networks(request: pytest.FixtureRequest) -> None:
    model, discriminator = BilayerModel(BilayerConfig()), make_discriminator(BilayerConfig())
    add_spectral_norm(model)
    add_spectral_norm(discriminator)
    lines, counts = [], []
    for name, network in parts(model, discriminator).items():
        entries = official_entries(Path(f"0_{name}.pth"), network, model.config)
        counts.append(len(entries))
        lines += [f"{name} {key} {list(value.shape)}" for key, value in entries.items()]
    assert counts == [124, 466, 16, 318, 96, 141] and sum(counts) == 1161
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == _NAMES_SHA256


def test_round_trip_with_the_norm_divided_out(folder: Path) -> None:
    torch.manual_seed(0)
    model = load_official(folder, spectral_norm=True)
    plain = load_official(folder)
    assert plain.config == replace(TINY, **_discriminator_defaults())
    photos, stickmen, keypoints = tiny_inputs()
    with torch.no_grad():
        pair = [m.enhanced(m.person(photos, stickmen), photos, keypoints) for m in (model, plain)]
        outputs = [m.pose(keypoints, p.adaptive) for m, p in zip((model, plain), pair, strict=True)]
    assert pair[0].texture.std() > 0.05
    torch.testing.assert_close(pair[0].texture, pair[1].texture, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outputs[0].warp, outputs[1].warp, rtol=1e-3, atol=1e-3)


def _discriminator_defaults() -> dict[str, int]:
    default = BilayerConfig()
    return {name: getattr(default, name) for name in vars(default) if name.startswith("discriminator")}


def test_reading_and_writing_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    model = load_official(folder, spectral_norm=True)
    discriminator = load_official_discriminator(folder, model.config)
    save_official(tmp_path / "again", model, discriminator, epoch=1)
    for path in sorted(folder.glob("2225_*.pth")):
        before = torch.load(path, weights_only=True)
        after = torch.load(tmp_path / "again" / path.name.replace("2225", "1"), weights_only=True)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, masked=False),
        replace(TINY, keypoint_octaves=4),
        replace(TINY, enhancer_down=2, enhancer_max_width=16, enhancer_flat=3),
        replace(TINY, image_size_px=64, width=8, max_width=32),
    ],
)
def test_sizes_and_options_are_read_from_the_tensors(config: BilayerConfig, tmp_path: Path) -> None:
    save_official(tmp_path, _normed(config))
    assert load_official(tmp_path).config == replace(config, **_discriminator_defaults())


def test_without_enhancer_and_without_spectral_norm(tmp_path: Path) -> None:
    model = tiny_model(enhancer=False)
    save_official(tmp_path, model)
    loaded = load_official(tmp_path)
    assert loaded.texture_enhancer is None
    photos, stickmen, _ = tiny_inputs()
    with torch.no_grad():
        textures = [m.person(photos, stickmen).texture for m in (model, loaded)]
    torch.testing.assert_close(*textures, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="no spectral norm for"):
        load_official(tmp_path, spectral_norm=True)


def test_the_last_epoch_is_taken_from_any_depth(folder: Path) -> None:
    (folder / "deeper").mkdir()
    (folder / "2225_texture_enhancer.pth").rename(folder / "deeper" / "1225_texture_enhancer.pth")
    (folder / "200_keypoints_embedder.pth").write_bytes(b"old")
    files = checkpoint_files(folder)
    assert files["texture_enhancer"].name.startswith("1225")
    assert files["keypoints_embedder"].name.startswith("2225")
    assert load_official(folder).texture_enhancer is not None


def test_collapsed_projectors_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="collapsed"):
        save_official(tmp_path / "x", load_official(folder))


# ----------------------------------------------------------------------------------------------------------- refused


def _without(key: str) -> Callable[[dict], dict]:
    return lambda entries: {k: v for k, v in entries.items() if k != key}


_CHANGES = [
    ("keypoints_embedder", _without("net.mlp.2.bias"), "lacks net.mlp.2.bias"),
    ("keypoints_embedder", lambda e: e | {"net.mlp.9.bias": torch.zeros(2)}, "unknown entries: net.mlp.9.bias"),
    ("keypoints_embedder", lambda e: e | {"net.mlp.0.bias": torch.zeros(2)}, r"shape \(2,\) where \(256,\)"),
    ("keypoints_embedder", _without("net.mlp.4.weight_v"), "no net.mlp.4.weight_v"),
    ("keypoints_embedder", lambda e: e | {"net.mlp.0.weight_u": torch.zeros(3)}, "of the wrong size"),
    ("keypoints_embedder", lambda e: {k.replace("mlp.0", "x"): v for k, v in e.items()}, "lacks a usable net.mlp.0"),
    ("inference_generator", lambda e: e | {"identity_grid": e["identity_grid"] + 1}, "another identity_grid"),
    ("inference_generator", lambda e: {}, "has no entry like"),
    ("texture_enhancer", lambda e: {"a": [1, 2]}, "not a plain table of tensors"),
]


@pytest.mark.parametrize(("network", "change", "message"), _CHANGES)
def test_other_entries_are_refused(folder: Path, network: str, change: Callable[[dict], dict], message: str) -> None:
    path = folder / f"2225_{network}.pth"
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(UserError, match=message) as refusal:
        load_official(folder)
    assert str(path) in str(refusal.value)


def test_missing_and_unreadable_files_are_refused(folder: Path) -> None:
    path = folder / "2225_identity_embedder.pth"
    path.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="cannot read .*2225_identity_embedder.pth"):
        load_official(folder)
    path.unlink()
    with pytest.raises(UserError, match="lacks <epoch>_identity_embedder.pth"):
        load_official(folder)
    with pytest.raises(UserError, match="not a folder"):
        load_official(folder / "nowhere")
    (folder / "2225_discriminator.pth").unlink()
    with pytest.raises(UserError, match="lacks <epoch>_discriminator.pth"):
        load_official_discriminator(folder, TINY)


class _Evil:
    def __reduce__(self) -> tuple:
        return print, ("this must not run",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_file_is_executed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "2225_keypoints_embedder.pth").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(UserError, match="cannot read"):
        load_official(folder)
    torch.save({"a": _Evil()}, folder / "2225_keypoints_embedder.pth")
    with pytest.raises(UserError, match="cannot read"):
        load_official(folder)
    assert "must not run" not in capsys.readouterr().out
