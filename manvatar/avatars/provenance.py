"""Where an avatar comes from."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path


def provenance(video: str | Path) -> dict[str, str]:
    """The name and SHA-256 of the video an avatar is made from, and today's date (UTC); for the avatar's header."""
    return {
        "video": Path(video).name,
        "video_sha256": file_sha256(video),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
