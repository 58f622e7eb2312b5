"""Training on a corpus: one visible loop, in one process or many; a resumed run equals one that was not stopped."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from manvatar.baselines import losses
from manvatar.baselines.bilayer.blocks import EPSILON, standing_statistics
from manvatar.baselines.bilayer.corpus.distributed import Processes
from manvatar.baselines.bilayer.corpus.folders import Corpus, PairBatches, Pairs
from manvatar.baselines.bilayer.corpus.losses import DiscriminatorSide, GeneratorSide, LossWeights, Stage
from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.model import BilayerConfig, BilayerModel, add_spectral_norm, make_discriminator
from manvatar.baselines.bilayer.official import save_official
from manvatar.errors import UserError
from manvatar.files import make_folder, replacing

CHECKPOINT, LOG, WEIGHTS = "checkpoint.pt", "log.jsonl", "weights"
_VERSION = 1


@dataclass(frozen=True)
class CorpusConfig:
    """A run. The defaults are the released script's, but for the size of the batch (40 on 8 GPUs there)."""

    model: BilayerConfig = field(default_factory=BilayerConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    stage: Stage = "base"
    iterations: int = 100_000
    people: int = 8  # in a batch, over all processes
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    seed: int = 0
    save_every: int = 1000
    log_every: int = 50
    workers: int = 2  # processes that read frames, for each training process
    statistics_batches: int = 50  # over which batch norms are averaged for what is saved as weights


class CorpusTrainer:
    """Networks, optimisers and the step.

    Args:
        start: networks to go on from, with their spectral norm (``load_official(..., spectral_norm=True)``); new ones
            are drawn from the seed without it. The enhancer stage needs trained ones.
    """

    def __init__(
        self,
        config: CorpusConfig,
        corpus: Corpus,
        processes: Processes,
        start: tuple[BilayerModel, Discriminator] | None = None,
        perceptual: tuple[losses.WeightedLoss, ...] = (),
    ) -> None:
        self.config, self.processes, self.iteration = config, processes, 0
        if config.stage == "enhancer" and start is None:
            raise UserError("the enhancer is trained on a trained model; name its weights with --init")
        model, discriminator = start or _drawn(config)
        share = processes.number, processes.count
        self.batches = PairBatches(corpus, model.config.image_size_px, config.people, *share, config.seed)
        self.model, self.discriminator = model.to(processes.device), discriminator.to(processes.device)
        self._choose_what_is_trained()
        for term in perceptual:
            term.loss.to(processes.device)
        generator_side = GeneratorSide(self.model, self.discriminator, config.weights, perceptual, config.stage)
        discriminator_side = DiscriminatorSide(self.discriminator, config.weights.adversarial)
        self.generator_side = _shared(generator_side, processes)
        self.discriminator_side = _shared(discriminator_side, processes)
        adam = {"lr": config.learning_rate, "betas": config.betas, "eps": EPSILON}
        trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizers = {
            "generator": torch.optim.Adam(trained, **adam),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), **adam),
        }

    def _choose_what_is_trained(self) -> None:
        base = self.config.stage == "base"
        self.model.requires_grad_(base).train(base)
        last = self.model.identity_embedder.flat[-1]  # only its first half has a successor
        for unused in (last.conv2, last.skip, self.model.texture_enhancer if base else None):
            if unused is not None:
                unused.requires_grad_(False)
        if not base:
            if self.model.texture_enhancer is None:
                raise UserError("the model has no texture enhancer to train")
            self.model.texture_enhancer.requires_grad_(True).train()
        self.discriminator.requires_grad_(True).train()

    def step(self) -> dict[str, Tensor]:
        """One update of both sides from the batch of this iteration; the terms of the loss, of this process."""
        return self._update(self.batches[self.iteration])

    def _update(self, pairs: Pairs) -> dict[str, Tensor]:
        pairs = pairs.to(self.processes.device)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        total, terms, image, target = self.generator_side(pairs, self.iteration)
        total.backward()
        fooled = self.discriminator_side(image, target, pairs.target_stickmen)
        fooled.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.iteration += 1
        return {name: term.detach() for name, term in (terms | {"discriminator": fooled}).items()}

    def fit(self, folder: Path) -> None:
        """Train to ``config.iterations``; log and checkpoints go into ``folder``, weights into ``folder/weights``."""
        make_folder(folder)
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.iteration, self.config.iterations),
            num_workers=self.config.workers,
        )
        started, first = time.monotonic(), self.iteration
        for pairs in loader:
            terms = self._update(pairs)
            if self.iteration % self.config.log_every == 0 or self.iteration == self.config.iterations:
                self._log(folder / LOG, terms, (self.iteration - first) / (time.monotonic() - started))
            if self.iteration % self.config.save_every == 0 or self.iteration == self.config.iterations:
                self.save(folder)

    def save(self, folder: Path) -> None:
        """A checkpoint to resume from, and the weights in the released layout, norms with standing statistics."""
        if self.processes.first:
            with replacing(folder / CHECKPOINT) as unfinished:
                torch.save(self.state(), unfinished)
        kept = {name: value.clone() for name, value in self.model.state_dict().items() if "running_" in name}
        batches = {name: v.clone() for name, v in self.model.state_dict().items() if name.endswith("batches_tracked")}
        if self.config.stage == "base" and self.config.statistics_batches:
            standing_statistics(self.model, self._passes())
            self.model.train()
        if self.processes.first:
            make_folder(folder / WEIGHTS)
            for old in (folder / WEIGHTS).glob("*.pth"):
                old.unlink()
            save_official(folder / WEIGHTS, self.model, self.discriminator, self.iteration)
        self.model.load_state_dict(kept | batches, strict=False)  # training goes on as if nothing had been saved

    def _passes(self) -> Iterator[Callable[[], None]]:
        for number in range(self.config.statistics_batches):
            pairs = self.batches[self.iteration + number].to(self.processes.device)

            def run(pairs: Pairs = pairs) -> None:
                person = self.model.person(pairs.source_photos, pairs.source_stickmen, pairs.source_mattes)
                self.model.pose(pairs.target_keypoints, person.adaptive)

            yield run

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
        """Everything a resumed run needs; the batches follow from the iteration."""
        return {
            "version": _VERSION,
            "run": self._run(),
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def _run(self) -> str:
        """What must be the same for a resume."""
        same = dataclasses.asdict(self.config)
        for free in ("iterations", "save_every", "log_every", "workers", "statistics_batches"):
            del same[free]
        videos = [len(video) for video in self.batches.corpus.videos]
        return json.dumps([same, dataclasses.asdict(self.model.config), videos], sort_keys=True)

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
        self.model.load_state_dict(state["model"])
        self.discriminator.load_state_dict(state["discriminator"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.iteration = state["iteration"]


def _drawn(config: CorpusConfig) -> tuple[BilayerModel, Discriminator]:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model, discriminator = BilayerModel(config.model), make_discriminator(config.model)
        add_spectral_norm(model)
        add_spectral_norm(discriminator)
    return model, discriminator


def _shared(side: nn.Module, processes: Processes) -> nn.Module:
    if processes.count == 1:
        return side
    devices = [processes.device] if processes.device.type == "cuda" else None
    # Buffers are equal without being sent: statistics are everyone's, and weights are the same everywhere.
    return DistributedDataParallel(side, device_ids=devices, broadcast_buffers=False)
