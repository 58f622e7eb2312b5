"""The skin as one grid of rays, cut open along eyes and mouth.

Columns are azimuths about the head's axis, rows go from the crown to the foot of the neck. Some rows are anchored to
lines of the face: hairline, brows, lid line, nose base, mouth line, jaw line, throat. Along the lid line and the mouth
line the vertices between the corners exist twice, once for either side: those are the slits. Inner rims (lids) and
the mouth bag hang on the loops around the slits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from manvatar.face_models.builtin.shape import CENTRE, EYE_CENTRE, MOUTH_HALF_WIDTH, trace

# Half of the columns: between these azimuths (degrees) that many columns. 16.4 and 45 are the eye corners, 21.9 the
# mouth corner.
MOUTH_AZIMUTH, INNER_EYE, OUTER_EYE = 21.9, 16.4, 45.0
COLUMNS = ((0.0, 0), (INNER_EYE, 11), (MOUTH_AZIMUTH, 4), (OUTER_EYE, 11), (75.0, 10), (115.0, 8), (180.0, 8))

# Anchored rows: name, rows above it since the last anchor, and its height y over the azimuth (degrees).
ANCHORS: tuple[tuple[str, int, tuple[tuple[float, float], ...]], ...] = (
    ("hairline", 9, ((0, 70), (45, 66), (90, 70), (180, 60))),
    ("brow", 9, ((0, 22), (12, 22.5), (28, 27), (45, 23), (58, 16), (90, 20), (180, 15))),
    ("lids", 10, ((0, 1), (INNER_EYE, -1.6), (25, -0.6), (35, 0.9), (OUTER_EYE, 1.8), (60, 1), (90, -5), (180, -12))),
    ("nose_base", 16, ((0, -46.5), (13, -45.5), (30, -44), (60, -42), (90, -40), (180, -40))),
    ("mouth", 12, ((0, -68.9), (12, -69.0), (MOUTH_AZIMUTH, -69.5), (32, -70), (60, -66), (90, -64), (180, -72))),
    ("jaw", 16, ((0, -114), (15, -112), (28, -108), (45, -100), (75, -95), (105, -93), (140, -100), (180, -110))),
    ("throat", 7, ((0, -120.5), (45, -121), (90, -124), (180, -140))),
    ("foot", 7, ()),
)
# Share of the rows of a span by position: more than linear where the face has more to show at that end.
GRADING = {"lids": (1.0, 1.5), "nose_base": (1.4, 1.0), "mouth": (1.0, 1.5), "jaw": (1.6, 1.0)}

LID_UPPER_MM, LID_LOWER_MM = 5.0, 4.8  # margins above and below the line between the eye corners
# Rings of the mouth bag: depth behind the edge of the lips, opening up and down, half width (mm).
MOUTH_BAG = (
    (1.6, 0.15, 25.6), (3.6, 0.9, 25.3), (5.6, 3.0, 25.3), (8.5, 8.0, 25.6), (11.5, 12.5, 26.0),
    (16.0, 16.0, 28.5), (27.0, 18.0, 31.0), (42.0, 18.0, 26.0), (56.0, 14.0, 16.0),
)  # fmt: skip
_SAMPLES = 240  # along a column, when rows are placed


@dataclass
class Skin:
    """The open skin grid and what hangs on it; vertices in mm, triangles counter-clockwise from outside.

    ``upper[row, column]`` and ``lower[row, column]`` are vertex indices; they differ on the slits only. Column 0 is the
    back of the head, columns run from the subject's right over the front to the left.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    rows: dict[str, int]
    azimuth: np.ndarray  # of the columns, degrees
    grid: np.ndarray  # (V, 2) column and row of each vertex, for textures
    parts: dict[str, np.ndarray] = field(default_factory=dict)  # part name -> vertex indices
    loops: dict[str, np.ndarray] = field(default_factory=dict)  # left_eye, right_eye, mouth: around each slit


def build_skin() -> Skin:
    """Trace the grid, cut the slits, add rims and mouth bag."""
    half = _half_columns()
    rows, upper_points, lower_points = _half_grid(half)
    azimuth = np.concatenate([-half[::-1], half[1:-1]])  # -180 ... 180 without its double
    mirror = (-1, 1, 1)
    upper_points = np.concatenate([upper_points[:, ::-1] * mirror, upper_points[:, 1:-1]], 1)
    lower_points = np.concatenate([lower_points[:, ::-1] * mirror, lower_points[:, 1:-1]], 1)
    skin = _assemble(azimuth, rows, upper_points, lower_points)
    for side in ("left", "right"):
        _add_lid_rim(skin, side)
    _add_mouth_bag(skin)
    return skin


# ---------------------------------------------------------------------------------------------------------------- rays


def _half_columns() -> np.ndarray:
    pieces = [np.array([COLUMNS[0][0]])]
    for (start, _), (end, count) in zip(COLUMNS, COLUMNS[1:], strict=False):
        pieces.append(np.linspace(start, end, count + 1)[1:])
    return np.concatenate(pieces)


