"""Meta-training on a corpus, in one process or many, and the file of weights that it leaves."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manvatar.baselines import losses
from manvatar.baselines.corpus.distributed import Processes
from manvatar.baselines.corpus.folders import Corpus
from manvatar.baselines.corpus.loop import CorpusRun, RunConfig
from manvatar.baselines.fewshot.episodes import Episode, EpisodeBatches
from manvatar.baselines.fewshot.meta import MetaConfig, MetaTrainer
from manvatar.baselines.fewshot.networks import EMBEDDING, FewShotModel, ProjectionDiscriminator
from manvatar.config import from_table
from manvatar.errors import UserError
from manvatar.files import replacing

WEIGHTS = "weights.safetensors"
_KEY = "manvatar.fewshot"


@dataclass(frozen=True)
class FewShotConfig:
    """Sizes of the networks; those of the paper."""

    width: int = 64
    max_width: int = EMBEDDING
    image_size_px: int = 256


@dataclass(frozen=True)
class FewShotRunConfig(RunConfig):
    """A run of meta-training."""

    model: FewShotConfig = field(default_factory=FewShotConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
    frames: int = 8  # K: of each video in an episode, besides the one that is asked for


class FewShotTrainer(CorpusRun):
    """Meta-training; networks are drawn from the seed."""

    config: FewShotRunConfig

    def __init__(
        self,
        config: FewShotRunConfig,
        corpus: Corpus,
        processes: Processes,
        perceptual: tuple[losses.WeightedLoss, ...] = (),
    ) -> None:
        sizes = dataclasses.astuple(config.model)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = FewShotModel(*sizes).to(processes.device)
            self.discriminator = ProjectionDiscriminator(len(corpus.videos), *sizes).to(processes.device)
        for term in perceptual:
            term.loss.to(processes.device)
        share = processes.number, processes.count, config.seed
        batches = EpisodeBatches(corpus, config.model.image_size_px, config.people, config.frames, *share)
        self._meta = MetaTrainer(self.model, self.discriminator, config.meta, perceptual, processes)
        networks = {"model": self.model, "discriminator": self.discriminator}
        super().__init__(config, batches, processes, networks, self._meta.optimizers)

    def update(self, batch: Episode) -> dict[str, Tensor]:
        """One episode."""
        return self._meta.step(batch.to(self.processes.device))

    def save_weights(self, folder: Path) -> None:
        """``folder/weights.safetensors``: model and discriminator; fine-tuning needs both."""
        if self.processes.first:
            save_weights(folder / WEIGHTS, self.config.model, self.model, self.discriminator)

    def facts(self) -> None:
        return None


def save_weights(
    path: Path, config: FewShotConfig, model: FewShotModel, discriminator: ProjectionDiscriminator
) -> None:
    """Write both networks, without the discriminator's vectors of the training videos."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"discriminator.{name}": v for name, v in discriminator.state_dict().items() if name != "videos"}
    write_tensors(path, tensors, {"kind": "weights", **dataclasses.asdict(config)})


def load_weights(path: Path) -> tuple[FewShotConfig, FewShotModel, ProjectionDiscriminator]:
    """Networks of a file that :func:`save_weights` wrote, or of the folder of a run.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    path = path / WEIGHTS if path.is_dir() else path
    facts, tensors = read_tensors(path, "weights", "manvatar fewshot train")
    config = from_table(FewShotConfig, facts, f"the sizes in {path}")
    model, discriminator = (
        FewShotModel(*dataclasses.astuple(config)),
        ProjectionDiscriminator(1, *dataclasses.astuple(config)),
    )
    tensors["discriminator.videos"] = torch.zeros_like(discriminator.videos)
    load_part(model, tensors, "model.", path)
    load_part(discriminator, tensors, "discriminator.", path)
    return config, model, discriminator


# -------------------------------------------------------------------------------------------------------------- files


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """A safetensors file whose metadata says what it holds."""
    with replacing(path) as temporary:
        copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        save_file(copies, temporary, metadata={_KEY: json.dumps(facts)})


def read_tensors(path: Path, kind: str, maker: str) -> tuple[dict, dict[str, Tensor]]:
    """What :func:`write_tensors` wrote, without its ``kind``.

    Raises:
        UserError: there is no such file, or it holds something else; ``maker`` is the command that makes such files.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}; make it with: {maker}")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} is no file of the few-shot model; make it with: {maker}") from error
    found = facts.pop("kind", None)
    if found != kind:
        raise UserError(f"{path} holds the few-shot model's {found}, not its {kind}; make that with: {maker}")
    return facts, tensors


def load_part(network: torch.nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    """Fill ``network`` with the tensors whose names begin with ``prefix``.

    Raises:
        UserError: they do not fit.
    """
    part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(part)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not hold what its sizes say ({reason}); make it again") from error
