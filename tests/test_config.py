"""Settings from TOML: what stands in a file replaces a default, and a mistake in it is one sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from manvatar.config import from_table, preset_names, read_toml
from manvatar.errors import UserError
from manvatar.training import Preset, load_preset


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    count: int = 3
    fast: bool = False
    mode: Literal["a", "b"] = "a"
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


def test_what_is_left_out_keeps_its_default() -> None:
    assert from_table(Outer, {}, "t") == Outer()
    assert from_table(Outer, {"count": 4}, "t") == Outer(count=4)


def test_all_kinds_of_values() -> None:
    table = {"name": "y", "count": 1, "fast": True, "mode": "b", "limit": 2, "inner": {"rate": 1, "sizes": [3]}}
    made = from_table(Outer, table, "t")
    assert made == Outer("y", 1, True, "b", 2.0, Inner(1.0, (3,)))
    assert type(made.inner.rate) is float and type(made.limit) is float and type(made.inner.sizes) is tuple


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"cuont": 1}, "t has an unknown key 'cuont'; it can have name, count, fast, mode, limit, inner"),
        ({"count": 1.5}, "t count cannot be 1.5; expected int"),
        ({"count": True}, "t count cannot be True; expected int"),
        ({"count": "3"}, "t count cannot be '3'; expected int"),
        ({"fast": 1}, "t fast cannot be 1; expected bool"),
        ({"name": 1}, "t name cannot be 1; expected str"),
        ({"mode": "c"}, "t mode cannot be 'c'; expected "),
        ({"limit": "x"}, "t limit cannot be 'x'; expected float"),
        ({"inner": 1}, "t inner must be a table"),
        ({"inner": {"rtae": 1}}, "t inner has an unknown key 'rtae'; it can have rate, sizes"),
        ({"inner": {"rate": True}}, "t inner rate cannot be True; expected float"),
        ({"inner": {"sizes": 3}}, "t inner sizes cannot be 3; expected "),
        ({"inner": {"sizes": [1, "2"]}}, "t inner sizes cannot be '2'; expected int"),
    ],
)
def test_mistakes_are_one_sentence(table: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_table(Outer, table, "t")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_every_preset_of_the_package_can_be_read() -> None:
    assert "fast" in preset_names()
    for name in preset_names():
        assert load_preset(name).name == name


def test_fast_is_the_defaults() -> None:
    assert load_preset("fast") == Preset()


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[field]\ncanonical_voxels_m = [0.01, 0.005, 0.002]\n[training]\niterations = 7\n[training.march]\nstep_m = 1\n"
    )
    preset = load_preset(str(path))
    assert preset.name == str(path) and preset.training.iterations == 7 and preset.training.march.step_m == 1.0
    assert preset.field.canonical_voxels_m == (0.01, 0.005, 0.002)
    assert preset.training.loss == Preset().training.loss


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training\n", "is not valid TOML"),
        ("[training]\niteratons = 3\n", "unknown key 'iteratons'"),
        ("[trainnig]\n", "unknown key 'trainnig'"),
        ("training = 3\n", "training must be a table"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_preset(str(path))
    assert "mine.toml" in str(caught.value)


def test_no_such_preset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no preset 'fats'; choose one of .*fast"):
        read_toml("fats")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not valid TOML"):
        read_toml(str(tmp_path / "bytes.toml"))
