"""The generators: sizes as published, one person = many people, gradients, composing, standing statistics."""

from __future__ import annotations

import pytest
import torch

from manvatar.baselines.bilayer.blocks import (
    AdaptiveParameters,
    BatchNorm,
    ChannelAffine,
    PixelAffine,
    PixelLinear,
    standing_statistics,
)
from manvatar.baselines.bilayer.generators import (
    FreePerson,
    InferenceGenerator,
    KeypointEmbedder,
    TextureGenerator,
    identity_grid,
    masked,
    render,
    warped,
)
from manvatar.errors import UserError


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _repeated(person: AdaptiveParameters, people: int) -> AdaptiveParameters:
    norms = [ChannelAffine(n.scale.expand(people, -1), n.shift.expand(people, -1)) for n in person.norms]
    skips = [PixelLinear(s.weight.expand(people, -1, -1), s.bias.expand(people, -1)) for s in person.skips]
    return AdaptiveParameters(tuple(norms), tuple(skips))


def _small() -> tuple[InferenceGenerator, FreePerson]:
    generator = InferenceGenerator(width=4, max_width=16, image_size_px=32)
    person = FreePerson(generator.widths)
    with torch.no_grad():
        for value in person.values():
            value.add_(torch.randn_like(value) / 3)
    return generator, person


@pytest.mark.parametrize(
    ("width", "max_width", "generator", "person", "embedder"),
    [
        (16, 128, 1_032_006, 62_384, 692_992),
        (32, 256, 4_123_782, 244_576, 1_219_328),
        (64, 512, 16_486_662, 968_384, 2_272_000),
    ],
)
def test_parameter_counts(width: int, max_width: int, generator: int, person: int, embedder: int) -> None:
    with torch.device("meta"):
        model = InferenceGenerator(width, max_width)
        assert _count(model) == generator
        assert _count(FreePerson(model.widths)) == person
        assert _count(KeypointEmbedder(model.inputs)) == embedder


def test_parameter_count_of_the_texture_generator() -> None:
    with torch.device("meta"):
        assert _count(TextureGenerator()) == 32_541_251 + 8_192


def test_shapes_and_ranges() -> None:
    generator, person = _small()
    output = generator(KeypointEmbedder(generator.inputs)(torch.rand(3, 136)), person())
    assert output.warp.shape == (3, 2, 32, 32) and output.warp.abs().max() <= 1
    assert output.low_frequency.shape == (3, 3, 32, 32) and output.low_frequency.abs().max() <= 1
    assert output.mask_logits.shape == (3, 1, 32, 32)
    assert InferenceGenerator(4, 16, 32, masked=False)(torch.rand(1, 16, 4, 4), person()).mask_logits is None


@pytest.mark.parametrize("training", [True, False])
def test_one_person_is_as_many_equal_people(training: bool) -> None:
    generator, person = _small()
    generator.train(training)
    features = torch.randn(3, generator.inputs, 4, 4)
    one, many = generator(features, person()), generator(features, _repeated(person(), 3))
    for name in ("warp", "low_frequency", "mask_logits"):
        torch.testing.assert_close(getattr(one, name), getattr(many, name), rtol=1e-4, atol=1e-5)


def test_people_do_not_mix() -> None:
    generator, person = _small()
    generator.eval()
    features = torch.randn(2, generator.inputs, 4, 4)
    other = FreePerson(generator.widths)()
    pairs = zip(person().norms, other.norms, strict=True)
    norms = [ChannelAffine(torch.cat([a.scale, b.scale]), torch.cat([a.shift, b.shift])) for a, b in pairs]
    pairs = zip(person().skips, other.skips, strict=True)
    skips = [PixelLinear(torch.cat([a.weight, b.weight]), torch.cat([a.bias, b.bias])) for a, b in pairs]
    both = generator(features, AdaptiveParameters(tuple(norms), tuple(skips)))
    alone = generator(features[1:], other)
    torch.testing.assert_close(both.low_frequency[1:], alone.low_frequency, rtol=1e-4, atol=1e-5)


