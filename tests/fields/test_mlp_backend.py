"""Fields compute the same whatever computes their small networks."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from training.small import BRIEF, FIELD, small_dataset, small_trainer

from manvatar import Avatar
from manvatar.errors import UserError
from manvatar.fields import FastField, FastFieldConfig, PaperField, PaperFieldConfig, make_field
from manvatar.ops import mlp, mlp_has_bfloat16, mlp_reference
from manvatar.ops.mlp_backends import mlp_backend, mlp_tinycudann, require_tinycudann, through_network
from manvatar.reconstruction import Reconstructor
from manvatar.types import Box, Clip, Track

BOX = Box(torch.tensor([-0.1, -0.1, -0.1]), torch.tensor([0.1, 0.1, 0.1]))
FAST = FastFieldConfig(motion_voxel_m=0.05, canonical_voxels_m=(0.04,), canonical_features=(8,), hidden=16)
PAPER = PaperFieldConfig(expressions=3, motion_cells=4, canonical_cells=8, hidden=16)
FIELDS = {"fast": (FastField, FAST), "paper": (PaperField, PAPER)}


def random_arguments(dtype: torch.dtype, device: str = "cpu", hidden: int = 32) -> tuple[Tensor, ...]:
    """Of an MLP: 300 samples of 19 features in 3 frames, 4 outputs."""
    frame = torch.randint(3, (300,)).sort().values
    shapes = ((300, 19), (hidden, 19), (3, hidden), (4, hidden), (4,))
    inputs, *rest = (torch.randn(*shape, dtype=dtype).mul(0.4).to(device).requires_grad_() for shape in shapes)
    return inputs, frame.to(device), *rest


def value_and_gradients(compute: object, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    out = compute(*arguments)
    leaves = [argument for argument in arguments if argument.requires_grad]
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    return out, *torch.autograd.grad((out * weights).sum(), leaves)


def of_a_field(name: str, backend: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a field says about fixed points, and the gradients of its parameters, with weights that do not depend on
    the backend."""
    torch.manual_seed(3)
    kind, config = FIELDS[name]
    field = kind(dataclasses.replace(config, mlp_backend=backend), BOX, 3).double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    points = (torch.rand(200, 3, dtype=torch.float64) - 0.5) * 0.2
    directions = functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=1)
    frame = torch.randint(2, (200,)).sort().values
    values = field.at(torch.randn(2, 3, dtype=torch.float64))(points, directions, frame)
    (values.rgb.square().sum() + values.density_per_m.log1p().sum()).backward()
    gradients = {key: parameter.grad for key, parameter in field.named_parameters() if parameter.grad is not None}
    return {"rgb": values.rgb.detach(), "density": values.density_per_m.detach()}, gradients


