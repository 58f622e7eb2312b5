"""Every native op at the sizes of a training iteration, with the bytes and the arithmetic that it cannot do without.

A case moves what must come from and go to memory once: inputs that are read, outputs that are written, grids as a
whole. Arithmetic counts a multiply-add as two. What an implementation does beyond that is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from manvatar import ops
from manvatar.ops.mlp_backends import mlp_backend

_RAYS, _PER_RAY, _FRAMES = 4096, 20, 8
_BOX_M = (0.24, 0.30, 0.26)  # a head with hair
_LEVELS_M = (0.010, 0.005, 0.0025)


@dataclass(frozen=True)
class Case:
    """One thing to time; ``run`` and ``reference`` do the same."""

    name: str
    size: str
    run: Callable[[], object]
    reference: Callable[[], object]
    moved_bytes: float | int
    flops: float | int


def cases(device: str) -> Iterator[Case]:
    """All cases, made one after the other so that their data need not fit into memory together."""
    torch.manual_seed(0)
    yield from _marching(device)
    yield from _sampling(device)
    yield from _networks(device)
    yield from _field(device)
    yield from _compositing(device)
    yield from _blending(device)
    yield from _adam(device)
    yield from _rasterizing(device)


def _both_ways(call: Callable[..., Tensor], leaves: list[Tensor]) -> Callable[[], object]:
    """Forward, and backward with the sum as loss, added to gradients that are there already, as in training."""
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)

    def run() -> None:
        call().sum().backward()

    return run


def _nodes(voxel_m: float) -> tuple[int, int, int]:
    return tuple(round(length / voxel_m) + 1 for length in reversed(_BOX_M))


def _shell(count: int, device: str) -> Tensor:
    """Points in a shell as thick as the samples of a trained head, fractions of the box."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, device=device), dim=1)
    return 0.5 + direction * (0.40 + 0.04 * torch.rand(count, 1, device=device))


def _marching(device: str) -> Iterator[Case]:
    origins = torch.tensor([0.0, 0.0, 0.6], device=device).expand(_RAYS, 3).contiguous()
    aim = torch.nn.functional.normalize(torch.randn(_RAYS, 3, device=device) * 0.12 - origins, dim=1)
    shift = torch.rand(_RAYS, device=device)
    z, y, x = _nodes(0.004)
    axes = torch.meshgrid(*(torch.linspace(-0.5, 0.5, n, device=device) for n in (z, y, x)), indexing="ij")
    radius = torch.stack(axes).norm(dim=0)
    occupied, lowest = radius < 0.44, torch.where(radius < 0.40, 1000.0, 0.0)
    half = [length / 2 for length in _BOX_M]
    arguments = (origins, aim, shift, occupied, lowest, [-h for h in half], half, 0.0025, 5.0, 2)
    count = len(ops.march(*arguments).distance_m)
    yield Case(
        "march",
        f"{_RAYS} rays, {count} samples",
        lambda: ops.march(*arguments),
        lambda: ops.march_reference(*arguments),
        origins.nbytes + aim.nbytes + occupied.nbytes + lowest.nbytes + count * 12,
        count * 20,
    )


