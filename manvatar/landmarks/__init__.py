"""Landmarks of one face in every frame of a clip."""

from manvatar.landmarks.clip import BACKENDS, Detection, detect_clip
from manvatar.landmarks.detector import LandmarkDetector, MediaPipeDetector, Observation, make_detector
from manvatar.landmarks.from_file import load_landmarks, save_landmarks
from manvatar.landmarks.schemes import IBUG68_FROM_MEDIAPIPE478, as_ibug68, ibug68_points

__all__ = [
    "BACKENDS",
    "IBUG68_FROM_MEDIAPIPE478",
    "Detection",
    "LandmarkDetector",
    "MediaPipeDetector",
    "Observation",
    "as_ibug68",
    "detect_clip",
    "ibug68_points",
    "load_landmarks",
    "make_detector",
    "save_landmarks",
]