@pytest.mark.parametrize("name", FIELDS)
def test_torch_is_native(name: str) -> None:
    (native, native_gradients), (torch_, torch_gradients) = of_a_field(name, "native"), of_a_field(name, "torch")
    torch.testing.assert_close(torch_, native, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(torch_gradients, native_gradients, rtol=1e-9, atol=1e-11)
    assert native["density"].max() > 0 and len(native_gradients) > 5


@pytest.mark.parametrize("name", FIELDS)
def test_the_backend_is_what_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setitem(
        sys.modules["manvatar.ops.mlp_backends"].MLP_BACKENDS,
        "torch",
        lambda *arguments: used.append(len(arguments)) or mlp_reference(*arguments),
    )
    of_a_field(name, "native")
    assert not used
    of_a_field(name, "torch")
    assert used and set(used) <= {6, 7}  # with octaves or without


def test_a_trained_field_changes_its_backend() -> None:
    """Also one that was made from what an avatar file of another backend says."""
    field = make_field("fast", dataclasses.asdict(dataclasses.replace(FAST, mlp_backend="native")), BOX, 3)
    points, directions, frame = torch.zeros(4, 3), torch.eye(3)[[0, 1, 2, 0]], torch.zeros(4, dtype=torch.int64)
    expression = torch.ones(1, 3)
    native = field.at(expression)(points, directions, frame)
    field.mlp_backend = "torch"
    torch.testing.assert_close(field.at(expression)(points, directions, frame).rgb, native.rgb)
    field.mlp_backend = "tinycudann"
    with pytest.raises(UserError, match="needs CUDA"):
        field.at(expression)(points, directions, frame)
    settings = dataclasses.asdict(dataclasses.replace(FAST, mlp_backend="tinycudann"))
    made_with_it = make_field("fast", settings, BOX, 3)
    made_with_it.load_state_dict(field.state_dict())
    made_with_it.mlp_backend = "native"
    torch.testing.assert_close(made_with_it.at(expression)(points, directions, frame).rgb, native.rgb)


def test_an_avatar_file_does_not_depend_on_what_trained_it(tmp_path: Path) -> None:
    dataset = small_dataset()
    trainer = small_trainer(dataset)
    trainer.field.config = dataclasses.replace(FIELD, mlp_backend="torch")
    trainer.field.mlp_backend = "torch"
    trainer.run(show_progress=False)
    frames, expressions = dataset.expression.shape
    track = Track(
        camera=dataset.camera,
        cam_from_head=dataset.cam_from_head,
        identity=torch.zeros(1),
        expression=dataset.expression,
        landmark_offsets_m=torch.zeros(478, 3),
        residual_px=torch.zeros(frames),
        valid=torch.ones(frames, dtype=torch.bool),
        frame_rate_hz=25.0,
        landmark_scheme="mediapipe478",
        face_model="builtin-1",
        expression_names=tuple(f"e{number}" for number in range(expressions)),
    )
    clip = Clip(Path("somebody.mp4"), 25.0, (32, 32), frames)
    reconstructor = Reconstructor(mlp_backend="torch")
    reconstructor.preset = dataclasses.replace(reconstructor.preset, training=BRIEF)
    trained = reconstructor._avatar(trainer, clip, track)
    trained.save(tmp_path / "avatar.mav", "full")
    avatar = Avatar.load(tmp_path / "avatar.mav", "cpu")
    assert (trained.field.mlp_backend, avatar.field.mlp_backend) == ("torch", "auto")
    assert avatar.header.training["mlp_backend"] == "torch" and avatar.header.field["mlp_backend"] == "auto"
    avatar.field.mlp_backend = "native"
    shown, expected = (a.rendering(dataset.expression[0]) for a in (avatar, trained))
    assert expected.opacity.max() > 0.5
    torch.testing.assert_close(shown.rgb, expected.rgb, rtol=0, atol=1e-5)


def test_the_defaults() -> None:
    """The paper's field computes as it is written; the fast one as fast as the machine can."""
    assert (FastFieldConfig().mlp_backend, PaperFieldConfig().mlp_backend) == ("auto", "native")
    assert mlp_backend("native") is mlp
    assert Reconstructor().preset.field.mlp_backend == "auto"
    assert Reconstructor(mlp_backend="torch").preset.field.mlp_backend == "torch"


@torch.no_grad()
def test_bfloat16_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = random_arguments(torch.float32)
    exact = mlp(*arguments)
    if mlp_has_bfloat16():
        rounded = mlp_backend("native-bf16")(*arguments)
        assert 0 < (rounded - exact).norm() < 1e-2 * exact.norm()
        assert torch.equal(mlp_backend("auto")(*arguments), rounded)
        finer = [mlp_backend(f"native-bf16x{parts}")(*arguments) for parts in (2, 3)]
        errors = [(got - exact).norm() / exact.norm() for got in finer]
        assert 0 < errors[1] < 1e-6 < errors[0] < 1e-5
    other = random_arguments(torch.float32, hidden=48)  # no multiple of 32
    assert torch.equal(mlp_backend("auto")(*other), mlp(*other))
    monkeypatch.setattr(sys.modules["manvatar.ops.mlp_backends"], "mlp_has_bfloat16", lambda device: False)
    assert torch.equal(mlp_backend("auto")(*arguments), exact)
    with pytest.raises(UserError, match="native-bf16 needs a processor with AMX"):
        mlp_backend("native-bf16")(*arguments)


def test_names_that_do_not_exist() -> None:
    for make in (FastFieldConfig, PaperFieldConfig):
        with pytest.raises(
            UserError, match="no MLP backend 'cutlass'; choose one of native, native-bf16, native-bf16x2"
        ):
            make(mlp_backend="cutlass")
    with pytest.raises(UserError, match="no MLP backend"):
        Reconstructor(mlp_backend="cutlass")


def test_tinycudann_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs CUDA, but is asked for on the cpu; use native"):
        Reconstructor(mlp_backend="tinycudann")
    with pytest.raises(UserError, match="needs CUDA"):
        mlp_tinycudann(*random_arguments(torch.float32))
    monkeypatch.setitem(sys.modules, "tinycudann", None)  # import then raises
    with pytest.raises(UserError, match="is not installed; build it with: pip install"):
        require_tinycudann(torch.device("cuda"))


class FlatNetwork(nn.Module):
    """What tiny-cuda-nn computes from its flat parameters, at the precision of its input."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.sizes = inputs, hidden, outputs
        self.params = nn.Parameter(torch.full((hidden * (inputs + outputs),), torch.nan))

    def forward(self, seen: Tensor) -> Tensor:
        inputs, hidden, outputs = self.sizes
        first, last = self.params.split([hidden * inputs, outputs * hidden])
        return functional.leaky_relu(seen @ first.view(hidden, inputs).T, 0.01) @ last.view(outputs, hidden).T


def test_weights_without_biases_are_the_same_network() -> None:
    arguments = random_arguments(torch.float64)
    network = FlatNetwork(32, 32, 16)  # 19 features and 3 frames, and 4 outputs, to multiples of 16
    ours = value_and_gradients(lambda *a: through_network(network, *a), arguments)
    torch.testing.assert_close(ours, value_and_gradients(mlp_reference, arguments), rtol=1e-11, atol=1e-11)


@pytest.mark.cuda
@pytest.mark.parametrize("hidden", [32, 48])  # FullyFusedMLP, CutlassMLP
def test_tinycudann_is_native(cuda: torch.device, hidden: int) -> None:
    """To half precision: 11 bits of every weight, input and hidden unit."""
    pytest.importorskip("tinycudann", reason="needs tinycudann")
    arguments = random_arguments(torch.float32, str(cuda), hidden)
    ours, truth = (value_and_gradients(f, arguments) for f in (mlp_tinycudann, mlp_reference))
    for got, expected in zip(ours, truth, strict=True):
        assert (got - expected).norm() <= 5e-3 * expected.norm()
