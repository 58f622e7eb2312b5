"""What a training run is told. Defaults are the ``fast`` preset; ``configs/*.toml`` hold what differs."""

from __future__ import annotations

from dataclasses import dataclass, field

from manvatar.errors import UserError
from manvatar.rendering import MarchConfig


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; the photometric term has weight 1."""

    opacity: float = 0.03  # |opacity - matte|
    displacement: float = 0.02  # mean |d| of the motion channels, in motion units
    motion_smoothness: float = 1e-3  # total variation of the summed motion grids
    charbonnier_epsilon: float = 0.1  # below this the photometric loss is quadratic; 0 = plain L1
    sample_displacement: float = 0.0  # mean length of the displacement over samples, for fields that say it there
    mean_over_image: bool = False  # the photometric term is divided by all pixels of the image, not by the rays drawn


@dataclass(frozen=True)
class TrainingConfig:
    """Schedule, rates and sampling of one training run."""

    iterations: int = 2000
    rays_per_iteration: int = 4096
    frames_per_iteration: int = 8
    canonical_rate: float = 2e-2
    motion_rate: float = 4e-3
    mlp_rate: float = 3e-3
    final_rate_fraction: float = 0.05  # rates fall to this part, exponentially
    warmup_iterations: int = 100
    motion_delay_iterations: int = 200  # the motion grids wait until there is something to move; 0 = they do not
    detail_ray_fraction: float = 0.25  # rays drawn from the boxes of mouth and eyes
    border_px: int = 6  # rays are drawn up to this far outside the matte
    margin_before_surface_m: float = 0.08  # how far in front of the tracked face anything can be: a quiff, a beard
    coarse_step_m: float = 0.005  # step of the march at the start, when nothing is known to be empty yet
    coarse_iterations: int = 400  # after so many the step has halved down to that of ``march``
    occupancy_every: int = 16  # 0 = never: for a march that skips nothing
    occupancy_cell_m: float = 0.004
    regularize_every: int = 8  # the motion regularisers touch whole grids, so they come rarely and weigh as much more
    start_from_surface: bool = True  # the field begins opaque behind the tracked face, and stays within the hull
    least_light: float = 0.015  # cells that gave no ray this share of its colour are emptied at the end; 0 = none
    within_hull: bool = False  # without that: no samples outside what the mattes allow; needs a march that skips
    whole_image: bool = False  # rays from anywhere in the image, none twice; mouth, eyes and matte count for nothing
    half_size_iterations: int = 0  # so many at the start see images of half the size; needs whole_image
    adam_betas: tuple[float, ...] = (0.9, 0.99)
    adam_epsilon: float = 1e-12
    cuda_graph: bool = False  # on a GPU iterations are recorded once and replayed (manvatar/training/captured.py)
    adam_skips_nodes: bool = True  # nodes without gradient are left alone, which plain Adam does not do
    loss: LossConfig = field(default_factory=LossConfig)
    march: MarchConfig = field(default_factory=MarchConfig)

    def __post_init__(self) -> None:
        least_one = ("iterations", "rays_per_iteration", "frames_per_iteration", "regularize_every")
        for name in least_one:
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} is not possible; give 1 or more")
        for name in ("canonical_rate", "motion_rate", "mlp_rate", "occupancy_cell_m", "coarse_step_m"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} = {getattr(self, name)} is not possible; give a positive number")
        if not 0 < self.final_rate_fraction <= 1 or not 0 <= self.detail_ray_fraction <= 1:
            raise UserError("final_rate_fraction and detail_ray_fraction must lie between 0 and 1")
        if not 0 <= self.least_light < 1:
            raise UserError(f"least_light = {self.least_light} is not possible; give a number in [0, 1)")
        if self.occupancy_every < 0:
            raise UserError(f"occupancy_every = {self.occupancy_every} is not possible; give 0 or more")
        if self.occupancy_every == 0 and (self.march.skip_empty or not self.march.samples_per_ray):
            raise UserError("occupancy_every = 0 is not possible with this march; give 1 or more")
        if self.cuda_graph and self.march.samples_per_ray:
            raise UserError("cuda_graph = true needs samples_per_ray = 0 in [training.march]")
        if self.within_hull and self.march.samples_per_ray and not self.march.skip_empty:
            raise UserError("within_hull needs skip_empty = true in [training.march]")
        if self.half_size_iterations and not self.whole_image:
            raise UserError("half_size_iterations needs whole_image = true")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UserError(f"adam_betas = {list(self.adam_betas)} is not possible; give two numbers in [0, 1)")
