"""manvatar: a monocular portrait video in, a drivable 3D head avatar out."""

__version__ = "0.1.0"
