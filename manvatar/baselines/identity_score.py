"""Whether a rendered face is the same person: CSIM, the cosine of two face recognition embeddings.

The network is IR-SE-50, a residual network with squeeze and excitation trained with ArcFace (Deng et al., CVPR 2019);
its weights are a file that the user names, a state dict in the layout of its common PyTorch port (``input_layer.*``,
``body.<n>.*``, ``output_layer.*``). Faces are brought to 112 x 112 pixels by a similarity of five points.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from manvatar.errors import UserError

SIZE_PX = 112
_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))  # channels, blocks
_SQUEEZE = 16
# Where eyes (the subject's right first), nose tip and corners of the mouth lie in the 112 x 112 picture.
_TEMPLATE_PX = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // _SQUEEZE, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            _SqueezeExcite(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class FaceEmbedder(nn.Module):
    """IR-SE-50: RGB in [-1, 1] of an aligned face -> 512 numbers of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks, inputs = [], 64
        for outputs, count in _STAGES:
            for index in range(count):
                blocks.append(_Block(inputs, outputs, 1 if index else 2))
                inputs = outputs
        self.body = nn.Sequential(*blocks)
        side = SIZE_PX // 2 ** len(_STAGES)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(inputs * side * side, 512),
            nn.BatchNorm1d(512),
        )

    def forward(self, faces: Float[Tensor, "faces 3 112 112"]) -> Float[Tensor, "faces 512"]:
        return functional.normalize(self.output_layer(self.body(self.input_layer(faces))))


class IdentityScore:
    """The cosine of the embeddings of two faces; 1 = the same.

    Raises:
        UserError: the weights file is missing, or holds something else.
    """

    def __init__(self, weights: str | Path) -> None:
        self.network = FaceEmbedder().eval()
        advice = "give the weights of IR-SE-50 (a PyTorch state dict with input_layer, body and output_layer)"
        try:
            self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except FileNotFoundError as error:
            raise UserError(f"no such file: {weights}; {advice}") from error
        except Exception as error:  # torch.load raises whatever its reader met
            raise UserError(f"{weights} cannot be used for CSIM; {advice}") from error

    @torch.no_grad()
    def __call__(
        self,
        truth: Float[Tensor, "height width 3"],
        image: Float[Tensor, "height2 width2 3"],
        truth_points_px: Float[Tensor, "68 2"],
        image_points_px: Float[Tensor, "68 2"],
    ) -> float:
        """Both images in [0, 1], each with its iBUG-68 landmarks."""
        faces = [aligned_face(truth, truth_points_px), aligned_face(image, image_points_px)]
        one, other = self.network(torch.stack(faces) * 2 - 1)
        return float(one @ other)


def five_points(points_px: Float[Tensor, "68 2"]) -> Float[Tensor, "5 2"]:
    """Middles of the eyes (the subject's right first), nose tip, corners of the mouth."""
    eyes = [points_px[36:42].mean(0), points_px[42:48].mean(0)]
    return torch.stack([*eyes, points_px[30], points_px[48], points_px[54]])


def aligned_face(
    image: Float[Tensor, "height width 3"], points_px: Float[Tensor, "68 2"]
) -> Float[Tensor, "3 112 112"]:
    """The face at 112 x 112, its five points as near to the template as a similarity brings them."""
    similarity = _similarity(torch.tensor(_TEMPLATE_PX), five_points(points_px.float()))
    height, width = image.shape[:2]
    line = torch.arange(SIZE_PX) + 0.5
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1) @ similarity[:, :2].T + similarity[:, 2]
    grid = grid / torch.tensor([width, height]) * 2 - 1
    picture = image.permute(2, 0, 1)[None].float()
    return functional.grid_sample(picture, grid[None], mode="bilinear", align_corners=False)[0]


def _similarity(points: Float[Tensor, "points 2"], targets: Float[Tensor, "points 2"]) -> Float[Tensor, "2 3"]:
    """Turn, scale and shift that bring ``points`` nearest to ``targets`` (least squares; complex numbers)."""
    here, there = points - points.mean(0), targets - targets.mean(0)
    size = here.square().sum()
    a = (here * there).sum() / size
    b = (here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0]).sum() / size
    turn = torch.stack([torch.stack([a, -b]), torch.stack([b, a])])
    return torch.cat([turn, (targets.mean(0) - turn @ points.mean(0))[:, None]], 1)
