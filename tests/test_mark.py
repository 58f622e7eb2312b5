"""What is written says that it is synthetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from manvatar.errors import UserError
from manvatar.mark import SYNTHETIC_TEXT, draw_text, draw_visible_mark, save_image


@pytest.mark.parametrize("channels", [3, 4])
def test_png_carries_the_mark_and_the_same_pixels(tmp_path: Path, channels: int) -> None:
    image = torch.randint(0, 256, (20, 30, channels), dtype=torch.uint8)
    save_image(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as read:
        assert read.info["Comment"] == SYNTHETIC_TEXT
        assert "digitalsourcetype/trainedAlgorithmicMedia" in read.info["XML:com.adobe.xmp"]
        assert (torch.frombuffer(bytearray(read.tobytes()), dtype=torch.uint8) == image.flatten()).all()
    assert b"synthetic media: manvatar" in (tmp_path / "a.png").read_bytes()


def test_xmp_is_well_formed(tmp_path: Path) -> None:
    import xml.etree.ElementTree as ElementTree

    save_image(tmp_path / "a.png", torch.zeros(8, 8, 3, dtype=torch.uint8))
    with Image.open(tmp_path / "a.png") as read:
        text = read.info["XML:com.adobe.xmp"]
    root = ElementTree.fromstring(text.lstrip("\ufeff"))
    description = next(root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"))
    key = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert description.attrib[key].endswith("/trainedAlgorithmicMedia")


def test_only_png(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.png"):
        save_image(tmp_path / "a.jpg", torch.zeros(8, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize(("size", "level"), [((256, 256), 255), ((64, 48), 0), ((512, 300), 128)])
def test_the_visible_mark_is_seen_on_any_ground_and_stays_in_its_corner(size: tuple[int, int], level: int) -> None:
    width, height = size
    image = torch.full((height, width, 3), level, dtype=torch.uint8)
    marked = draw_visible_mark(image)
    changed = (marked.int() - image.int()).abs().amax(-1) > 60
    rows, columns = changed.nonzero().unbind(-1)
    assert len(rows) > 20
    assert rows.min() > height * 0.75 and columns.min() > width * 0.3
    assert (image == level).all()  # the argument stays as it was


def test_long_text_is_made_to_fit() -> None:
    image = torch.full((64, 96, 3), 255, dtype=torch.uint8)
    drawn = draw_text(image, "mouthLowerDownLeft +1.83 sd")
    dark = (drawn.amax(-1) < 100).nonzero()
    assert 0 < dark[:, 1].max() < 95
