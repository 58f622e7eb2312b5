"""CSIM: the network's layout, the alignment of faces, weights files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from manvatar.baselines.identity_score import (
    _TEMPLATE_PX,
    FaceEmbedder,
    IdentityScore,
    _similarity,
    aligned_face,
    five_points,
)
from manvatar.errors import UserError


def landmarks(five: Tensor) -> Tensor:
    """68 points with these five."""
    points = torch.zeros(68, 2)
    points[36:42], points[42:48], points[30], points[48], points[54] = five
    return points


def test_the_layout_of_the_network() -> None:
    with torch.device("meta"):
        network = FaceEmbedder()
    state = network.state_dict()
    assert len(network.body) == 24 and sum(p.numel() for p in network.parameters()) == 43_797_696
    assert state["body.3.shortcut_layer.0.weight"].shape == (128, 64, 1, 1)
    assert state["body.23.res_layer.5.fc1.weight"].shape == (32, 512, 1, 1)
    assert state["output_layer.3.weight"].shape == (512, 25088)


def test_a_similarity_is_found_exactly() -> None:
    points = torch.rand(5, 2) * 100
    turn = 1.7 * torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    found = _similarity(points, points @ turn.T + torch.tensor([3.0, -8.0]))
    torch.testing.assert_close(found, torch.cat([turn, torch.tensor([[3.0], [-8.0]])], 1), atol=1e-3, rtol=0)


def test_a_face_comes_to_the_template() -> None:
    """A bright dot at the nose of a turned, larger face lies where the template has the nose."""
    template = torch.tensor(_TEMPLATE_PX)
    turn = 2.0 * torch.tensor([[0.98, -0.199], [0.199, 0.98]])
    five = template @ turn.T + torch.tensor([40.0, 10.0])
    torch.testing.assert_close(five_points(landmarks(five)), five)
    line = torch.arange(300) + 0.5
    dot = (-((line[None] - five[2, 0]) ** 2 + (line[:, None] - five[2, 1]) ** 2) / 30).exp()
    face = aligned_face(dot[..., None].expand(-1, -1, 3), landmarks(five))
    bright = face[0]
    place = torch.arange(112) + 0.5
    center = torch.stack([(bright * place).sum(), (bright * place[:, None]).sum()]) / bright.sum()
    torch.testing.assert_close(center, template[2], atol=0.3, rtol=0)


def test_the_same_face_counts_one(tmp_path: Path) -> None:
    torch.save(FaceEmbedder().state_dict(), tmp_path / "weights.pth")
    score = IdentityScore(tmp_path / "weights.pth")
    one, other = torch.rand(2, 128, 128, 3)
    points = landmarks(torch.tensor(_TEMPLATE_PX) + 8)
    assert score(one, one, points, points) == pytest.approx(1, abs=1e-5)
    assert -1 <= score(one, other, points, points) < 0.99999


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    torch.save({"input_layer.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name, message in (("none.pth", "no such file"), ("other.pth", "cannot be used for CSIM")):
        with pytest.raises(UserError, match=message):
            IdentityScore(tmp_path / name)
