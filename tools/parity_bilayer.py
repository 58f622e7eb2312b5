"""Compare our bi-layer model with the released code, number by number, and measure both.

    python tools/parity_bilayer.py FOLDER [--write] [--only small|full|frame|person] [--rounds 15]

FOLDER is a checkout of github.com/saic-violet/bilayer-model, kept outside this repository; nothing of it is changed. It
needs only torch. Weights are random, in the released layout, with every spectral norm on. ``--write`` renews
tests/baselines/bilayer/parity.json, which the tests compare our side with. ``frame`` and ``person`` measure;
onnxruntime is measured where it is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from baselines.bilayer import parity  # noqa: E402
from baselines.bilayer.tiny_model import TINY  # noqa: E402

from manvatar.baselines.bilayer.fast import FrameNetwork, accelerated  # noqa: E402
from manvatar.baselines.bilayer.model import BilayerConfig, Person  # noqa: E402
from manvatar.baselines.bilayer.onnx_export import OnnxFrames, export_onnx  # noqa: E402

TOLERANCE, ONNX_TOLERANCE = 1e-4, 1e-3
NETWORKS = ("identity_embedder", "texture_generator", "keypoints_embedder", "inference_generator", "texture_enhancer")
PEOPLE, PHOTOS = 2, 2  # of the small comparison


class Theirs:
    """The released networks with the weights of a folder."""

    def __init__(self, folder: Path, config: BilayerConfig, photos: int, dtype: torch.dtype, normed: bool) -> None:
        from runners import utils

        self.nets = _fresh(config, photos)
        for name, net in self.nets.items():
            net.load_state_dict(torch.load(folder / f"1_{name}.pth", weights_only=True), strict=True)
            if not normed:
                net.apply(utils.remove_spectral_norm)
            net.to(dtype).eval()

    def run(self, given: dict[str, Tensor], photos: int, training: bool) -> dict[str, Tensor]:
        """Their outputs under our names."""
        nets = {name: net for name, net in self.nets.items() if not (training and name == "texture_enhancer")}
        for net in nets.values():
            net.train(training)
        self.nets["inference_generator"].args.inf_pred_source_data = not training
        data = _batch(given, photos)
        with torch.no_grad():
            for name, net in nets.items():
                if name == "discriminator":
                    break
                data = net(data, list(nets) if training else [], self.nets)
            return _renamed(data, training) | self._scores(given, data["pred_target_imgs"][:, 0])

    def _scores(self, given: dict[str, Tensor], fake: Tensor) -> dict[str, Tensor]:
        stickmen = given["target_stickmen"]
        pair = torch.cat([torch.cat([given["target_photos"], stickmen], 1), torch.cat([fake, stickmen], 1)])
        scores, features = self.nets["discriminator"].net(pair)
        return {"scores": scores, "first features": features[0], "last features": features[-1]}


def _fresh(config: BilayerConfig, photos: int) -> dict[str, nn.Module]:
    """Their networks as they construct them, with their spectral norm."""
    from runners import utils

    args = _args(config, photos)
    nets = {name: import_module(f"networks.{name}").NetworkWrapper(args) for name in (*NETWORKS, "discriminator")}
    for net in nets.values():
        net.apply(lambda module: utils.spectral_norm(module, apply_to=["conv2d", "linear"], eps=1e-7))
    return nets


def write_fresh_weights(folder: Path, config: BilayerConfig) -> None:
    """What their constructors draw, after two training passes, in their own files.

    Before a pass their spectral norms divide by products of unrelated vectors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    theirs = Theirs.__new__(Theirs)
    theirs.nets = _fresh(config, 1)
    given = parity.inputs(config, 2, 1)
    for _ in range(2):
        theirs.run(given, 1, training=True)
    with torch.no_grad():
        theirs.nets["texture_enhancer"].train().net(torch.randn(1, 6, config.image_size_px, config.image_size_px))
    for name, net in theirs.nets.items():
        torch.save(net.state_dict(), folder / f"1_{name}.pth")


def _args(config: BilayerConfig, photos: int) -> argparse.Namespace:
    """Their options with our sizes; as the released inference, with everything it can predict."""
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    parser.add = parser.add_argument
    for name in (*NETWORKS, "discriminator"):
        import_module(f"networks.{name}").NetworkWrapper.get_args(parser)
    args = parser.parse_args([])
    sizes = {
        "image_size": config.image_size_px,
        "num_source_frames": photos,
        "num_target_frames": 1,
        "num_gpus": 0,
        "eps": 1e-7,
        "pse_in_channels": 136,
        "pse_emb_source_pose": True,
        "pse_use_harmonic_enc": config.keypoint_octaves > 0,
        "inf_num_channels": config.width,
        "inf_max_channels": config.max_width,
        "inf_pred_source_data": True,
        "inf_apply_masks": False,
        "enh_apply_masks": False,
        "tex_num_channels": config.texture_width,
        "tex_max_channels": config.texture_max_width,
        "emb_num_channels": config.embedder_width,
        "emb_max_channels": config.embedder_max_width,
        "enh_num_channels": config.enhancer_width,
        "enh_max_channels": config.enhancer_max_width,
        "enh_bottleneck_tensor_size": config.image_size_px // 2**config.enhancer_down,
        "enh_num_blocks": config.enhancer_flat,
        "dis_num_channels": config.discriminator_width,
        "dis_max_channels": config.discriminator_max_width,
        "dis_num_blocks": config.discriminator_blocks,
    }
    for name, value in sizes.items():
        setattr(args, name, value)
    return args


