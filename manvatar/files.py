"""Writing files so that nothing that existed is lost and nothing is left half-written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manvatar.errors import UserError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` when the block ends without an error.

    The temporary file keeps the suffix of ``path``, because encoders choose their format by it. On an error
    it is deleted and ``path`` is left as it was.

    Raises:
        UserError: the folder cannot be made or written to, or ``path`` is a folder.
    """
    target = Path(path)
    make_folder(target.parent)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield temporary
        _share_like_any_new_file(temporary)
        os.replace(temporary, target)
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose another output path") from error
    finally:
        temporary.unlink(missing_ok=True)


def _share_like_any_new_file(path: Path) -> None:
    """Some writers make private files; give ``path`` the permissions the user's umask asks for."""
    mask = os.umask(0)
    os.umask(mask)
    if path.exists():
        path.chmod(0o666 & ~mask)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder ``path`` (and its parents) and check that files can be written to it.

    Raises:
        UserError: it cannot be made, is a file, or cannot be written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another output path") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the folder {folder}: permission denied; choose another output path")
    return folder
