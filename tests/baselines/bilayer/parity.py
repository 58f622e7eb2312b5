"""Weights, inputs and outputs that the released code and ours are compared on (tools/parity_bilayer.py).

Weights are made from the names of the entries, so that both sides, and later tests, have the same without keeping them.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manvatar.baselines.bilayer.blocks import BatchNorm
from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.generators import render
from manvatar.baselines.bilayer.model import (
    BilayerConfig,
    BilayerModel,
    add_spectral_norm,
    make_discriminator,
    repeated,
)
from manvatar.baselines.bilayer.official import (
    load_official,
    load_official_discriminator,
    official_entries,
    save_official,
)
from manvatar.baselines.bilayer.official_names import parts

PICKED = 24  # numbers kept of each output
_ITERATIONS = 8  # of the singular vectors: near the largest value, as after training


def write_weights(folder: Path, config: BilayerConfig) -> None:
    """A folder of checkpoints in the released layout with every spectral norm on, the same on every machine."""
    folder.mkdir(parents=True, exist_ok=True)
    model, discriminator = BilayerModel(config), make_discriminator(config)
    add_spectral_norm(model)
    add_spectral_norm(discriminator)
    for name, network in parts(model, discriminator).items():
        path = folder / f"1_{name}.pth"
        entries = official_entries(path, network, config)
        torch.save(_filled(entries), path)
    _measure_statistics(folder, config)


def _filled(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    filled = {}
    for key, value in entries.items():
        last = key.rpartition(".")[2]
        draws = np.random.default_rng(zlib.crc32(key.encode())).random(value.shape) * 2 - 1
        if key in ("identity_grid", "frequencies") or last in ("num_batches_tracked", "weight_u", "weight_v"):
            filled[key] = value
        elif last == "running_var":
            filled[key] = torch.ones_like(value)
        elif last == "weight_orig":
            fan = max(1, value[0].numel())
            filled[key] = torch.from_numpy(draws * (3 / fan) ** 0.5).float()
        else:
            filled[key] = torch.from_numpy(draws * (1.0 if last in ("pixel_feats", "gen_tex_input") else 0.2)).float()
    for key in [key for key in filled if key.endswith("weight_orig")]:
        layer = key.removesuffix("weight_orig")
        filled |= {f"{layer}{name}": vector for name, vector in _singular_vectors(filled[key]).items()}
    return filled


@torch.no_grad()
def _measure_statistics(folder: Path, config: BilayerConfig) -> None:
    """Batch norms whose statistics fit what they see, as after training: neither vanishing nor exploding values."""
    model, discriminator = load(folder, True, torch.float32)
    given = inputs(config, 2, 1)
    for network in (model, discriminator):
        for norm in (module for module in network.modules() if isinstance(module, BatchNorm)):
            norm.train()
            norm.momentum = 1.0
    person = model.person(given["source_photos"], given["source_stickmen"], given["source_mattes"])
    image = render(person.texture, model.pose(given["target_keypoints"], person.adaptive))
    scores(discriminator, given["target_photos"], image, given["target_stickmen"])
    save_official(folder, model, discriminator, epoch=1)


def _singular_vectors(weight: Tensor) -> dict[str, Tensor]:
    rows = weight.reshape(len(weight), -1).double()
    u = torch.ones(len(rows), dtype=torch.float64) / len(rows) ** 0.5
    v = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(_ITERATIONS):
        v = torch.nn.functional.normalize(rows.T @ u, dim=0)
        u = torch.nn.functional.normalize(rows @ v, dim=0)
    return {"weight_u": u.float(), "weight_v": v.float()}


def inputs(config: BilayerConfig, people: int, photos_per_person: int) -> dict[str, Tensor]:
    """Source and target photos, drawings, mattes and keypoints; float32."""
    rng = np.random.default_rng(7)
    size_px = config.image_size_px

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.random(shape) * 2 - 1).float()

    count = people * photos_per_person
    values = {
        "source_photos": draw(count, 3, size_px, size_px),
        "source_stickmen": draw(count, 3, size_px, size_px),
        "source_mattes": draw(count, 1, size_px, size_px) / 2 + 0.5,
        "source_keypoints": draw(count, 136),
        "target_photos": draw(people, 3, size_px, size_px),
        "target_stickmen": draw(people, 3, size_px, size_px),
        "target_keypoints": draw(people, 136),
    }
    return {name: value.contiguous() for name, value in values.items()}


@torch.no_grad()
def outputs(
    model: BilayerModel, discriminator: Discriminator, given: dict[str, Tensor], photos_per_person: int
) -> dict[str, Tensor]:
    """Everything the two sides are compared on."""
    photos, stickmen = given["source_photos"], given["source_stickmen"]
    shown = photos * given["source_mattes"] - (1 - given["source_mattes"])
    embeddings = model.identity_embedder(torch.cat([shown, stickmen], 1), photos_per_person)
    person = model.person(photos, stickmen, given["source_mattes"], photos_per_person)
    pose = model.pose(given["target_keypoints"], person.adaptive)
    found = {f"embedding {k}": value for k, value in enumerate(embeddings)}
    found |= {
        "texture": person.texture,
        "pose features": model.keypoint_embedder(given["target_keypoints"]),
        "warp": pose.warp,
        "low frequencies": pose.low_frequency,
        "mask": pose.mask_logits.sigmoid(),
        "image": render(person.texture, pose),
    }
    if model.texture_enhancer is not None:
        better = model.enhanced(person, photos, given["source_keypoints"], photos_per_person=photos_per_person)
        found |= {"enhanced texture": better.texture, "enhanced image": render(better.texture, pose)}
    found |= scores(discriminator, given["target_photos"], found["image"], given["target_stickmen"])
    return found


@torch.no_grad()
def training_outputs(model: BilayerModel, discriminator: Discriminator, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training pass: statistics of the batch, one power iteration for each use of a layer. One photo a person."""
    model.train()
    discriminator.train()
    person = model.person(given["source_photos"], given["source_stickmen"], given["source_mattes"])
    pose = model.pose(given["target_keypoints"], repeated(person.adaptive, 1))
    image = render(person.texture, pose)
    found = {"texture": person.texture, "warp": pose.warp, "mask": pose.mask_logits.sigmoid(), "image": image}
    return found | scores(discriminator, given["target_photos"], image, given["target_stickmen"])


def scores(discriminator: Discriminator, real: Tensor, fake: Tensor, stickmen: Tensor) -> dict[str, Tensor]:
    both, features = discriminator(torch.cat([real, fake]), stickmen.repeat(2, 1, 1, 1))
    return {"scores": both, "first features": features[0], "last features": features[-1]}


def load(folder: Path, spectral_norm: bool, dtype: torch.dtype) -> tuple[BilayerModel, Discriminator]:
    model = load_official(folder, spectral_norm).to(dtype)
    return model, load_official_discriminator(folder, model.config).to(dtype).eval()


def picked(value: Tensor) -> list[float]:
    """A few numbers of an output, spread over it."""
    flat = value.double().flatten()
    return flat[torch.linspace(0, len(flat) - 1, PICKED).long()].tolist()