def _batch(given: dict[str, Tensor], photos: int) -> dict[str, Tensor]:
    theirs = {"photos": "imgs", "stickmen": "stickmen", "mattes": "segs", "keypoints": "poses"}
    batch = {}
    for name, value in given.items():
        side, kind = name.split("_")
        count = photos if side == "source" else 1
        batch[f"{side}_{theirs[kind]}"] = value.reshape(-1, count, *value.shape[1:]).clone()
    return batch


def _renamed(data: dict[str, Tensor], training: bool) -> dict[str, Tensor]:
    grid = (2 * torch.arange(data["pred_target_imgs"].shape[-1]).double() + 1) / data["pred_target_imgs"].shape[-1] - 1
    grid = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), 2)
    warp = (data["pred_target_uvs"][:, 0].double() - grid).permute(0, 3, 1, 2).to(data["pred_target_uvs"].dtype)
    found = {
        "texture": data["pred_tex_hf_rgbs"][:, 0],
        "warp": warp,
        "mask": data["pred_target_segs"][:, 0],
        "image": data["pred_target_imgs"][:, 0],
    }
    if not training:
        found |= {f"embedding {k}": value for k, value in enumerate(data["source_idt_embeds"])}
        found |= {
            "pose features": data["target_pose_embeds"][:, 0],
            "low frequencies": data["pred_target_delta_lf_rgbs"][:, 0],
            "enhanced texture": data["pred_enh_tex_hf_rgbs"][:, 0],
            "enhanced image": data["pred_enh_target_imgs"][:, 0],
        }
    return found


# --------------------------------------------------------------------------------------------------------- comparing


def compare(
    config: BilayerConfig, people: int, photos: int, dtype: torch.dtype, training: bool = False, fresh: bool = False
) -> dict[str, Tensor]:
    """Run both, print the greatest difference of each output, and give theirs.

    In float64 the norms stay on, so that nothing is rounded to the float32 of the files.

    Args:
        fresh: weights as their constructors draw them. Otherwise livelier ones, whose images show small differences a
            hundred times larger: textures like noise, far warped.
    """
    normed = training or dtype == torch.float64
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (write_fresh_weights if fresh else parity.write_weights)(folder, config)
        single = parity.inputs(config, people, photos)
        given = {key: value.to(dtype) for key, value in single.items()}
        theirs = Theirs(folder, config, photos, dtype, normed).run(given, photos, training)
        exact = theirs
        if dtype == torch.float32 and not training:
            double = {key: value.double() for key, value in single.items()}
            exact = Theirs(folder, config, photos, torch.float64, True).run(double, photos, training)
        model, discriminator = parity.load(folder, normed, dtype)
        run = parity.training_outputs if training else parity.outputs
        ours = run(model, discriminator, given, *(() if training else (photos,)))
        if ours.keys() != theirs.keys():
            raise SystemExit(f"only on one side: {ours.keys() ^ theirs.keys()}")
    kind = f"{'training' if training else 'inference'}, {'their fresh' if fresh else 'lively'} weights"
    print(f"\n{config.image_size_px} px, {people} people, {photos} photos, {kind}, {dtype}")
    for key, value in theirs.items():
        difference = (ours[key] - value.reshape(ours[key].shape)).abs().max().item()
        own = (value - exact[key]).abs().max().item()
        note = "" if difference <= max(TOLERANCE, 2 * own) else "   TOO FAR"
        print(
            f"  {key:18s} {difference:9.2e}   (theirs to float64 {own:9.2e}, deviation {value.std().item():.3f}){note}"
        )
    return theirs


def write_fixture(path: Path) -> None:
    """Their outputs in float64, a few numbers of each."""
    passes = {"inference": (PHOTOS, False), "training": (1, True)}
    kept = {
        name: {
            key: parity.picked(value) for key, value in compare(TINY, PEOPLE, photos, torch.float64, training).items()
        }
        for name, (photos, training) in passes.items()
    }
    path.write_text(json.dumps(kept, indent=0) + "\n")
    print(f"wrote {path}")


# --------------------------------------------------------------------------------------------------------- measuring


