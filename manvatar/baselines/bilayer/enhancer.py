"""The texture enhancer: a network that corrects a person's texture in a few steps so that their photo comes out.

Each step renders the photo's pose with the texture so far, takes the gradient of the squared error in the texture, and
adds what the network makes of texture and gradient. It stands in for fine-tuning. Zakharov et al., ECCV 2020, 3.3.
"""

from __future__ import annotations

import torch
from torch import nn

from manvatar.baselines.bilayer.blocks import Images, ResidualBlock, activate
from manvatar.baselines.bilayer.generators import InferenceOutput, masked, render

STEPS = 4


class TextureEnhancer(nn.Module):
    """Texture and gradient -> the change of the texture.

    Args:
        width, max_width: channels at the full size, and the most.
        down: how often the size is halved.
        flat: residual blocks at the smallest size.
    """

    def __init__(self, width: int = 64, max_width: int = 128, down: int = 1, flat: int = 8) -> None:
        super().__init__()
        widths = [min(width * 2**step, max_width) for step in range(down + 1)]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.first = nn.Conv2d(6, width, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(a, b, "down") for a, b in pairs)
        self.flat = nn.ModuleList(ResidualBlock(widths[-1], widths[-1]) for _ in range(flat))
        self.up = nn.ModuleList(ResidualBlock(b, a, "up") for a, b in reversed(pairs))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, texture: Images, gradient: Images, photos_per_person: int = 1) -> Images:
        """(people, 3, H, W) in [-1, 1]; ``texture`` and ``gradient`` have one entry for each photo."""
        h = self.first(torch.cat([texture, gradient], 1))
        for block in [*self.down, *self.flat]:
            h, _ = block(h)
        if photos_per_person > 1:
            h = h.reshape(-1, photos_per_person, *h.shape[1:]).mean(1)
        for block in self.up:
            h, _ = block(h)
        return self.head(activate(h)).tanh()


def enhanced(
    enhancer: nn.Module,
    texture: Images,
    source: InferenceOutput,
    photos: Images,
    steps: int = STEPS,
    photos_per_person: int = 1,
    align_corners: bool = False,
) -> Images:
    """The texture after ``steps`` updates, (people, 3, H, W); not bounded.

    Differentiable in the enhancer's parameters through all steps; not in texture, source and photos, and the gradients
    the network is shown are constants to it (first-order learned descent).

    Args:
        enhancer: a :class:`TextureEnhancer`, or its fast form.
        source: what the inference generator makes of the photos' own poses.
        photos: RGB in [-1, 1], (people * photos_per_person, 3, H, W).
    """
    texture = texture.detach()
    source = _detached(source)
    mask = None if source.mask_logits is None else source.mask_logits.sigmoid()
    wanted = photos.detach() if mask is None else masked(photos.detach(), mask)
    for _ in range(steps):
        repeated = texture.repeat_interleave(photos_per_person, 0)
        gradient = _error_gradient(repeated, source, mask, wanted, align_corners)
        texture = texture + enhancer(repeated, gradient, photos_per_person)
    return texture


def _detached(output: InferenceOutput) -> InferenceOutput:
    logits = None if output.mask_logits is None else output.mask_logits.detach()
    return InferenceOutput(output.warp.detach(), output.low_frequency.detach(), logits)


def _error_gradient(
    texture: Images, source: InferenceOutput, mask: torch.Tensor | None, wanted: Images, align_corners: bool
) -> Images:
    """Of half the sum of squared errors, in the texture."""
    leaf = texture.detach().requires_grad_()
    with torch.enable_grad():
        shown = render(leaf, source, align_corners)
        error = (shown if mask is None else masked(shown, mask)) - wanted
        return torch.autograd.grad(0.5 * error.square().sum(), leaf)[0]
