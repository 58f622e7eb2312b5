"""``python -m manvatar.fewshot``: the few-shot model: trained on many people, made one person's by a few pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from manvatar.baselines.animation import driver_track, known_landmarks, pictures, write_pictures
from manvatar.baselines.corpus.distributed import joined
from manvatar.baselines.corpus.folders import open_corpus
from manvatar.baselines.corpus.loop import start_or_resume
from manvatar.baselines.fewshot.meta import MetaConfig
from manvatar.baselines.fewshot.person import FewShotPerson, fine_tuned, pictures_of, prepared
from manvatar.baselines.fewshot.training import FewShotConfig, FewShotRunConfig, FewShotTrainer, load_weights
from manvatar.baselines.losses import perceptual_losses
from manvatar.baselines.reenact import driven_keypoints
from manvatar.cli import Output, Positional, run_verb
from manvatar.devices import Device, pick_device
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.files import make_folder

_WIDTHS = {"small": 32, "large": 64}
_VGG = {"vgg19_weight": MetaConfig.vgg19, "vggface_weight": MetaConfig.vggface}


def train(
    corpus: Positional[Path],
    out: Output,
    size: Literal["small", "large"] = "large",
    frames: int = 8,
    iterations: int = 100_000,
    people: int = 4,
    learning_rate: float = MetaConfig.rate,
    vgg19: Path | None = None,
    vggface: Path | None = None,
    save_every: int = 1000,
    workers: int = 2,
    seed: int = 0,
    resume: bool = False,
    device: Device = "auto",
) -> None:
    """Meta-train the model on a corpus, in one process or, started by torchrun, in many.

    For eight GPUs: torchrun --nproc-per-node 8 -m manvatar.fewshot train CORPUS -o RUN --people 32

    Args:
        corpus: folder made by manvatar bilayer prepare, or in the same layout.
        out: folder for the log, the checkpoint and the weights.
        size: large: the widths of the paper; small: half of them.
        frames: of each person, that an episode learns from.
        iterations: episodes in all.
        people: in an episode, over all processes.
        learning_rate: of embedder and generator; the discriminator's is four times as high.
        vgg19: weights of torchvision's VGG-19, for the perceptual loss.
        vggface: weights of the Caffe VGG-16 of faces, for its own.
        save_every: iterations between checkpoints.
        workers: processes that read frames, for each training process.
        seed: of the first weights and of the order of frames.
        resume: go on with the run in the folder.
        device: auto takes the GPU where there is one.
    """
    if min(frames, iterations, people, save_every) < 1 or workers < 0 or not 0 < learning_rate < 1:
        raise UserError(
            "--frames, --iterations, --people and --save-every must be positive, --learning-rate between 0 and 1"
        )
    pick_device(device, native=False)
    config = FewShotRunConfig(
        model=FewShotConfig(_WIDTHS[size], 8 * _WIDTHS[size]),
        meta=MetaConfig(rate=learning_rate, discriminator_rate=4 * learning_rate),
        frames=frames,
        iterations=iterations,
        people=people,
        seed=seed,
        save_every=save_every,
        workers=workers,
    )
    with joined(device) as processes:
        perceptual = perceptual_losses(vgg19, vggface, **_VGG)
        start_or_resume(FewShotTrainer(config, open_corpus(corpus), processes, perceptual), out, resume)


def finetune(
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional],
    weights: Path,
    out: Output,
    frames: int = 8,
    iterations: int = 320,
    learning_rate: float = MetaConfig.rate,
    vgg19: Path | None = None,
    vggface: Path | None = None,
    face_model: str = "builtin",
    landmarks: str = "auto",
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Make trained weights one person's, by one picture of them or more.

    Args:
        photos: pictures with one face each, folders of such, or videos. The first sets where the head is.
        weights: folder of a run, or its weights.safetensors.
        out: folder for the person.
        frames: that are taken from each video.
        iterations: each sees one picture. Too few, and it is somebody else; too many, and the face grows stiff.
        learning_rate: of the generator; the discriminator's is four times as high.
        vgg19: as in train.
        vggface: as in train.
        face_model: builtin, or the file or folder of a face model.
        landmarks: auto, mediapipe or face-alignment.
        seed: of the order of pictures.
        device: auto takes the GPU where there is one.
    """
    if frames < 1 or iterations < 0 or not 0 < learning_rate < 1:
        raise UserError("--frames must be positive, --iterations not negative, --learning-rate between 0 and 1")
    known_landmarks(landmarks)
    make_folder(out)  # found out now, not after minutes of work
    target = pick_device(device, native=False)
    loaded = load_weights(weights)
    found, reasons = prepared(pictures_of(photos, frames), load(face_model), loaded[0].image_size_px, landmarks)
    for reason in reasons:
        print(f"left out {reason}", file=sys.stderr)
    perceptual = perceptual_losses(vgg19, vggface, **_VGG)
    for term in perceptual:
        term.loss.to(target)
    meta = MetaConfig(rate=learning_rate, discriminator_rate=4 * learning_rate)
    content = []
    with tqdm(total=iterations, desc="fine-tuning", unit="it") as bar:

        def after_iteration(terms: dict) -> None:
            content.append(float(terms["content"]))
            bar.update()

        person = fine_tuned(found, loaded, iterations, meta, perceptual, seed, target, after_iteration)
    person.save(out)
    tenth = max(1, len(content) // 10)
    first, last = (sum(part) / len(part) if part else float("nan") for part in (content[:tenth], content[-tenth:]))
    print(f"{out}: {len(found)} pictures, content loss {first:.3f} -> {last:.3f}")


def animate(
    person: Positional[Path],
    drive: Path,
    out: Output,
    motion: Literal["relative", "absolute"] = "relative",
    face_model: str = "builtin",
    landmarks: str = "auto",
    no_visible_mark: bool = False,
    device: Device = "auto",
) -> None:
    """Animate a fine-tuned person with the expression and head motion of a video.

    Only expression and motion pass from the driver; the landmarks are made with the face of the person.

    Args:
        person: folder that finetune made.
        drive: a video, or a track of one (.safetensors).
        out: the video to write (.mp4, .mov, .mkv).
        motion: relative: the head moves from its place in the first picture; absolute: it looks where the driver looks.
        face_model: builtin, or the file or folder of a face model; that of finetune and of a driving track.
        landmarks: auto, mediapipe or face-alignment; for a driving video.
        no_visible_mark: leave out the small word in the corner.
        device: auto takes the GPU where there is one.
    """
    known_landmarks(landmarks)
    make_folder(out.parent)
    target = pick_device(device, native=False)
    who, shape = FewShotPerson.load(person), load(face_model)
    driver = driver_track(drive, shape, landmarks)
    keypoints = driven_keypoints(who, driver, shape, motion)
    who.head.to(target)
    images = pictures(who.network(), keypoints, None, target)
    write_pictures(out, images, driver.frame_rate_hz, mark=not no_visible_mark)
    print(f"{out}: {len(keypoints)} frames of {who.config.image_size_px} px")


VERBS: dict[str, Callable[..., None]] = {"train": train, "finetune": finetune, "animate": animate}


def main(argv: list[str] | None = None) -> int:
    """The command; its first argument is one of :data:`VERBS`."""
    return run_verb("fewshot", VERBS, argv)


if __name__ == "__main__":
    raise SystemExit(main())
