"""Compare the ``paper`` field with AvatarMAV's released code, number by number.

    python tools/parity_avatarmav.py FOLDER [--write] [--steps 300] [--only images|gradients|training|steps|folder]

FOLDER is a checkout of github.com/YuelangX/AvatarMAV, kept outside this repository; nothing of it is changed. Its one
call of pytorch3d is given our own function; besides that it needs einops, and for ``folder`` torchvision and yacs.
``--write`` renews tests/exporting/parity.json, which the tests compare our side with.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from exporting import parity  # noqa: E402

from manvatar.exporting.avatarmav import NAMES, read_checkpoint, write_folder  # noqa: E402
from manvatar.fields import PaperFieldConfig  # noqa: E402
from manvatar.geometry import rotation_from_vector  # noqa: E402
from manvatar.training.optimizer import make_optimizer  # noqa: E402

IMAGE_TOLERANCE, GRADIENT_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-3, 1e-6


def use(folder: Path) -> None:
    """Make the released code importable, with our rotation in place of pytorch3d's."""
    if not (folder / "lib" / "module" / "HeadModule.py").is_file():
        raise SystemExit(f"{folder} is not a checkout of github.com/YuelangX/AvatarMAV")
    transforms = types.ModuleType("pytorch3d.transforms")
    transforms.so3_exponential_map = rotation_from_vector
    package = types.ModuleType("pytorch3d")
    package.transforms = transforms
    sys.modules |= {"pytorch3d": package, "pytorch3d.transforms": transforms}
    sys.path.insert(0, str(folder))


def theirs(config: PaperFieldConfig, tensors: dict[str, Tensor], rays: int) -> tuple:
    """Their head and camera modules with our weights, settings as in their train.yaml."""
    from lib.module.HeadModule import HeadModule
    from lib.module.NeuralCameraModule import NeuralCameraModule

    def pairs(lower: tuple, upper: tuple) -> list:
        return [list(pair) for pair in zip(lower, upper, strict=True)]

    box = pairs(config.canonical_lower, config.canonical_upper)
    widths = {name: tensors[f"{name}.hidden.weight"].shape for name in ("displacement", "density", "color")}
    head = HeadModule(
        types.SimpleNamespace(
            exp_dim=config.expressions,
            deform_bs_dim=config.motion_features,
            deform_bs_res=config.motion_cells,
            deform_linear=[*widths["displacement"][::-1], 3],
            feature_dim=config.canonical_features,
            feature_res=config.canonical_cells,
            density_linear=[*widths["density"][::-1], 1],
            color_linear=[*widths["color"][::-1], 3],
            interp_level=config.levels,
            embedding_freq=config.octaves,
            deform_bbox=pairs(config.motion_lower, config.motion_upper),
            feature_bbox=box,
            noise=0.0,
        )
    )
    head.load_state_dict({name: tensors[our] for name, our in NAMES.items()})
    camera = NeuralCameraModule(
        head,
        types.SimpleNamespace(
            model_bbox=box,
            image_size=parity.IMAGE_PX,
            max_samples=rays,
            N_samples=0,
            N_importance=parity.SAMPLES_PER_RAY,
            near_far=[3.5, 4.5],
        ),
    )
    return head, camera


def frame_data(case: parity.Case, dtype: torch.dtype) -> dict[str, Tensor]:
    focal, half = 2500.0, parity.IMAGE_PX / 2
    return {
        "exp": case.expression[None].to(dtype),
        "pose": case.pose[None].to(dtype),
        "scale": torch.full((1, 1), case.scale, dtype=dtype),
        "intrinsic": torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]], dtype=dtype),
        "extrinsic": torch.tensor([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 4]], dtype=dtype),
    }


@dataclass(frozen=True)
class Trained:
    """Weights from a checkpoint of theirs, and the scale of the frames that they were trained on."""

    tensors: dict[str, Tensor]  # our names, float64
    scale: float

    @staticmethod
    def read(weights: Path, params: Path) -> Trained:
        tensors = {name: value.double() for name, value in read_checkpoint(weights)[1].items()}
        with np.load(sorted((params / "params").glob("*.npz"))[0]) as first:
            return Trained(tensors, float(first["scale"].item()))


