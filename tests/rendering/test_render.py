"""Volume rendering of fields whose images are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rendering.balls import BOX, Ball, Cloud, camera, pose

from manvatar.rendering import MarchConfig, OccupancyGrid, image_rays, march, march_tables, render, render_image
from manvatar.types import Camera, Rays, RaySamples, Rendering

EVERYTHING = MarchConfig(step_m=0.001, stop_transmittance=0.0)
NEUTRAL = torch.zeros(1, 1)


def known(field: Ball, looks: int = 40) -> OccupancyGrid:
    grid = OccupancyGrid(BOX, 0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(looks):
        grid.update(field, NEUTRAL, generator, decay=1.0)
    return grid


def rendered(field: Ball, grid: OccupancyGrid, config: MarchConfig, **options: torch.Tensor) -> tuple[Rays, Rendering]:
    rays = image_rays(camera(24), pose(0.3))
    samples = march(rays, grid, march_tables(grid, config), config)
    return rays, render(field.at(NEUTRAL), rays, samples, **options)


@pytest.mark.parametrize("density_per_m", [3.0, 30.0, 300.0])
def test_a_ball_has_the_opacity_colour_and_depth_of_the_closed_form(density_per_m: float) -> None:
    field = Ball(density_per_m=density_per_m)
    rays, image = rendered(field, OccupancyGrid(BOX, 0.01), EVERYTHING)
    entry, chord = field.chord_m(rays.origins_m, rays.directions)
    opacity, depth = field.opacity(chord), field.depth_m(entry, chord)
    assert (chord == 0).sum() > 50 and chord.max() > 0.099  # the picture shows all of it
    # Steps cut a chord to within one step, which shifts the optical depth by density * step at most.
    slack = (-density_per_m * (chord - EVERYTHING.step_m).clamp_min(0)).exp() * density_per_m * EVERYTHING.step_m + 1e-5
    assert ((image.opacity - opacity).abs() <= slack).all()
    assert (image.opacity - opacity)[chord > 0].mean().abs() < 0.1 * float(slack.max())  # half a step off would be 0.5
    torch.testing.assert_close(image.rgb, image.opacity[:, None] * torch.tensor(field.rgb), rtol=1e-4, atol=1e-5)
    assert ((image.depth_m - depth).abs() <= slack * 0.6 + EVERYTHING.step_m * opacity + 1e-5).all()  # 0.6 m: farthest
    outside = chord == 0
    assert (
        (image.opacity[outside] == 0).all() and (image.rgb[outside] == 0).all() and (image.depth_m[outside] == 0).all()
    )


def test_skipping_and_stopping_change_next_to_nothing() -> None:
    field = Ball(density_per_m=400)
    config = MarchConfig(step_m=0.002, stop_transmittance=1e-3)
    _, exhaustive = rendered(field, OccupancyGrid(BOX, 0.01), replace(config, stop_transmittance=0.0))
    grid = known(field)
    _, skipped = rendered(field, grid, replace(config, stop_transmittance=0.0))
    assert (skipped.opacity - exhaustive.opacity).abs().max() < 1e-5
    _, stopped = rendered(field, grid, config)
    assert (stopped.opacity - exhaustive.opacity).abs().max() <= 1e-3
    assert (stopped.rgb - exhaustive.rgb).abs().max() <= 1e-3
    samples = [
        len(march(image_rays(camera(24), pose(0.3)), g, march_tables(g, c), c).ray)
        for g, c in (
            (OccupancyGrid(BOX, 0.01), config),
            (grid, replace(config, stop_transmittance=0.0)),
            (grid, config),
        )
    ]
    assert samples[0] > 5 * samples[1] > 5 * 1.3 * samples[2]  # and they do skip and stop


def test_background_shines_through() -> None:
    field, blue = Ball(), torch.tensor([0.1, 0.2, 0.9])
    _, bare = rendered(field, OccupancyGrid(BOX, 0.01), EVERYTHING)
    _, over = rendered(field, OccupancyGrid(BOX, 0.01), EVERYTHING, background=blue)
    torch.testing.assert_close(over.rgb, bare.rgb + (1 - bare.opacity[:, None]) * blue)
    assert torch.equal(over.opacity, bare.opacity) and torch.equal(over.depth_m, bare.depth_m)
    torch.testing.assert_close(over.rgb[0], blue)  # the corner shows nothing else


@pytest.mark.parametrize("rays_per_chunk", [100, 8192])
def test_an_image_is_its_rays(rays_per_chunk: int) -> None:
    field, grid, config = Ball(), known(Ball()), MarchConfig(step_m=0.004)
    _, rays = rendered(field, grid, config, background=torch.ones(3))
    options = {"background": torch.ones(3), "rays_per_chunk": rays_per_chunk}
    image = render_image(field, grid, camera(24), pose(0.3), NEUTRAL[0], config, **options)
    assert image.rgb.shape == (24, 24, 3) and image.opacity.shape == image.depth_m.shape == (24, 24)
    torch.testing.assert_close(image.rgb.reshape(-1, 3), rays.rgb)
    torch.testing.assert_close(image.opacity.flatten(), rays.opacity)
    torch.testing.assert_close(image.depth_m.flatten(), rays.depth_m)
    given = render_image(
        field, grid, camera(24), pose(0.3), NEUTRAL[0], config, tables=march_tables(grid, config), **options
    )
    assert torch.equal(given.rgb, image.rgb)


def test_every_ray_sees_the_expression_of_its_own_frame() -> None:
    """One batch of three frames, in which the ball has three sizes, equals three renderings."""
    expressions = torch.tensor([[-2.0], [0.0], [1.0]])
    one = image_rays(camera(12), pose())
    frame = torch.randint(3, (len(one.origins_m),))
    grid = OccupancyGrid(BOX, 0.01)
    rays = Rays(one.origins_m, one.directions, frame)
    samples = march(rays, grid, march_tables(grid, EVERYTHING), EVERYTHING)
    together = render(Ball().at(expressions), rays, samples)
    for index in range(3):
        alone = render(Ball().at(expressions[index : index + 1]), one, samples)
        torch.testing.assert_close(together.rgb[frame == index], alone.rgb[frame == index])
    assert together.opacity.max() > 0


def double_samples(rays: Rays) -> RaySamples:
    """A few samples in the box on every ray, in float64."""
    per_ray, count = 12, len(rays.origins_m)
    near = 0.5 - 0.09
    distance = (near + torch.arange(per_ray, dtype=torch.float64) * 0.015).repeat(count)
    ray = torch.arange(count).repeat_interleave(per_ray)
    return RaySamples(distance, torch.full_like(distance, 0.015), ray, torch.arange(count + 1) * per_ray)


def test_gradients_against_finite_differences() -> None:
    """By what the field is made of, the expression, the background, and the rays: a pose can be refined through it."""
    field = Cloud()
    narrow = Camera(torch.tensor([15.0, 15.0]), torch.tensor([1.5, 1.5]), (3, 3))
    seen = image_rays(narrow, pose())
    frame = torch.tensor([0, 1] * 4 + [0])
    samples = double_samples(seen)
    expression = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    background = torch.rand(3, dtype=torch.float64, requires_grad=True)
    origins, directions = seen.origins_m.double().requires_grad_(), seen.directions.double().requires_grad_()

    def image(
        expression: torch.Tensor,
        background: torch.Tensor,
        origins: torch.Tensor,
        directions: torch.Tensor,
        *_: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rendering = render(field.at(expression), Rays(origins, directions, frame), samples, background)
        return rendering.rgb, rendering.opacity, rendering.depth_m

    assert image(expression, background, origins, directions)[1].min() > 0.05  # there is something to see everywhere
    assert torch.autograd.gradcheck(image, (expression, background, origins, directions, *field.parameters()))


def test_an_image_needs_no_gradient() -> None:
    field = Cloud().float()
    image = render_image(field, OccupancyGrid(BOX, 0.02), camera(8), pose(), torch.zeros(3), MarchConfig(step_m=0.01))
    assert not image.rgb.requires_grad and image.opacity.max() > 0.5


def test_rays_that_meet_nothing() -> None:
    rays = Rays(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]]), torch.zeros(1, dtype=torch.int64))
    grid = OccupancyGrid(BOX, 0.01)
    samples = march(rays, grid, march_tables(grid, EVERYTHING), EVERYTHING)
    image = render(Ball().at(NEUTRAL), rays, samples, torch.ones(3))
    assert len(samples.ray) == 0 and image.rgb.tolist() == [[1, 1, 1]] and image.opacity.tolist() == [0]
