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
from torch.nn import functional

from manvatar.baselines import losses
from manvatar.baselines.fewshot.networks import FewShotModel, Judgement, ProjectionDiscriminator
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


@dataclass(frozen=True)
class Episode:
    """K frames of each of V videos, and one more of each."""

    images: Float[Tensor, "videos frames 3 size size"]
    stickmen: Float[Tensor, "videos frames 3 size size"]
    target: Float[Tensor, "videos 3 size size"]
    target_stickman: Float[Tensor, "videos 3 size size"]
    video: Int[Tensor, "videos"]  # which of the training videos each is

    def __post_init__(self) -> None:
        if self.images.shape[1] < 1:
            raise ValueError("Episode: each video needs a frame to learn from")


@dataclass(frozen=True)
class StepLosses:
    """What a step has seen; plain numbers."""

    content: float
    adversarial: float
    feature_matching: float
    matching: float
    discriminator: float


class _Adversary:
    """What meta-training and fine-tuning share: the content loss, the game, two optimisers."""

    def __init__(
        self,
        learners: list[nn.Parameter],
        discriminator: ProjectionDiscriminator,
        config: MetaConfig,
        perceptual: tuple[losses.WeightedLoss, ...],
    ) -> None:
        self.discriminator, self.config, self.perceptual = discriminator, config, perceptual
        betas = (config.adam_betas[0], config.adam_betas[1])
        self.optimizer = torch.optim.Adam(learners, config.rate, betas, config.adam_epsilon)
        self.discriminator_optimizer = torch.optim.Adam(
            discriminator.parameters(), config.discriminator_rate, betas, config.adam_epsilon
        )

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
        matching: Tensor | None,
    ) -> StepLosses:
        """One step of the generator's side on ``image``, then those of the discriminator."""
        config, judge = self.config, self.discriminator
        judge.requires_grad_(False)
        fake: Judgement = judge(image, stickman, video)
        with torch.no_grad():
            real = judge(target, stickman, video)
        content, game = self.content(image, target), losses.hinge_generator(fake.score)
        features = losses.feature_matching(fake.features, real.features)
        total = content + game + config.feature_matching * features
        if matching is not None:
            total = total + config.matching * matching
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        judge.requires_grad_(True)
        judged = self._teach(image.detach(), target, stickman, video)
        matched = 0.0 if matching is None else float(matching.detach())
        return StepLosses(*(float(value.detach()) for value in (content, game, features)), matched, judged)

    def _teach(self, image: Tensor, target: Tensor, stickman: Tensor, video: Tensor) -> float:
        value = 0.0
        for _ in range(self.config.discriminator_steps):
            scores = self.discriminator(
                torch.cat([target, image]), torch.cat([stickman, stickman]), torch.cat([video, video])
            ).score
            real, fake = scores.chunk(2)
            loss = losses.hinge_discriminator(real, fake)
            self.discriminator_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.discriminator_optimizer.step()
            value = float(loss.detach())
        return value


class MetaTrainer:
    """Meta-training of embedder, projection, generator and discriminator.

    Args:
        model: learns in place.
        discriminator: has a vector for each training video.
        perceptual: of :func:`manvatar.baselines.losses.perceptual_losses`.
    """

    def __init__(
        self,
        model: FewShotModel,
        discriminator: ProjectionDiscriminator,
        config: MetaConfig | None = None,
        perceptual: tuple[losses.WeightedLoss, ...] = (),
    ) -> None:
        self.model = model
        self.config = config or MetaConfig()
        self._adversary = _Adversary(list(model.parameters()), discriminator, self.config, perceptual)

    def step(self, episode: Episode) -> StepLosses:
        """One episode."""
        vectors = self.model.embedder(episode.images, episode.stickmen)
        image = self.model.generator(episode.target_stickman, self.model.person(vectors.mean(1)))
        known = self._adversary.discriminator.videos[episode.video].detach()
        matching = functional.l1_loss(vectors, known[:, None].expand_as(vectors))
        result = self._adversary.step(image, episode.target, episode.target_stickman, episode.video, matching)
        self._match_videos(vectors.detach().mean(1), episode.video)
        return result

    def _match_videos(self, vectors: Tensor, video: Tensor) -> None:
        """The other half of the matching loss: vectors of the videos move towards the embeddings."""
        known = self._adversary.discriminator.videos
        loss = self.config.matching * functional.l1_loss(known[video], vectors)
        optimizer = self._adversary.discriminator_optimizer
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


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
        self.generator = copy.deepcopy(model.generator)
        self.person = nn.Parameter(person.clone())
        judge = copy.deepcopy(discriminator)
        judge.videos = nn.Parameter(vector.clone())
        self._adversary = _Adversary(
            [*self.generator.parameters(), self.person], judge, config or MetaConfig(), perceptual
        )
        self._random = torch.Generator().manual_seed(seed)

    def step(self, count: int = 1) -> StepLosses:
        """One step on ``count`` of the frames, drawn at random."""
        rows = torch.randint(len(self.images), (count,), generator=self._random)
        image = self.generator(self.stickmen[rows], self.person)
        video = torch.zeros(count, dtype=torch.int64, device=image.device)
        return self._adversary.step(image, self.images[rows], self.stickmen[rows], video, None)

    @torch.no_grad()
    def render(self, stickmen: Float[Tensor, "frames 3 size size"]) -> Float[Tensor, "frames 3 size size"]:
        """What the person looks like in the poses of some landmark pictures."""
        self.generator.eval()
        try:
            return self.generator(stickmen, self.person)
        finally:
            self.generator.train()
