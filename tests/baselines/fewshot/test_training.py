"""Meta-training on a corpus: what a step sees, two processes equal one, and an interrupted run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baselines.corpus.painted import make_corpus
from baselines.fewshot import tiny_training
from baselines.fewshot.tiny_training import CONFIG, TINY, trainer

from manvatar.baselines.corpus.distributed import ALONE
from manvatar.baselines.corpus.folders import open_corpus
from manvatar.baselines.fewshot.episodes import EpisodeBatches
from manvatar.baselines.fewshot.training import FewShotTrainer, load_weights
from manvatar.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_an_episode_shows_several_frames_of_one_person(root: Path) -> None:
    corpus = open_corpus(root)
    episode = EpisodeBatches(corpus, 32, 3, 2)[5]
    assert episode.images.shape == episode.stickmen.shape == (3, 2, 3, 32, 32)
    assert sorted(episode.video.tolist()) == [0, 1, 2]
    assert episode.target[:, :, 0, 0].min() > 0.9  # beside the head is white
    colors = torch.cat([episode.images, episode.target[:, None]], 1)[:, :, :, 16, 15]  # every frame has the head there
    assert (colors - colors[:, :1]).abs().max() < 0.1 < (colors[0, 0] - colors[1, 0]).abs().max()
    assert not torch.equal(episode.stickmen[:, 0], episode.target_stickman)


def test_processes_share_one_episode(root: Path) -> None:
    corpus = open_corpus(root)
    whole = EpisodeBatches(corpus, 32, 4, 2)[3]
    parts = [EpisodeBatches(corpus, 32, 4, 2, process, 2)[3] for process in range(2)]
    for name, value in vars(whole).items():
        assert torch.equal(value, torch.cat([getattr(part, name) for part in parts])), name


def test_two_processes_equal_one(root: Path, tmp_path: Path) -> None:
    script, out = Path(tiny_training.__file__), tmp_path / "two.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(script), str(root), str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    two, one = torch.load(out, weights_only=True), tiny_training.run(root, ALONE)
    assert one.keys() == two.keys() and "2 matching" in one
    largest_of_all = max(float(value.abs().max()) for name, value in one.items() if name.startswith("gradient"))
    for name, value in one.items():
        if name.startswith("gradient") and float(value.abs().max()) < 1e-6 * largest_of_all:
            # Biases before a norm have no gradient: what is there is what rounding leaves of terms that cancel.
            assert float(two[name].abs().max()) < 1e-6 * largest_of_all, name
        elif name.startswith("gradient"):
            largest = max(float(value.abs().max()), 1e-3)
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4 * largest, msg=lambda m, n=name: f"{n}: {m}")
        else:
            tolerance = 1e-5 if name.startswith("0 ") else 1e-3  # Adam divides by gradients, so that rounding grows
            torch.testing.assert_close(
                two[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_a_resumed_run_equals_one_that_was_not_stopped(root: Path, tmp_path: Path) -> None:
    whole = trainer(root, ALONE)
    whole.fit(tmp_path / "whole")
    FewShotTrainer(replace(CONFIG, iterations=2), open_corpus(root), ALONE).fit(tmp_path / "parts")
    resumed = trainer(root, ALONE)
    resumed.restore(tmp_path / "parts" / "checkpoint.pt")
    resumed.fit(tmp_path / "parts")
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, resumed.networks[name].state_dict()[key]), key
    rows = [
        [json.loads(line) for line in (tmp_path / kind / "log.jsonl").read_text().splitlines()]
        for kind in ("whole", "parts")
    ]
    assert [row["iteration"] for row in rows[0]] == [1, 2, 3, 4]
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if "per_s" not in k} == {
            k: v for k, v in other.items() if "per_s" not in k
        }


def test_it_learns(root: Path) -> None:
    running = trainer(root, ALONE)
    content = [float(running.step()["content"]) for _ in range(30)]
    assert sum(content[-5:]) < 0.6 * sum(content[:5])


def test_the_weights_are_those_of_the_run(root: Path, tmp_path: Path) -> None:
    running = FewShotTrainer(replace(CONFIG, iterations=1), open_corpus(root), ALONE)
    running.fit(tmp_path)
    config, model, discriminator = load_weights(tmp_path)
    assert config == TINY
    for name, value in running.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    kept = discriminator.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in running.discriminator.state_dict().items() if k != "videos")


def test_what_does_not_fit_is_refused(root: Path, tmp_path: Path) -> None:
    running = trainer(root, ALONE)
    torch.save(running.state(), tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="other options"):
        FewShotTrainer(replace(CONFIG, frames=3), open_corpus(root), ALONE).restore(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="no such file"):
        load_weights(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="is no file of the few-shot model"):
        load_weights(tmp_path)
