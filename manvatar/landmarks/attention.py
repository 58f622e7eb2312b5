"""MediaPipe's attention mesh in two plain networks: 468 points, with lips, lids and irises placed a second time.

The file (Grishchenko et al. 2020, "Attention Mesh", arXiv 2006.10962) does not run in LiteRT as it is: between a
backbone and three small heads it has operations of MediaPipe's own. They are simple, so the network is cut there, in
memory: the backbone gives coarse points and a feature map; the operations, written here in NumPy, sample the features
around lips and eyes; the heads place the points of those regions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from manvatar.errors import UserError
from manvatar.landmarks.litert import LiteNetwork

MESH_POINTS = 468
_MESH_TENSOR, _PRESENCE_TENSOR = b"output_mesh", b"conv_faceflag"
_PRESENCE_LOGIT_LIMIT = 40.0


@dataclass(frozen=True)
class _Part:
    """One head: the square of features it sees, and which points of the mesh it places."""

    left: int  # points that give the direction of the part's x axis
    right: int
    scale: float  # of the square against the bounding box of its points
    side: int  # samples along the square
    points: np.ndarray  # indices of the mesh, in the order of the head's output


@dataclass(frozen=True)
class _Split:
    backbone: bytes
    heads: bytes
    parts: tuple[_Part, ...]  # lips, the eye at point 33, the eye at point 263
    features: str  # names of tensors
    mesh: str
    presence: str
    placed: tuple[tuple[str, int], ...]  # (tensor, part) of every output of the heads


class AttentionMesh:
    """Points of a face in the network's own square input.

    Args:
        path: ``face_landmark_with_attention.tflite``.

    Attributes:
        input_px: side of the input.
    """

    def __init__(self, path: Path) -> None:
        self._split = _split(path)
        self._backbone = LiteNetwork(self._split.backbone)
        self._heads = LiteNetwork(self._split.heads)
        self.input_px = self._backbone.input_size[0]

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """
        Args:
            image: (input_px, input_px, 3) float32 RGB in [0, 1].

        Returns:
            (478, 2) float32 positions in pixels of the input, and the probability that there is a face.
        """
        split = self._split
        outputs = self._backbone(image)
        features = outputs[split.features]
        points = np.empty((MESH_POINTS + 10, 2), np.float32)
        points[:MESH_POINTS] = outputs[split.mesh].reshape(-1, 3)[:, :2]
        stride = self.input_px / features.shape[0]
        transforms = [_input_from_square(points, part) for part in split.parts]
        squares = [_sampled(features, *t, part.side, stride) for t, part in zip(transforms, split.parts, strict=True)]
        placed = self._heads(*squares)
        iris = MESH_POINTS
        for name, index in split.placed:
            matrix, offset = transforms[index]
            # Heads answer in units of 1 / stride of a sample.
            values = placed[name].reshape(-1, 2) / stride @ matrix.T + offset
            if len(values) == len(split.parts[index].points):
                points[split.parts[index].points] = values
            else:
                points[iris : iris + len(values)] = values
                iris += len(values)
        logit = float(outputs[split.presence].reshape(-1)[0])
        return points, 1 / (1 + math.exp(-max(min(logit, _PRESENCE_LOGIT_LIMIT), -_PRESENCE_LOGIT_LIMIT)))


def _input_from_square(points: np.ndarray, part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (2, 2) and offset (2,) from samples of a part's square (0 .. side) to pixels of the network's input.

    The square (a rectangle, in fact) is the bounding box of the part's points in axes turned with its two corner
    points, enlarged.
    """
    across = points[part.right] - points[part.left]
    angle = math.atan2(across[1], across[0])
    axes = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])  # input from turned
    turned = points[part.points] @ axes
    low, high = turned.min(0), turned.max(0)
    matrix = axes * (part.scale * (high - low) / part.side)
    return matrix, axes @ ((low + high) / 2) - matrix @ np.full(2, part.side / 2)


