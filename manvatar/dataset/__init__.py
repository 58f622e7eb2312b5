"""Datasets: crops, mattes, poses and expressions of one clip, split into training and held-out frames."""

from manvatar.dataset.build import DatasetConfig, build_dataset
from manvatar.dataset.hull import depth_behind_surface, visual_hull
from manvatar.dataset.split import tail_length
from manvatar.dataset.store import DATASET_FILES, load_dataset

__all__ = [
    "DATASET_FILES",
    "DatasetConfig",
    "build_dataset",
    "depth_behind_surface",
    "load_dataset",
    "tail_length",
    "visual_hull",
]
