"""What our layers are called in the released checkpoints: one file a network, 1,161 entries in all six.

A checkpoint holds, for a convolution or linear layer, ``bias`` and either ``weight`` or, where the spectral norm was
left on, ``weight_orig``, ``weight_u`` and ``weight_v``.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from manvatar.baselines.bilayer.blocks import SpadeNorm
from manvatar.baselines.bilayer.discriminator import Discriminator
from manvatar.baselines.bilayer.generators import InferenceGenerator
from manvatar.baselines.bilayer.model import BilayerModel

GRID = "identity_grid"  # entries of theirs that are constants and no weights
FREQUENCIES = "frequencies"

# Places of the layers of a block inside their two nested sequences.
_WITHOUT_NORM = {"conv1": "block_feats.1", "conv2": "block.0", "skip": "skip.0"}
_NORMED = {"norm1": "block_feats.0", "conv1": "block_feats.2", "norm2": "block_feats.3", "conv2": "block.0"}
_NORMED["skip"] = "skip.0"
_UP_EARLY = {"norm1": "block_feats.0", "conv1": "block_feats.3", "norm2": "block_feats.4", "conv2": "block.0"}
_UP_LATE = {"norm1": "block_feats.0", "conv1": "block_feats.2", "norm2": "block_feats.3", "conv2": "block.1"}
_UP_WITHOUT_NORM = {"conv1": "block_feats.2", "conv2": "block.0", "skip": "skip.1"}


def parts(model: BilayerModel, discriminator: Discriminator | None = None) -> dict[str, dict[str, nn.Module]]:
    """The networks as the released files divide them: file -> (prefix of our names -> module)."""
    named = {
        "identity_embedder": {"identity_embedder": model.identity_embedder},
        "texture_generator": {
            "texture_generator": model.texture_generator,
            "texture_projector": model.texture_projector,
        },
        "keypoints_embedder": {"keypoint_embedder": model.keypoint_embedder},
        "inference_generator": {
            "inference_generator": model.inference_generator,
            "inference_projector": model.inference_projector,
        },
    }
    if model.texture_enhancer is not None:
        named["texture_enhancer"] = {"texture_enhancer": model.texture_enhancer}
    if discriminator is not None:
        named["discriminator"] = {"discriminator": discriminator}
    return named


def layers(network: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """(their name, our module) of everything in a network that holds tensors of its own."""
    for prefix, module in network.items():
        for path, layer in module.named_modules():
            name = f"{prefix}.{path}" if path else prefix
            if isinstance(layer, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, SpadeNorm)) or not path:
                theirs = _their_name(name, module)
                if theirs is not None:
                    yield theirs, layer


def _their_name(name: str, network: nn.Module) -> str | None:
    """``name``: prefix of the network, then the path of a layer; None for what has no tensors of its own."""
    network_name, _, path = name.partition(".")
    if not path:
        return "" if network_name == "texture_generator" else None
    if network_name.endswith("_projector"):
        kind = "prj_tex" if network_name.startswith("texture") else "prj_inf"
        return f"{kind}.fc_blocks.{path.removeprefix('items.')}"
    return _NAMERS[network_name](path, network)


def _embedder(path: str, _: nn.Module) -> str:
    first, *rest = path.split(".")
    if first == "first":
        return "net.enc.0"
    block = f"enc.{int(rest[0]) + 1}" if first == "down" else f"dec_blocks.{rest[0]}"
    return f"net.{block}.{_WITHOUT_NORM[rest[1]]}"


def _keypoints(path: str, _: nn.Module) -> str:
    return f"net.mlp.{2 * int(path.split('.')[1])}"  # activations stand between


def _generator(path: str, network: nn.Module) -> str:
    late = isinstance(network, InferenceGenerator)
    trunk = "gen_inf" if late else "gen_tex"
    heads = {"warp_head": 0, "low_frequency_head": 1, "mask_head": 2, "head": 0}
    first, *rest = path.split(".")
    if first in heads:
        return f"{trunk}.heads.{heads[first]}.0"
    if first == "last_norm":
        place = f"{trunk}.blocks.{len(network.blocks)}"
    else:
        places = _UP_LATE if late else _UP_EARLY
        place = f"{trunk}.blocks.{rest[0]}.{places[rest[1]]}"
        rest = rest[2:]
    return f"{place}.norm_layer" if rest == ["norm"] else place


def _enhancer(path: str, network: nn.Module) -> str:
    down, flat, up = len(network.down), len(network.flat), len(network.up)
    first, *rest = path.split(".")
    if first == "first":
        return "net.blocks.0"
    if first == "head":
        return f"net.blocks.{1 + down + flat + up + 2}"  # after an empty norm and an activation
    start = {"down": 1, "flat": 1 + down, "up": 1 + down + flat}[first]
    places = _UP_WITHOUT_NORM if first == "up" else _WITHOUT_NORM
    return f"net.blocks.{start + int(rest[0])}.{places[rest[1]]}"


def _discriminator(path: str, _: nn.Module) -> str:
    whole = {"first": "net.first_conv", "last_norm": "net.final_block.0", "head": "net.linear"}
    if path in whole:
        return whole[path]
    _, index, layer = path.split(".")
    return f"net.blocks.{index}.{_NORMED[layer]}"


_NAMERS = {
    "identity_embedder": _embedder,
    "keypoint_embedder": _keypoints,
    "texture_generator": _generator,
    "inference_generator": _generator,
    "texture_enhancer": _enhancer,
    "discriminator": _discriminator,
}


def own_tensors(layer: nn.Module) -> dict[str, str]:
    """(their last name -> ours) of what a layer holds besides the weight and bias of a convolution."""
    if isinstance(layer, SpadeNorm):
        return {"pixel_feats": "features"}
    if isinstance(layer, nn.BatchNorm2d):
        affine = ("weight", "bias") if layer.affine else ()
        return {name: name for name in (*affine, "running_mean", "running_var", "num_batches_tracked")}
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return {}
    return {"gen_tex_input": "start"}  # the texture generator itself