def _sampled(features: np.ndarray, matrix: np.ndarray, offset: np.ndarray, side: int, stride: float) -> np.ndarray:
    """(side, side, channels): features at the sample centres of a square, bilinearly; 0 outside the feature map."""
    center = np.arange(side) + 0.5
    grid = np.stack(np.meshgrid(center, center), -1).reshape(-1, 2)
    x, y = ((grid @ matrix.T + offset) / stride - 0.5).T
    height, width = features.shape[:2]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x0, y0 = (np.clip(np.floor(v), 0, n - 2).astype(np.intp) for v, n in ((x, width), (y, height)))
    across, down = ((v - v0)[:, None].astype(np.float32) for v, v0 in ((x, x0), (y, y0)))
    upper = features[y0, x0] * (1 - across) + features[y0, x0 + 1] * across
    lower = features[y0 + 1, x0] * (1 - across) + features[y0 + 1, x0 + 1] * across
    result = (upper * (1 - down) + lower * down) * inside[:, None]
    return result.reshape(side, side, -1).astype(np.float32)


@lru_cache(maxsize=2)
def _split(path: Path) -> _Split:
    """Cut the network file at MediaPipe's own operations."""
    try:
        from ai_edge_litert import schema_py_generated as schema
        from flatbuffers import flexbuffers
    except ImportError as error:
        raise UserError(
            f"the landmark network cannot be opened ({error}); run: pip install 'ai-edge-litert>=2'"
        ) from error
    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]

    def operations(name: bytes) -> list:
        return [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].customCode == name]

    samplers, matrices = operations(b"TransformTensorBilinear"), operations(b"Landmarks2TransformMatrix")
    parts = []
    for matrix in matrices:
        options = flexbuffers.Loads(bytes(matrix.customOptions))
        parts.append(
            _Part(
                options["left_rotation_idx"],
                options["right_rotation_idx"],
                float(options["scale_x"]),
                options["output_width"],
                np.array(options["subset_idxs"], np.intp),
            )
        )
    tensor = {name: graph.tensors.index(t) for t in graph.tensors for name in [t.name]}
    features = int(samplers[0].inputs[0])
    squares = [int(op.outputs[0]) for op in samplers]
    placers = operations(b"TransformLandmarks")
    placed = [int(op.inputs[0]) for op in placers]
    ends = [features, tensor[_MESH_TENSOR], tensor[_PRESENCE_TENSOR]]
    return _Split(
        _cut_out(content, [int(index) for index in graph.inputs], ends),
        _cut_out(content, squares, placed),
        tuple(parts),
        *(graph.tensors[index].name.decode() for index in ends),
        tuple(
            (graph.tensors[index].name.decode(), _part_of(graph, op, matrices))
            for index, op in zip(placed, placers, strict=True)
        ),
    )


def _part_of(graph: object, placer: object, matrices: list) -> int:
    """Which part's matrix an operation that places points uses, through the constant factors in between."""
    produced_by = {int(output): op for op in graph.operators for output in op.outputs}
    operation = produced_by[int(placer.inputs[1])]
    while operation not in matrices:
        operation = produced_by[int(operation.inputs[0])]
    return matrices.index(operation)


def _cut_out(content: bytes, inputs: list[int], outputs: list[int]) -> bytes:
    """A network file of just the operations that lead from some tensors to others."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    produced_by = {int(output): i for i, op in enumerate(graph.operators) for output in op.outputs}
    needed, waiting = set(), list(outputs)
    while waiting:
        tensor = int(waiting.pop())
        operation = produced_by.get(tensor)
        if tensor in inputs or operation is None or operation in needed:
            continue
        needed.add(operation)
        waiting += [index for index in graph.operators[operation].inputs if index >= 0]
    graph.operators = [graph.operators[index] for index in sorted(needed)]
    graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    model.signatureDefs = None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
