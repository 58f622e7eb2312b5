"""Which landmarks are fitted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manvatar.tracking.points import fit_points
from manvatar.types import FaceModel


def test_subset_of_68(builtin: FaceModel) -> None:
    points = fit_points(builtin, "ibug68")
    assert set(range(17, 68)) <= set(points.index.tolist())
    assert not set(range(6)) & set(points.index.tolist())  # the jaw line is an outline
    assert points.index[points.pairs].tolist()[0] == [37, 41]
    assert float(points.weight.min()) > 0 and float(points.weight.max()) <= 1


def test_left_out_points_and_their_pairs_are_dropped(builtin: FaceModel) -> None:
    whole, part = fit_points(builtin, "ibug68"), fit_points(builtin, "ibug68", (37, 62))
    assert len(part.index) == len(whole.index) - 2
    assert len(part.pairs) == len(whole.pairs) - 2
    assert not {37, 62} & set(part.index.tolist())
    kept = {tuple(pair) for pair in whole.index[whole.pairs].tolist()} - {(37, 41), (62, 66)}
    assert {tuple(pair) for pair in part.index[part.pairs].tolist()} == kept


def test_a_model_without_enough_points_is_refused(builtin: FaceModel) -> None:
    embedding = builtin.embedding("ibug68")
    weight = torch.zeros(68)
    weight[30:34] = 1
    poor = replace(builtin, embeddings=(replace(embedding, weight=weight),))
    with pytest.raises(ValueError, match="4 usable ibug68 points"):
        fit_points(poor, "ibug68")
