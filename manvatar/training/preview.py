"""A picture of how far training has come: some held-out frames, truth over render."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import torch

from manvatar.files import replacing
from manvatar.metrics import white_composite
from manvatar.rendering import march_tables, render_image
from manvatar.training.trainer import Trainer
from manvatar.types import Dataset


class LivePreview:
    """Call it with the trainer to write ``path`` anew; a few seconds of work at most, so not after every iteration."""

    def __init__(self, dataset: Dataset, path: Path, frames: int = 3) -> None:
        rows = dataset.held_out if len(dataset.held_out) else dataset.train
        self.rows = rows[torch.linspace(0, len(rows) - 1, min(frames, len(rows))).long()].tolist()
        self.dataset, self.path = dataset, path

    def __call__(self, trainer: Trainer) -> None:
        dataset, config = self.dataset, trainer.config.march
        tables = march_tables(trainer.occupancy, config)
        columns = []
        for row in self.rows:
            rendering = render_image(
                trainer.field,
                trainer.occupancy,
                dataset.camera,
                dataset.cam_from_head[row].to(trainer.generator.device),
                dataset.expression[row].to(trainer.generator.device),
                config,
                background=torch.ones(3),
                tables=tables,
            )
            columns.append(torch.cat([white_composite(dataset.images[row]), rendering.rgb.cpu()]))
        picture = (torch.cat(columns, 1).clamp(0, 1) * 255).round().to(torch.uint8)
        with replacing(self.path) as temporary:
            iio.imwrite(temporary, picture.numpy())
