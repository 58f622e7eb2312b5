"""Meta-training over coloured discs, and fine-tuning on a new one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manvatar.baselines import losses
from manvatar.baselines.fewshot.episodes import Episode
from manvatar.baselines.fewshot.meta import FineTuner, MetaConfig, MetaTrainer
from manvatar.baselines.fewshot.networks import FewShotModel, ProjectionDiscriminator
from manvatar.errors import UserError

SIZE = 32
FAST = MetaConfig(
    rate=1e-3,
    discriminator_rate=2e-3,
    adam_betas=(0.5, 0.99),
    matching=0.01,
    feature_matching=1.0,
    pixelwise=20.0,
    gradients=0.0,
)


def disc(x: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
    """A person is a colour, a pose where the disc is; the picture of its landmark is white."""
    line = (2 * torch.arange(SIZE) + 1) / SIZE - 1
    inside = ((line[None, :, None] ** 2 + (line[None, None] - x[:, None, None]) ** 2) < 0.5).float()[:, None]
    return inside * (color[:, :, None, None] + 1) - 1, (inside * 2 - 1).expand(-1, 3, -1, -1)


def episode(generator: torch.Generator, colors: Tensor, videos: int = 4, frames: int = 2) -> Episode:
    video = torch.randint(len(colors), (videos,), generator=generator)
    x = torch.rand(videos, frames + 1, generator=generator) - 0.5
    pairs = [disc(x[:, i], colors[video]) for i in range(frames + 1)]
    images, stickmen = (torch.stack([pair[k] for pair in pairs[:-1]], 1) for k in range(2))
    return Episode(images, stickmen, *pairs[-1], video)


@pytest.fixture(scope="module")
def trained() -> tuple[MetaTrainer, list[float], Tensor]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    colors = torch.rand(6, 3, generator=generator) * 2 - 1
    trainer = MetaTrainer(FewShotModel(8, 32, SIZE), ProjectionDiscriminator(6, 8, 32, SIZE), FAST)
    content = [float(trainer.step(episode(generator, colors))["content"]) for _ in range(140)]
    return trainer, content, colors


def test_meta_training_learns(trained: tuple[MetaTrainer, list[float], Tensor]) -> None:
    _, content, _ = trained
    assert sum(content[-10:]) < 0.6 * sum(content[:10])


def test_the_embedding_says_who_it_is(trained: tuple[MetaTrainer, list[float], Tensor]) -> None:
    """Of two people it is shown, each comes out nearer to themselves than to the other, in the same pose."""
    trainer, _, colors = trained
    distances = torch.cdist(colors, colors)
    pair = colors[list(divmod(int(distances.argmax()), len(colors)))]
    images, stickmen = disc(torch.zeros(2), pair)
    model = trainer.model.eval()
    with torch.no_grad():
        vectors = model.embedder(images[:, None], stickmen[:, None])[:, 0]
        shown = model.generator(stickmen, model.person(vectors))
    model.train()
    middle = shown[:, :, SIZE // 2, SIZE // 2]
    assert (middle[0] - middle[1]) @ (pair[0] - pair[1]) > 0.1 * (pair[0] - pair[1]).square().sum()


def test_fine_tuning_comes_nearer(trained: tuple[MetaTrainer, list[float], Tensor]) -> None:
    trainer, _, _ = trained
    x = torch.linspace(-0.4, 0.4, 4)
    images, stickmen = disc(x, torch.tensor([[-0.9, 0.9, 0.9]]).expand(4, -1))  # far from what it shows at first
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    tuner = FineTuner(trainer.model, trainer._game.discriminator, images, stickmen, FAST)
    start = losses.pixelwise(tuner.render(stickmen), images)
    for _ in range(40):
        tuner.step(2)
    assert losses.pixelwise(tuner.render(stickmen), images) < 0.7 * start
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert tuner.head.person.shape == (1, trainer.model.generator.adaptive_values)


def test_videos_and_embeddings_meet() -> None:
    """The matching loss pulls both: with nothing else, they come together."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    quiet = MetaConfig(rate=1e-3, discriminator_rate=1e-2, feature_matching=0.0, pixelwise=0.0, gradients=0.0)
    trainer = MetaTrainer(FewShotModel(8, 32, SIZE), ProjectionDiscriminator(2, 8, 32, SIZE), quiet)
    colors = torch.rand(2, 3, generator=generator)
    found = [float(trainer.step(episode(generator, colors))["matching"]) for _ in range(40)]
    assert sum(found[-5:]) < 0.5 * sum(found[:5])


def test_bad_input() -> None:
    model, judge = FewShotModel(8, 32, SIZE), ProjectionDiscriminator(1, 8, 32, SIZE)
    with pytest.raises(UserError, match="at least one frame"):
        FineTuner(model, judge, torch.zeros(0, 3, SIZE, SIZE), torch.zeros(0, 3, SIZE, SIZE))
    with pytest.raises(ValueError, match="each video needs a frame"):
        Episode(
            torch.zeros(1, 0, 3, 8, 8), torch.zeros(1, 0, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8),
            torch.zeros(1, dtype=torch.int64),
        )  # fmt: skip
