"""A small run of the few-shot model; also a script, so that torchrun can start it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]  # when torchrun starts it

import torch  # noqa: E402

from manvatar.baselines.corpus.distributed import Processes, joined  # noqa: E402
from manvatar.baselines.corpus.folders import open_corpus  # noqa: E402
from manvatar.baselines.fewshot.meta import MetaConfig  # noqa: E402
from manvatar.baselines.fewshot.training import FewShotConfig, FewShotRunConfig, FewShotTrainer  # noqa: E402

TINY = FewShotConfig(width=8, max_width=16, image_size_px=32)
CONFIG = FewShotRunConfig(
    model=TINY,
    meta=MetaConfig(rate=2e-3, discriminator_rate=2e-3, matching=1.0),
    frames=2,
    people=4,
    iterations=4,
    save_every=2,
    log_every=1,
    workers=0,
)


def trainer(root: Path, processes: Processes) -> FewShotTrainer:
    return FewShotTrainer(CONFIG, open_corpus(root), processes)


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
                # The vectors of the videos have moved in a step of their own, and hold no gradient.
                grads = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
                found |= {f"gradient {side} {name}": grad.clone() for name, grad in grads.items()}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu") as these:
        results = run(Path(sys.argv[1]), these)
        if these.first:
            torch.save(results, sys.argv[2])
