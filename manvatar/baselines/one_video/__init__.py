"""2D models of one person from one video: the bi-layer model and the few-shot generator in their person-specific forms.

They are given what the voxel avatar is given (track, mattes, held-out frames), are driven by the landmarks that its
track projects, and become avatars that are driven and scored the same way.
"""

from manvatar.baselines.one_video.avatar import PortraitAvatar
from manvatar.baselines.one_video.checkpoint import restore_checkpoint, save_checkpoint
from manvatar.baselines.one_video.config import MODELS, NetworkConfig, OneVideoConfig, load_config
from manvatar.baselines.one_video.fitting import PortraitPreview, make_portrait, train_portrait
from manvatar.baselines.one_video.loading import load_avatar
from manvatar.baselines.one_video.rig import LandmarkRig
from manvatar.baselines.one_video.trainer import PortraitTrainer, Progress

__all__ = [
    "MODELS",
    "LandmarkRig",
    "NetworkConfig",
    "OneVideoConfig",
    "PortraitAvatar",
    "PortraitPreview",
    "PortraitTrainer",
    "Progress",
    "load_avatar",
    "load_config",
    "make_portrait",
    "restore_checkpoint",
    "save_checkpoint",
    "train_portrait",
]
