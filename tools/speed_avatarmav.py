"""How much faster than AvatarMAV's released code: both run in turns on this machine.

    python tools/speed_avatarmav.py FOLDER DATASET [--iterations 300] [--avatar avatar.mav] [--threads N] [--json FILE]

FOLDER is a checkout of github.com/YuelangX/AvatarMAV, kept outside this repository (see tools/parity_avatarmav.py).
DATASET is the folder of a dataset in their layout: ``python -m manvatar.export video.mp4 --what dataset`` writes one.
An iteration is theirs in full: 4096 rays of a 256 px image with 64 samples each, forward, backward, Adam.
Ours is the same with the preset ``paper``, in float32 and, where there is a matrix unit, with each factor of the
products of a network cut into two bfloat16 numbers (16 bits) or rounded to one (8 bits); and with ``paper_skipping``
after it has been trained for --iterations. A frame is 256 x 256.
Both sides run with what our commands ask of glibc, to keep freed memory, unless --as-released is given.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import parity_avatarmav as parity_tool  # noqa: E402  puts the repository and its tests on the path
from exporting import parity  # noqa: E402
from tqdm import tqdm  # noqa: E402

from manvatar import load  # noqa: E402
from manvatar.exporting.avatarmav import folder_config, read_folder  # noqa: E402
from manvatar.fields import make_field  # noqa: E402
from manvatar.ops import keep_freed_memory, mlp_has_bfloat16  # noqa: E402
from manvatar.training import Trainer, load_preset  # noqa: E402
from manvatar.types import Dataset  # noqa: E402


def their_iteration(image_px: int) -> Callable[[], None]:
    """One step of their training loop on a picture of random colours: its cost does not depend on what it shows."""
    torch.manual_seed(0)
    weights = {name: value.float() for name, value in parity.start(parity.CONFIG, 5).items()}
    head, camera = parity_tool.theirs(parity.CONFIG, weights, 4096)
    frame = parity_tool.frame_data(parity.case(5), torch.float32)
    image = parity.picture(image_px, 5).float()[None]
    grids = [head.feature_volume, head.deform_bs_volume, head.deform_mean_volume]
    networks = [p for name, p in head.named_parameters() if "linear" in name]
    optimizer = torch.optim.Adam([{"params": grids, "lr": 1e-2}, {"params": networks, "lr": 1e-3}])

    def step() -> None:
        data = camera(dict(frame), image_px)
        loss = (data["render_image"] - image * data["render_select"]).abs().mean()
        loss = loss + 1e-3 * torch.norm(data["offset"], dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def their_frame(image_px: int) -> Callable[[], None]:
    weights = {k: v.float() for k, v in parity.weights(parity.CONFIG, 5).items()}
    _, camera = parity_tool.theirs(parity.CONFIG, weights, 4096)
    frame = parity_tool.frame_data(parity.case(5), torch.float32)

    def draw() -> None:
        with torch.no_grad():
            camera.eval().render(dict(frame), image_px)

    return draw


def our_trainer(preset_name: str, dataset: Dataset, folder: Path) -> Trainer:
    preset = load_preset(preset_name)
    torch.manual_seed(0)
    config = dataclasses.asdict(folder_config(folder, preset.field))
    field = make_field(preset.field_name, config, dataset.bounds, dataset.expression.shape[1])
    return Trainer(dataset, field, dataclasses.replace(preset.training, half_size_iterations=0), 0)


def iterate(trainer: Trainer, mlp_backend: str) -> None:
    trainer.field.mlp_backend = mlp_backend
    trainer.step(0.0)


def in_turns(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one run that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in tqdm(range(rounds + 1), desc="rounds"):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--avatar", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as-released", action="store_true", help="glibc keeps no freed memory, on either side")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.as_released:
        keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    parity_tool.use(arguments.folder)
    with tempfile.TemporaryDirectory() as work:
        dataset = read_folder(arguments.dataset, Path(work), "speed", 0.1)
        skipping = our_trainer("paper_skipping", dataset, arguments.dataset)
        for _ in tqdm(range(arguments.iterations), desc="train with skipping"):
            skipping.step(0.0)
        plain = our_trainer("paper", dataset, arguments.dataset)
        side = dataset.camera.size_px[0]
        calls = {"their iteration": their_iteration(side)}
        for name in ["native", *(["native-bf16x2", "native-bf16"] if mlp_has_bfloat16() else [])]:
            calls[f"our iteration, {name}"] = partial(iterate, plain, name)
        calls |= {"our iteration, skipping": lambda: skipping.step(0.0), "their frame, 256 px": their_frame(256)}
        if arguments.avatar:
            avatar = load(str(arguments.avatar), "cpu")
            neutral = torch.zeros(len(avatar.expression_names))
            calls["our frame, 256 px"] = lambda: avatar.render(neutral, size_px=256)
        seconds = in_turns(calls, arguments.rounds)
    for name, value in seconds.items():
        theirs = seconds["their iteration" if "iteration" in name else "their frame, 256 px"]
        print(f"{name:32} {value * 1e3:9.1f} ms  {theirs / value:7.1f}x")
    print(f"running mean of training rays after {arguments.iterations} iterations: {skipping.progress.psnr_db:.2f} dB")
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
