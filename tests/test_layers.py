"""Imports run one way: a part of the library knows those before it in the flow of data, never those after."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).resolve().parents[1] / "manvatar"

# Parts on one line may know each other; a part may know all lines above its own.
_LAYERS = [
    {"types", "config", "geometry", "errors", "files", "mark", "progress", "threads", "cli", "models"},
    {"ops", "devices"},
    {"video"},
    {"landmarks"},
    {"matting"},
    {"face_models"},
    {"synthesis"},
    {"tracking"},
    {"dataset"},
    {"rendering"},
    {"fields"},
    {"metrics"},
    {"training"},
    {"avatars"},
    {"driving"},
    {"exporting"},
    {"interop"},  # our values as those of other libraries
    {"viewer"},
    {"baselines"},
    {"preparation"},
    {"reconstruction"},  # the whole pipeline as one object
    {"fit", "track", "render", "eval", "demo", "view", "export", "compare", "benchmark", "bilayer", "fewshot"},
]
_RANK = {part: rank for rank, layer in enumerate(_LAYERS) for part in layer}


def _parts() -> list[str]:
    names = {path.relative_to(_PACKAGE).parts[0].removesuffix(".py") for path in _PACKAGE.rglob("*.py")}
    return sorted(names - {"__init__", "__main__"})


def _imports(path: Path) -> list[tuple[int, str]]:
    """(line, part) of every import of a part of manvatar, at the top of the file or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write manvatar.<part>"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("manvatar.")]
    return [(line, part) for line, part in found if part != "__version__"]


def _violations(path: Path, part: str) -> list[str]:
    return [
        f"{path.relative_to(_PACKAGE.parent)}:{line}: {part} may not import {other}"
        for line, other in _imports(path)
        if _RANK[other] >= _RANK[part] and other != part and other not in _LAYERS[_RANK[part]]
    ]


@pytest.mark.parametrize("part", _parts())
def test_imports_follow_the_flow_of_data(part: str) -> None:
    assert part in _RANK, f"manvatar.{part} has no place in _LAYERS yet"
    files = (_PACKAGE / part).rglob("*.py") if (_PACKAGE / part).is_dir() else [_PACKAGE / f"{part}.py"]
    assert [line for path in files for line in _violations(path, part)] == []


def test_a_violation_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "_PACKAGE", tmp_path)
    bad = tmp_path / "rendering.py"
    bad.write_text("def f():\n    from manvatar.fields.fast import FastField\n")
    assert len(_violations(bad, "rendering")) == 1


def test_baselines_are_imported_by_commands_only() -> None:
    commands = {"reconstruction"} | _LAYERS[-1]
    users = {
        path.relative_to(_PACKAGE).parts[0].removesuffix(".py")
        for path in _PACKAGE.rglob("*.py")
        if "baselines" in {part for _, part in _imports(path)}
    }
    assert users <= commands | {"baselines"}
