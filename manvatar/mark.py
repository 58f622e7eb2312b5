"""Everything this project renders says that it is synthetic: in the file for machines, in the corner for people.

The text goes into PNG text chunks and video metadata. PNG files carry beside it an XMP packet with the IPTC digital
source type of images made by a trained model, which is what viewers and platforms look for.
"""

from __future__ import annotations

import html
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

import manvatar
from manvatar.errors import UserError
from manvatar.files import replacing

SYNTHETIC_TEXT = "synthetic media: manvatar"
VISIBLE_TEXT = "synthetic"

# IPTC Photo Metadata Standard 2022.1, property "Digital Source Type"; the value is an identifier, nothing is fetched.
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = (
    '<?xpacket begin="\\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType="{source}" xmp:CreatorTool="{tool}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


@lru_cache(maxsize=32)
def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of everything written into pictures; it comes with Pillow."""
    return ImageFont.load_default(size_px)


def png_metadata() -> PngInfo:
    """Text chunks and XMP packet that mark a PNG file as synthetic."""
    tool = f"manvatar {manvatar.__version__}"
    info = PngInfo()
    info.add_text("Comment", SYNTHETIC_TEXT)
    info.add_text("Software", tool)
    xmp = _XMP.format(source=_SOURCE_TYPE, tool=html.escape(tool, quote=True))
    info.add_itxt("XML:com.adobe.xmp", xmp)
    return info


def save_image(path: str | Path, image: UInt8[Tensor, "height width channels"]) -> None:
    """Write a rendered image, RGB or straight RGBA, as a PNG file marked as synthetic; atomic.

    Raises:
        UserError: the path does not end in .png, or cannot be written to.
    """
    if Path(path).suffix.lower() != ".png":
        raise UserError(f"images are written as PNG, so {path} must end in .png; choose another output path")
    with replacing(path) as temporary:
        Image.fromarray(image.numpy()).save(temporary, format="PNG", pnginfo=png_metadata(), compress_level=4)


def draw_visible_mark(image: UInt8[Tensor, "height width 3"]) -> UInt8[Tensor, "height width 3"]:
    """The image with a small word in its lower right corner, white with a dark rim; the argument is not changed."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image.numpy())
    size = max(8, round(min(width, height) * 0.035))
    pad = max(2, size // 3)
    ImageDraw.Draw(picture).text(
        (width - pad, height - pad),
        VISIBLE_TEXT,
        font=font(size),
        anchor="rs",
        fill=(255, 255, 255),
        stroke_width=max(1, size // 10),
        stroke_fill=(70, 70, 70),
    )
    return torch.from_numpy(np.array(picture))


def draw_text(
    image: UInt8[Tensor, "height width 3"], text: str, *, height_fraction: float = 0.045
) -> UInt8[Tensor, "height width 3"]:
    """The image with lines of text in its upper left corner, dark on a light rim; the argument is not changed.

    The letters are ``height_fraction`` of the image's height, made smaller where a line would not fit.
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(image.numpy())
    draw = ImageDraw.Draw(picture)
    size = max(8, round(height * height_fraction))
    pad = max(2, size // 3)
    while size > 6 and draw.multiline_textbbox((pad, pad), text, font=font(size))[2] > width - pad:
        size -= 1
    rim = max(1, size // 8)
    draw.multiline_text(
        (pad, pad), text, font=font(size), fill=(20, 20, 20), stroke_width=rim, stroke_fill=(255, 255, 255)
    )
    return torch.from_numpy(np.array(picture))
