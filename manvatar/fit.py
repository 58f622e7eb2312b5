"""``python -m manvatar.fit``: make an avatar from a video."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from manvatar.cli import Output, Positional, run
from manvatar.ops import keep_freed_memory
from manvatar.reconstruction import Reconstructor


def fit(
    video: Positional[Path],
    out: Output = Path("out/avatar"),
    preset: str = "fast",
    face_model: str = "builtin",
    landmarks: str = "auto",
    holdout: float = 0.1,
    holdout_kind: Literal["tail", "extreme"] = "tail",
    start: float = 0.0,
    end: float | None = None,
    size: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    mlp_backend: Literal["auto", "native", "native-bf16", "native-bf16x2", "native-bf16x3", "torch", "tinycudann"]
    | None = None,
    model: Literal["manvatar", "bilayer", "fewshot"] = "manvatar",
    max_seconds: float | None = None,
    no_eye_channels: bool = False,
    resume: bool = False,
) -> None:
    """Make an avatar from a video: track, train, score on held-out frames, show.

    Args:
        video: a portrait video; one person's face should be visible in most of it. Or a dataset folder of AvatarMAV.
        out: folder for avatar.mav, scores.json, preview.mp4, contact.png, novel.mp4, track.safetensors and
            track_report.png, which shows whether to trust the track.
        preset: fast, paper, or a TOML file of settings; a 2D model has fast and its own TOML files.
        face_model: builtin, or the file or folder of a face model.
        landmarks: auto, face-alignment, the folder of OpenSeeFace's networks, or a file of landmarks.
        holdout: last part of the video that is only scored: below 1 a fraction, otherwise a number of frames.
        holdout_kind: tail, or extreme: the frames in which the head is turned furthest, instead of the last ones.
        start: where in the video to begin, seconds.
        end: where to stop, seconds; default: its end.
        size: side of the square training images in pixels; default: the preset's.
        device: where to train.
        seed: of all random numbers.
        mlp_backend: what computes the small networks; default: the preset's; that of fast is auto, which
            multiplies in bfloat16 where the processor has a matrix unit.
        model: manvatar is the voxel avatar; bilayer and fewshot are 2D models to compare it with.
        max_seconds: end training after so many seconds; default for a 2D model: 600.
        no_eye_channels: leave out the coefficients for lids and gaze that follow those of the face model.
        resume: go on with an interrupted run of the same settings in the same folder.
    """
    keep_freed_memory()
    reconstructor = Reconstructor(
        preset,
        face_model,
        landmarks,
        holdout,
        size,
        device,
        seed,
        mlp_backend,
        model,
        not no_eye_channels,
        holdout_kind,
    )
    result = reconstructor.run(video, out, start, end, max_seconds, resume)
    print(f"{out / 'avatar.mav'}: {result.report.summary() if result.report else 'nothing held out to score'}")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(fit, argv)


if __name__ == "__main__":
    raise SystemExit(main())