@dataclass(frozen=True)
class _Sampled:
    """Grids of the fast field's size, and samples of several frames in them."""

    motion: Tensor
    levels: list[Tensor]
    arguments: tuple  # of sample_warped
    frame: Tensor
    size: str
    grid_bytes: int
    feature_bytes: int  # what sample_warped writes
    point_bytes: int  # points, directions and frames
    flops: int  # forward

    @staticmethod
    def make(device: str) -> _Sampled:
        count = _RAYS * _PER_RAY
        motion = torch.randn(_FRAMES, *_nodes(0.009), 8, device=device, requires_grad=True)
        levels = [torch.randn(1, *_nodes(voxel), 8, device=device, requires_grad=True) for voxel in _LEVELS_M]
        frame = torch.arange(_FRAMES, device=device).repeat_interleave(count // _FRAMES)
        tail = torch.randn(count, 3, device=device)
        return _Sampled(
            motion,
            levels,
            (motion, levels, _shell(count, device), frame, tail, [0.04, 0.03, 0.04]),
            frame,
            f"{count} samples, {len(levels)} levels",
            motion.nbytes + sum(level.nbytes for level in levels),
            4 * count * (8 * len(levels) + 5 + 3),
            count * (4 * (3 + 3) + 8),
            count * 2 * 8 * (8 + 8 * len(levels)),
        )


def _sampling(device: str) -> Iterator[Case]:
    made = _Sampled.make(device)
    arguments, moved = made.arguments, made.point_bytes + made.feature_bytes
    with torch.no_grad():
        yield Case(
            "sample_warped",
            made.size,
            lambda: ops.sample_warped(*arguments),
            lambda: ops.sample_warped_reference(*arguments),
            made.grid_bytes + moved,
            made.flops,
        )
    leaves = [made.motion, *made.levels]
    yield Case(
        "sample_warped, both ways",
        made.size,
        _both_ways(lambda: ops.sample_warped(*arguments, in_place=True), leaves),
        _both_ways(lambda: ops.sample_warped_reference(*arguments), leaves),
        3 * made.grid_bytes + 2 * moved,
        3 * made.flops,
    )


def _field(device: str) -> Iterator[Case]:
    """Both ops of the fast field, as it trains; the floor is that of one op which keeps the features to itself."""
    made, hidden, outputs = _Sampled.make(device), 128, 4
    shapes = ((hidden, 32), (_FRAMES, hidden), (outputs, hidden), (outputs,))
    weights = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
    network = mlp_backend("auto")

    def run() -> Tensor:
        return network(ops.sample_warped(*made.arguments, in_place=True), made.frame, *weights)

    def reference() -> Tensor:
        return ops.mlp_reference(ops.sample_warped_reference(*made.arguments), made.frame, *weights)

    leaves, samples = [made.motion, *made.levels, *weights], len(made.frame)
    yield Case(
        "field, both ways",
        made.size,
        _both_ways(run, leaves),
        _both_ways(reference, leaves),
        3 * made.grid_bytes + 2 * (made.point_bytes + 4 * samples * outputs),
        3 * (made.flops + 2 * samples * hidden * (32 + outputs)),
    )


def _networks(device: str) -> Iterator[Case]:
    count, inputs, hidden, outputs = _RAYS * _PER_RAY, 32, 128, 4
    x = torch.randn(count, inputs, device=device, requires_grad=True)
    frame = torch.arange(_FRAMES, device=device).repeat_interleave(count // _FRAMES)
    shapes = ((hidden, inputs), (_FRAMES, hidden), (outputs, hidden), (outputs,))
    weights = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
    flops = 2 * count * hidden * (inputs + outputs)
    moved = 4 * count * (inputs + outputs) + 8 * count
    size = f"{count} samples, {inputs}-{hidden}-{outputs}"
    leaves = [x, *weights]
    for backend in ["native", *(["native-bf16"] if ops.mlp_has_bfloat16(device) else [])]:
        network, name = mlp_backend(backend), "mlp" + backend.removeprefix("native").replace("-", " ")
        with torch.no_grad():
            yield Case(
                name,
                size,
                lambda network=network: network(x, frame, *weights),
                lambda: ops.mlp_reference(x, frame, *weights),
                moved,
                flops,
            )
        yield Case(
            f"{name}, both ways",
            size,
            _both_ways(lambda network=network: network(x, frame, *weights), leaves),
            _both_ways(lambda: ops.mlp_reference(x, frame, *weights), leaves),
            3 * moved,
            3 * flops,
        )


def _compositing(device: str) -> Iterator[Case]:
    count = _RAYS * _PER_RAY
    density = (torch.rand(count, device=device) * 200).requires_grad_()
    rgb = torch.rand(count, 3, device=device, requires_grad=True)
    length, distance = torch.full((count,), 0.0025, device=device), torch.rand(count, device=device)
    offsets = torch.arange(0, count + 1, _PER_RAY, device=device)
    moved = 4 * count * (1 + 1 + 3 + 1 + 1)
    yield Case(
        "composite, both ways",
        f"{_RAYS} rays, {count} samples",
        _both_ways(lambda: ops.composite(density, length, rgb, distance, offsets).rgb, [density, rgb]),
        _both_ways(lambda: ops.composite_reference(density, length, rgb, distance, offsets).rgb, [density, rgb]),
        2 * moved + 4 * count * 4,
        40 * count,
    )


def _blending(device: str) -> Iterator[Case]:
    grid = (*_nodes(0.009), 8)
    mean = torch.randn(grid, device=device, requires_grad=True)
    bases = [torch.randn(k, *grid, device=device, requires_grad=True) for k in (32, 6)]
    coefficients = [torch.randn(_FRAMES, k, device=device) for k in (32, 6)]

    def reference() -> Tensor:
        parts = [torch.einsum("bk,k...->b...", c, b) for c, b in zip(coefficients, bases, strict=True)]
        return mean + sum(parts)

    stored = mean.nbytes + sum(basis.nbytes for basis in bases)
    flops = 2 * _FRAMES * 38 * mean.numel()
    yield Case(
        "blend, both ways",
        f"38 grids of {'x'.join(map(str, grid))}, {_FRAMES} frames",
        _both_ways(lambda: ops.blend(mean, bases, coefficients, in_place=True), [mean, *bases]),
        _both_ways(reference, [mean, *bases]),
        2 * stored + 2 * _FRAMES * mean.nbytes,
        2 * flops,
    )


def _adam(device: str) -> Iterator[Case]:
    count = 1_800_000  # as many as the fast field has
    state = [torch.randn(count, 8, device=device) for _ in range(3)]
    parameter, first, second = state[0], state[1], state[2].abs()
    grad = torch.zeros_like(parameter)
    rates = {"rate": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-12, "step": 10}
    for share in (1.0, 0.1):
        active = torch.rand(count, 1, device=device) < share

        def filled(active: Tensor = active) -> Tensor:
            return grad.copy_(active.expand_as(grad))

        yield Case(
            "sparse_adam_",
            f"{count} rows of 8, {share:.0%} active (and filling them)",
            lambda filled=filled: ops.sparse_adam_(parameter, filled(), first, second, **rates),
            lambda filled=filled: ops.sparse_adam_reference_(parameter, filled(), first, second, **rates),
            grad.nbytes * 2 + share * (6 * parameter.nbytes + grad.nbytes),
            share * 12 * parameter.numel(),
        )


def _rasterizing(device: str) -> Iterator[Case]:
    rows, columns = 60, 82
    v, u = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    points = (torch.stack([u, v], -1).reshape(1, -1, 2) * 200 + 28).to(device)
    depth = (0.6 - 0.1 * torch.sin(3.1 * u) * torch.sin(3.1 * v)).reshape(1, -1).to(device)
    corner = (torch.arange(rows - 1)[:, None] * columns + torch.arange(columns - 1)).flatten()
    low = torch.stack([corner, corner + 1, corner + columns], 1)
    high = torch.stack([corner + 1, corner + columns + 1, corner + columns], 1)
    triangles = torch.cat([low, high]).to(device)
    yield Case(
        "rasterize",
        f"{len(triangles)} triangles, 256 px",
        lambda: ops.rasterize(points, depth, triangles, (256, 256)),
        lambda: ops.rasterize_reference(points, depth, triangles, (256, 256)),
        triangles.nbytes + points.nbytes + depth.nbytes + 256 * 256 * 20,
        200 * 200 * 20,
    )
