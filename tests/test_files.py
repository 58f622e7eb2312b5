"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from manvatar.errors import UserError
from manvatar.files import make_folder, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_and_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt" and temporary != path
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and names(path.parent) == ["c.txt"]


def test_an_old_file_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")
    with replacing(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["c.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half of")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["c.txt"]


def test_an_error_before_anything_was_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "c.txt"):
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, expected: int) -> None:
    path = tmp_path / "c.txt"
    before = os.umask(umask)
    try:
        with replacing(path) as temporary:
            temporary.touch(0o600)  # as some writers make theirs
        assert os.umask(umask) == umask  # asking for it has not changed it
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot make the folder .*file/sub: .*choose another output path"):
        make_folder(tmp_path / "file" / "sub")
    with pytest.raises(UserError, match="cannot make the folder"), replacing(tmp_path / "file" / "c.txt"):
        pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_without_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere; the kernel's answer is then stood in for
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    with pytest.raises(UserError, match=f"cannot write to the folder {folder}"), replacing(folder / "c.txt"):
        pytest.fail("the block must not run")
    assert names(folder) == []


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot write .*taken"), replacing(tmp_path / "taken") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["taken"]
