"""A small run of the bi-layer model; also a script, so that torchrun can start it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]  # when torchrun starts it

import torch  # noqa: E402
from baselines.bilayer.tiny_model import TINY  # noqa: E402

from manvatar.baselines.bilayer.training import CorpusConfig, CorpusTrainer  # noqa: E402
from manvatar.baselines.corpus.distributed import Processes, joined  # noqa: E402
from manvatar.baselines.corpus.folders import open_corpus  # noqa: E402

CONFIG = CorpusConfig(
    model=TINY, people=4, iterations=4, save_every=2, log_every=1, workers=0, statistics_batches=2, learning_rate=1e-3
)


def trainer(root: Path, processes: Processes) -> CorpusTrainer:
    return CorpusTrainer(CONFIG, open_corpus(root), processes)


def run(root: Path, processes: Processes, steps: int = 3) -> dict[str, torch.Tensor]:
    """Losses of some steps, averaged over processes, and the gradients of the first."""
    found, running = {}, trainer(root, processes)
    for step in range(steps):
        for name, term in running.step().items():
            if processes.count > 1:
                torch.distributed.all_reduce(term)
            found[f"{step} {name}"] = term / processes.count
        if step == 0:
            for side, network in (("g", running.model), ("d", running.discriminator)):
                found |= {
                    f"gradient {side} {name}": value.grad.clone()
                    for name, value in network.named_parameters()
                    if value.grad is not None
                }
    for name, value in running.model.named_buffers():
        if "running" in name:
            found[f"buffer {name}"] = value.clone()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu") as these:
        results = run(Path(sys.argv[1]), these)
        if these.first:
            torch.save(results, sys.argv[2])
