"""The training loop of a 2D model on one video: take frames, render, compare, step, average; now and then save."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from manvatar.baselines import losses
from manvatar.baselines.bilayer.blocks import BatchNorm, standing_statistics
from manvatar.baselines.one_video.config import OneVideoConfig
from manvatar.baselines.one_video.data import Batch, FrameOrder, PortraitFrames, augmented, cosine_rate
from manvatar.baselines.one_video.models import Portrait, PortraitModel, composited, make_model
from manvatar.baselines.one_video.rig import LandmarkRig
from manvatar.types import Dataset

logger = logging.getLogger(__name__)

_MOUTH = slice(48, 68)
_STANDING_BATCHES = 16


@dataclass
class Progress:
    """How far a run has come; saved with it."""

    iteration: int = 0
    seconds: float = 0.0  # time spent training, over all sessions
    psnr_db: float = 0.0  # running mean over training images


class PortraitTrainer:
    """One run. ``run`` goes on from wherever the state is, so resuming is restoring and calling it again.

    Args:
        dataset: square images with projected landmarks.
        model: ``bilayer`` or ``fewshot``.
        device: where the model is; batches are made on the CPU.
        rig: of the person, which will drive the model; None = it learns from the landmarks of the dataset.

    Raises:
        UserError: the dataset cannot serve, or a weights file that the config names cannot be used.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: str,
        config: OneVideoConfig,
        seed: int,
        device: torch.device | str = "cpu",
        rig: LandmarkRig | None = None,
    ) -> None:
        self.dataset, self.name, self.device = dataset, model, torch.device(device)
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.frames = PortraitFrames(dataset, rig)
        points = self.frames.keypoints.shape[1] // 2
        self.config = dataclasses.replace(config, network=dataclasses.replace(config.network, points=points))
        self.order = FrameOrder(dataset.train, config.images_per_iteration, self.generator)
        torch.manual_seed(seed)
        self.model: PortraitModel = make_model(model, self.config.network).to(self.device)
        keypoints = self.frames.keypoints[dataset.train]
        texture, mask = self.frames.mean_texture()
        self.model.start_from(texture, mask, keypoints, config.whitening)
        if getattr(self.model, "modes", None) is not None:
            with torch.no_grad():
                self.model.modes.copy_(self.frames.texture_modes(self.model.mode_weights, texture))
        self.average: PortraitModel = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = self._make_optimizer()
        loss = config.loss
        self.perceptual = losses.perceptual_losses(
            config.vgg19 or None, config.vggface or None, loss.vgg19, loss.vggface
        )
        for term in self.perceptual:
            term.loss.to(self.device)
        self.bfloat16 = _uses_bfloat16(config.precision, self.device)
        self.progress = Progress()

    def _make_optimizer(self) -> torch.optim.Adam:
        config = self.config
        rates = {
            "network": config.rate,
            "adaptive": config.adaptive_rate,
            "texture": config.texture_rate,
            "mode": config.mode_rate,
        }
        groups = [
            {"params": members, "lr": rates[name], "initial_rate": rates[name]}
            for name, members in self.model.parameter_groups().items()
        ]
        return torch.optim.Adam(groups, betas=(config.adam_betas[0], config.adam_betas[1]))

    def run(
        self,
        max_seconds: float = math.inf,
        every: Callable[[PortraitTrainer], None] | None = None,
        show_progress: bool = True,
    ) -> None:
        """Train to the end of the iterations or of ``max_seconds``; rates fall with whichever comes first.

        ``every`` is called after each iteration; its time is not counted.
        """
        total = self.config.iterations
        bar = tqdm(total=total, initial=self.progress.iteration, desc="train", disable=not show_progress, unit="it")
        with bar:
            while self.progress.iteration < total and self.progress.seconds < max_seconds:
                start = time.perf_counter()
                self.step(self._schedule(max_seconds))
                self.progress.seconds += time.perf_counter() - start
                bar.update()
                if self.progress.iteration % 20 == 0:
                    bar.set_postfix_str(f"{self.progress.psnr_db:.2f} dB")
                if every is not None:
                    every(self)

    def step(self, schedule: float) -> None:
        """One iteration at ``schedule`` in [0, 1], the part of the run that is done."""
        config, progress = self.config, self.progress
        self._set_rates(schedule)
        batch = augmented(self.frames.batch(self.order.next()), config.augmentation, self.generator)
        batch = batch.to(self.device)
        self.model.train()
        with self._precision():
            portrait = self.model(batch.keypoints)
        loss = self.loss(portrait, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        progress.iteration += 1
        self._average()
        mse = (portrait.on_white().detach() - batch.image).square().mean().item() / 4  # of images in [0, 1]
        keep = min(0.98, 1 - 1 / progress.iteration)
        progress.psnr_db = keep * progress.psnr_db - (1 - keep) * 10 * math.log10(max(mse, 1e-10))

    def loss(self, portrait: Portrait, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the terms that have a weight and what they need."""
        weights, image, target = self.config.loss, portrait.on_white(), batch.image
        loss = weights.pixelwise * losses.pixelwise(image, target)
        if weights.gradients:
            loss = loss + weights.gradients * losses.gradients(image, target)
        if weights.mouth:
            loss = loss + weights.mouth * _mouth_loss(image, batch)
        if portrait.mask_logits is not None and weights.segmentation:
            loss = loss + weights.segmentation * losses.segmentation(portrait.mask_logits, batch.mask)
        if portrait.low_frequency is not None and weights.low_frequency:
            behind = composited(portrait.low_frequency, batch.mask)
            loss = loss + weights.low_frequency * losses.pixelwise(behind, target)
        if portrait.warp is not None and weights.warp:
            weight = losses.warp_weight(self.progress.iteration, weights.warp)
            loss = loss + weight * losses.warp_regularizer(portrait.warp)
        for term in self.perceptual:
            loss = loss + term.weight * term.loss(image, target)
        return loss

    def finished(self) -> PortraitModel:
        """The averaged model, in eval mode; its batch norms hold their means over training batches."""
        model = copy.deepcopy(self.average).eval()
        if not any(isinstance(module, BatchNorm) for module in model.modules()):
            return model
        rows = self.dataset.train
        generator = torch.Generator().manual_seed(0)
        order = FrameOrder(rows, self.config.images_per_iteration, generator)
        batches = [order.next() for _ in range(min(_STANDING_BATCHES, 2 * -(-len(rows) // order.per_batch)))]
        keypoints = self.frames.keypoints.to(self.device)
        with self._precision():
            standing_statistics(model, [lambda chosen=chosen: model(keypoints[chosen]) for chosen in batches])
        return model

    def _average(self) -> None:
        decay = min(self.config.average_decay, (1 + self.progress.iteration) / (10 + self.progress.iteration))
        with torch.no_grad():
            kept, fresh = self.average.state_dict(), self.model.state_dict()
            for name, value in kept.items():
                if value.is_floating_point():
                    value.lerp_(fresh[name], 1 - decay)
                else:
                    value.copy_(fresh[name])

    def _precision(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()

    def _schedule(self, max_seconds: float) -> float:
        by_time = self.progress.seconds / max_seconds if math.isfinite(max_seconds) else 0.0
        return min(1.0, max(self.progress.iteration / self.config.iterations, by_time))

    def _set_rates(self, schedule: float) -> None:
        config = self.config
        warm = min(1.0, (self.progress.iteration + 1) / max(1, config.warmup_iterations))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_rate"] * warm * cosine_rate(schedule, config.final_rate_fraction)


def _mouth_loss(image: Tensor, batch: Batch) -> Float[Tensor, ""]:
    """L1 in a box around each image's lips."""
    size = image.shape[-1]
    lips = (batch.keypoints.view(len(image), -1, 2)[:, _MOUTH] + 1) / 2 * size
    low, high = lips.amin(1), lips.amax(1)
    pad = 0.25 * (high - low).amax(1, keepdim=True)
    low, high = (low - pad).long().clamp(0, size - 2), (high + pad).long().clamp(1, size - 1)
    terms = []
    for index, ((left, top), (right, bottom)) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        box = (index, slice(None), slice(top, bottom + 1), slice(left, right + 1))
        terms.append((image[box] - batch.image[box]).abs().mean())
    return torch.stack(terms).mean()


def _uses_bfloat16(precision: str, device: torch.device) -> bool:
    """bfloat16 is several times faster where a CPU has instructions for it, and several times slower where not."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