def both_images(seed: int, dtype: torch.dtype, resolution: int, trained: Trained | None) -> tuple[Tensor, Tensor]:
    """Their picture of a case and ours, (3, y, x), float64; of random weights, or of trained ones."""
    torch.set_default_dtype(dtype)
    weights = parity.weights(parity.CONFIG, seed) if trained is None else trained.tensors
    tensors = {name: value.to(dtype) for name, value in weights.items()}
    frame = parity.case(seed)
    if trained is not None:  # poses and expressions as a head has them
        turn, shift = frame.pose[:3] / 2, frame.pose[3:] * 0.2
        frame = replace(
            frame, pose=torch.cat([turn, shift]), scale=trained.scale, expression=frame.expression.clamp(-2, 2)
        )
    _, camera = theirs(parity.CONFIG, tensors, 4096)
    with torch.no_grad():
        their = camera.eval().render(frame_data(frame, dtype), resolution)["render_image"][0]
        field = parity.field_for(parity.CONFIG, tensors, frame.scale)
        our, _ = parity.ours(field, frame, parity.pixels(resolution, dtype).reshape(-1, 2))
    return their.double(), our.rgb.T.reshape(3, resolution, resolution).double()


def compare_images(resolution: int, trained: Trained | None = None, count: int = 10) -> float:
    """Largest difference of a channel in float64; in float32 both sides are also held against their float64 picture.

    The last interval of a ray is endless, so that rounding decides there between nothing and everything: float32
    pictures of random weights differ by more than 1e-4 from the truth on either side.
    """
    worst = 0.0
    for seed in range(count):
        their, our = both_images(seed, torch.float64, resolution, trained)
        their_single, our_single = both_images(seed, torch.float32, resolution, trained)
        worst = max(worst, float((our - their).abs().max()))
        single = ", ".join(
            f"{what} {float((a - b).abs().max()):.1e} (median {float((a - b).abs().median()):.0e})"
            for what, a, b in (
                ("ours to theirs", our_single, their_single),
                ("theirs to the truth", their_single, their),
                ("ours to the truth", our_single, their),
            )
        )
        white = float((their > 0.999).all(0).double().mean())
        print(f"  case {seed}: float64 {float((our - their).abs().max()):.1e}; float32 {single}")
        print(f"          their picture has deviation {float(their.std()):.2f} and {white:.0%} white")
    return worst


def training_loss(data: dict, image: Tensor) -> Tensor:
    """What their trainer minimises, in its own terms: mean over the whole image, mean length of the displacement."""
    return (data["render_image"] - image[None]).abs().mean() + 1e-3 * data["offset"].norm(dim=1).mean()


def compare_gradients(count: int = 3, resolution: int = 48, rays: int = 700) -> float:
    """Largest difference of a parameter's gradient, relative to its norm."""
    torch.set_default_dtype(torch.float64)
    worst = 0.0
    for seed in range(count):
        tensors, frame, image = parity.weights(parity.CONFIG, seed), parity.case(seed), parity.picture(resolution, seed)
        head, camera = theirs(parity.CONFIG, tensors, rays)
        np.random.seed(seed)  # noqa: NPY002  their code draws from it
        training_loss(camera(frame_data(frame, torch.float64), resolution), image).backward()
        field = parity.field_for(parity.CONFIG, tensors, frame.scale)
        parity.loss_of(field, frame, image, resolution, rays, seed)[0].backward()
        for name, our in NAMES.items():
            their, mine = head.get_parameter(name).grad, field.get_parameter(our).grad
            relative = float((their - mine).norm() / their.norm())
            worst = max(worst, relative)
            assert their.norm() > 0, name
        print(f"  case {seed}: largest relative difference so far {worst:.1e}")
    return worst


def their_losses(
    config: PaperFieldConfig,
    tensors: dict[str, Tensor],
    frames: list[int],
    resolution: int,
    rays: int,
    steps: int,
    pace: float = 1.0,
    after: Callable[[int, torch.nn.Module, torch.optim.Optimizer], None] | None = None,
) -> list[float]:
    """Losses of their Trainer with the optimiser of their train.py, one frame after another; rates times ``pace``.

    ``after`` is called after each step with its number, their head and their optimiser.
    """
    from lib.trainer.Trainer import Trainer

    torch.set_default_dtype(torch.float64)
    head, camera = theirs(config, tensors, rays)
    first = parity.case(frames[0])
    batches = []
    for seed in frames:
        case = parity.case(seed)
        batches.append(
            {
                "image": parity.picture(resolution, seed)[None],
                "mask": torch.ones(1, 1, resolution, resolution),
                "pose": case.pose[None],
                "scale": torch.full((1, 1), first.scale),
                "exp": case.expression[None],
                "index": torch.zeros(1, dtype=torch.int64),
            }
        )
    found = []

    class Seeded:
        """Hands out the frames in turn; before each one the generator that draws rays starts from the step."""

        def __len__(self) -> int:
            return steps

        def __iter__(self):
            for step in range(steps):
                np.random.seed(step)  # noqa: NPY002  their code draws from it
                yield dict(batches[step % len(batches)])

    def log(values: dict) -> None:
        found.append(float(values["loss_rgb"] + 1e-3 * values["data"]["offset"].norm(dim=1).mean()))
        if after is not None:
            after(len(found) - 1, values["headnerf"], values["optim"])

    groups = [
        {"params": [head.feature_volume, head.deform_bs_volume, head.deform_mean_volume], "lr": 1e-2 * pace},
        {"params": [p for name, p in head.named_parameters() if "linear" in name], "lr": 1e-3 * pace},
    ]
    recorder = types.SimpleNamespace(log=log)
    trainer = Trainer(Seeded(), head, camera, torch.optim.Adam(groups), recorder, 0)
    trainer.device = torch.device("cpu")
    trainer.intrinsic, trainer.extrinsic = trainer.intrinsic.double(), trainer.extrinsic.double()
    trainer.train(0, 1)
    return found