def _rays(azimuth: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions for azimuths (degrees) and heights in [0, 1], crown to foot; any equal shapes.

    Down to the mouth all rays start in ``CENTRE``; below, the origin slides down along the neck, so that jaw,
    throat and neck are all seen from inside.
    """
    slide = np.clip((height - 0.6) / 0.4, 0, 1)
    elevation = np.where(height < 0.6, 90 - 200 * height, np.interp(slide, [0, 0.3, 0.5, 1], [-30, -36, -45, -25]))
    origin = CENTRE + slide[..., None] * (np.array([0.0, -160, -102]) - CENTRE)
    a, e = np.radians(azimuth), np.radians(elevation)
    direction = np.stack([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)], -1)
    return origin, direction


def _trace(azimuth: np.ndarray, height: np.ndarray) -> np.ndarray:
    origin, direction = _rays(azimuth, height)
    return trace(origin.reshape(-1, 3), direction.reshape(-1, 3)).reshape(origin.shape)


def _half_grid(half: np.ndarray) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """Row numbers of the anchors, and points (rows, columns, 3) seen from above and from below the slits."""
    samples = np.linspace(0.004, 1, _SAMPLES)
    azimuth, height = np.meshgrid(half, samples)
    path = _trace(azimuth, height)  # (samples, columns, 3)
    length = np.concatenate([np.zeros((1, len(half))), np.linalg.norm(np.diff(path, axis=0), axis=2).cumsum(0)])
    rows: dict[str, int] = {}
    upper = [np.full((1, len(half)), samples[0])]
    lower = [upper[0]]
    start = np.zeros(len(half))
    opening = _lid_opening(half)
    row = 0
    for name, count, table in ANCHORS:
        row += count
        rows[name] = row
        goal = np.interp(half, *np.array(table).T) if table else None
        lift = (opening[0], opening[1]) if name == "lids" else (0, 0)
        above = _crossing(path, goal, lift[0])
        below = _crossing(path, goal, lift[1])
        share = np.arange(1, count + 1) / count
        before, after = GRADING.get(name, (1.0, 1.0))
        share = _graded(share, before, after)
        placed = np.stack([np.interp(start[c] + share * (_at(length, above, c) - start[c]), length[:, c], samples)
                           for c in range(len(half))], 1)  # fmt: skip
        upper.append(placed)
        lower.append(placed.copy())
        lower[-1][-1] = np.interp(below, np.arange(_SAMPLES), samples)
        start = np.array([_at(length, below, c) for c in range(len(half))])
    heights = np.concatenate(upper), np.concatenate(lower)
    points = _trace(np.broadcast_to(half, heights[0].shape), heights[0])
    slit = rows["lids"]  # the one row whose two sides are apart
    below = points.copy()
    below[slit] = _trace(half, heights[1][slit])
    return rows, points, below


def _at(values: np.ndarray, index: np.ndarray, column: int) -> float:
    return float(np.interp(index[column], np.arange(len(values)), values[:, column]))


def _crossing(path: np.ndarray, goal: np.ndarray | None, lift: np.ndarray | int) -> np.ndarray:
    """Fractional sample at which each column first passes below the height ``goal + lift``; the last without a goal."""
    if goal is None:
        return np.full(path.shape[1], len(path) - 1.0)
    above = path[..., 1] - (goal + lift)
    first = (above < 0).argmax(0)
    column = np.arange(path.shape[1])
    return first - above[first, column] / (above[first, column] - above[first - 1, column])


def _lid_opening(half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height of the lid margins over the lid line, by column; 0 outside the eye."""
    s = np.clip((half - INNER_EYE) / (OUTER_EYE - INNER_EYE), 0, 1)
    upper = LID_UPPER_MM * np.sin(np.pi * s**0.9) ** 0.75
    lower = -LID_LOWER_MM * np.sin(np.pi * s**1.15) ** 0.85
    return upper, lower


def _graded(share: np.ndarray, before: float, after: float) -> np.ndarray:
    """A monotone map of [0, 1] with slopes about 1 / before at 0 and 1 / after at 1."""
    a, b = 1 / before, 1 / after  # cubic Hermite
    return share**3 * (a + b - 2) + share**2 * (3 - 2 * a - b) + share * a


# ------------------------------------------------------------------------------------------------------------ topology


def _assemble(azimuth: np.ndarray, rows: dict[str, int], above: np.ndarray, below: np.ndarray) -> Skin:
    count, width = above.shape[:2]
    upper = np.arange(count * width).reshape(count, width)
    lower = upper.copy()
    points = [above.reshape(-1, 3)]
    cells = [np.stack(np.meshgrid(np.arange(width), np.arange(count)), -1).reshape(-1, 2).astype(float)]
    size = count * width
    slits = {"left_eye": ("lids", INNER_EYE, OUTER_EYE), "right_eye": ("lids", -OUTER_EYE, -INNER_EYE)}
    slits["mouth"] = ("mouth", -MOUTH_AZIMUTH, MOUTH_AZIMUTH)
    loops = {}
    for name, (line, first, last) in slits.items():
        row = rows[line]
        left, right = (int(np.abs(azimuth - angle).argmin()) for angle in (first, last))
        inner = np.arange(left + 1, right)
        lower[row, inner] = size + np.arange(len(inner))
        size += len(inner)
        points.append(below[row, inner])
        cells.append(np.stack([inner, np.full(len(inner), row)], 1).astype(float))
        # Along the upper margin, then back along the lower: starts and ends at the corner with the lower column.
        loops[name] = np.concatenate([upper[row, left : right + 1], lower[row, inner][::-1]])
    crown = size
    points.append(np.array([[0, above[0, :, 1].max() + 0.02, above[0, :, 2].mean()]]))
    cells.append(np.array([[(width - 1) / 2, 0.0]]))
    top, bottom = lower[:-1], upper[1:]  # a quad hangs between the lower side of a row and the upper side of the next
    a, b = top, np.roll(top, -1, 1)
    c, d = bottom, np.roll(bottom, -1, 1)
    triangles = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    fan = np.stack([np.full(width, crown), upper[0], np.roll(upper[0], -1)], 1)
    skin = Skin(np.concatenate(points), np.concatenate([fan, triangles]), upper, lower, rows, azimuth,
                np.concatenate(cells), loops=loops)  # fmt: skip
    skin.parts["face"] = np.arange(crown + 1)
    return skin


def _append_rings(skin: Skin, part: str, loop: np.ndarray, rings: list[np.ndarray], cap: bool = False) -> None:
    """Hang rings (each as long as ``loop``) on a loop, one after another, into the head; ``cap`` closes the last."""
    previous, first = loop, len(skin.vertices)
    triangles, vertices = [], []
    size = first
    for ring in rings:
        current = size + np.arange(len(ring))
        size += len(ring)
        vertices.append(ring)
        p, q, r, s = previous, np.roll(previous, -1), current, np.roll(current, -1)
        triangles += [np.stack([p, r, q], 1), np.stack([q, r, s], 1)]
        previous = current
    if cap:
        vertices.append(rings[-1].mean(0, keepdims=True))
        triangles.append(np.stack([previous, np.full(len(previous), size), np.roll(previous, -1)], 1))
    added = np.concatenate(vertices)
    skin.vertices = np.concatenate([skin.vertices, added])
    skin.triangles = np.concatenate([skin.triangles, *triangles])
    repeats = -(-len(added) // len(loop))
    skin.grid = np.concatenate([skin.grid, np.tile(skin.grid[loop], (repeats, 1))[: len(added)]])
    skin.parts[part] = np.arange(first, len(skin.vertices))


def _add_lid_rim(skin: Skin, side: str) -> None:
    """The margin of the lids: from the skin's edge to the eyeball, and on behind the lid."""
    loop = skin.loops[f"{side}_eye"]
    centre = EYE_CENTRE * ((1, 1, 1) if side == "left" else (-1, 1, 1))
    edge = skin.vertices[loop]
    offset = edge - centre
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    middle = edge.mean(0)
    opening = edge - middle  # away from the middle of the slit is behind the lid
    opening[:, 2] = 0
    behind = opening / np.maximum(np.linalg.norm(opening, axis=1, keepdims=True), 1e-9)
    # At the inner corner the skin is far from the ball: the rim goes a little way only, a shallow pocket.
    rings = []
    for gap, slip in ((0.75, -0.25), (0.35, 0.3), (0.1, 2.0)):
        target = np.maximum(12.1 + gap, length - 2.2)
        rings.append(centre + offset / length * target + behind * slip)
    _append_rings(skin, f"{side}_lids", loop, rings)


def _add_mouth_bag(skin: Skin) -> None:
    """Inner lips, cheeks and throat: a bag behind the mouth slit, wide enough to hold the teeth."""
    loop = skin.loops["mouth"]
    edge = skin.vertices[loop]
    upper = np.isin(loop, skin.upper[skin.rows["mouth"]]).astype(float)
    s = np.clip(edge[:, 0] / MOUTH_HALF_WIDTH, -1, 1)
    round_off = np.sqrt(np.maximum(1 - s**4, 0))  # 0 at the corners, where upper and lower meet
    direction = np.where(upper > 0, 1.0, -1.0) * round_off
    rings = [_bag_ring(edge, s, direction, *ring) for ring in MOUTH_BAG]
    _append_rings(skin, "mouth_bag", loop, rings, cap=True)


def _bag_ring(
    edge: np.ndarray, s: np.ndarray, direction: np.ndarray, depth: float, spread: float, width: float
) -> np.ndarray:
    x = np.sign(s) * np.abs(s) * width
    # The arch: the ring keeps the curve of the lips in front and flattens towards the throat.
    flat = np.clip((depth - 12) / 40, 0, 1)
    z = (1 - flat) * edge[:, 2] + flat * edge[:, 2].mean() - depth
    return np.stack([x, edge[:, 1] + direction * spread, z], 1)
