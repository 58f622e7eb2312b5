"""The ONNX file of a person runs in onnxruntime and gives the same frames."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from baselines.bilayer.tiny_model import tiny_inputs, tiny_model

from manvatar.baselines.bilayer.fast import FrameNetwork
from manvatar.baselines.bilayer.onnx_export import OnnxFrames, export_onnx
from manvatar.errors import UserError

_MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
_needs_onnx = pytest.mark.skipif(bool(_MISSING), reason=f"needs {', '.join(_MISSING)}: pip install manvatar[onnx]")


def _network(exportable: bool = True) -> FrameNetwork:
    model = tiny_model()
    photos, stickmen, _ = tiny_inputs()
    with torch.no_grad():
        person = model.person(photos, stickmen)
    return FrameNetwork(model.keypoint_embedder, model.inference_generator, person, exportable)


@_needs_onnx
def test_onnxruntime_gives_the_same_frames(tmp_path: Path) -> None:
    network = _network()
    export_onnx(network, tmp_path / "person.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["person.onnx"]  # one file, weights within
    frames = OnnxFrames(tmp_path / "person.onnx")
    for count in (1, 3):
        keypoints = tiny_inputs(count)[2]
        for got, expected in zip(frames(keypoints), network(keypoints), strict=True):
            assert expected.std() > 0.01
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


@_needs_onnx
def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="cannot run .*no.onnx"):
        OnnxFrames(tmp_path / "no.onnx")


def test_only_exportable_networks_are_written(tmp_path: Path) -> None:
    if {"onnx", "onnxscript"} & set(_MISSING):
        with pytest.raises(UserError, match="pip install manvatar"):
            export_onnx(_network(), tmp_path / "person.onnx")
    else:
        with pytest.raises(ValueError, match="exportable=True"):
            export_onnx(_network(exportable=False), tmp_path / "person.onnx")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx and onnxscript, not installed here"):
        export_onnx(_network(), tmp_path / "person.onnx")
    with pytest.raises(UserError, match="onnxruntime"):
        OnnxFrames(tmp_path / "person.onnx")
