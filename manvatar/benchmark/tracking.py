"""``manvatar benchmark tracking``: how far tracks are off where the truth is known, case by case."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from manvatar.benchmark.track_truth import Errors, Scene, Spoiling, errors, gain, make_truth, observe, openings
from manvatar.cli import run
from manvatar.face_models import load
from manvatar.landmarks import schemes
from manvatar.threads import one_thread
from manvatar.tracking import TrackerConfig, landmarks_px, track
from manvatar.types import FaceModel

RATE_HZ = 25.0
_BIASED = Spoiling(bias=0.025, outliers=0.1)
_STILL = Scene(yaw_sd_deg=0.0, expression_sd=0.0)


@dataclass(frozen=True)
class Case:
    """A scene, what spoils its landmarks, and what it is tracked with."""

    label: str
    scene: Scene = field(default_factory=Scene)
    spoiling: Spoiling = field(default_factory=Spoiling)
    config: TrackerConfig = field(default_factory=TrackerConfig)


CASES = (
    Case("no noise", spoiling=Spoiling(noise_px=0.0)),
    Case("white noise, 1 px"),
    Case("AR(1) noise, 1 px", spoiling=Spoiling(noise_px=0.3, correlated_px=1.0)),
    Case("bias, 2.5 % of the eyes' distance", spoiling=Spoiling(bias=0.025)),
    Case("bias, 10 % outliers", spoiling=_BIASED),
    Case("10 % of the frames lost", spoiling=Spoiling(lost=0.1)),
    Case("half the face hidden, a fifth", spoiling=Spoiling(hidden=0.2)),
    Case("still head", _STILL),
)


def measured(case: Case, truth_model: FaceModel, face_model: FaceModel) -> tuple[Errors, float]:
    """Errors of one case, and milliseconds a frame."""
    truth = make_truth(truth_model, case.scene)
    landmarks = observe(truth, case.spoiling)
    start = time.perf_counter()
    found = track(landmarks, face_model, case.scene.size_px, RATE_HZ, config=case.config)
    took = time.perf_counter() - start
    return errors(found, face_model, truth, landmarks), 1000 * took / case.scene.frames


def gains(truth_model: FaceModel, face_model: FaceModel, scene: Scene, spoiling: Spoiling) -> tuple[float, float]:
    """How much of blinks and of an opening mouth a track keeps: slopes of lid and lip openings over the true ones."""
    truth = make_truth(truth_model, scene)
    found = track(observe(truth, spoiling), face_model, scene.size_px, RATE_HZ)
    points = landmarks_px(found, face_model)
    pairs = schemes.MEDIAPIPE_EYELID_PAIRS, schemes.MEDIAPIPE_LIP_PAIRS
    lids, lips = (gain(openings(points, some), openings(truth.points_px, some)) for some in pairs)
    return lids, lips


def lines(truth_model: FaceModel, face_model: FaceModel) -> Iterator[str]:
    """The table, a line at a time."""
    yield f"truth {truth_model.id}, tracked with {face_model.id}"
    yield (
        f"{'':34} {'rotation':>8} {'gauge':>6} {'p95':>6} {'x, y':>6} {'depth':>6} {'points':>6} {'shape':>6} "
        f"{'expr.':>6} {'gauge':>6} {'jitter':>7} {'lost':>4} {'ms':>5}"
    )
    for case in CASES:
        e, ms = measured(case, truth_model, face_model)
        moves = case.scene.expression_sd > 0
        expression = f"{e.expression:6.0%} {e.expression_gauge:6.0%}" if moves else f"{'-':>6} {'-':>6}"
        yield (
            f"{case.label:34} {e.rotation_deg:8.2f} {e.rotation_gauge_deg:6.2f} {e.rotation_p95_deg:6.2f} "
            f"{e.shift_mm:6.2f} {e.depth:6.2%} {e.reprojection_px:6.2f} {e.identity_mm:6.2f} "
            f"{expression} {e.jitter_deg:7.3f} {e.lost:4} {ms:5.1f}"
        )
    if any(name.startswith("eyeBlink") for name in truth_model.expression_names):
        scene = Scene(yaw_sd_deg=0.0, blinks=True)
        lids, lips = gains(truth_model, face_model, scene, Spoiling(noise_px=0.5))
        yield f"{'blinks and an opening mouth':34} gain of the lids {lids:.2f}, of the lips {lips:.2f}"


def table(model: Path | None = None) -> None:
    """Track heads whose motion, shape and camera are known, and print how far the tracks are off.

    Degrees, millimetres, pixels. "gauge": after the best constant rotation of the head frame, or without the clip's
    mean displacement, which only a prior tells from the shape of the face. "depth" is after the best constant factor.
    "points" are true landmarks, not the noisy ones that were fitted.

    Args:
        model: a face model file whose faces are tracked with itself, then with the builtin head; default: builtin
            faces, tracked with the builtin head.
    """
    builtin = load("builtin")
    other = builtin if model is None else load(str(model))
    with one_thread():
        for face_model in (other,) if model is None else (other, builtin):
            for line in lines(other, face_model):
                print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
