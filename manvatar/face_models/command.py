"""``python -m manvatar.face_models info FILE``: what a face model file is, in words and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from manvatar.cli import Positional, run
from manvatar.face_models.loading import FORMATS, existing, format_of, load
from manvatar.types import FaceModel

_UNITS = {1.0: "metres", 0.1: "decimetres", 0.01: "centimetres", 1e-3: "millimetres", 1e-6: "micrometres"}
_OTHER_PARTS = {"eyeballs": "eyeball", "teeth": "teeth", "mouth": "mouth"}


def face_models(
    action: Positional[Literal["info"]],
    file: Positional[str] = "builtin",
    out: Annotated[Path | None, tyro.conf.arg(aliases=("-o",), metavar="PATH")] = None,
) -> None:
    """Say what a face model is: format, sizes, coefficients, units, landmarks, and what it lacks.

    Args:
        action: info.
        file: builtin, or the file or folder of a face model (ICT-FaceKit, Basel 2009, 2017 or 2019, FLAME).
        out: also draw its mean, landmarks and first modes at plus and minus two standard deviations into this PNG file.
    """
    title, unit = ("builtin, made by this project", "metres") if file == "builtin" else _found(existing(file))
    model = load(file)
    print("\n".join(described(model, title, unit)))
    if out is not None:
        from manvatar.face_models.drawing import sheet  # it needs the native library, the words do not
        from manvatar.mark import save_image

        save_image(out, sheet(model))
        print(f"picture        {out}")


# Messages name the command by the module its function is in, and the command is the package.
face_models.__module__ = "manvatar.face_models"


def described(model: FaceModel, title: str, unit: str) -> list[str]:
    """One line a property."""
    used = model.mean_m[model.triangles.unique()].double().numpy()
    width, height, depth = 1000 * (used.max(0) - used.min(0))
    lines = [
        f"format         {title}",
        f"id             {model.id}",
        f"vertices       {len(model.mean_m)}, {len(used)} of them in triangles",
        f"triangles      {len(model.triangles)}",
        f"parts          {', '.join(model.part_names)}",
        f"unit           {unit}; {width:.0f} x {height:.0f} x {depth:.0f} mm",
        f"identity       {len(model.identity_basis_m)} coefficients; {_strengths(model.identity_basis_m.numpy())}",
        f"expression     {len(model.expression_basis_m)} coefficients; {_strengths(model.expression_basis_m.numpy())}",
        f"               {_names(model.expression_names)}",
    ]
    for embedding in model.embeddings:
        trusted = int((embedding.weight > 0).sum())
        lines.append(f"landmarks      {embedding.scheme}: {trusted} of {len(embedding.weight)} on the surface")
    corners = model.landmark_bases("ibug68")[0][[36, 45]]
    lines.append(f"eye corners    {1000 * float((corners[0] - corners[1]).norm()):.1f} mm apart (outer)")
    lacking = [
        name for name, word in _OTHER_PARTS.items() if not any(word in part.lower() for part in model.part_names)
    ]
    lines.append(f"without        {', '.join(lacking) if lacking else 'nothing that avatars use'}")
    return lines


def _found(path: Path) -> tuple[str, str]:
    """Name of the format and unit of the file."""
    name = format_of(path)
    unit = _UNITS[getattr(FORMATS[name], "METRES_PER_UNIT", 0.01)]  # ICT-FaceKit: centimetres
    return name, f"{unit} in the file, metres when loaded"


def _names(names: tuple[str, ...]) -> str:
    """All of them, but numbered ones as a range."""
    numbered = [name for name in names if name[-2:].isdigit()]
    if len(numbered) < 3:
        return ", ".join(names)
    return ", ".join([f"{numbered[0]} ... {numbered[-1]}", *(name for name in names if name not in numbered)])


def _strengths(modes: np.ndarray) -> str:
    """How far the first modes move the vertices per standard deviation, root mean square."""
    moved = 1000 * np.sqrt((modes[:3] ** 2).sum(2).mean(1))
    return f"one sd of the first ones moves vertices by {', '.join(f'{value:.2f}' for value in moved)} mm (rms)"


def main(argv: list[str] | None = None) -> int:
    """``python -m manvatar.face_models``; returns the exit status."""
    return run(face_models, argv)
