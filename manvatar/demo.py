"""``python -m manvatar.demo``: make the synthetic demo clip."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from manvatar.cli import Output, run
from manvatar.synthesis import make_clip
from manvatar.tracking import save_track


def demo(
    out: Output,
    truth: Path | None = None,
    frames: int = 250,
    size: int = 512,
    rate: float = 25.0,
    seed: int = 5,
) -> None:
    """Make a clip of a person who does not exist, talking to the camera.

    Everything is made on the fly by this program: no footage, no photograph, no network. The last tenth of the frames
    stays within the poses and expressions of the others.

    Args:
        out: the video to write: .mp4, .mov or .mkv.
        truth: also write the true camera, poses and expressions, as a track like those of ``manvatar track``.
        frames: how many.
        size: side of the square picture, pixels.
        rate: frames a second.
        seed: picks the person, the room and the motion.
    """
    with tqdm(total=frames, desc="demo clip", unit="frame") as bar:
        track = make_clip(
            out,
            frames=frames,
            size_px=size,
            frame_rate_hz=rate,
            seed=seed,
            progress=lambda done: bar.update(done - bar.n),
        )
    if truth is not None:
        save_track(track, truth)


def main(argv: list[str] | None = None) -> int:
    return run(demo, argv)


if __name__ == "__main__":
    raise SystemExit(main())
