"""Where an avatar comes from."""

from __future__ import annotations

import datetime
from pathlib import Path

from manvatar.avatars import provenance


def test_provenance_names_the_video_and_not_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "me.mp4"
    path.write_bytes(b"abc")
    found = provenance(path)
    assert found["video"] == "me.mp4"
    assert found["video_sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert datetime.date.fromisoformat(found["date"])
