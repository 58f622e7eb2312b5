"""The paper's field against a slow, direct reading of its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from manvatar.errors import UserError
from manvatar.fields import PaperField, PaperFieldConfig, make_field
from manvatar.types import Box, Field

BOX = Box(torch.tensor([-0.1, -0.1, -0.1]), torch.tensor([0.1, 0.1, 0.1]))  # of the dataset; the field has its own
CONFIG = PaperFieldConfig(expressions=3, motion_cells=4, canonical_cells=8, hidden=16)
EXPRESSIONS = 5


def random_field(config: PaperFieldConfig = CONFIG) -> PaperField:
    """Every parameter differs from its start, so that nothing is zero by accident."""
    field = PaperField(config, BOX, EXPRESSIONS).double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return field


def somewhere(field: PaperField, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points within the box and beyond it, directions, and the frame of each."""
    lower, upper = field.box.lower_m.double(), field.box.upper_m.double()
    points = lower + (torch.rand(count, 3, dtype=torch.float64) * 1.3 - 0.15) * (upper - lower)
    directions = functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=1)
    return points, directions, torch.randint(2, (count,)).sort().values


def trilinear(grid: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Grid (c, z, y, x) at (x, y, z) in node numbers; nodes that do not exist are 0."""
    result = np.zeros(grid.shape[0])
    first = np.floor(position).astype(int)
    for corner in np.ndindex(2, 2, 2):
        node = first + corner
        if (node >= 0).all() and (node < grid.shape[:0:-1]).all():
            result += np.prod(1 - np.abs(position - node)) * grid[:, node[2], node[1], node[0]]
    return result


def multi_distance(grid: np.ndarray, point: np.ndarray, lower: tuple, upper: tuple, exact: bool) -> np.ndarray:
    """Samples of a grid at strides 1, 2, 4 one after the other; nodes at the strides' own even spacing."""
    unit = (point - lower) / (np.array(upper) - lower)
    samples = []
    for stride in (1, 2, 4):
        level = grid[:, ::stride, ::stride, ::stride]
        nodes = level.shape[1]
        samples.append(trilinear(level, unit * (nodes - 1) if exact else unit * nodes - 0.5))
    return np.concatenate(samples)


def waves(values: np.ndarray) -> np.ndarray:
    """With the values themselves; 4 octaves."""
    terms = [values]
    for factor in (1, 2, 4, 8):
        terms += [np.sin(factor * values), np.cos(factor * values)]
    return np.concatenate(terms)


def by_definition(field: PaperField, e: Tensor, point_m: Tensor, view: Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    """Density, colour and displacement at one point, one step after another, in numpy."""
    config = field.config
    p = {name: value.detach().numpy() for name, value in field.named_parameters()}
    e = e.numpy()[: config.expressions]

    def network(name: str, inputs: np.ndarray) -> np.ndarray:
        hidden = p[f"{name}.hidden.weight"] @ inputs + p[f"{name}.hidden.bias"]
        return p[f"{name}.out.weight"] @ np.where(hidden > 0, hidden, 0.01 * hidden) + p[f"{name}.out.bias"]

    x = point_m.numpy() / config.unit_m + config.origin
    motion = p["motion_mean"] + sum(e[k] * p["motion_basis"][k] for k in range(config.expressions))
    sampled = multi_distance(motion, x, config.motion_lower, config.motion_upper, config.exact_sampling)
    d = network("displacement", waves(sampled))
    canonical = p["canonical"], x + 0.1 * d, config.canonical_lower, config.canonical_upper
    features = waves(multi_distance(*canonical, config.exact_sampling))
    density = network("density", np.concatenate([features, e / 3]))[0]
    color = network("color", np.concatenate([features, waves(view.numpy()), e / 3]))
    return max(density, 0) * config.density_scale_per_m, 1 / (1 + np.exp(-color)), d


@pytest.mark.parametrize("exact", [True, False])
def test_against_its_definition(exact: bool) -> None:
    field = random_field(replace(CONFIG, exact_sampling=exact))
    points, views, frame = somewhere(field, 40)
    expression = torch.randn(2, EXPRESSIONS, dtype=torch.float64)
    here = field.at(expression)
    values = here(points, views, frame)
    expected = [by_definition(field, expression[f], x, v) for x, v, f in zip(points, views, frame, strict=True)]
    density, color, displacement = (torch.from_numpy(np.array(part)) for part in zip(*expected, strict=True))
    torch.testing.assert_close(values.density_per_m, density)
    torch.testing.assert_close(values.rgb, color)
    torch.testing.assert_close(here.displacement, displacement)
    assert (density > 0).any() and (density == 0).any()


def test_the_two_samplings_differ() -> None:
    """By up to 1.4 voxels of the finest level; where both are in the middle of the box they agree."""
    exact = random_field()
    released = random_field(replace(CONFIG, exact_sampling=False))
    released.load_state_dict(exact.state_dict())
    points, views, frame = somewhere(exact, 200)
    middle = (exact.box.lower_m + exact.box.upper_m).double()[None] / 2
    expression = torch.zeros(2, EXPRESSIONS, dtype=torch.float64)
    ours, theirs = (f.at(expression)(points, views, frame).rgb for f in (exact, released))
    assert (ours - theirs).abs().mean() > 1e-3
    config = replace(CONFIG, motion_lower=CONFIG.canonical_lower, motion_upper=CONFIG.canonical_upper)
    pair = [random_field(replace(config, exact_sampling=choice)) for choice in (True, False)]
    with torch.no_grad():
        for field in pair:
            field.load_state_dict(exact.state_dict())
            field.displacement.out.weight.zero_()
            field.displacement.out.bias.zero_()
    ours, theirs = (f.at(expression)(middle, views[:1], frame[:1]).rgb for f in pair)
    torch.testing.assert_close(ours, theirs)


def test_nodes_are_where_they_should_be() -> None:
    """Exact sampling gives a node's own value on its place, on all levels that have it."""
    field = random_field()
    node = torch.tensor([4, 0, 8])  # on all three levels
    point = torch.tensor(CONFIG.canonical_lower, dtype=torch.float64) + node.double() / 8 * torch.tensor(
        [2.4, 2.7, 2.7], dtype=torch.float64
    )
    here = field.at(torch.zeros(1, EXPRESSIONS, dtype=torch.float64))
    found = here._sampled(here.canonical, point[None], CONFIG.canonical_lower, CONFIG.canonical_upper, None)[0]
    expected = field.canonical[:, 8, 0, 4].repeat(3)
    torch.testing.assert_close(found, expected)


def test_gradients() -> None:
    field = random_field()
    points, views, frame = somewhere(field, 6)
    expression = torch.randn(2, EXPRESSIONS, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in field.named_parameters()]

    def values(expression: Tensor, points: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        with torch.nn.utils.stateless._reparametrize_module(field, dict(zip(names, parameters, strict=True))):
            here = field.at(expression)
            out = here(points, views, frame)
        return out.density_per_m, out.rgb, here.displacement

    inputs = (expression, points.requires_grad_(), *field.parameters())
    assert torch.autograd.gradcheck(values, inputs, fast_mode=True)


def test_large_and_small_pieces_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    field = random_field()
    points, views, frame = somewhere(field, 50)
    here = field.at(torch.randn(2, EXPRESSIONS, dtype=torch.float64))
    with torch.no_grad():
        whole = here(points, views, frame)
        monkeypatch.setattr("manvatar.fields.paper._SAMPLES_AT_ONCE", 7)
        pieces = here(points, views, frame)
    torch.testing.assert_close(pieces.density_per_m, whole.density_per_m)
    torch.testing.assert_close(pieces.rgb, whole.rgb)


def test_coefficients_beyond_the_first_have_no_effect() -> None:
    field = random_field()
    points, views, frame = somewhere(field, 30)
    expression = torch.randn(2, EXPRESSIONS, dtype=torch.float64)
    other = expression.clone()
    other[:, 3:] += 5
    assert torch.equal(field.at(expression)(points, views, frame).rgb, field.at(other)(points, views, frame).rgb)
    other[:, 2] += 5
    assert not torch.equal(field.at(expression)(points, views, frame).rgb, field.at(other)(points, views, frame).rgb)
    assert PaperField(CONFIG, BOX, 2).motion_basis.shape[0] == 2  # a face model may have fewer


def test_its_size_is_the_papers() -> None:
    field = make_field("paper", {}, BOX, 64)
    assert isinstance(field, Field)
    assert sum(parameter.numel() for parameter in field.parameters()) == 3_517_837
    groups = field.parameter_groups()
    assert sum(p.numel() for group in groups.values() for p in group) == 3_517_837
    assert field.density.hidden.weight.shape == (128, 140) and field.color.hidden.weight.shape == (128, 167)
    assert field.displacement.hidden.weight.shape == (128, 54)
    low, high = field.box.lower_m, field.box.upper_m
    torch.testing.assert_close(high - low, torch.tensor([0.24, 0.27, 0.27]))
    torch.testing.assert_close(low, torch.tensor([-0.12, -0.139, -0.193]))


def test_it_begins_visible_whatever_the_seed() -> None:
    negative = 0
    for seed in range(20):
        torch.manual_seed(seed)
        field = PaperField(CONFIG, BOX, EXPRESSIONS)
        values = field.at(torch.zeros(1, EXPRESSIONS))(
            *(t.float() for t in somewhere(field, 4)[:2]), torch.zeros(4).long()
        )
        assert (values.density_per_m > 0).all()
        negative += float(field.density.out.bias.detach()) < 0
    assert 3 < negative < 17  # and it is still random


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"motion_cells": 30}, "motion_cells = 30 is not possible; give a multiple of 4"),
        ({"hidden": 20}, "hidden = 20 is not possible"),
        ({"levels": 0}, "must be 1 or more"),
        ({"unit_m": 0.0}, "unit_m = 0.0 is not possible"),
        ({"origin": (0.0, 1.0)}, "origin must be three numbers"),
        ({"motion_lower": (2.0, -1.1, -1.0)}, "motion_upper must exceed motion_lower"),
    ],
)
def test_settings_that_cannot_be(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_field("paper", config, BOX, 32)
