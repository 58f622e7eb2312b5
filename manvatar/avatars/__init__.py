"""The avatar and its file, and the mark that everything rendered from it carries."""

from manvatar.avatars.avatar import Avatar, dataset_renderer, rgba8
from manvatar.avatars.files import FORMAT_VERSION, SUFFIX, read_header
from manvatar.avatars.header import fitted_camera, make_header
from manvatar.avatars.poses import turned
from manvatar.avatars.provenance import file_sha256, provenance
from manvatar.mark import SYNTHETIC_TEXT, draw_text, draw_visible_mark, save_image

__all__ = [
    "FORMAT_VERSION",
    "SUFFIX",
    "SYNTHETIC_TEXT",
    "Avatar",
    "dataset_renderer",
    "draw_text",
    "draw_visible_mark",
    "file_sha256",
    "fitted_camera",
    "make_header",
    "provenance",
    "read_header",
    "rgba8",
    "save_image",
    "turned",
]
