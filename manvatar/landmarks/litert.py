"""Running one LiteRT (TensorFlow Lite) network file on one CPU thread."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from manvatar.errors import UserError


class LiteNetwork:
    """A network with one image input; not safe to share between threads.

    Args:
        path: the ``.tflite`` file.

    Attributes:
        input_size: (height, width) of the input image.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # The library logs to stderr from C++ at load time; it reads this variable once.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise UserError("ai-edge-litert is not installed; run: pip install ai-edge-litert") from error
        self._interpreter = Interpreter(model_path=str(Path(path)), num_threads=1)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = {output["name"]: output["index"] for output in self._interpreter.get_output_details()}
        self.input_size: tuple[int, int] = tuple(int(n) for n in self._input["shape"][1:3])

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name for one (height, width, 3) float32 image already in the network's own range."""
        self._interpreter.set_tensor(self._input["index"], image[None])
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index)[0] for name, index in self._outputs.items()}