def test_textures_of_two_people_are_those_of_each() -> None:
    torch.manual_seed(1)
    generator = TextureGenerator(width=4, max_width=16, image_size_px=16).eval()
    people = [_random_texture_person(generator.widths, 1) for _ in range(2)]
    both = AdaptiveParameters(
        tuple(
            PixelAffine(
                *(PixelLinear(*(torch.cat(p) for p in zip(*_pairs(a, b), strict=True))) for a, b in _sides(n, m))
            )
            for n, m in zip(people[0].norms, people[1].norms, strict=True)
        ),
        tuple(
            PixelLinear(torch.cat([a.weight, b.weight]), torch.cat([a.bias, b.bias]))
            for a, b in zip(people[0].skips, people[1].skips, strict=True)
        ),
    )
    expected = torch.cat([generator(person) for person in people])
    assert expected.std(0).mean() > 1e-3  # people differ
    torch.testing.assert_close(generator(both), expected, rtol=1e-4, atol=1e-5)


def _pairs(a: PixelLinear, b: PixelLinear) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(a.weight, a.bias), (b.weight, b.bias)]


def _sides(a: PixelAffine, b: PixelAffine) -> list[tuple[PixelLinear, PixelLinear]]:
    return [(a.scale, b.scale), (a.shift, b.shift)]


def _random_texture_person(widths: list[int], people: int) -> AdaptiveParameters:
    def linear(inputs: int, outputs: int) -> PixelLinear:
        return PixelLinear(torch.randn(people, outputs, inputs) / inputs, torch.randn(people, outputs) / 10)

    pairs = list(zip(widths, widths[1:], strict=False))
    norms = [PixelAffine(linear(o, o), linear(o, o)) for _, o in pairs for _ in range(2)]
    return AdaptiveParameters(tuple(norms), tuple(linear(i, o) for i, o in pairs))


def test_all_parameters_receive_gradients() -> None:
    generator, person = _small()
    embedder = KeypointEmbedder(generator.inputs)
    texture = torch.zeros(1, 3, 32, 32, requires_grad=True)
    output = generator(embedder(torch.rand(2, 136)), person())
    (
        render(texture, output).square().mean() + output.mask_logits.square().mean() + output.warp.square().mean()
    ).backward()
    for module in (generator, person, embedder):
        assert all(parameter.grad is not None for parameter in module.parameters())
    assert texture.grad.abs().sum() > 0


def test_free_person_from_known_values() -> None:
    generator, person = _small()
    copied = FreePerson.from_parameters(person())
    features = torch.randn(2, generator.inputs, 4, 4)
    generator.eval()
    assert torch.equal(generator(features, copied()).warp, generator(features, person()).warp)


def test_no_warp_shows_the_texture_and_a_warp_moves_it() -> None:
    texture = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(warped(texture, torch.zeros(2, 2, 16, 16)), texture.expand(2, -1, -1, -1))
    warp = torch.zeros(1, 2, 16, 16)
    warp[:, 0] = 2 / 16  # one pixel to the right in the texture
    torch.testing.assert_close(warped(texture, warp)[..., :-1], texture[..., 1:], atol=1e-6, rtol=0)
    grid = identity_grid(256)
    assert grid[0, 0, 0].tolist() == [-255 / 256] * 2 and grid[0, 0, 1, 0] > grid[0, 0, 0, 0]


def test_masked_background_is_black() -> None:
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(masked(image, torch.ones(1, 1, 4, 4)), image)
    assert (masked(image, torch.zeros(1, 1, 4, 4)) == -1).all()


def test_harmonics_are_sines_then_cosines() -> None:
    embedder = KeypointEmbedder(features=8, octaves=4)
    assert embedder.layers[0].in_features == 1088
    keypoints = torch.rand(2, 136)
    terms = embedder._harmonics(keypoints).reshape(2, 2, 136, 4)
    torch.testing.assert_close(terms[:, 0, 5, 2], (4 * torch.pi * keypoints[:, 5]).sin(), atol=1e-5, rtol=0)
    torch.testing.assert_close(terms[:, 1, 5, 3], (8 * torch.pi * keypoints[:, 5]).cos(), atol=1e-5, rtol=0)


def test_standing_statistics_are_the_mean_over_batches() -> None:
    norm = BatchNorm(2)
    batches = [torch.randn(4, 2, 3, 3) * (k + 1) for k in range(3)]
    standing_statistics(norm, [lambda batch=batch: norm(batch) for batch in batches])
    expected = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_var, expected)
    assert not norm.training and norm.momentum is not None


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="image_size_px = 100"):
        InferenceGenerator(image_size_px=100)
    with pytest.raises(UserError, match="max_width = 16"):
        InferenceGenerator(width=32, max_width=16)
    generator, _ = _small()
    with pytest.raises(ValueError, match="3 blocks"):
        generator(torch.rand(1, 16, 4, 4), FreePerson([16, 8])())
