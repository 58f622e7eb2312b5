"""Losses of the 2D models: values by hand, gradients where they belong, and weights files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from manvatar.baselines import losses
from manvatar.errors import UserError


def images(count: int = 2, size: int = 32) -> tuple[Tensor, Tensor]:
    return (torch.rand(2, count, 3, size, size) * 2 - 1).unbind(0)


def test_relativistic_hinge_by_hand() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.5])
    # Against the means 2 and 0.25: relu(1 - (0 - 2)) = 3, relu(1 - (0.5 - 2)) = 2.5; relu(1 + 0.75), relu(1 + 2.75).
    assert losses.relativistic_generator(real, fake).item() == pytest.approx(2.75 + (1.75 + 3.75) / 2)
    # relu(1 - 0.75) = 0.25, relu(1 - 2.75) = 0; relu(1 - 2) = 0, relu(1 - 1.5) = 0.
    assert losses.relativistic_discriminator(real, fake).item() == pytest.approx(0.125)


def test_the_generator_moves_fakes_only() -> None:
    real, fake = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    losses.relativistic_generator(real, fake).backward()
    assert real.grad is None and bool((fake.grad <= 0).all()) and fake.grad.abs().sum() > 0


def test_plain_hinge() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert losses.hinge_discriminator(real, fake).item() == pytest.approx(0.5 + 1.0)
    assert losses.hinge_generator(fake).item() == pytest.approx(1.0)


def test_feature_matching() -> None:
    fake = [torch.zeros(2, 3, requires_grad=True), torch.zeros(4, requires_grad=True)]
    real = [torch.ones(2, 3, requires_grad=True), torch.full((4,), -3.0, requires_grad=True)]
    loss = losses.feature_matching(fake, real)
    assert loss.item() == pytest.approx(2.0)
    loss.backward()
    assert real[0].grad is None and fake[1].grad.abs().sum() > 0
    with pytest.raises(ValueError, match="1 layers of fakes and 2 of reals"):
        losses.feature_matching(fake[:1], real)


def test_gradients_see_edges_and_not_brightness() -> None:
    image, target = images()
    assert losses.gradients(target + 0.3, target).item() == pytest.approx(0, abs=1e-6)
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1
    # One of seven differences along x is 1, then one of three, then one of one.
    assert losses.gradients(step, torch.zeros_like(step)).item() == pytest.approx(1 / 7 + 1 / 3 + 1)
    assert losses.gradients(image, target) > 0.1


def test_segmentation_is_least_for_the_truth() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    for kind in ("bce", "dice"):
        good, bad = losses.segmentation(20 * mask - 10, mask, kind), losses.segmentation(10 - 20 * mask, mask, kind)
        assert good.item() == pytest.approx(0, abs=1e-3) and bad > good + 1


def test_the_warp_is_held_less_and_less() -> None:
    assert losses.warp_regularizer(torch.full((1, 2, 4, 4), -0.25)).item() == pytest.approx(0.25)
    assert losses.warp_weight(0) == losses.warp_weight(49) == 10.0
    assert losses.warp_weight(100) == pytest.approx(8.1)
    assert losses.warp_weight(100_000) == 0.0


# -------------------------------------------------------------------------------------------------------- perceptual


def vgg_file(folder: Path, backbone: str) -> Path:
    """Random weights in torchvision's layout, the classifier included."""
    state = {f"features.{name}": value for name, value in losses._vgg(backbone).state_dict().items()}
    path = folder / f"{backbone}.pth"
    torch.save({**state, "classifier.0.bias": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize(("backbone", "last"), [("vgg19", 28), ("vggface", 24)])
def test_perceptual(tmp_path: Path, backbone: str, last: int) -> None:
    path = vgg_file(tmp_path, backbone)
    loss = losses.PerceptualLoss(backbone, path)
    convolutions = [number for number, layer in enumerate(loss.features) if isinstance(layer, torch.nn.Conv2d)]
    assert convolutions[-1] == last and loss.features[convolutions[-1]].weight.shape == (512, 512, 3, 3)
    image, target = images()
    image.requires_grad_()
    value = loss(image, target)
    value.backward()
    assert value > 0 and image.grad.abs().sum() > 0 and not any(p.requires_grad for p in loss.parameters())
    assert loss(target, target).item() == 0


def test_perceptual_first_layer_by_hand(tmp_path: Path) -> None:
    loss = losses.PerceptualLoss("vgg19", vgg_file(tmp_path, "vgg19"), layer_weights=(1.0, 0.0, 0.0, 0.0, 0.0))
    image, target = images(1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    first = [loss.features[0](((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]).relu() for x in (image, target)]
    assert loss(image, target).item() == pytest.approx(functional.l1_loss(*first).item(), rel=1e-5)


def test_without_weights_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert losses.perceptual_losses(None, None) == ()
    assert "no weights of vgg19 and vggface" in caplog.text
    found = losses.perceptual_losses(vgg_file(tmp_path, "vgg19"), None)
    assert [(term.name, term.weight) for term in found] == [("vgg19", 10.0)]


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name, message in (("none.pth", "no such file"), ("text.pth", "not a PyTorch"), ("other.pth", "does not hold")):
        with pytest.raises(UserError, match=message):
            losses.PerceptualLoss("vgg19", tmp_path / name)
