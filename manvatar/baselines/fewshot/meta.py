"""Learning to learn heads: meta-training over many videos, and fine-tuning on a few frames of a new person.

Zakharov et al., "Few-Shot Adversarial Learning of Realistic Neural Talking Head Models", ICCV 2019, section 3. An
episode takes K frames of each of some videos, embeds them, and asks for another frame of each. Images and landmark
pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from manvatar.baselines import losses
from manvatar.baselines.corpus.distributed import ALONE, Processes, average, shared
from manvatar.baselines.fewshot.episodes import Episode
from manvatar.baselines.fewshot.networks import FewShotModel, Generator, Judgement, ProjectionDiscriminator
from manvatar.errors import UserError


@dataclass(frozen=True)
class MetaConfig:
    """Rates and weights; those of the paper where it states them."""

    rate: float = 5e-5  # of embedder, projection and generator
    discriminator_rate: float = 2e-4
    discriminator_steps: int = 2  # for each step of the generator
    adam_betas: tuple[float, ...] = (0.0, 0.999)
    adam_epsilon: float = 1e-5
    feature_matching: float = 10.0
    matching: float = 10.0  # L1 between embeddings and the discriminator's vectors of the videos
    vgg19: float = 0.15  # perceptual; counts where the weights are given
    vggface: float = 0.025
    pixelwise: float = 10.0  # stands in for the perceptual terms where neither has its weights
    gradients: float = 5.0


class _Game:
    """What meta-training and fine-tuning share: the content loss, the game, two optimisers.

    Args:
        maker: makes images; a module, so that many processes can share its gradients.
        discriminator: judges them; as above.
    """

    def __init__(
        self,
        maker: nn.Module,
        discriminator: ProjectionDiscriminator,
        config: MetaConfig,
        perceptual: tuple[losses.WeightedLoss, ...],
        processes: Processes = ALONE,
    ) -> None:
        self.discriminator, self.config, self.perceptual = discriminator, config, perceptual
        self.processes = processes
        betas = (config.adam_betas[0], config.adam_betas[1])
        self.optimizers = {
            "generator": torch.optim.Adam(maker.parameters(), config.rate, betas, config.adam_epsilon),
            "discriminator": torch.optim.Adam(
                discriminator.parameters(), config.discriminator_rate, betas, config.adam_epsilon
            ),
        }
        self.maker, self.judge = shared(maker, processes), shared(discriminator, processes)

    def content(self, image: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The perceptual terms, or what needs no weights in their place."""
        if self.perceptual:
            return torch.stack([term.weight * term.loss(image, target) for term in self.perceptual]).sum()
        config = self.config
        return config.pixelwise * losses.pixelwise(image, target) + config.gradients * losses.gradients(image, target)

    def step(
        self,
        image: Float[Tensor, "videos 3 size size"],
        target: Float[Tensor, "videos 3 size size"],
        stickman: Float[Tensor, "videos 3 size size"],
        video: Int[Tensor, "videos"],
        vectors: Float[Tensor, "videos frames channels"] | None = None,
    ) -> dict[str, Tensor]:
        """One step of the generator's side on ``image``, then those of the discriminator; the terms of both losses.

        Args:
            vectors: embeddings to hold together with the discriminator's vectors of the videos.
        """
        config = self.config
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        fake: Judgement = functional_call(self.discriminator, frozen, (image, stickman, video))
        with torch.no_grad():
            real = self.discriminator(target, stickman, video)
        terms = {
            "content": self.content(image, target),
            "adversarial": losses.hinge_generator(fake.score),
            "feature_matching": config.feature_matching * losses.feature_matching(fake.features, real.features),
        }
        if vectors is not None:
            terms["matching"] = config.matching * _distance(vectors, self.discriminator.videos[video].detach())
        self.optimizers["generator"].zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self.optimizers["generator"].step()
        terms["discriminator"] = self._teach(image.detach(), target, stickman, video)
        if vectors is not None:
            self._move_videos(vectors.detach(), video)
        return {name: term.detach() for name, term in terms.items()}

    def _teach(self, image: Tensor, target: Tensor, stickman: Tensor, video: Tensor) -> Float[Tensor, ""]:
        optimizer = self.optimizers["discriminator"]
        for _ in range(self.config.discriminator_steps):
            scores = self.judge(
                torch.cat([target, image]), torch.cat([stickman, stickman]), torch.cat([video, video])
            ).score
            loss = losses.hinge_discriminator(*scores.chunk(2))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.detach()

    def _move_videos(self, vectors: Tensor, video: Tensor) -> None:
        """The other half of the matching loss: vectors of the videos move towards the embeddings.

        A step of its own: beside the hinge loss, whose gradients are far larger, Adam would leave nothing of it.
        """
        known, optimizer = self.discriminator.videos, self.optimizers["discriminator"]
        loss = self.config.matching * _distance(vectors.mean(1, keepdim=True), known[video])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average(known.grad, self.processes)
        optimizer.step()


