"""The fast field against a slow, direct reading of its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manvatar.errors import UserError
from manvatar.fields import FastField, FastFieldConfig, make_field
from manvatar.fields.fast import POSE_COUNT
from manvatar.geometry import mean_pose, rigid, rotation_from_vector, vector_from_rotation
from manvatar.types import Box, Field, FieldValues

BOX = Box(torch.tensor([-0.1, -0.08, -0.12]), torch.tensor([0.1, 0.12, 0.06]))
CONFIG = FastFieldConfig(
    motion_voxel_m=0.05, ambient_features=5, canonical_voxels_m=(0.04, 0.02), canonical_features=(8, 4), hidden=16
)
EXPRESSIONS = 3


def random_field(dtype: torch.dtype = torch.float64) -> FastField:
    """Every parameter differs from its start, so that nothing is zero by accident."""
    field = FastField(CONFIG, BOX, EXPRESSIONS).to(dtype)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for grid in field.canonical:
            grid.mul_(3)
    return field


def somewhere(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Points within the box and a little beyond it, directions, and the frame of each."""
    span = (BOX.upper_m - BOX.lower_m).to(dtype)
    points = BOX.lower_m.to(dtype) + (torch.rand(count, 3, dtype=dtype) * 1.2 - 0.1) * span
    directions = torch.nn.functional.normalize(torch.randn(count, 3, dtype=dtype), dim=1)
    return points, directions, torch.randint(2, (count,)).sort().values


def sampled(grid: Tensor, point: Tensor) -> Tensor:
    """Trilinear, by hand: grid (z, y, x, c), point in metres; the border's value outside."""
    lower, upper = BOX.lower_m.double(), BOX.upper_m.double()
    nodes = torch.tensor(grid.shape[2::-1])
    position = ((point - lower) / (upper - lower)).clamp(0, 1) * (nodes - 1)
    result = torch.zeros(grid.shape[3], dtype=grid.dtype)
    for z in range(grid.shape[0]):
        for y in range(grid.shape[1]):
            for x in range(grid.shape[2]):
                weight = (1 - (position - torch.tensor([x, y, z])).abs()).clamp_min(0).prod()
                result = result + weight * grid[z, y, x]
    return result


def random_poses(count: int) -> Tensor:
    """Poses some 10 degrees and a few centimetres around the identity, which is the mean pose of a fresh field."""
    vectors, shifts = 0.2 * torch.randn(2, count, 3, dtype=torch.float64)
    return rigid(rotation_from_vector(vectors), 0.2 * shifts)


