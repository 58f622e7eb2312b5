"""Training: from a dataset to a field, with a schedule, checkpoints and live pictures."""

from manvatar.training.checkpoint import restore_checkpoint, save_checkpoint
from manvatar.training.config import LossConfig, TrainingConfig
from manvatar.training.preset import Preset, load_preset
from manvatar.training.preview import LivePreview
from manvatar.training.trainer import Progress, Trainer

__all__ = [
    "LivePreview",
    "LossConfig",
    "Preset",
    "Progress",
    "Trainer",
    "TrainingConfig",
    "load_preset",
    "restore_checkpoint",
    "save_checkpoint",
]
