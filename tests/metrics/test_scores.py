"""Scores over held-out frames, the rival, ``scores.json`` and the pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_avatar import rendered, tiny_avatar, tiny_dataset

from manvatar.errors import UserError
from manvatar.geometry import vector_from_rotation
from manvatar.mark import SYNTHETIC_TEXT
from manvatar.metrics import (
    REGIONS,
    RunFacts,
    ScoredFrame,
    contact_sheet,
    nearest_frame,
    nearest_frame_renderer,
    preview,
    score,
    scores_table,
    sheet_rows,
    white_composite,
    write_contact_sheet,
    write_scores,
)
from manvatar.types import Dataset


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return rendered(tiny_avatar(), tiny_dataset())


def _noisy(dataset: Dataset, level: float = 0.05):
    def renderer(row: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(row)
        truth = white_composite(dataset.images[row])
        return truth + level * (1 + row) * torch.randn(truth.shape, generator=generator)

    return renderer


def test_a_perfect_renderer_and_the_mean_over_frames(dataset: Dataset) -> None:
    perfect = score(dataset, lambda row: white_composite(dataset.images[row]))
    assert perfect.frame.psnr_db == 100 and perfect.head.mse == 0 and perfect.mouth.ssim == pytest.approx(1)
    seen: list[ScoredFrame] = []
    noisy = score(dataset, _noisy(dataset, 0.004), on_frame=seen.append)
    assert [frame.row for frame in seen] == list(noisy.rows) == dataset.held_out.tolist()
    each = [-10 * math.log10(float((f.truth - f.image).double().square().mean())) for f in seen]
    assert noisy.frame_psnr_db == pytest.approx(each, abs=1e-5)
    assert noisy.frame.psnr_db == pytest.approx(sum(each) / len(each), abs=1e-5)
    assert noisy.frame.mse == pytest.approx(np.mean([10 ** (-db / 10) for db in each]), rel=1e-5)


def test_only_held_out_frames_are_rendered(dataset: Dataset) -> None:
    asked = []

    def renderer(row: int) -> torch.Tensor:
        asked.append(row)
        return torch.ones(48, 48, 3)

    score(dataset, renderer)
    assert asked == dataset.held_out.tolist()


def test_a_renderer_that_fails_is_not_scored(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="not finite"):
        score(dataset, lambda row: torch.full((48, 48, 3), float("nan")))
    with pytest.raises((ValueError, TypeError)):
        score(dataset, lambda row: torch.ones(24, 24, 3))


def test_nothing_held_out() -> None:
    with pytest.raises(ValueError, match="holds no frames out"):
        score(tiny_dataset(held_out=0), lambda row: torch.ones(48, 48, 3))


def test_nearest_frame_by_brute_force() -> None:
    dataset = tiny_dataset(frames=24, held_out=6)
    dataset.cam_from_head[:, 0, 3] += torch.linspace(-0.02, 0.03, 24)
    poses, expression = dataset.cam_from_head.double(), dataset.expression.double()
    train = dataset.train.tolist()
    mean = sum(poses[t, :3, :3] for t in train) / len(train)
    u, _, vh = torch.linalg.svd(mean)
    mean_t = sum(poses[t, :3, 3] for t in train) / len(train)
    mean_e = sum(expression[t] for t in train) / len(train)
    angle = lambda a, b: float(vector_from_rotation(a.T @ b).norm())  # noqa: E731
    sd_r = math.sqrt(sum(angle(u @ vh, poses[t, :3, :3]) ** 2 for t in train) / len(train))
    sd_t = math.sqrt(sum(float((poses[t, :3, 3] - mean_t).norm()) ** 2 for t in train) / len(train))
    sd_e = math.sqrt(sum(float((expression[t] - mean_e).norm()) ** 2 for t in train) / len(train))
    expected = []
    for h in dataset.held_out.tolist():
        distances = [
            (angle(poses[h, :3, :3], poses[t, :3, :3]) / sd_r) ** 2
            + (float((poses[h, :3, 3] - poses[t, :3, 3]).norm()) / sd_t) ** 2
            + (float((expression[h] - expression[t]).norm()) / sd_e) ** 2
            for t in train
        ]
        expected.append(train[int(np.argmin(distances))])
    assert nearest_frame(dataset).tolist() == expected
    assert len(set(expected)) > 1


def test_nearest_frame_finds_an_equal_frame_and_bears_constant_poses() -> None:
    dataset = tiny_dataset()
    dataset.cam_from_head[:] = dataset.cam_from_head[0]  # a head that never moves has no spread to divide by
    dataset.expression[9] = dataset.expression[3]
    assert nearest_frame(dataset)[1] == 3


def test_the_rival_shows_the_training_frame_as_it_is(dataset: Dataset) -> None:
    show = nearest_frame_renderer(dataset)
    for row, choice in zip(dataset.held_out.tolist(), nearest_frame(dataset).tolist(), strict=True):
        assert choice in dataset.train.tolist()
        assert torch.equal(show(row), white_composite(dataset.images[choice]))


def test_scores_json(dataset: Dataset, tmp_path: Path) -> None:
    mine, rival = score(dataset, _noisy(dataset, 0.01)), score(dataset, nearest_frame_renderer(dataset))
    facts = RunFacts(
        track_s=1.5, train_s=2.5, score_s=3.5, total_s=9.0, peak_memory_bytes=10**9, device="cpu", seed=3,
        preset="fast", iterations=100,
    )  # fmt: skip
    write_scores(tmp_path / "scores.json", mine, rival, facts)
    table = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert table == scores_table(mine, rival, facts)
    assert list(table) == [
        "version", "frame", "head", "mouth", "eyes", "nearest_frame", "frames", "size_px", "seconds",
        "peak_memory_bytes", "device", "seed", "preset", "iterations",
    ]  # fmt: skip
    assert table["version"] == 1 and table["frames"] == 4 and table["size_px"] == [48, 48]
    assert table["seconds"] == {"track": 1.5, "train": 2.5, "score": 3.5, "total": 9.0}
    for regions in (table, table["nearest_frame"]):
        for name in REGIONS:
            assert list(regions[name]) == ["psnr_db", "ssim", "mse", "lpips_alex", "lpips_vgg"]
            assert regions[name]["lpips_alex"] is None and regions[name]["psnr_db"] > 0
    assert table["frame"]["psnr_db"] == mine.frame.psnr_db != table["nearest_frame"]["frame"]["psnr_db"]


def test_unmeasured_is_null_and_never_nan(dataset: Dataset, tmp_path: Path) -> None:
    blind = tiny_dataset()
    blind.landmarks_px[:] = float("nan")
    found = score(blind, lambda row: torch.ones(48, 48, 3))
    write_scores(tmp_path / "s.json", found, None, RunFacts())
    table = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    assert table["mouth"]["psnr_db"] is None and table["head"]["ssim"] is None  # no matte, no landmarks
    assert table["frame"]["psnr_db"] == 100 and table["nearest_frame"] is None
    assert table["seconds"] == {"track": None, "train": None, "score": None, "total": None}


def test_scores_to_a_folder_that_cannot_be(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_scores(tmp_path / "file" / "s.json", score(dataset, _noisy(dataset)), None, RunFacts())


def test_the_sheet_holds_worst_and_best_and_shows_the_error(dataset: Dataset, tmp_path: Path) -> None:
    renderer = _noisy(dataset, 0.002)
    found = score(dataset, renderer)
    rows = sheet_rows(dataset, renderer, found, count=3)
    values = [float(row.label.split()[-2]) for row in rows]
    assert values == sorted(values) and len(values) == 3
    assert values[0] == pytest.approx(min(found.frame_psnr_db), abs=0.01)
    assert values[-1] == pytest.approx(max(found.frame_psnr_db), abs=0.01)
    sheet = contact_sheet(rows[:1], columns=1)
    top, gap = sheet.shape[0] - 48 - 4, 4
    tiles = [sheet[top : top + 48, gap + k * (48 + gap) :][:, :48].float() / 255 for k in range(3)]
    torch.testing.assert_close(tiles[0], rows[0].truth, atol=0.003, rtol=0)
    torch.testing.assert_close(tiles[1], rows[0].image, atol=0.003, rtol=0)
    expected = ((rows[0].truth - rows[0].image).abs() * 4).clamp(0, 1)
    torch.testing.assert_close(tiles[2], expected, atol=0.003, rtol=0)
    write_contact_sheet(tmp_path / "contact.png", dataset, renderer, found)
    with Image.open(tmp_path / "contact.png") as image:
        assert image.info["Comment"] == SYNTHETIC_TEXT and image.size[0] == 2 * (3 * 48 + 16)


def test_preview_video(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "preview.mp4"
    with preview(path, dataset) as video:
        score(dataset, _noisy(dataset, 0.0), on_frame=video)
    with av.open(str(path)) as container:
        assert "ynthetic" in container.metadata["comment"]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 25
    assert len(frames) == 4 and frames[0].shape == (48, 96, 3)
    # Truth and render are equal here, apart from the labels on top and the mark in the corner.
    left, right = frames[1][16:36, :48].astype(int), frames[1][16:36, 48:].astype(int)
    assert np.abs(left - right).max() < 40 and np.abs(left - right).mean() < 4
    assert left.std() > 10
