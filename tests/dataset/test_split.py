"""Which frames are trained on."""

from __future__ import annotations

import pytest
import torch

from manvatar.dataset import tail_length
from manvatar.dataset.split import split_extreme, split_tail
from manvatar.errors import UserError
from manvatar.geometry import rigid, rotation_from_vector

ALL, NONE = torch.ones(30, dtype=torch.bool), torch.zeros(30, dtype=torch.bool)


def rows(*chosen: int) -> torch.Tensor:
    return NONE.index_fill(0, torch.tensor(chosen), True)


@pytest.mark.parametrize(
    ("holdout", "held_out"), [(0.1, 3), (0.0, 0), (0.5, 15), (1.0, 1), (7.0, 7), (7.9, 7), (0.02, 1), (0.01, 0)]
)
def test_the_end_is_held_out(holdout: float, held_out: int) -> None:
    train, tail = split_tail(ALL, NONE, holdout)
    assert train.tolist() == list(range(30 - held_out)) and tail.tolist() == list(range(30 - held_out, 30))
    assert tail_length(30, holdout) == held_out


def test_failed_frames_are_in_neither() -> None:
    train, held_out = split_tail(~rows(3, 4, 28), NONE, 0.1)
    assert train.tolist() == [*range(3), *range(5, 27)] and held_out.tolist() == [27, 29]


def test_repeated_frames_are_trained_on_once_and_still_scored() -> None:
    train, held_out = split_tail(ALL, rows(2, 5, 28), 0.1)
    assert 2 not in train and 5 not in train and len(train) == 25 and held_out.tolist() == [27, 28, 29]


@pytest.mark.parametrize("holdout", [-0.1, -5.0, float("nan"), float("inf")])
def test_an_impossible_holdout(holdout: float) -> None:
    for call in (lambda: split_tail(ALL, NONE, holdout), lambda: tail_length(30, holdout)):
        with pytest.raises(
            UserError, match="--holdout .* is not possible; give a fraction below 1 or a number of frames"
        ):
            call()


@pytest.mark.parametrize(
    ("holdout", "message"), [(23.0, "only 7 usable .*of 30, 23 held"), (1e30, "of 30, 30 held"), (0.999, "of 30, 30")]
)
def test_too_little_left(holdout: float, message: str) -> None:
    for call in (lambda: split_tail(ALL, NONE, holdout), lambda: tail_length(30, holdout)):
        with pytest.raises(UserError, match=message):
            call()


def test_too_few_good_frames() -> None:
    with pytest.raises(
        UserError, match=r"only 6 usable frames are left to train on \(of 30, 3 held out\), 8 are needed"
    ):
        split_tail(rows(*range(6), 29), NONE, 0.1)
    with pytest.raises(UserError, match="only 5 usable"):
        split_tail(ALL[:5], NONE[:5], 0.1)
    assert len(split_tail(rows(*range(8)), NONE, 0.1)[0]) == 8


def _turned(*degrees: float) -> torch.Tensor:
    """Poses that face the camera, turned by so much to alternating sides."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.stack([torch.zeros_like(angle), angle, torch.zeros_like(angle)], 1)
    return rigid(rotation_from_vector(turn) @ torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.rand(len(angle), 3))


def test_extreme_poses_are_held_out() -> None:
    degrees = [(-1) ** k * (k * 0.5 + 10 * (k > 26)) for k in range(30)]
    poses = _turned(*degrees)
    order = torch.randperm(30)
    train, held_out = split_extreme(ALL, NONE, poses[order], 0.1)
    assert sorted(order[held_out].tolist()) == [27, 28, 29]
    assert sorted(train.tolist() + held_out.tolist()) == list(range(30)) and train.tolist() == sorted(train.tolist())


def test_extremeness_is_measured_from_the_mean_pose() -> None:
    poses = _turned(*[40.0] * 26, 0.0, 39.0, 41.0, 38.0)
    assert split_extreme(ALL, NONE, poses, 1.0)[1].tolist() == [26]


def test_extreme_frames_that_failed_are_in_neither() -> None:
    poses = _turned(*[0.1 * k for k in range(30)])
    train, held_out = split_extreme(~rows(29, 12), rows(3, 28), poses, 0.1)
    assert 29 not in held_out.tolist() and 12 not in train.tolist() and 3 not in train.tolist()
    assert 28 in held_out.tolist() and len(held_out) == 3


def test_extreme_split_refuses_what_the_tail_refuses() -> None:
    with pytest.raises(UserError, match="not possible"):
        split_extreme(ALL, NONE, _turned(*range(30)), -0.1)
    with pytest.raises(UserError, match="only 6 usable"):
        split_extreme(rows(*range(9)), NONE, _turned(*range(30)), 0.1)
    assert split_extreme(ALL, NONE, _turned(*range(30)), 0.0)[1].tolist() == []
