"""Running one LiteRT (TensorFlow Lite) network on one CPU thread."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from manvatar.errors import UserError


class LiteNetwork:
    """A network of images and feature maps; not safe to share between threads.

    Args:
        model: a ``.tflite`` file, or its content.

    Attributes:
        input_size: (height, width) of the first input.
    """

    def __init__(self, model: str | Path | bytes) -> None:
        # The library logs to stderr from C++ at load time; it reads this variable once.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise UserError("ai-edge-litert is not installed; run: pip install ai-edge-litert") from error
        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        self._interpreter = Interpreter(num_threads=1, **source)
        self._interpreter.allocate_tensors()
        inputs = self._interpreter.get_input_details()
        self._inputs = [tensor["index"] for tensor in inputs]
        self._outputs = {output["name"]: output["index"] for output in self._interpreter.get_output_details()}
        self.input_size: tuple[int, int] = tuple(int(n) for n in inputs[0]["shape"][1:3])

    def __call__(self, *images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name, for one (height, width, channels) float32 array an input, in the network's own range."""
        for index, image in zip(self._inputs, images, strict=True):
            self._interpreter.set_tensor(index, image[None])
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index)[0] for name, index in self._outputs.items()}
