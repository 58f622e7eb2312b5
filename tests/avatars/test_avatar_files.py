"""The avatar file: exact round trip, and one sentence for every way a file can be wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_avatar import fast_avatar

from manvatar.avatars import FORMAT_VERSION, Avatar, read_header
from manvatar.avatars.files import write_avatar
from manvatar.errors import UserError

KEY = "manvatar.avatar"


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return fast_avatar()


@pytest.fixture
def path(avatar: Avatar, tmp_path: Path) -> Path:
    avatar.save(tmp_path / "a.mav", precision="full")
    return tmp_path / "a.mav"


def _rewritten(path: Path, **changes: object) -> Path:
    """The same file with another header."""
    header = json.loads(json.dumps(dataclasses.asdict(read_header(path)))) | changes
    tensors = load_file(path)
    target = path.with_name("changed.mav")
    save_file(tensors, target, metadata={KEY: json.dumps(header)})
    return target


def test_full_precision_gives_the_same_bits_back(avatar: Avatar, path: Path) -> None:
    loaded = Avatar.load(path, "cpu")
    assert loaded.header == avatar.header
    for mine, theirs in ((avatar.field, loaded.field), (avatar.occupancy, loaded.occupancy)):
        assert mine.state_dict().keys() == theirs.state_dict().keys()
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
    expression = {"jawOpen": 0.7, "mouthSmile": -0.3}
    assert torch.equal(avatar.render(expression, size_px=40), loaded.render(expression, size_px=40))


def test_the_file_has_the_usual_permissions(path: Path) -> None:
    usual = path.with_name("usual")
    usual.write_text("")
    assert path.stat().st_mode == usual.stat().st_mode


def test_half_precision_is_half_the_size_and_nearly_equal(avatar: Avatar, path: Path) -> None:
    half_path = path.with_name("half.mav")
    avatar.save(half_path)
    assert half_path.stat().st_size < 0.75 * path.stat().st_size  # of so small a file the header is a good part
    half = Avatar.load(half_path, "cpu")
    white = torch.ones(3)
    a = avatar.rendering([1.0, 0.5, 0.2], size_px=64, background=white).rgb
    b = half.rendering([1.0, 0.5, 0.2], size_px=64, background=white).rgb
    error = (a - b).square().mean()
    # An avatar at 33 dB has an error of 5e-4; what is added must leave it above 32.98 dB.
    assert 0 < error < 5e-4 * (10**0.002 - 1)


def test_half_precision_refuses_what_does_not_fit(avatar: Avatar, tmp_path: Path) -> None:
    tensors = {"field.w": torch.tensor([1e6])}
    with pytest.raises(UserError, match="precision='full'"):
        write_avatar(tmp_path / "a.mav", avatar.header, tensors, "half")
    assert list(tmp_path.iterdir()) == []


def test_infinite_occupancy_survives_half_precision(avatar: Avatar, tmp_path: Path) -> None:
    """Infinity means "never looked at, so sample it"; a very high density must not become that, nor the other way."""
    tensors = {"occupancy.highest": torch.tensor([float("inf"), 1e6, 3.0])}
    write_avatar(tmp_path / "a.mav", avatar.header, tensors, "half")
    assert load_file(tmp_path / "a.mav")["occupancy.highest"].tolist() == [float("inf"), 65504.0, 3.0]


def test_a_file_that_exists_survives_a_failed_save(avatar: Avatar, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UserError):
        write_avatar(path, avatar.header, {"field.w": torch.tensor([1e6])}, "half")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.05, 0.5, 0.9999])
def test_a_truncated_file(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UserError, match="cut off|not an avatar"):
        Avatar.load(path)
    if part >= 0.05:  # enough is left to know what it was
        with pytest.raises(UserError, match="cut off"):
            Avatar.load(path)


def test_trailing_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"xx")
    with pytest.raises(UserError, match="cut off|damaged"):
        Avatar.load(path)


@pytest.mark.parametrize("content", [b"hello, this is a text file and no avatar", b"\x89PNG\r\n\x1a\n" + b"\0" * 64])
def test_not_an_avatar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mav").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.mav is not an avatar; give a \.mav file"):
        Avatar.load(tmp_path / "x.mav")


def test_another_safetensors_file(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="is not an avatar"):
        Avatar.load(tmp_path / "x.safetensors")


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Avatar.load(tmp_path / "nothing.mav")
    with pytest.raises(UserError, match="cannot read"):
        Avatar.load(tmp_path)


def test_a_newer_version_is_named_even_if_its_header_has_other_entries(path: Path) -> None:
    newer = _rewritten(path, format_version=FORMAT_VERSION + 1, something_new=[1, 2])
    with pytest.raises(UserError, match=f"format version {FORMAT_VERSION + 1}.*update manvatar"):
        Avatar.load(newer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expression_lower": [0.0]}, "expression range"),
        ({"unheard_of": 1}, "unknown entries unheard_of"),
        ({"cam_from_head": [[1.0, 0.0]]}, "4x4"),
        ({"field_name": "hash"}, "there is no field 'hash'"),
        ({"field": {"hidden": 16}}, "does not hold what its header says"),
        ({"occupancy_cell_m": 0.01}, "does not hold what its header says"),
    ],
)
def test_a_header_that_does_not_fit(path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Avatar.load(_rewritten(path, **changes))


def test_a_missing_tensor_is_named(path: Path) -> None:
    tensors = load_file(path)
    del tensors["field.color.out.bias"]
    header = json.dumps(dataclasses.asdict(read_header(path)))
    save_file(tensors, path, metadata={KEY: header})
    with pytest.raises(UserError, match=r"color\.out\.bias") as caught:
        Avatar.load(path)
    assert "\n" not in str(caught.value)


def test_damaged_json_in_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    content[8 + length // 2] = ord('"') if content[8 + length // 2] != ord('"') else ord("x")
    path.write_bytes(bytes(content))
    with pytest.raises(UserError):
        Avatar.load(path)


def test_a_folder_that_cannot_be_written_to(avatar: Avatar, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another output path"):
        avatar.save(tmp_path / "file" / "a.mav")