def by_definition(
    field: FastField, expression: Tensor, cam_from_head: Tensor, point: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Density and colour at one point, one step after another."""
    pose = torch.cat([vector_from_rotation(cam_from_head[:3, :3]) / 0.15, cam_from_head[:3, 3] / 0.02])
    motion_grid = field.motion_mean.clone()
    for k in range(EXPRESSIONS):
        motion_grid = motion_grid + expression[k] * field.motion_basis[k]
    for k in range(POSE_COUNT):
        motion_grid = motion_grid + pose[k] * field.pose_basis[k]
    motion = sampled(motion_grid, point)
    canonical = point + motion[:3] * CONFIG.displacement_scale_m
    features = torch.cat([*(sampled(grid[0], canonical) for grid in field.canonical), motion[3:]])

    def network(layers: torch.nn.Module, inputs: Tensor) -> Tensor:
        hidden = layers.hidden(inputs) + layers.expression(expression / 3) + layers.pose(pose / 3)
        return layers.out(torch.where(hidden > 0, hidden, 0.01 * hidden))

    density = (1 + network(field.density, features).exp()).log() * CONFIG.density_scale_per_m
    color = 1 / (1 + (-network(field.color, torch.cat([features, direction]))).exp())
    return density[0], color


@torch.no_grad()
def test_equals_its_definition() -> None:
    field = random_field()
    expression = torch.randn(2, EXPRESSIONS, dtype=torch.float64)
    poses = random_poses(2)
    points, directions, frame = somewhere(25)
    values = field.at(expression, poses)(points, directions, frame)
    for index in range(len(points)):
        row = frame[index]
        density, rgb = by_definition(field, expression[row], poses[row], points[index], directions[index])
        torch.testing.assert_close(values.density_per_m[index], density, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(values.rgb[index], rgb, rtol=1e-5, atol=1e-6)
    assert values.density_per_m.std() > 1 and values.rgb.std() > 0.02  # the points differ


@torch.no_grad()
def test_single_precision_is_close() -> None:
    field = random_field()
    expression = torch.randn(2, EXPRESSIONS, dtype=torch.float64)
    points, directions, frame = somewhere(200)
    exact = field.at(expression)(points, directions, frame)
    field.mlp_backend = "native"
    single = field.float().at(expression.float())(points.float(), directions.float(), frame)
    torch.testing.assert_close(single.density_per_m.double(), exact.density_per_m, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(single.rgb.double(), exact.rgb, rtol=0, atol=1e-4)


@torch.no_grad()
def test_motion_is_the_mean_plus_the_bases_by_coefficient() -> None:
    field = random_field()
    expression = torch.randn(2, EXPRESSIONS, dtype=torch.float64)
    grids = field.motion_grids(expression)
    for frame in range(2):
        expected = field.motion_mean + sum(expression[frame, k] * field.motion_basis[k] for k in range(EXPRESSIONS))
        torch.testing.assert_close(grids[frame], expected)
    torch.testing.assert_close(field.motion_grids(torch.zeros(1, EXPRESSIONS).double())[0], field.motion_mean.detach())


@torch.no_grad()
def test_poses_count_from_the_mean_pose() -> None:
    """The mean pose itself, and no pose at all, add nothing; the same turn adds the same whatever the mean."""
    field, expression, mean = random_field(), torch.zeros(1, EXPRESSIONS).double(), random_poses(1)[0]
    neutral = field.at(expression).motion
    field.mean_pose.copy_(mean)
    torch.testing.assert_close(field.at(expression, mean[None]).motion, neutral)
    turn = random_poses(1)
    turned = field.at(expression, mean @ turn).motion
    field.mean_pose.copy_(torch.eye(4))
    torch.testing.assert_close(field.at(expression, turn).motion, turned)


@torch.no_grad()
def test_poses_are_held_within_what_training_showed() -> None:
    """Far away, and far turned, the field is that of the outermost training pose and not an extrapolation."""
    field, expression, seen = random_field(), torch.zeros(1, EXPRESSIONS).double(), random_poses(6)
    field.start_from(lambda points: torch.ones(len(points)), seen)
    every = field.pose_coefficients(seen, 6)
    torch.testing.assert_close(field.mean_pose, mean_pose(seen))
    assert torch.equal(every.amin(0), field.pose_lower) and torch.equal(every.amax(0), field.pose_upper)
    away = seen[:1].clone()
    away[:, :3, 3] += torch.tensor([0.1, 0.0, 5.0])
    further = away.clone()
    further[:, :3, 3] *= 2
    shift = field.pose_coefficients(away, 1)[0]
    assert bool((shift >= field.pose_lower).all() and (shift <= field.pose_upper).all())
    assert not torch.equal(field.at(expression, seen[:1]).motion, field.at(expression, away).motion)
    assert torch.equal(shift[5], field.pose_coefficients(further, 1)[0, 5])


def test_impossible_settings_are_one_sentence() -> None:
    for wrong in ({"hidden": 3}, {"canonical_features": (8,)}, {"motion_voxel_m": 0.0}, {"ambient_features": -1}):
        with pytest.raises(UserError, match="must|not possible"):
            FastFieldConfig(**wrong)


@torch.no_grad()
def test_a_coefficient_moves_what_its_own_basis_says() -> None:
    """A basis that lives in one corner changes nothing elsewhere, however large the coefficient."""
    field = random_field()
    for layers in (field.density, field.color):  # the coefficients also enter the networks directly; here they do not
        layers.expression.weight.zero_()
    field.motion_basis[1].zero_()
    z, y, x = field.motion_mean.shape[:3]
    field.motion_basis[1, 0, 0, 0] = torch.randn(field.motion_basis.shape[-1], dtype=torch.float64)
    points, directions, _ = somewhere(300)
    frame = torch.zeros(300, dtype=torch.int64)
    plain = field.at(torch.zeros(1, EXPRESSIONS).double())(points, directions, frame)
    moved = field.at(torch.tensor([[0.0, 2.0, 0.0]]).double())(points, directions, frame)
    unit = (points - BOX.lower_m) / (BOX.upper_m - BOX.lower_m)
    near = (unit.clamp(0, 1) * torch.tensor([x - 1, y - 1, z - 1]) < 1).all(1)
    assert torch.equal(moved.rgb[~near], plain.rgb[~near])
    assert torch.equal(moved.density_per_m[~near], plain.density_per_m[~near])
    assert near.sum() > 5 and (moved.rgb[near] - plain.rgb[near]).abs().amax(1).min() > 0


@torch.no_grad()
def test_a_displacement_looks_up_elsewhere() -> None:
    """A constant displacement shows at x what the undisplaced field shows at x + d."""
    field = random_field()
    field.motion_basis.zero_()
    field.motion_mean.zero_()
    expression, frame = torch.zeros(1, EXPRESSIONS).double(), torch.zeros(60, dtype=torch.int64)
    points, directions, _ = somewhere(60)
    shift = torch.tensor([0.004, -0.003, 0.006], dtype=torch.float64)
    there = field.at(expression)(points + shift, directions, frame)
    field.motion_mean[..., :3] = shift / CONFIG.displacement_scale_m
    here = field.at(expression)(points, directions, frame)
    torch.testing.assert_close(here.density_per_m, there.density_per_m, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(here.rgb, there.rgb, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_untrained_it_does_not_move() -> None:
    field = FastField(CONFIG, BOX, EXPRESSIONS)
    points, directions, frame = somewhere(50, torch.float32)
    one = field.at(torch.zeros(2, EXPRESSIONS))(points, directions, frame)
    other = field.at(5 * torch.randn(2, EXPRESSIONS))(points, directions, frame)
    assert torch.equal(one.rgb, other.rgb) and torch.equal(one.density_per_m, other.density_per_m)


@torch.no_grad()
def test_it_starts_opaque_behind_the_surface_and_clear_before_it() -> None:
    field = FastField(FastFieldConfig(), BOX, EXPRESSIONS)

    def depth_m(points_m: Tensor) -> Tensor:
        """Behind a plane at z = -1 cm; nothing at all above y = 8 cm."""
        return torch.where(points_m[:, 1] < 0.08, -0.01 - points_m[:, 2], -math.inf)

    field.start_from(depth_m)
    points, directions, frame = somewhere(4000, torch.float32)
    inside = ((points > BOX.lower_m) & (points < BOX.upper_m)).all(1)
    density = field.at(torch.zeros(2, EXPRESSIONS))(points, directions, frame).density_per_m
    voxel = FastFieldConfig().canonical_voxels_m[0]
    deep = inside & (depth_m(points) > 1.5 * voxel) & (points[:, 1] < 0.08 - 2 * voxel)
    before, above = inside & (points[:, 2] > -0.01 + 1.5 * voxel), inside & (points[:, 1] > 0.08 + voxel)
    assert min(deep.sum(), before.sum(), above.sum()) > 100
    assert density[deep].min() > 150  # what is left of the light after 2 cm is 5 %
    assert density[before].max() < 20 and density[above].max() < 20
    assert density[deep].min() > 10 * density[before].max()


def test_gradients_reach_every_parameter() -> None:
    field = random_field()
    points, directions, frame = somewhere(400)
    values = field.at(torch.randn(2, EXPRESSIONS).double(), random_poses(2))(points, directions, frame)
    (values.density_per_m.square().mean() + (values.rgb * torch.rand(3)).sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradients_against_finite_differences() -> None:
    field = random_field()
    points, directions, frame = somewhere(6)
    points.requires_grad_()
    expression = torch.randn(2, EXPRESSIONS, dtype=torch.float64, requires_grad=True)

    def outputs(points: Tensor, expression: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        values: FieldValues = field.at(expression)(points, directions, frame)
        return values.density_per_m / 100, values.rgb

    weights = (field.density.hidden.weight, field.color.out.bias, field.color.expression.weight)
    assert torch.autograd.gradcheck(outputs, (points, expression, *weights), eps=1e-7, atol=1e-5)


@torch.no_grad()
def test_state_travels() -> None:
    field, other = random_field(torch.float32), FastField(CONFIG, BOX, EXPRESSIONS)
    other.load_state_dict(field.state_dict())
    points, directions, frame = somewhere(30, torch.float32)
    expression = torch.randn(2, EXPRESSIONS)
    one, two = field.at(expression)(points, directions, frame), other.at(expression)(points, directions, frame)
    assert torch.equal(one.rgb, two.rgb) and torch.equal(one.density_per_m, two.density_per_m)


def test_no_samples() -> None:
    field = random_field(torch.float32)
    none = torch.zeros(0, 3)
    values = field.at(torch.zeros(2, EXPRESSIONS))(none, none, torch.zeros(0, dtype=torch.int64))
    assert values.density_per_m.shape == (0,) and values.rgb.shape == (0, 3)


def test_made_by_name() -> None:
    field = make_field("fast", {"hidden": 32, "canonical_voxels_m": [0.02], "canonical_features": [4]}, BOX, 5)
    assert isinstance(field, FastField) and isinstance(field, Field)
    assert field.motion_basis.shape[0] == 5 and len(field.canonical) == 1
    assert field.config == FastFieldConfig(hidden=32, canonical_voxels_m=(0.02,), canonical_features=(4,))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [("slow", {}, "there is no field 'slow'"), ("fast", {"hiden": 3}, "unknown key 'hiden'")],
)
def test_a_field_that_does_not_exist(name: str, config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_field(name, config, BOX, 2)