def _distance(
    vectors: Float[Tensor, "videos frames channels"], known: Float[Tensor, "videos channels"]
) -> Float[Tensor, ""]:
    return functional.l1_loss(vectors, known[:, None].expand_as(vectors))


class MetaTrainer:
    """Meta-training of embedder, projection, generator and discriminator.

    Args:
        model: learns in place.
        discriminator: has a vector for each training video.
        perceptual: of :func:`manvatar.baselines.losses.perceptual_losses`.
        processes: that train together; each is given its share of an episode.
    """

    def __init__(
        self,
        model: FewShotModel,
        discriminator: ProjectionDiscriminator,
        config: MetaConfig | None = None,
        perceptual: tuple[losses.WeightedLoss, ...] = (),
        processes: Processes = ALONE,
    ) -> None:
        self.model = model
        self._game = _Game(model, discriminator, config or MetaConfig(), perceptual, processes)
        self.optimizers = self._game.optimizers

    def step(self, episode: Episode) -> dict[str, Tensor]:
        """One episode; the terms of the losses, detached."""
        vectors, image = self._game.maker(episode.images, episode.stickmen, episode.target_stickman)
        return self._game.step(image, episode.target, episode.target_stickman, episode.video, vectors)


class Head(nn.Module):
    """A generator and one person's AdaIN values: what is left of the model after fine-tuning."""

    def __init__(self, generator: Generator, person: Float[Tensor, "1 values"]) -> None:
        super().__init__()
        self.generator, self.person = generator, nn.Parameter(person.detach().clone())

    def forward(self, stickmen: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images 3 size size"]:
        return self.generator(stickmen, self.person)


class FineTuner:
    """A meta-trained model made one person's: their AdaIN values become parameters, and the generator learns on.

    The embedder is done after the start. The discriminator's vector of the person is their embedding, which it adds to
    what it has learnt about all (w' = w0 + e).

    Args:
        model, discriminator: copied, not changed.
        images, stickmen: the frames of the person, at least one.

    Raises:
        UserError: there are no frames.
    """

    def __init__(
        self,
        model: FewShotModel,
        discriminator: ProjectionDiscriminator,
        images: Float[Tensor, "frames 3 size size"],
        stickmen: Float[Tensor, "frames 3 size size"],
        config: MetaConfig | None = None,
        perceptual: tuple[losses.WeightedLoss, ...] = (),
        seed: int = 0,
    ) -> None:
        if len(images) == 0:
            raise UserError("fine-tuning needs at least one frame of the person; none was given")
        self.images, self.stickmen = images, stickmen
        with torch.no_grad():
            vector = model.embedder(images[None], stickmen[None]).mean(1)
            person = model.person(vector)
        self.head = Head(copy.deepcopy(model.generator), person)
        judge = copy.deepcopy(discriminator)
        judge.videos = nn.Parameter(vector.clone())
        self._game = _Game(self.head, judge, config or MetaConfig(), perceptual)
        self._random = torch.Generator().manual_seed(seed)

    def step(self, count: int = 1) -> dict[str, Tensor]:
        """One step on ``count`` of the frames, drawn at random; the terms of the losses, detached."""
        rows = torch.randint(len(self.images), (count,), generator=self._random)
        image = self.head(self.stickmen[rows])
        video = torch.zeros(count, dtype=torch.int64, device=image.device)
        return self._game.step(image, self.images[rows], self.stickmen[rows], video)

    @torch.no_grad()
    def render(self, stickmen: Float[Tensor, "frames 3 size size"]) -> Float[Tensor, "frames 3 size size"]:
        """What the person looks like in the poses of some landmark pictures."""
        self.head.eval()
        try:
            return self.head(stickmen)
        finally:
            self.head.train()
