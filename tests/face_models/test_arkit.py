"""ARKit's blendshapes in coefficients: against named truth, a head whose modes were mixed, and back again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from manvatar.face_models import arkit, builtin, load
from manvatar.face_models.arkit import ARKIT_NAMES
from manvatar.types import ArkitMap, FaceModel

LIKE_THEIRS = ("jawOpen", "jawLeft", "mouthSmileLeft", "mouthStretchRight", "eyeBlinkLeft", "browOuterUpRight")


def test_the_names_are_apples() -> None:
    assert len(ARKIT_NAMES) == len(set(ARKIT_NAMES)) == 52
    assert set(arkit.NAMED) <= set(ARKIT_NAMES)
    modes = set(builtin.load().expression_names)
    assert all(set(row) <= modes for row in arkit.NAMED.values())


def test_every_mode_of_the_builtin_head_can_be_reached() -> None:
    table = arkit.arkit_map(load("builtin"))
    assert table.source == "named"
    assert bool((table.coefficients != 0).any(0).all())
    nothing = {name for name, part in zip(ARKIT_NAMES, table.residual.tolist(), strict=True) if part == 1}
    assert nothing == {"tongueOut"} | {f"eyeLook{way}{side}" for way in ("In", "Out") for side in ("Left", "Right")}


def _mixed() -> FaceModel:
    """The builtin head with modes that have no names: mixed by an orthogonal matrix, larger, and in another place."""
    head = builtin.load()
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    modes = torch.einsum("ab,bvc->avc", turn, head.expression_basis_m)
    names = tuple(f"mixed_{k:02d}" for k in range(32))
    bigger = {"mean_m": 1.1 * head.mean_m + 0.01, "expression_basis_m": 1.1 * modes}
    return replace(head, id="mixed", expression_names=names, **bigger)


def test_a_fitted_map_finds_modes_without_names() -> None:
    head, mixed = builtin.load(), _mixed()
    found = arkit.arkit_map(mixed)
    assert found.source == "fitted"
    shown = found.coefficients @ mixed.expression_basis_m.flatten(1)
    wanted = 1.1 * arkit.arkit_map(head).coefficients @ head.expression_basis_m.flatten(1)
    moving = wanted.norm(dim=1) > 0
    error = ((shown - wanted).norm(dim=1) / wanted.norm(dim=1))[moving]
    assert float(error.median()) < 0.02 and float(error.max()) < 0.25
    assert float(found.residual[moving].max()) < 0.1


@pytest.fixture(scope="module")
def ict(shared_data: Path) -> FaceModel:
    return load(shared_data / "face_models" / "ict_facekit_light.npz")


def test_the_named_map_shows_icts_own_blendshapes(ict: FaceModel, shared_data: Path) -> None:
    data = np.load(shared_data / "face_models" / "ict_facekit_light.npz")
    true = torch.from_numpy(0.01 * data["expression"][data["names"].tolist().index("jawOpen")])
    shown = torch.einsum(
        "e,evc->vc", arkit.arkit_map(ict).coefficients[ARKIT_NAMES.index("jawOpen")], ict.expression_basis_m
    )
    face = slice(0, 9409)
    assert float((shown - true)[face].norm() / true[face].norm()) < 0.02
    assert float(arkit.arkit_map(ict).residual[ARKIT_NAMES.index("tongueOut")]) == 1


def test_the_fitted_map_against_the_names(ict: FaceModel) -> None:
    modes = ict.expression_basis_m[:, :9409].flatten(1)
    named, fitted = (m.coefficients @ modes for m in (arkit.arkit_map(ict), arkit.fitted_map(ict)))
    there = named.norm(dim=1) > 1e-6
    cosine = torch.nn.functional.cosine_similarity(named, fitted, dim=1)
    size = fitted.norm(dim=1) / named.norm(dim=1).clamp_min(1e-9)
    assert float(cosine[there].median()) > 0.8
    rows = [ARKIT_NAMES.index(name) for name in LIKE_THEIRS]
    assert float(cosine[rows].min()) > 0.85
    assert 0.4 < float(size[rows].min()) and float(size[rows].max()) < 1.3
    # Each is more like its own blendshape than like any other on the same side, but for a few lips.
    likeness = torch.nn.functional.normalize(fitted[rows], dim=1) @ torch.nn.functional.normalize(named, dim=1).T
    assert likeness.argmax(1).tolist() == rows


@pytest.mark.parametrize("which", ["builtin", "ict"])
def test_there_and_back(which: str, request: pytest.FixtureRequest) -> None:
    model = load("builtin") if which == "builtin" else request.getfixturevalue("ict")
    found: ArkitMap = arkit.arkit_map(model)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(20, 52, generator=generator) * (torch.rand(20, 52, generator=generator) < 0.12)
    expression = weights @ found.coefficients
    back = arkit.weights_of(expression, model, found)
    assert float(back.min()) >= 0 and float(back.max()) <= 1
    assert arkit.unexplained(back, expression, model, found) < 0.05
    linear = expression @ arkit.linear_weights(model, found)
    assert arkit.unexplained(linear, expression, model, found) < 0.02


def test_single_activations_come_back() -> None:
    model = load("builtin")
    found = arkit.arkit_map(model)
    for name in ("jawRight", "jawLeft", "eyeBlinkLeft", "mouthSmileRight", "browInnerUp"):
        weights = torch.zeros(1, 52)
        weights[0, ARKIT_NAMES.index(name)] = 0.7
        back = arkit.weights_of(weights @ found.coefficients, model, found)
        assert (back - weights).abs().max() < 0.02


def test_lids_and_gaze_follow_by_name() -> None:
    names = (*builtin.load().expression_names, "eyelidLeft", "eyelidRight", "gazeYaw", "gazePitch")
    table = arkit.builtin_table(names)
    both = table[ARKIT_NAMES.index("eyeLookOutLeft")] + table[ARKIT_NAMES.index("eyeLookInRight")]
    assert float(both[names.index("gazeYaw")]) == pytest.approx(arkit.LOOK_RAD / 0.15)
    assert float(table[ARKIT_NAMES.index("eyeBlinkRight"), names.index("eyelidRight")]) == 2
    assert float(table[ARKIT_NAMES.index("eyeLookUpLeft"), names.index("gazePitch")]) > 0
    own = arkit.coefficient_table(arkit.arkit_map(builtin.load()), names, builtin.load().expression_names)
    assert torch.allclose(own, table)
