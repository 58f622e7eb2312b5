"""A person's frame network as an ONNX file, for players without Python and PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from manvatar.baselines.bilayer.fast import FrameNetwork
from manvatar.baselines.bilayer.generators import KEYPOINTS
from manvatar.errors import UserError
from manvatar.files import replacing

INPUT, OUTPUTS = "keypoints", ("image", "mask")
_OPSET = 20  # GridSample as it is now


def export_onnx(network: FrameNetwork, path: str | os.PathLike[str]) -> None:
    """Write ``keypoints`` (N, 136) -> ``image`` (N, 3, H, W) in [-2, 2], ``mask`` (N, 1, H, W) in [0, 1].

    Args:
        network: made with ``exportable=True``, in float32.

    Raises:
        UserError: onnx or onnxscript is not installed, or ``path`` cannot be written.
        ValueError: the network is not exportable.
    """
    _require("onnx", "onnxscript")
    if not network.exportable or network.head.weight.dtype != torch.float32:
        raise ValueError("export_onnx takes a FrameNetwork made with exportable=True, in float32")
    example = torch.zeros(2, 2 * KEYPOINTS, device=network.texture.device)
    with replacing(path) as unfinished, _quiet():
        torch.onnx.export(
            network,
            (example,),
            unfinished,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("frames")}},
            opset_version=_OPSET,
            external_data=False,
            dynamo=True,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress, and warns about packages we do not use."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class OnnxFrames:
    """Runs such a file with onnxruntime, on the CPU unless other providers are named."""

    def __init__(self, path: str | os.PathLike[str], providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        _require("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # onnxruntime has an exception class of its own for every status
            first = str(error).splitlines()[0]
            raise UserError(f"cannot run {path}: {first}; give a file written by export-onnx") from error

    def __call__(self, keypoints: Float[Tensor, "images coordinates"]) -> tuple[Tensor, Tensor]:
        image, mask = self.session.run(list(OUTPUTS), {INPUT: keypoints.float().cpu().numpy()})
        return torch.from_numpy(image), torch.from_numpy(mask)


def _require(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"this needs {' and '.join(missing)}, not installed here; run: pip install manvatar[onnx]")
