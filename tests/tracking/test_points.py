"""Which landmarks are fitted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manvatar.landmarks import schemes
from manvatar.tracking.points import fit_points
from manvatar.types import FaceModel


def test_subset_of_68(builtin: FaceModel) -> None:
    points = fit_points(builtin, "ibug68")
    assert set(range(17, 68)) <= set(points.index.tolist())
    assert not set(range(6)) & set(points.index.tolist())  # the jaw line is an outline
    assert points.index[points.pairs].tolist()[0] == [37, 41]
    assert float(points.weight.min()) > 0 and float(points.weight.max()) <= 1
    assert bool((points.most >= points.weight).all()) and float(points.most.max()) <= 1
    chin = points.index < 17  # slides, however much its errors are its own
    assert torch.equal(points.most[chin], points.weight[chin])


def test_left_out_points_and_their_pairs_are_dropped(builtin: FaceModel) -> None:
    whole, part = fit_points(builtin, "ibug68"), fit_points(builtin, "ibug68", (37, 62))
    assert len(part.index) == len(whole.index) - 2
    assert len(part.pairs) == len(whole.pairs) - 2
    assert not {37, 62} & set(part.index.tolist())
    kept = {tuple(pair) for pair in whole.index[whole.pairs].tolist()} - {(37, 41), (62, 66)}
    assert {tuple(pair) for pair in part.index[part.pairs].tolist()} == kept


def test_points_on_plain_skin_join_only_when_asked(builtin: FaceModel) -> None:
    without, with_skin = (fit_points(builtin, "mediapipe478", skin_weight=weight) for weight in (0.0, 0.3))
    added = set(with_skin.index.tolist()) - set(without.index.tolist())
    assert len(added) == 120 and not added & set(schemes.MEDIAPIPE_OVAL)
    weight = dict(zip(with_skin.index.tolist(), with_skin.weight.tolist(), strict=True))
    assert {weight[k] for k in added} == {0.3}
    before = dict(zip(without.index.tolist(), without.weight.tolist(), strict=True))
    assert all(weight[k] == before[k] for k in before)
    assert torch.equal(with_skin.index[with_skin.pairs], without.index[without.pairs])


def test_a_model_without_enough_points_is_refused(builtin: FaceModel) -> None:
    embedding = builtin.embedding("ibug68")
    weight = torch.zeros(68)
    weight[30:34] = 1
    poor = replace(builtin, embeddings=(replace(embedding, weight=weight),))
    with pytest.raises(ValueError, match="4 usable ibug68 points"):
        fit_points(poor, "ibug68")
