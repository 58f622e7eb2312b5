"""``python -m manvatar.compare``: the voxel avatar and 2D models of the same person, side by side."""

from __future__ import annotations

import dataclasses
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from manvatar.avatars import Avatar, dataset_renderer
from manvatar.baselines.faces import FaceError, FaceJudge
from manvatar.baselines.identity_score import IdentityScore
from manvatar.baselines.one_video import MODELS, PortraitAvatar
from manvatar.cli import Output, Positional, run
from manvatar.errors import UserError
from manvatar.files import replacing
from manvatar.mark import draw_text, draw_visible_mark
from manvatar.metrics import LearnedDistance, Scores, nearest_frame_renderer, score, white_composite
from manvatar.ops import keep_freed_memory
from manvatar.preparation import Prepared
from manvatar.reconstruction import Reconstructor
from manvatar.types import Clip, Dataset
from manvatar.video import writer

logger = logging.getLogger(__name__)

METHODS = ("manvatar", *MODELS)
COMPARISON_VERSION = 1
_NEAREST = "nearest_frame"
_TIMED_FRAMES = 8
_FINISHED = "finished.json"

Renderer = Callable[[int], Float[Tensor, "height width 3"]]  # dataset row -> image on white, [0, 1]


@dataclass(frozen=True)
class Row:
    """One method in the table; None for what was not measured or does not apply."""

    method: str
    scores: Scores
    face: FaceError
    frame_ms: float | None = None  # one frame of the size of the dataset
    train_s: float | None = None
    file_bytes: int | None = None

    def table(self) -> dict[str, Any]:
        regions = {name: dataclasses.asdict(getattr(self.scores, name)) for name in ("frame", "head", "mouth", "eyes")}
        face = dataclasses.asdict(self.face)
        return {
            "method": self.method,
            **regions,
            "csim": face.pop("csim"),
            "landmark_error": face,
            "frame_ms": self.frame_ms,
            "train_s": self.train_s,
            "file_bytes": self.file_bytes,
        }