def compare_training(steps: int, pace: float, resolution: int = 24, rays: int = 288) -> float:
    """Largest difference of the loss, relative to itself, over so many steps of training at ``pace`` times their rates.

    Training is chaotic: Adam divides gradients by their own size, and the last interval of a ray decides between
    nothing and everything. How much that makes of rounding is shown by their code against itself, from weights that
    differ by 1e-15. Their renderer also lets 1e-10 of the light through every sample; ours does so here, too.
    """
    tensors, setting = parity.start(parity.CONFIG, 5), ([5, 6, 7], resolution, rays, steps)
    nudged = {name: value * (1 + 1e-15) for name, value in tensors.items()}
    their = np.array(their_losses(parity.CONFIG, tensors, *setting, pace=pace))
    again = np.array(their_losses(parity.CONFIG, nudged, *setting, pace=pace))
    our = np.array(parity.losses(parity.CONFIG, tensors, *setting, leak=1e-10, pace=pace))
    print(f"  {steps} steps at {pace} times their rates")
    print(f"  loss of the first frame from {their[0]:.4f} to {their[(steps - 1) // 3 * 3]:.4f}")
    for step in sorted({*range(0, steps, max(1, steps // 10)), steps - 1}):
        ours, theirs_again = (abs(curve[step] / their[step] - 1) for curve in (our, again))
        print(f"  step {step}: ours {ours:.1e}, theirs nudged {theirs_again:.1e}")
    return float(np.abs(our / their - 1).max())


def compare_steps(steps: int, resolution: int = 24, rays: int = 288, together: int = 10) -> float:
    """Largest relative difference of the loss over a run of theirs at their rates, of which ours keeps the company.

    Ours starts from the same weights and takes every step with the same rays. After every ``together`` steps it takes
    over their weights and the state of their optimiser, so that only what so many steps make of rounding is seen, not
    what chaos makes of it over hundreds (:func:`compare_training`).
    """
    frames, tensors = [5, 6, 7], parity.start(parity.CONFIG, 5)
    cases = [replace(parity.case(seed), scale=parity.case(5).scale) for seed in frames]
    images = [parity.picture(resolution, seed) for seed in frames]
    field = parity.field_for(parity.CONFIG, tensors, cases[0].scale)
    optimizer = make_optimizer(field.parameter_groups(), parity.training_config())
    our: list[float] = []

    def follow(step: int, head: torch.nn.Module, their: torch.optim.Optimizer) -> None:
        which = step % len(frames)
        loss, _ = parity.loss_of(field, cases[which], images[which], resolution, rays, step, leak=1e-10)
        loss.backward()
        optimizer.step()
        our.append(float(loss.detach()))
        if (step + 1) % together == 0:
            take_over(field, optimizer, head, their)

    their = np.array(their_losses(parity.CONFIG, tensors, frames, resolution, rays, steps, after=follow))
    difference = np.abs(np.array(our) / their - 1)
    print(f"  {steps} steps at their rates, ours set on their weights every {together} steps")
    print(f"  loss of the first frame from {their[0]:.4f} to {their[(steps - 1) // 3 * 3]:.4f}")
    for first in range(0, steps, max(1, steps // 10)):
        print(f"  steps from {first}: largest difference {difference[first : first + max(1, steps // 10)].max():.1e}")
    return float(difference.max())


@torch.no_grad()
def take_over(
    field: torch.nn.Module, optimizer: torch.optim.Optimizer, head: torch.nn.Module, their: torch.optim.Optimizer
) -> None:
    """Their weights and Adam's moments into ours."""
    for name, our in NAMES.items():
        mine, parameter = field.get_parameter(our), head.get_parameter(name)
        mine.copy_(parameter.view_as(mine))
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[mine][moment].copy_(their.state[parameter][moment].view_as(mine))


def run_on_a_folder(folder: Path, steps: int = 30) -> bool:
    """Their loader, settings and training loop on a dataset folder that we wrote; whether the loss fell."""
    from config.config import config_headnerf
    from ellipsoid import ellipsoid_dataset, landmarks_head_m
    from lib.dataset.NeRFDataset import NeRFDataset
    from lib.module.HeadModule import HeadModule
    from lib.module.NeuralCameraModule import NeuralCameraModule
    from lib.trainer.Trainer import Trainer

    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    settings = config_headnerf()
    settings.load(str(folder / "config" / "train.yaml"))
    settings = settings.get_cfg()
    with tempfile.TemporaryDirectory() as root:
        made = ellipsoid_dataset(frames=steps, held_out=0, size_px=64)
        export = write_folder(made, landmarks_head_m()[36:].expand(steps, -1, -1), Path(root) / "somebody")
        settings.dataset.merge_from_list(["dataroot", root, "video_name", "somebody", "resolution", 64])
        settings.neuralcamera.merge_from_list(["max_samples", 1024])
        head = HeadModule(settings.headmodule)
        with torch.no_grad():
            head.density_linear.layers[-1].bias.fill_(0.3)  # a start that is not empty, which theirs may be
        camera = NeuralCameraModule(head, settings.neuralcamera)
        loader = torch.utils.data.DataLoader(NeRFDataset(settings.dataset), batch_size=settings.batch_size)
        found: list[float] = []
        recorder = types.SimpleNamespace(log=lambda values: found.append(float(values["loss_rgb"])))
        volumes = [head.feature_volume, head.deform_bs_volume, head.deform_mean_volume]
        networks = [p for name, p in head.named_parameters() if "linear" in name]
        groups = [
            {"params": volumes, "lr": settings.lr_feat_vol},
            {"params": networks, "lr": settings.lr_feat_net},
        ]
        trainer = Trainer(loader, head, camera, torch.optim.Adam(groups), recorder, 0)
        trainer.device = torch.device("cpu")
        trainer.train(0, 1)
    first, last = np.mean(found[:5]), np.mean(found[-5:])
    print(f"  {export.frames} frames of scale {export.scale:.3f}; loss from {first:.3f} to {last:.3f}")
    return len(found) == steps and last < first


def numbers() -> dict:
    """Their side of the small cases, for the tests."""
    torch.set_default_dtype(torch.float64)
    resolution, result = 6, {"cases": []}
    for seed in range(4):
        tensors, frame, image = parity.weights(parity.SMALL, seed), parity.case(seed), parity.picture(resolution, seed)
        head, camera = theirs(parity.SMALL, tensors, 4096)
        data = camera(frame_data(frame, torch.float64), resolution)
        loss = training_loss(data, image)
        loss.backward()
        result["cases"].append(
            {
                "rgb": data["render_image"][0].detach().flatten(1).T.flatten().tolist(),
                "loss": float(loss.detach()),
                "gradient_norms": {our: float(head.get_parameter(name).grad.norm()) for name, our in NAMES.items()},
            }
        )
    setting = {"frames": [5, 6, 7], "resolution": 12, "rays": 110, "steps": 25}
    result["training"] = setting | {"losses": their_losses(parity.SMALL, parity.start(parity.SMALL, 5), **setting)}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--weights", type=Path, help="a headnerf_latest whose pictures are compared, too")
    parser.add_argument("--params", type=Path, help="the dataset folder that it was trained on")
    parser.add_argument("--only", choices=["images", "gradients", "training", "steps", "folder", "none"])
    arguments = parser.parse_args()
    use(arguments.folder)
    checks = {
        "images": lambda: compare_images(arguments.resolution) < IMAGE_TOLERANCE,
        "gradients": lambda: compare_gradients() < GRADIENT_TOLERANCE,
        "training": lambda: all(
            compare_training(steps, pace) < LOSS_TOLERANCE for steps, pace in ((30, 1.0), (arguments.steps, 0.01))
        ),
        "steps": lambda: compare_steps(arguments.steps) < LOSS_TOLERANCE,
        "folder": lambda: run_on_a_folder(arguments.folder),
    }
    if arguments.weights:
        trained = Trained.read(arguments.weights, arguments.params)
        checks["images of trained weights"] = lambda: compare_images(arguments.resolution, trained) < IMAGE_TOLERANCE
    failed = []
    for name, check in checks.items():
        if arguments.only in (None, name.split()[0]):
            print(name)
            if not check():
                failed.append(name)
    if arguments.write:
        parity.NUMBERS.write_text(json.dumps(numbers(), indent=0) + "\n")
        print(f"wrote {parity.NUMBERS}")
    print(f"differs: {', '.join(failed)}" if failed else "all within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
