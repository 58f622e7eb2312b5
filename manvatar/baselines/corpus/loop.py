"""The training loop on a corpus: one place, whatever is trained; a resumed run equals one that was not stopped."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from manvatar.baselines.corpus.distributed import Processes
from manvatar.baselines.corpus.folders import FrameDraws
from manvatar.errors import UserError
from manvatar.files import make_folder, replacing

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
_VERSION = 1


@dataclass(frozen=True)
class RunConfig:
    """Of any run on a corpus."""

    iterations: int = 100_000
    people: int = 8  # in a batch, over all processes
    seed: int = 0
    save_every: int = 1000
    log_every: int = 50
    workers: int = 2  # processes that read frames, for each training process


class CorpusRun(ABC):
    """Networks, optimisers and how far they are. A subclass says what a step is and what is kept of a run.

    Args:
        networks, optimizers: everything that a checkpoint holds, by name. The batches follow from the iteration.
    """

    free: tuple[str, ...] = ("iterations", "save_every", "log_every", "workers")  # settings that a resume may change

    def __init__(
        self,
        config: RunConfig,
        batches: FrameDraws,
        processes: Processes,
        networks: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
    ) -> None:
        self.config, self.batches, self.processes, self.iteration = config, batches, processes, 0
        self.networks, self.optimizers = networks, optimizers

    @abstractmethod
    def update(self, batch: Any) -> dict[str, Tensor]:
        """One step on this process's share of a batch; the terms of its loss, detached."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """What a user takes away; called in all processes."""

    @abstractmethod
    def facts(self) -> Any:
        """What else must be the same for a resume, as JSON has it."""

    def step(self) -> dict[str, Tensor]:
        """One update from the batch of this iteration; the terms of the loss, of this process."""
        return self._counted(self.batches[self.iteration])

    def _counted(self, batch: Any) -> dict[str, Tensor]:
        terms = self.update(batch)
        self.iteration += 1
        return terms

    def fit(self, folder: Path) -> None:
        """Train to ``config.iterations``; log, checkpoints and weights go into ``folder``."""
        make_folder(folder)
        config = self.config
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.iteration, config.iterations),
            num_workers=config.workers,
        )
        started, first = time.monotonic(), self.iteration
        for batch in loader:
            terms = self._counted(batch)
            last = self.iteration == config.iterations
            if self.iteration % config.log_every == 0 or last:
                self._log(folder / LOG, terms, (self.iteration - first) / (time.monotonic() - started))
            if self.iteration % config.save_every == 0 or last:
                self.save(folder)

    def save(self, folder: Path) -> None:
        """A checkpoint to resume from, and the weights."""
        if self.processes.first:
            with replacing(folder / CHECKPOINT) as unfinished:
                torch.save(self.state(), unfinished)
        self.save_weights(folder)

    def _log(self, path: Path, terms: dict[str, Tensor], rate_hz: float) -> None:
        values = torch.stack(list(terms.values()))
        if self.processes.count > 1:
            torch.distributed.all_reduce(values)
            values = values / self.processes.count
        if self.processes.first:
            row = {"iteration": self.iteration, "iterations_per_s": round(rate_hz, 4)}
            row |= dict(zip(terms, (round(value, 6) for value in values.tolist()), strict=True))
            with path.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print("  ".join(f"{name} {value:g}" for name, value in row.items()), flush=True)

    def state(self) -> dict:
        """Everything a resumed run needs."""
        return {
            "version": _VERSION,
            "run": self._run(),
            "iteration": self.iteration,
            **{name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def _run(self) -> str:
        """What must be the same for a resume."""
        same = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in self.free}
        videos = [len(video) for video in self.batches.corpus.videos]
        return json.dumps([same, self.facts(), videos], sort_keys=True)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it cannot be read, or is of another run.
        """
        advice = "delete it, or leave out --resume to start again"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            version, run = state["version"], state["run"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"the checkpoint {path} cannot be read ({type(error).__name__}); {advice}") from error
        if version > _VERSION:
            raise UserError(f"the checkpoint {path} was written by a newer manvatar; update manvatar, or {advice}")
        if run != self._run():
            raise UserError(f"the checkpoint {path} belongs to another corpus or other options; {advice}")
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.iteration = state["iteration"]


def start_or_resume(run: CorpusRun, folder: Path, resume: bool) -> None:
    """Train in ``folder``, from where the run there is or from the start.

    Raises:
        UserError: there is a run and it was not asked to go on with it, or it cannot be gone on with.
    """
    if resume:
        run.restore(folder / CHECKPOINT)
    elif (folder / CHECKPOINT).exists():
        raise UserError(f"{folder} holds a run already; go on with it with --resume, or choose another folder")
    run.fit(folder)
