"""``python -m manvatar.bilayer``: photos that speak, with the bi-layer model and its released weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from manvatar.baselines.animation import background_color, driver_track, known_landmarks, pictures, write_pictures
from manvatar.baselines.bilayer.animation import frame_network, person_of
from manvatar.baselines.bilayer.enhancer import STEPS
from manvatar.baselines.bilayer.fast import FrameNetwork, accelerated
from manvatar.baselines.bilayer.model import BilayerConfig, BilayerModel, Person
from manvatar.baselines.bilayer.official import load_official, load_official_discriminator
from manvatar.baselines.bilayer.onnx_export import export_onnx
from manvatar.baselines.bilayer.training import CorpusConfig, CorpusTrainer
from manvatar.baselines.corpus.distributed import joined
from manvatar.baselines.corpus.folders import open_corpus
from manvatar.baselines.corpus.loop import start_or_resume
from manvatar.baselines.corpus.prepare import prepare as prepare_corpus
from manvatar.baselines.losses import perceptual_losses
from manvatar.baselines.photo import Photo, prepare_photo, read_picture
from manvatar.baselines.reenact import driven_keypoints
from manvatar.cli import Output, Positional, run_verb
from manvatar.devices import Device, pick_device
from manvatar.errors import UserError
from manvatar.face_models import load
from manvatar.files import make_folder
from manvatar.types import FaceModel

_MOST_STEPS = 64


def animate(
    photo: Positional[Path],
    drive: Path,
    weights: Path,
    out: Output,
    motion: Literal["relative", "absolute"] = "relative",
    background: str = "white",
    steps: int = STEPS,
    precision: Literal["float32", "bfloat16"] = "float32",
    compile: bool = False,
    face_model: str = "builtin",
    landmarks: str = "auto",
    old_sampling: bool = False,
    no_visible_mark: bool = False,
    device: Device = "auto",
) -> None:
    """Animate a photo with the expression and head motion of a video.

    Only expression and motion pass from the driver; the landmarks are made with the face of the photo.

    Args:
        photo: a picture with one face.
        drive: a video, or a track of one (.safetensors).
        weights: folder with the released checkpoints (2225_*.pth, 1225_texture_enhancer.pth).
        out: the video to write (.mp4, .mov, .mkv).
        motion: relative: the head moves from its place in the photo; absolute: it looks where the driver looks.
        background: white, black, R,G,B from 0 to 255, or painted: what the network shows there.
        steps: updates of the texture; 0 = none.
        precision: of the convolutions of a frame.
        compile: through torch.compile; takes a while to start.
        face_model: builtin, or the file or folder of a face model; that of a driving track.
        landmarks: auto, mediapipe or face-alignment; for the photo and a driving video.
        old_sampling: sample the texture as torch did when the weights were trained (align_corners).
        no_visible_mark: leave out the small word in the corner.
        device: auto takes the GPU where there is one.
    """
    color = background_color(background)
    make_folder(out.parent)  # found out now, not after minutes of work
    target = pick_device(device, native=False)
    model, fitted, shape = _start(photo, weights, face_model, landmarks, steps)
    driver = driver_track(drive, shape, landmarks)
    keypoints = driven_keypoints(fitted, driver, shape, motion)
    person = _person(model.to(target), fitted, steps, old_sampling)
    network = frame_network(model, person, precision, compile, align_corners=old_sampling)
    images = pictures(network, keypoints, color, target)
    write_pictures(out, images, driver.frame_rate_hz, mark=not no_visible_mark)
    print(f"{out}: {len(keypoints)} frames of {model.config.image_size_px} px")


def export(
    photo: Positional[Path],
    weights: Path,
    out: Output,
    steps: int = STEPS,
    face_model: str = "builtin",
    landmarks: str = "auto",
    old_sampling: bool = False,
) -> None:
    """Write the person of a photo as an ONNX graph: keypoints (N, 136) to image and mask.

    Args:
        photo: a picture with one face.
        weights: folder with the released checkpoints.
        out: the file to write (.onnx).
        steps: updates of the texture; 0 = none.
        face_model: builtin, or the file or folder of a face model.
        landmarks: auto, mediapipe or face-alignment.
        old_sampling: as in animate.
    """
    if out.suffix.lower() != ".onnx":
        raise UserError(f"cannot write {out.name}; give a name that ends in .onnx")
    make_folder(out.parent)
    model, fitted, _ = _start(photo, weights, face_model, landmarks, steps)
    person = _person(model, fitted, steps, old_sampling)
    parts = model.keypoint_embedder, model.inference_generator, person
    export_onnx(FrameNetwork(*parts, exportable=True, align_corners=old_sampling), out)
    print(f"{out}: keypoints (N, 136), -1 to 1 over the crop -> image (N, 3, H, W) in [-2, 2], mask (N, 1, H, W)")


def prepare(
    videos: Positional[Path],
    out: Output,
    split: Literal["train", "test"] = "train",
    size: int = 256,
    every: int = 1,
    landmarks: str = "auto",
) -> None:
    """Make or extend a corpus to train on: crops, landmarks and mattes from videos.

    Args:
        videos: a video, or a folder with PERSON/VIDEO/SEQUENCE.mp4, as VoxCeleb2 has it.
        out: the folder of the corpus; videos that are in it already are left as they are.
        split: the part of the corpus.
        size: side of the crops in pixels.
        every: keep every so many frames.
        landmarks: auto, mediapipe or face-alignment.
    """
    if not 16 <= size <= 1024:
        raise UserError(f"--size {size} is out of range; give 16 to 1024 pixels")
    done = prepare_corpus(videos, out, split=split, size_px=size, every=every, landmarks=known_landmarks(landmarks))
    for sentence in done.skipped:
        print(f"left out {sentence}", file=sys.stderr)
    print(f"{out}: {done.videos} videos, {done.frames} frames in {split}")


def train(
    corpus: Positional[Path],
    out: Output,
    size: Literal["small", "medium", "large"] = "medium",
    stage: Literal["base", "enhancer"] = "base",
    init: Path | None = None,
    iterations: int = 100_000,
    people: int = 8,
    learning_rate: float = 2e-4,
    vgg19: Path | None = None,
    vggface: Path | None = None,
    save_every: int = 1000,
    workers: int = 2,
    seed: int = 0,
    resume: bool = False,
    device: Device = "auto",
) -> None:
    """Train the model on a corpus, in one process or, started by torchrun, in many.

    For eight GPUs: torchrun --nproc-per-node 8 -m manvatar.bilayer train CORPUS -o RUN

    Args:
        corpus: folder made by prepare, or in the same layout.
        out: folder for the log, the checkpoint, and the weights in the released layout.
        size: width of the inference generator: small 16, medium 32 (the released one), large 64.
        stage: base: all networks but the enhancer; enhancer: only that, on the weights of --init.
        init: weights to start from: the released ones, or those of another run.
        iterations: updates in all.
        people: in a batch, over all processes; the released model had 40.
        learning_rate: of Adam.
        vgg19: weights of torchvision's VGG-19, for the perceptual loss.
        vggface: weights of the Caffe VGG-16 of faces, for its own.
        save_every: iterations between checkpoints.
        workers: processes that read frames, for each training process.
        seed: of the first weights and of the order of frames.
        resume: go on with the run in the folder.
        device: auto takes the GPU where there is one.
    """
    if min(iterations, people, save_every) < 1 or workers < 0 or not 0 < learning_rate < 1:
        raise UserError("--iterations, --people and --save-every must be positive, --learning-rate between 0 and 1")
    pick_device(device, native=False)
    width = {"small": 16, "medium": 32, "large": 64}[size]
    config = CorpusConfig(
        model=BilayerConfig(width=width, max_width=8 * width),
        stage=stage,
        iterations=iterations,
        people=people,
        learning_rate=learning_rate,
        seed=seed,
        save_every=save_every,
        workers=workers,
    )
    start = None
    if init is not None:
        model = load_official(init, spectral_norm=True)
        start = model, load_official_discriminator(init, model.config)
    with joined(device) as processes:
        perceptual = perceptual_losses(vgg19, vggface)
        trainer = CorpusTrainer(config, open_corpus(corpus), processes, start, perceptual)
        start_or_resume(trainer, out, resume)


def _start(
    photo: Path, weights: Path, face_model: str, landmarks: str, steps: int
) -> tuple[BilayerModel, Photo, FaceModel]:
    """The model, the photo as it takes it, and the face model of photo and driver."""
    if not 0 <= steps <= _MOST_STEPS:
        raise UserError(f"--steps {steps} is out of range; give 0 to {_MOST_STEPS}")
    known_landmarks(landmarks)
    picture = read_picture(photo)
    model = load_official(weights)
    shape = load(face_model)
    return model, prepare_photo(picture, shape, model.config.image_size_px, landmarks), shape


def _person(model: BilayerModel, photo: Photo, steps: int, old_sampling: bool) -> Person:
    if model.texture_enhancer is None and steps:
        print("the weights have no texture enhancer; the texture is as predicted from the photo", file=sys.stderr)
    return person_of(accelerated(model), photo, steps, old_sampling)


VERBS: dict[str, Callable[..., None]] = {
    "animate": animate,
    "export-onnx": export,
    "prepare": prepare,
    "train": train,
}


def main(argv: list[str] | None = None) -> int:
    """The command; its first argument is one of :data:`VERBS`."""
    return run_verb("bilayer", VERBS, argv)


if __name__ == "__main__":
    raise SystemExit(main())
