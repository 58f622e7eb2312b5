"""Training on a corpus: it learns, two processes equal one, and an interrupted run goes on as if it had not been."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from baselines.bilayer import tiny_training
from baselines.bilayer.tiny_training import CONFIG, trainer
from baselines.corpus.painted import make_corpus

from manvatar.baselines.bilayer.official import load_official, load_official_discriminator
from manvatar.baselines.bilayer.training import CorpusTrainer
from manvatar.baselines.corpus.distributed import Processes
from manvatar.baselines.corpus.folders import open_corpus
from manvatar.errors import UserError

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_two_processes_equal_one(root: Path, tmp_path: Path) -> None:
    script, out = Path(tiny_training.__file__), tmp_path / "two.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(script), str(root), str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    two, one = torch.load(out, weights_only=True), tiny_training.run(root, ALONE)
    assert one.keys() == two.keys() and "2 discriminator" in one
    largest_of_all = max(float(value.abs().max()) for name, value in one.items() if name.startswith("gradient"))
    for name, value in one.items():
        if name.startswith("gradient") and float(value.abs().max()) < 1e-6 * largest_of_all:
            # Biases before a batch norm have no gradient: what is there is what rounding leaves of terms that cancel.
            assert float(two[name].abs().max()) < 1e-6 * largest_of_all, name
        elif name.startswith("gradient"):
            largest = max(float(value.abs().max()), 1e-3)
            torch.testing.assert_close(two[name], value, rtol=0, atol=2e-3 * largest, msg=lambda m, n=name: f"{n}: {m}")
        else:
            later = not name.startswith("0 ")  # Adam divides by gradients, so that rounding grows
            tolerance = 5e-3 if later else 1e-5
            torch.testing.assert_close(
                two[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_a_resumed_run_equals_one_that_was_not_stopped(root: Path, tmp_path: Path) -> None:
    whole = trainer(root, ALONE)
    whole.fit(tmp_path / "whole")
    stopped = CorpusTrainer(replace(CONFIG, iterations=2), open_corpus(root), ALONE)
    stopped.fit(tmp_path / "parts")
    resumed = trainer(root, ALONE)
    resumed.restore(tmp_path / "parts" / "checkpoint.pt")
    resumed.fit(tmp_path / "parts")
    for mine, theirs in ((whole.model, resumed.model), (whole.discriminator, resumed.discriminator)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    rows = [
        [json.loads(line) for line in (tmp_path / kind / "log.jsonl").read_text().splitlines()]
        for kind in ("whole", "parts")
    ]
    assert [row["iteration"] for row in rows[0]] == [1, 2, 3, 4]
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if "per_s" not in k} == {
            k: v for k, v in other.items() if "per_s" not in k
        }


def test_what_is_saved_can_be_used_and_trained_on(root: Path, tmp_path: Path) -> None:
    first = CorpusTrainer(replace(CONFIG, iterations=2), open_corpus(root), ALONE)
    first.fit(tmp_path)
    weights = tmp_path / "weights"
    assert {path.name.split("_")[0] for path in weights.glob("*.pth")} == {"2"}
    model = load_official(weights)
    pairs = first.batches[0]
    with torch.no_grad():
        person = model.person(pairs.source_photos, pairs.source_stickmen, pairs.source_mattes)
        assert torch.isfinite(model.enhanced(person, pairs.source_photos, pairs.source_keypoints).texture).all()
    start = load_official(weights, spectral_norm=True), load_official_discriminator(weights, model.config)
    enhancer = CorpusTrainer(replace(CONFIG, stage="enhancer", iterations=1), open_corpus(root), ALONE, start)
    before = {name: value.clone() for name, value in enhancer.model.state_dict().items()}
    terms = enhancer.step()
    assert set(terms) == {"adversarial", "feature_matching", "gradients", "discriminator"}
    for name, value in enhancer.model.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert not changed or name.startswith("texture_enhancer"), name
    assert not torch.equal(
        enhancer.model.texture_enhancer.head.parametrizations.weight.original,
        before["texture_enhancer.head.parametrizations.weight.original"],
    )


def test_it_learns(root: Path) -> None:
    running = trainer(root, ALONE)
    losses = [running.step() for _ in range(16)]
    for name in ("pixelwise", "segmentation"):
        early, late = (sum(float(row[name]) for row in part) for part in (losses[:3], losses[-3:]))
        assert late < 0.9 * early, name
    assert float(losses[0]["warp"]) > 0


def test_what_does_not_fit_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--init"):
        CorpusTrainer(replace(CONFIG, stage="enhancer"), open_corpus(root), ALONE)
    with pytest.raises(UserError, match="batch of 3 cannot be shared by 2"):
        CorpusTrainer(replace(CONFIG, people=3), open_corpus(root), Processes(0, 2, torch.device("cpu")))
    running = trainer(root, ALONE)
    torch.save(running.state(), tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="other options"):
        CorpusTrainer(replace(CONFIG, seed=1), open_corpus(root), ALONE).restore(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(UserError, match="cannot be read"):
        running.restore(tmp_path / "checkpoint.pt")
