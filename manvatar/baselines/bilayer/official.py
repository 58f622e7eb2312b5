"""The released checkpoints of the bi-layer model, read and written (saic-violet/bilayer-model, 2020).

A folder holds ``<epoch>_<network>.pth`` for each network. Files are read without executing anything in them
(``weights_only``). All sizes and options are read from the tensors; every entry must be known and none may be missing.
"""

from __future__ import annotations

import math
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.generators import KEYPOINTS, START_SIZE_PX, identity_grid
from manvatar.baselines.bilayer.identity import CollapsedProjector
from manvatar.baselines.bilayer.model import BilayerConfig, BilayerModel, add_spectral_norm, make_discriminator
from manvatar.baselines.bilayer.official_names import FREQUENCIES, GRID, layers, own_tensors, parts
from manvatar.errors import UserError
from manvatar.files import make_folder, replacing

Tensors = dict[str, Tensor]
REQUIRED = ("identity_embedder", "texture_generator", "keypoints_embedder", "inference_generator")
ENHANCER, DISCRIMINATOR = "texture_enhancer", "discriminator"
_NORM_ENTRIES = ("weight_orig", "weight_u", "weight_v")


def load_official(folder: str | os.PathLike[str], spectral_norm: bool = False) -> BilayerModel:
    """The model of a folder of checkpoints, in eval mode; with its enhancer where the folder has one.

    Args:
        folder: searched with all folders in it; of several epochs of a network the last is taken.
        spectral_norm: keep the norms as layers, to train on. Otherwise they are divided out, exactly, and the
            projectors are collapsed.

    Raises:
        UserError: a file is missing, unreadable, or holds other entries than the model its sizes describe.
    """
    files = checkpoint_files(folder)
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        names = ", ".join(f"<epoch>_{name}.pth" for name in missing)
        raise UserError(f"{folder} lacks {names}; give the folder with the released checkpoints of the bi-layer model")
    wanted = [*REQUIRED, *([ENHANCER] if ENHANCER in files else [])]
    checkpoints = {name: _Checkpoint(files[name]) for name in wanted}
    config = _config(checkpoints)
    model = BilayerModel(config, enhancer=ENHANCER in checkpoints)
    if spectral_norm:
        add_spectral_norm(model)
    for name, network in parts(model).items():
        checkpoints[name].fill(network, config, keep_norm=spectral_norm)
    if not spectral_norm:
        model.texture_projector = model.texture_projector.collapsed()
        model.inference_projector = model.inference_projector.collapsed()
    return model.eval()


def load_official_discriminator(folder: str | os.PathLike[str], config: BilayerConfig) -> Discriminator:
    """The discriminator of the same folder, with its spectral norm, to train on.

    Args:
        config: that of the model; its sizes of the discriminator are replaced by the file's.

    Raises:
        UserError: as :func:`load_official`.
    """
    files = checkpoint_files(folder)
    if DISCRIMINATOR not in files:
        raise UserError(f"{folder} lacks <epoch>_{DISCRIMINATOR}.pth; start from a new discriminator instead")
    checkpoint = _Checkpoint(files[DISCRIMINATOR])
    blocks = checkpoint.count(r"net\.blocks\.(\d+)\.")
    width = checkpoint.shape("net.first_conv.weight")[0]
    widest = checkpoint.shape("net.linear.weight")[1]
    sizes = {"discriminator_width": width, "discriminator_max_width": widest, "discriminator_blocks": blocks}
    config = replace(config, **sizes)
    discriminator = make_discriminator(config)
    add_spectral_norm(discriminator)
    checkpoint.fill({DISCRIMINATOR: discriminator}, config, keep_norm=True)
    return discriminator


def checkpoint_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Network -> file, of the highest epoch there is."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder; give the folder with the checkpoints of the bi-layer model")
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(Path(folder).rglob("*.pth")):
        match = re.fullmatch(r"(\d+)_(\w+)\.pth", path.name)
        if match and (match[2] not in found or int(match[1]) > found[match[2]][0]):
            found[match[2]] = int(match[1]), path
    return {name: path for name, (_, path) in found.items()}


