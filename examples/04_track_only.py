"""Track a face without making an avatar: camera, head pose and expression for each frame, as a table and a picture.

    python examples/04_track_only.py video.mp4 --out tracked

The table (CSV) has one row a frame; it also drives avatars: ``python -m manvatar.render AVATAR --coefficients FILE``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw

from manvatar.face_models import load
from manvatar.files import make_folder
from manvatar.geometry import mean_pose, vector_from_rotation
from manvatar.tracking import save_track, track_clip
from manvatar.video import open_clip

COLORS = ("#d62728", "#2ca02c", "#1f77b4", "#9467bd", "#ff7f0e", "#8c564b")


def plot(path: Path, curves: dict[str, np.ndarray], size_px: tuple[int, int] = (900, 360)) -> None:
    """Draw each curve, scaled to the height of the picture, in its own colour."""
    picture = Image.new("RGB", size_px, "white")
    draw = ImageDraw.Draw(picture)
    for index, (name, values) in enumerate(curves.items()):
        x = np.linspace(10, size_px[0] - 10, len(values))
        unit = (values - values.min()) / max(np.ptp(values), 1e-9)
        draw.line([*zip(x, size_px[1] - 10 - unit * (size_px[1] - 40), strict=True)], COLORS[index % len(COLORS)], 2)
        label = f"{name} {values.min():.1f}..{values.max():.1f}"
        draw.text((10 + 145 * index, 6), label, COLORS[index % len(COLORS)])
    picture.save(path)


def main(video: tyro.conf.Positional[Path], out: Path = Path("tracked")) -> None:
    """Args: ``out`` is a folder."""
    clip = open_clip(video)
    track = track_clip(clip, load("builtin")).track
    save_track(track, make_folder(out) / "track.safetensors")

    header = ",".join(track.expression_names)
    np.savetxt(out / "expressions.csv", track.expression.numpy(), "%.4f", ",", header=header, comments="")

    straight = mean_pose(track.cam_from_head)[:3, :3].float()
    turn = torch.rad2deg(vector_from_rotation(straight.T @ track.cam_from_head[:, :3, :3])).numpy()
    curves = {"pitch (deg)": turn[:, 0], "yaw (deg)": turn[:, 1], "roll (deg)": turn[:, 2]}
    curves |= {n: track.expression[:, track.expression_names.index(n)].numpy() for n in ("jawOpen", "eyeBlinkLeft")}
    plot(out / "curves.png", curves)
    print(f"{out}: {int(track.valid.sum())} of {track.frame_count} frames, {float(track.residual_px.median()):.2f} px")


if __name__ == "__main__":
    tyro.cli(main)