def race(rivals: dict[str, Callable[[], object]], rounds: int) -> None:
    """Call all in turn, so that other work on the machine hits them alike; the first is the one to beat."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for call in rivals.values():
        call(), call()
    for _ in range(rounds):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(rivals))
    for name, values in seconds.items():
        median, least = sorted(values)[rounds // 2], min(values)
        gains = [a / b for a, b in zip(seconds[first], values, strict=True)]
        gain = sorted(gains)[rounds // 2]
        print(
            f"  {name:34s} median {median * 1e3:8.1f} ms  least {least * 1e3:8.1f} ms  {gain:5.2f} x (median of rounds)"
        )


@torch.no_grad()
def measure_frame(rounds: int) -> None:
    """One half-width frame at 256 px, identity given: their eager modules, weights without norms, against ours."""
    config = BilayerConfig()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_fresh_weights(folder, config)
        given = parity.inputs(config, 1, 1)
        theirs = Theirs(folder, config, 1, torch.float32, False)
        theirs.run(given, 1, False)  # leaves the person's values in their layers
        model, _ = parity.load(folder, False, torch.float32)
        person = model.person(given["source_photos"], given["source_stickmen"], given["source_mattes"])
        parts = model.keypoint_embedder, model.inference_generator, person
        plain, rounded = FrameNetwork(*parts), FrameNetwork(*parts).bfloat16()
        keypoints = given["target_keypoints"]
        rivals = {"released, eager": lambda: _their_frame(theirs, keypoints, person)}
        rivals |= {"ours, float32": lambda: plain(keypoints), "ours, bfloat16": lambda: rounded(keypoints)}
        compiled = torch.compile(FrameNetwork(*parts)), torch.compile(FrameNetwork(*parts).bfloat16())
        rivals |= {"ours, float32, compiled": lambda: compiled[0](keypoints)}
        rivals |= {"ours, bfloat16, compiled": lambda: compiled[1](keypoints)}
        if util.find_spec("onnxruntime") is not None:
            export_onnx(FrameNetwork(*parts, exportable=True), folder / "frame.onnx")
            session = OnnxFrames(folder / "frame.onnx")
            rivals["ours, onnxruntime"] = lambda: session(keypoints)
        print(f"\nframe, {torch.get_num_threads()} threads")
        reference = rivals["released, eager"]()
        for key, call in rivals.items():
            error = (call()[0] - reference[0]).abs()
            print(
                f"  {key:34s} image differs by {error.max().item():.2e} at most, {error.mean().item():.2e} in the mean"
            )
        race(rivals, rounds)


def _their_frame(theirs: Theirs, keypoints: Tensor, person: Person) -> tuple[Tensor, Tensor]:
    generator = theirs.nets["inference_generator"]
    features = theirs.nets["keypoints_embedder"].net(keypoints)
    warp, low, logits = generator.gen_inf(features.reshape(len(keypoints), -1, 4, 4))
    uv = generator.identity_grid + warp.permute(0, 2, 3, 1)
    return low + nn.functional.grid_sample(person.texture, uv, align_corners=False), logits.sigmoid()


@torch.no_grad()
def measure_person(rounds: int) -> None:
    """From one photo to a texture after four steps: all their networks against ours."""
    config = BilayerConfig()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_fresh_weights(folder, config)
        given = parity.inputs(config, 1, 1)
        theirs = Theirs(folder, config, 1, torch.float32, False)
        model, _ = parity.load(folder, False, torch.float32)
        fast = accelerated(model)

        def ours() -> Person:
            person = fast.person(given["source_photos"], given["source_stickmen"], given["source_mattes"])
            return fast.enhanced(person, given["source_photos"], given["source_keypoints"])

        def released() -> Tensor:
            data = _batch(given, 1)
            for net in NETWORKS:
                data = theirs.nets[net](data, [], theirs.nets)
            return data["pred_enh_tex_hf_rgbs"][:, 0]

        print(f"\nidentity with 4 enhancer steps (theirs makes one frame besides), {torch.get_num_threads()} threads")
        print(f"  texture differs by {(ours().texture - released()).abs().max().item():.2e} at most")
        race({"released, eager": released, "ours": ours}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", choices=("small", "full", "frame", "person"))
    parser.add_argument("--rounds", type=int, default=15, help="of measuring; each calls all rivals once")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not (options.folder / "networks" / "inference_generator.py").is_file():
        raise SystemExit(f"{options.folder} is not a checkout of github.com/saic-violet/bilayer-model")
    sys.path.insert(0, str(options.folder))
    warnings.filterwarnings("ignore", module="networks|torch")  # what their code leaves to defaults
    torch.set_num_threads(options.threads)
    if options.write:
        return write_fixture(ROOT / "tests/baselines/bilayer/parity.json")
    wanted = (options.only,) if options.only else ("small", "full", "frame", "person")
    if "small" in wanted:
        for dtype in (torch.float32, torch.float64):
            compare(TINY, PEOPLE, PHOTOS, dtype)
            compare(TINY, PEOPLE, 1, dtype, training=True)
    if "full" in wanted:
        for dtype in (torch.float32, torch.float64):
            for fresh in (True, False):
                compare(BilayerConfig(), 1, 1, dtype, fresh=fresh)
    if "frame" in wanted:
        measure_frame(options.rounds)
    if "person" in wanted:
        measure_person(max(3, options.rounds // 4))
    return None


if __name__ == "__main__":
    main()
