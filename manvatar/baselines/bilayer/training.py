"""Training the bi-layer model on a corpus, in one process or many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from manvatar.baselines import losses
from manvatar.baselines.bilayer.blocks import EPSILON, standing_statistics
from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.model import BilayerConfig, BilayerModel, add_spectral_norm, make_discriminator
from manvatar.baselines.bilayer.official import save_official
from manvatar.baselines.bilayer.pairs import PairBatches, Pairs
from manvatar.baselines.bilayer.sides import DiscriminatorSide, GeneratorSide, LossWeights, Stage
from manvatar.baselines.corpus.distributed import Processes, shared
from manvatar.baselines.corpus.folders import Corpus
from manvatar.baselines.corpus.loop import CorpusRun, RunConfig
from manvatar.errors import UserError
from manvatar.files import make_folder

WEIGHTS = "weights"


@dataclass(frozen=True)
class CorpusConfig(RunConfig):
    """A run. The defaults are the released script's, but for the size of the batch (40 on 8 GPUs there)."""

    model: BilayerConfig = field(default_factory=BilayerConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    stage: Stage = "base"
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    statistics_batches: int = 50  # over which batch norms are averaged for what is saved as weights


class CorpusTrainer(CorpusRun):
    """Networks, optimisers and the step.

    Args:
        start: networks to go on from, with their spectral norm (``load_official(..., spectral_norm=True)``); new ones
            are drawn from the seed without it. The enhancer stage needs trained ones.
    """

    free = (*CorpusRun.free, "statistics_batches")

    def __init__(
        self,
        config: CorpusConfig,
        corpus: Corpus,
        processes: Processes,
        start: tuple[BilayerModel, Discriminator] | None = None,
        perceptual: tuple[losses.WeightedLoss, ...] = (),
    ) -> None:
        if config.stage == "enhancer" and start is None:
            raise UserError("the enhancer is trained on a trained model; name its weights with --init")
        model, discriminator = start or _drawn(config)
        share = processes.number, processes.count
        batches = PairBatches(corpus, model.config.image_size_px, config.people, *share, config.seed)
        self.model, self.discriminator = model.to(processes.device), discriminator.to(processes.device)
        self._choose_what_is_trained(config.stage == "base")
        for term in perceptual:
            term.loss.to(processes.device)
        generator_side = GeneratorSide(self.model, self.discriminator, config.weights, perceptual, config.stage)
        discriminator_side = DiscriminatorSide(self.discriminator, config.weights.adversarial)
        self.generator_side = shared(generator_side, processes)
        self.discriminator_side = shared(discriminator_side, processes)
        adam = {"lr": config.learning_rate, "betas": config.betas, "eps": EPSILON}
        trained = [value for value in self.model.parameters() if value.requires_grad]
        networks = {"model": self.model, "discriminator": self.discriminator}
        optimizers = {
            "generator": torch.optim.Adam(trained, **adam),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), **adam),
        }
        super().__init__(config, batches, processes, networks, optimizers)

    def _choose_what_is_trained(self, base: bool) -> None:
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

    def update(self, pairs: Pairs) -> dict[str, Tensor]:
        """One update of both sides."""
        pairs = pairs.to(self.processes.device)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        total, terms, image, target = self.generator_side(pairs, self.iteration)
        total.backward()
        fooled = self.discriminator_side(image, target, pairs.target_stickmen)
        fooled.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {name: term.detach() for name, term in (terms | {"discriminator": fooled}).items()}

    def save_weights(self, folder: Path) -> None:
        """In the released layout, in ``folder/weights``; norms have standing statistics."""
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

    def facts(self) -> dict:
        return dataclasses.asdict(self.model.config)


def _drawn(config: CorpusConfig) -> tuple[BilayerModel, Discriminator]:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model, discriminator = BilayerModel(config.model), make_discriminator(config.model)
        add_spectral_norm(model)
        add_spectral_norm(discriminator)
    return model, discriminator