class _Checkpoint:
    """One file; ``tensors`` are its entries with the spectral norm divided out, ``norms`` those it was made of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        entries = _read(path)
        self.tensors: Tensors = {}
        self.norms: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for key, value in entries.items():
            layer, _, last = key.rpartition(".")
            if last == "weight_orig":
                lacking = [name for name in _NORM_ENTRIES if f"{layer}.{name}" not in entries]
                if lacking:
                    raise self.error(f"has {key} but no {layer}.{lacking[0]}")
                self.norms[layer] = value, entries[f"{layer}.weight_u"], entries[f"{layer}.weight_v"]
                self.tensors[f"{layer}.weight"] = self._divided(layer)
            elif last not in _NORM_ENTRIES or f"{layer}.weight_orig" not in entries:
                self.tensors[key] = value

    def error(self, what: str) -> UserError:
        return UserError(f"{self.path} {what}; it is not a checkpoint of the bi-layer model as released")

    def shape(self, key: str) -> torch.Size:
        if key not in self.tensors or self.tensors[key].ndim < 2:
            raise self.error(f"lacks a usable {key}")
        return self.tensors[key].shape

    def count(self, pattern: str) -> int:
        """One more than the highest number ``pattern`` finds at the start of a key."""
        found = [int(match[1]) for match in (re.match(pattern, key) for key in self.tensors) if match]
        if not found:
            raise self.error(f"has no entry like {pattern}".replace("\\", ""))
        return max(found) + 1

    def fill(self, network: dict[str, nn.Module], config: BilayerConfig, keep_norm: bool) -> None:
        """Copy all entries into the modules of ``network``."""
        targets = _targets(network)
        constants = _constants(self.path, config)
        _refuse_other_entries(self, {key: value.shape for key, value in targets.items()}, constants)
        with torch.no_grad():
            for key, target in targets.items():
                target.copy_(self.tensors[key])
            if keep_norm:
                for name, layer in layers(network):
                    if parametrize.is_parametrized(layer, "weight"):
                        self._fill_norm(name, layer.parametrizations.weight)

    def _fill_norm(self, name: str, parametrization: nn.Module) -> None:
        if name not in self.norms:
            raise self.error(f"has no spectral norm for {name}, which training on needs")
        weight, u, v = self.norms[name]
        parametrization.original.copy_(weight)
        parametrization[0].u.copy_(u)
        parametrization[0].v.copy_(v)

    def _divided(self, layer: str) -> Tensor:
        weight, u, v = self.norms[layer]
        rows = weight.reshape(len(weight), -1) if weight.ndim else weight
        if u.shape != rows.shape[:1] or v.shape != rows.shape[1:]:
            raise self.error(f"has a spectral norm of {layer} of the wrong size")
        return weight / torch.dot(u, rows @ v)


def _read(path: Path) -> Tensors:
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read {path} as a file of weights: {first}; fetch it again") from error
    if not isinstance(entries, dict) or not all(isinstance(value, Tensor) for value in entries.values()):
        raise UserError(f"{path} is not a plain table of tensors; give the released .pth files as they are")
    return {key: value.float() if value.is_floating_point() else value for key, value in entries.items()}


def _targets(network: dict[str, nn.Module]) -> Tensors:
    """Their key -> our tensor. A weight under a spectral norm is a scratch tensor: its parts are filled apart."""
    targets: Tensors = {}
    for name, layer in layers(network):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            with torch.no_grad():
                targets[f"{name}.weight"] = torch.empty_like(layer.weight) if _normed(layer) else layer.weight
            targets[f"{name}.bias"] = layer.bias
        for theirs, ours in own_tensors(layer).items():
            targets[f"{name}.{theirs}" if name else theirs] = getattr(layer, ours)
    return targets


def _normed(layer: nn.Module) -> bool:
    return parametrize.is_parametrized(layer, "weight")


def _constants(path: Path, config: BilayerConfig) -> Tensors:
    """Entries that are no weights; a file may lack them."""
    if path.name.endswith("_inference_generator.pth"):
        return {GRID: identity_grid(config.image_size_px)}
    if path.name.endswith("_keypoints_embedder.pth") and config.keypoint_octaves:
        return {FREQUENCIES: (math.pi * 2.0 ** torch.arange(config.keypoint_octaves))[None, None]}
    return {}


def _refuse_other_entries(checkpoint: _Checkpoint, expected: dict[str, torch.Size], constants: Tensors) -> None:
    tensors = checkpoint.tensors
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys() - constants.keys())
    wrong = sorted(key for key in expected.keys() & tensors.keys() if tensors[key].shape != expected[key])
    for keys, what in ((missing, "lacks"), (unknown, "has unknown entries:")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise checkpoint.error(f"{what} {', '.join(keys[:3])}{more}")
    if wrong:
        key = wrong[0]
        got, want = tuple(tensors[key].shape), tuple(expected[key])
        raise checkpoint.error(f"has {key} of shape {got} where {want} fits the other entries")
    for key, value in constants.items():
        theirs = tensors.get(key)
        if theirs is not None and (theirs.shape != value.shape or not torch.allclose(theirs, value, atol=1e-5)):
            raise checkpoint.error(f"has another {key} than the released model")


# ------------------------------------------------------------------------------------------------ sizes from tensors


def _config(checkpoints: dict[str, _Checkpoint]) -> BilayerConfig:
    inference, texture = checkpoints["inference_generator"], checkpoints["texture_generator"]
    embedder = checkpoints["identity_embedder"]
    blocks = inference.count(r"gen_inf\.blocks\.(\d+)\.block_feats")
    down = embedder.count(r"net\.enc\.(\d+)\.block\.") - 1
    config = BilayerConfig(
        image_size_px=START_SIZE_PX * 2**blocks,
        width=inference.shape("gen_inf.heads.0.0.weight")[1],
        max_width=inference.shape("gen_inf.blocks.0.block_feats.2.weight")[1],
        masked="gen_inf.heads.2.0.weight" in inference.tensors,
        keypoint_octaves=_octaves(checkpoints["keypoints_embedder"]),
        texture_width=texture.shape("gen_tex.heads.0.0.weight")[1],
        texture_max_width=texture.shape("gen_tex_input")[1],
        embedder_width=embedder.shape("net.enc.0.weight")[0],
        embedder_max_width=embedder.shape(f"net.enc.{down}.block.0.weight")[0],
    )
    return replace(config, **_enhancer_sizes(checkpoints[ENHANCER])) if ENHANCER in checkpoints else config


def _octaves(checkpoint: _Checkpoint) -> int:
    inputs = checkpoint.shape("net.mlp.0.weight")[1]
    octaves, rest = divmod(inputs, 4 * KEYPOINTS)
    if inputs != 2 * KEYPOINTS and (rest or not octaves):
        raise checkpoint.error(f"takes {inputs} inputs, which {KEYPOINTS} keypoints do not give")
    return 0 if inputs == 2 * KEYPOINTS else octaves


def _enhancer_sizes(checkpoint: _Checkpoint) -> dict[str, int]:
    count = checkpoint.count(r"net\.blocks\.(\d+)\.block\.")
    with_skip = [f"net.blocks.{i}.skip.0.weight" in checkpoint.tensors for i in range(1, count)]
    down = with_skip.index(False) if False in with_skip else len(with_skip)
    widest = checkpoint.shape(f"net.blocks.{down}.block.0.weight" if down else "net.blocks.0.weight")[0]
    sizes = {"width": checkpoint.shape("net.blocks.0.weight")[0], "max_width": widest}
    sizes |= {"down": down, "flat": count - 1 - 2 * down}
    return {f"enhancer_{name}": size for name, size in sizes.items()}


# ----------------------------------------------------------------------------------------------------------- writing


def save_official(
    folder: str | os.PathLike[str], model: BilayerModel, discriminator: Discriminator | None = None, epoch: int = 0
) -> list[Path]:
    """Write ``<epoch>_<network>.pth`` as the released code does; with the spectral norm where the model has it.

    Raises:
        ValueError: the projectors are collapsed; their factors are gone.
    """
    if isinstance(model.texture_projector, CollapsedProjector):
        raise ValueError("save_official: the projectors are collapsed; load the model with spectral_norm=True")
    target = make_folder(folder)
    written = []
    for name, network in parts(model, discriminator).items():
        path = target / f"{epoch}_{name}.pth"
        with replacing(path) as unfinished:
            torch.save(official_entries(path, network, model.config), unfinished)
        written.append(path)
    return written


def official_entries(path: Path, network: dict[str, nn.Module], config: BilayerConfig) -> Tensors:
    """All entries of one file, by their names."""
    entries = dict(_constants(path, config))
    for name, layer in layers(network):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            entries[f"{name}.bias"] = layer.bias
            if _normed(layer):
                weight = layer.parametrizations.weight
                entries |= {
                    f"{name}.{last}": value
                    for last, value in zip(_NORM_ENTRIES, (weight.original, weight[0].u, weight[0].v), strict=True)
                }
            else:
                entries[f"{name}.weight"] = layer.weight
        for theirs, ours in own_tensors(layer).items():
            entries[f"{name}.{theirs}" if name else theirs] = getattr(layer, ours)
    return {key: value.detach().cpu().clone() for key, value in entries.items()}
