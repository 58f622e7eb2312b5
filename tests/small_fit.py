"""The whole way from a video to an avatar, made once for all tests that want to look at what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from manvatar.errors import UserError
from manvatar.fit import main
from manvatar.models import ensure
from manvatar.synthesis import make_clip
from manvatar.types import Track

ITERATIONS = 200
PRESET = f"""
[field]
motion_voxel_m = 0.04
canonical_voxels_m = [0.02, 0.01, 0.006]
canonical_features = [4, 4, 4]
hidden = 16

[training]
iterations = {ITERATIONS}
rays_per_iteration = 1024
frames_per_iteration = 4
warmup_iterations = 20
motion_delay_iterations = 40
coarse_step_m = 0.01
coarse_iterations = 50
occupancy_cell_m = 0.01

[training.march]
step_m = 0.006
"""


@dataclass(frozen=True)
class SmallFit:
    """A clip of 24 frames, 160 pixels large, and the folder that the command has filled from it."""

    video: Path
    truth: Track
    preset: Path
    out: Path

    def arguments(self, out: Path, *more: str) -> list[str]:
        """What is typed after ``manvatar fit`` to do it again into another folder."""
        settings = ["--preset", str(self.preset), "--size", "64", "--holdout", "3"]
        device = [] if "--device" in more else ["--device", "cpu"]  # on a GPU nothing repeats bit for bit
        return [str(self.video), "-o", str(out), *settings, *device, *more]


def make_small_fit(folder: Path) -> SmallFit:
    """Skips the test where the landmark and matte models are not there."""
    try:
        ensure("selfie_segmentation")  # and, with it, all others
    except UserError as error:
        pytest.skip(f"needs the landmark and matte models: {error}")
    preset = folder / "small.toml"
    preset.write_text(PRESET)
    truth = make_clip(folder / "clip.mp4", frames=24, size_px=160, frame_rate_hz=5.0)
    made = SmallFit(folder / "clip.mp4", truth, preset, folder / "out")
    assert main(made.arguments(made.out)) == 0
    return made