def compare(
    video: Positional[Path],
    out: Output = Path("out/compare"),
    methods: str = ",".join(METHODS),
    face_model: str = "builtin",
    landmarks: str = "auto",
    holdout: float = 0.1,
    start: float = 0.0,
    end: float | None = None,
    size: int | None = None,
    preset: str = "fast",
    portrait_preset: str = "fast",
    lpips_alex: Path | None = None,
    lpips_vgg: Path | None = None,
    csim: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    max_seconds: float | None = None,
    resume: bool = False,
    no_visible_mark: bool = False,
) -> None:
    """Train several methods on one video and compare them on the frames none of them has seen.

    The video is tracked and cut out once. All methods are given the same images, mattes, poses and expressions, and
    the same frames are held out. Writes comparison.md, .json and .mp4, and a folder for each method.

    Args:
        video: a portrait video, as for fit.
        out: folder for the results.
        methods: of manvatar (the voxel avatar), bilayer and fewshot, with commas between them.
        face_model: builtin, or the file or folder of a face model.
        landmarks: auto, face-alignment, or a file of landmarks.
        holdout: last part of the video that is only scored: below 1 a fraction, otherwise a number of frames.
        start: where in the video to begin, seconds.
        end: where to stop, seconds; default: its end.
        size: side of the square images; default: 256.
        preset: of the voxel avatar, as for fit.
        portrait_preset: of the 2D models: fast, or a TOML file of settings.
        lpips_alex: torchvision's AlexNet weights, for LPIPS.
        lpips_vgg: torchvision's VGG-16 weights, for LPIPS.
        csim: weights of the face recognition network IR-SE-50, for the likeness of the person.
        device: where to train.
        seed: of all random numbers.
        max_seconds: training time of each method; default: as for fit.
        resume: go on with an interrupted comparison of the same settings in the same folder.
        no_visible_mark: leave out the small word in the corner of the video's rendered pictures.
    """
    keep_freed_memory()
    names = _methods(methods)
    lpips = _distances(lpips_alex, lpips_vgg)
    identity = None if csim is None else IdentityScore(csim)
    makers = {
        name: Reconstructor(
            preset if name == "manvatar" else portrait_preset,
            face_model,
            landmarks,
            holdout,
            size or 256,
            device,
            seed,
            model=name,
        )
        for name in names
    }
    nothing = f"nothing of {video} is held out, so there is nothing to compare on; give a --holdout above 0"
    if holdout == 0:
        raise UserError(nothing)
    prepared = makers[names[0]].prepare(video, out / "work", start, end, max_seconds, resume)
    if len(prepared.dataset.held_out) == 0:
        raise UserError(nothing)
    trained = {name: _trained(maker, prepared, out / name, max_seconds, resume) for name, maker in makers.items()}
    avatars = {name: avatar for name, (avatar, _) in trained.items()}
    rows = _rows(trained, prepared.dataset, out, lpips, identity)
    write_table(out, rows, prepared.dataset)
    renderers = {name: dataset_renderer(avatar, prepared.dataset) for name, avatar in avatars.items()}
    write_video(out / "comparison.mp4", prepared.dataset, renderers, visible_mark=not no_visible_mark)
    makers[names[0]].finish(out / "work", out)
    print((out / "comparison.md").read_text(), end="")


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in METHODS]:
        raise UserError(f"there is no method {unknown[0]!r}; give some of {', '.join(METHODS)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"--methods {text!r} names no method or one of them twice; give some of {', '.join(METHODS)}")
    return names


def _distances(alex: Path | None, vgg: Path | None) -> tuple[LearnedDistance, ...]:
    named = (("alex", alex), ("vgg", vgg))
    return tuple(LearnedDistance(net, path) for net, path in named if path is not None)


def _trained(
    maker: Reconstructor, prepared: Prepared, folder: Path, max_seconds: float | None, resume: bool
) -> tuple[Avatar, float]:
    """The avatar of one method and the seconds its training took; with ``resume`` one that was finished before."""
    if resume and (before := finished_before(maker, prepared.clip, folder)):
        return before
    logger.info("training %s", maker.model)
    (folder / _FINISHED).unlink(missing_ok=True)
    result = maker.train(prepared, folder, max_seconds, resume, novel=False)
    seconds = float(result.report.facts.train_s)
    with replacing(folder / _FINISHED) as temporary:
        temporary.write_text(json.dumps({"run_id": maker._run_id(prepared.clip), "train_s": seconds}) + "\n")
    return result.avatar, seconds


def finished_before(maker: Reconstructor, clip: Clip, folder: Path) -> tuple[Avatar, float] | None:
    """What an earlier comparison has left in ``folder``, where it is of the same clip and settings."""
    if not (folder / _FINISHED).is_file():
        return None
    said = json.loads((folder / _FINISHED).read_text())
    if said["run_id"] != maker._run_id(clip):
        return None
    kind = Avatar if maker.model == "manvatar" else PortraitAvatar
    return kind.load(folder / "avatar.mav"), said["train_s"]


# ----------------------------------------------------------------------------------------------------------- measures


def _rows(
    trained: dict[str, tuple[Avatar, float]],
    dataset: Dataset,
    folder: Path,
    lpips: tuple[LearnedDistance, ...],
    identity: IdentityScore | None,
) -> list[Row]:
    judge = FaceJudge(dataset, identity=identity)
    rows = []
    for name, (avatar, seconds) in trained.items():
        renderer = remembered(dataset_renderer(avatar, dataset))
        scores = score(dataset, renderer, lpips=lpips, progress=f"score {name}")
        size = (folder / name / "avatar.mav").stat().st_size
        rows.append(Row(name, scores, judge(renderer), frame_ms(avatar, dataset), seconds, size))
    nearest = nearest_frame_renderer(dataset)
    rows.append(Row(_NEAREST, score(dataset, nearest, lpips=lpips), judge(nearest)))
    return rows


def remembered(renderer: Renderer) -> Renderer:
    """Renders each row once; what is kept is as the scores see it, 8 bits deep."""
    kept: dict[int, Tensor] = {}

    def render(row: int) -> Float[Tensor, "height width 3"]:
        if row not in kept:
            kept[row] = (renderer(row).detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        return kept[row].float() / 255

    return render


def frame_ms(avatar: Avatar, dataset: Dataset) -> float:
    """Median time of one frame of the dataset's size; the first is not counted."""
    renderer = dataset_renderer(avatar, dataset)
    rows = dataset.held_out[torch.linspace(0, len(dataset.held_out) - 1, _TIMED_FRAMES).long()].tolist()
    renderer(rows[0])
    times = []
    for row in rows:
        begin = time.perf_counter()
        renderer(row).cpu()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


# ------------------------------------------------------------------------------------------------------------ results


def write_table(folder: Path, rows: Sequence[Row], dataset: Dataset) -> None:
    """``comparison.json``, and ``comparison.md`` for people."""
    content = {
        "version": COMPARISON_VERSION,
        "frames": len(dataset.held_out),
        "size_px": list(dataset.camera.size_px),
        "rows": [row.table() for row in rows],
    }
    with replacing(folder / "comparison.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    with replacing(folder / "comparison.md") as temporary:
        temporary.write_text(markdown(rows))


def markdown(rows: Sequence[Row]) -> str:
    """The table of people: best values are bold; a dash is what was not measured or does not apply."""
    columns: list[tuple[str, Callable[[Row], float | None], str, int]] = [
        ("PSNR dB", lambda r: r.scores.frame.psnr_db, ".2f", 1),
        ("head dB", lambda r: r.scores.head.psnr_db, ".2f", 1),
        ("mouth dB", lambda r: r.scores.mouth.psnr_db, ".2f", 1),
        ("SSIM", lambda r: r.scores.frame.ssim, ".4f", 1),
        ("LPIPS alex", lambda r: r.scores.frame.lpips_alex, ".4f", -1),
        ("LPIPS vgg", lambda r: r.scores.frame.lpips_vgg, ".4f", -1),
        ("CSIM", lambda r: r.face.csim, ".3f", 1),
        ("landmarks px", lambda r: r.face.all_px, ".2f", -1),
        ("lips px", lambda r: r.face.mouth_px, ".2f", -1),
        ("ms a frame", lambda r: r.frame_ms, ".0f", -1),
        ("training s", lambda r: r.train_s, ".0f", 0),
        ("file MB", lambda r: None if r.file_bytes is None else r.file_bytes / 1e6, ".1f", 0),
    ]
    lines = ["| method | " + " | ".join(column[0] for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = []
        for _, value_of, form, better in columns:
            value = value_of(row)
            known = [v for v in map(value_of, rows) if v is not None]
            best = (
                better != 0
                and value is not None
                and len(known) > 1
                and value * better == max(better * v for v in known)
            )
            text = "-" if value is None else format(value, form)
            cells.append(f"**{text}**" if best else text)
        lines.append(f"| {row.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_video(path: Path, dataset: Dataset, renderers: dict[str, Renderer], visible_mark: bool = True) -> None:
    """Truth and every method beside each other, with their names, over the held-out frames.

    Raises:
        UserError: the file cannot be written.
    """
    width, height = dataset.camera.size_px
    with writer(path, dataset.frame_rate_hz, ((1 + len(renderers)) * width, height), synthetic=True) as video:
        for row in tqdm(dataset.held_out.tolist(), desc="video", unit="frame"):
            tiles = [draw_text(_to8(white_composite(dataset.images[row])), f"truth   {int(dataset.clip_frame[row])}")]
            for name, renderer in renderers.items():
                tile = draw_text(_to8(renderer(row)), name)
                tiles.append(draw_visible_mark(tile) if visible_mark else tile)
            video.write(torch.cat(tiles, 1))


def _to8(image: Float[Tensor, "height width 3"]) -> Tensor:
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return run(compare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
