"""The 32 expression modes of the builtin head, sculpted as smooth motions of its surface.

Names follow Apple's ARKit where a mode does what the blendshape of that name does; the coefficient is signed and
counted in standard deviations, not activations. What one standard deviation moves is in :data:`MODES`. Useful ranges:
a full blink is +2 eyeBlink (wide eyes are negative), a yawn about +3.5 jawOpen; negative jawLeft and mouthLeft go to
the right.

Modes are linear in the coefficients, so turning motions (jaw, lids) are replaced by their chords or tangents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from manvatar.face_models.builtin.head import Head
from manvatar.face_models.builtin.shape import EYE_CENTRE, MOUTH_HALF_WIDTH

Number: TypeAlias = float | int
_ORGANS = ("left_eyeball", "right_eyeball", "upper_teeth", "lower_teeth", "tongue", "left_ear", "right_ear")
JAW_HINGE = np.array([0.0, -18.0, -72.0])  # between the two joints
MOUTH_Y = -69.2
FULL_BLINK = 2.0  # standard deviations


@dataclass(frozen=True)
class Field:
    """What the sculptor knows of each vertex. mm."""

    p: np.ndarray  # (V, 3)
    front: np.ndarray  # (V,) 1 on skin on the front of the head, 0 behind and on teeth, eyeballs and ears
    low: np.ndarray  # (V,) 1 below the mouth slit, 0 above, between at and beyond the corners
    jaw: np.ndarray  # (V,) how much the vertex goes with the jaw

    def spot(self, x: Number, y: Number, wide: Number, high: Number) -> np.ndarray:
        """A soft spot on the front of the face."""
        dx, dy = (self.p[:, 0] - x) / wide, (self.p[:, 1] - y) / high
        return self.front * np.exp(-0.5 * (dx**2 + dy**2))

    def both(self, x: Number, y: Number, wide: Number, high: Number) -> np.ndarray:
        """The same on both sides, without doubling in the middle."""
        mirrored = np.abs(self.p[:, 0])
        dx, dy = (mirrored - x) / wide, (self.p[:, 1] - y) / high
        return self.front * np.exp(-0.5 * (dx**2 + dy**2))


def _move(weight: np.ndarray, x: np.ndarray | float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    return np.stack([weight * x, weight * y, weight * z], 1)


# --------------------------------------------------------------------------------------------------------------- modes


def _jaw_open(f: Field) -> np.ndarray:
    """0.1 rad about the hinge (8.5 mm between the incisors), the corners drawn in a little."""
    angle = 0.1
    arm = f.p - JAW_HINGE
    turn = np.stack([np.zeros(len(arm)), -angle * arm[:, 2], angle * arm[:, 1] + 1.0], 1) * f.jaw[:, None]
    return turn + _move(f.spot(0, MOUTH_Y, 24, 10), x=-0.04 * f.p[:, 0])


def _jaw_left(f: Field) -> np.ndarray:
    """3 mm of the chin to the left."""
    return _move(f.jaw * np.clip((f.p[:, 2] + 90) / 100, 0, 1), x=3.0)


def _jaw_forward(f: Field) -> np.ndarray:
    """2.5 mm of the chin forwards."""
    return _move(f.jaw, z=2.5)


def _mouth_left(f: Field) -> np.ndarray:
    """4 mm of the lips to the left."""
    return _move(f.spot(0, MOUTH_Y, 26, 16), x=4.0, y=0.3)


def _mouth_funnel(f: Field) -> np.ndarray:
    """Lips 3.5 mm forwards and apart: upper 2, lower 2.5 mm."""
    lips = f.spot(0, MOUTH_Y, 17, 9)
    apart = np.where(f.low > 0.5, -2.5, 2.0) * 2 * np.abs(f.low - 0.5) * f.spot(0, MOUTH_Y, 15, 11)
    result = _move(lips, x=0.0, z=3.5) + _move(f.spot(0, MOUTH_Y, 24, 12), x=-0.15 * f.p[:, 0])
    result[:, 1] += apart
    return result


def _mouth_pucker(f: Field) -> np.ndarray:
    """Corners 5 mm inwards, lips 3.5 mm forwards."""
    return _move(f.spot(0, MOUTH_Y, 27, 13), x=-0.28 * f.p[:, 0]) + _move(f.spot(0, MOUTH_Y, 16, 9), z=3.5)


def _mouth_roll_lower(f: Field) -> np.ndarray:
    """The lower lip 3 mm inwards and 1.5 mm up."""
    lip = f.low * f.spot(0, -74, 18, 5.5)
    return _move(lip, y=1.5, z=-3.0)


def _mouth_roll_upper(f: Field) -> np.ndarray:
    """The upper lip 2.5 mm inwards and 1 mm down."""
    lip = (1 - f.low) * f.spot(0, -65, 18, 5)
    return _move(lip, y=-1.0, z=-2.5)


def _mouth_shrug_lower(f: Field) -> np.ndarray:
    """Chin and lower lip 3 mm up, the upper lip pushed along."""
    chin = f.spot(0, -92, 20, 14)
    return _move(chin, y=3.0, z=0.8) + _move(f.spot(0, -72, 19, 7), y=1.8)


def _mouth_shrug_upper(f: Field) -> np.ndarray:
    """The upper lip 2.2 mm up and 1 mm out."""
    return _move((1 - f.low) * f.spot(0, -64, 17, 7), y=2.2, z=1.0)


def _mouth_close(f: Field) -> np.ndarray:
    """The lower lip 4 mm up and the upper 1 mm down: closes the lips of an open jaw."""
    low = f.low * f.spot(0, -75, 22, 9)
    return _move(low, y=4.0, z=0.6) + _move((1 - f.low) * f.spot(0, -65, 20, 6), y=-1.0)


def _mouth_smile(f: Field, side: int) -> np.ndarray:
    """The corner 4.5 mm out, 4 mm up, 3 mm back; the cheek rises."""
    corner = f.spot(side * 28, MOUTH_Y, 13, 12)
    cheek = f.spot(side * 42, -36, 14, 11)
    line = f.spot(side * 36, -56, 8, 12)
    lid = f.spot(side * 34, -12, 14, 6)
    return (
        _move(corner, x=side * 4.5, y=4.0, z=-3.0)
        + _move(cheek, x=side * 0.8, y=2.0, z=1.6)
        + _move(line, x=side * 1.5, y=1.5, z=0.4)
        + _move(lid, y=0.6)
    )


def _mouth_frown(f: Field, side: int) -> np.ndarray:
    """The corner 4 mm down."""
    return _move(f.spot(side * 27, -72, 11, 13), x=side * 0.5, y=-4.0, z=-0.4)


def _mouth_stretch(f: Field, side: int) -> np.ndarray:
    """The corner 4.5 mm out, 1.5 mm down, 3.5 mm back."""
    return _move(f.spot(side * 29, -71, 15, 13), x=side * 4.5, y=-1.5, z=-3.5)


def _mouth_upper_up(f: Field, side: int) -> np.ndarray:
    """Half of the upper lip 3 mm up."""
    lip = (1 - f.low) * f.spot(side * 12, -63, 9, 8)
    return _move(lip, y=3.0, z=0.5) + _move(f.spot(side * 19, -48, 7, 7), y=1.2)


def _mouth_lower_down(f: Field, side: int) -> np.ndarray:
    """Half of the lower lip 3 mm down."""
    return _move(f.low * f.spot(side * 11, -76, 10, 8), y=-3.0, z=-0.3)


def _mouth_press(f: Field) -> np.ndarray:
    """Lips pressed thin: both edges 1.2 mm towards the slit and 1 mm in, the corners 1 mm out."""
    upper = (1 - f.low) * f.spot(0, -62, 19, 4)
    lower = f.low * f.spot(0, -78, 19, 4.5)
    corner = f.both(27, MOUTH_Y, 8, 7)
    return (
        _move(upper, y=-1.4, z=-1.0) + _move(lower, y=1.6, z=-1.0) + _move(corner, x=np.sign(f.p[:, 0]) * 1.0, z=-0.5)
    )


def _eye_squint(f: Field) -> np.ndarray:
    """Cheeks and lower lids of both eyes 1.5 mm up, upper lids 0.6 mm down."""
    return _move(f.both(33, -9, 13, 7), y=1.5, z=0.3) + _move(f.both(33, 8, 12, 4), y=-0.6)


def _brow_inner_up(f: Field) -> np.ndarray:
    """The inner brows 4 mm up."""
    return _move(f.both(13, 24, 12, 13), y=4.0) + _move(f.spot(0, 45, 22, 12), y=1.2)


def _brow_outer_up(f: Field, side: int) -> np.ndarray:
    """The outer brow 4 mm up."""
    return _move(f.spot(side * 45, 25, 14, 13), y=4.0) + _move(f.spot(side * 40, 11, 12, 4), y=0.9)


def _brow_down(f: Field, side: int) -> np.ndarray:
    """The brow 3 mm down, its inner end 1.5 mm inwards."""
    own = 1 / (1 + np.exp(-side * f.p[:, 0] / 4))  # leaves the other side alone
    inner = own * f.spot(side * 14, 22, 12, 11)
    outer = f.spot(side * 38, 24, 14, 11)
    return _move(inner, x=-side * 1.5, y=-3.0, z=0.6) + _move(outer, y=-2.2)


def _cheek_puff(f: Field) -> np.ndarray:
    """Both cheeks 4 mm out."""
    spot = f.both(43, -62, 14, 14)
    return _move(spot, x=np.sign(f.p[:, 0]) * 2.8, z=2.8) + _move(f.both(18, -60, 10, 8), z=0.8)


def _nose_sneer(f: Field) -> np.ndarray:
    """The wings of the nose 2.5 mm up, the upper lip 1.2 mm."""
    wings = f.both(14, -40, 6, 9)
    return (
        _move(wings, x=np.sign(f.p[:, 0]) * 0.6, y=2.5)
        + _move((1 - f.low) * f.spot(0, -61, 16, 7), y=1.2)
        + _move(f.both(10, 8, 7, 8), y=-1.0)
    )


def _sided(motion: Callable[[Field, int], np.ndarray], side: int) -> Callable[[Field], np.ndarray]:
    return lambda f: motion(f, side)


# In the order of the coefficients. The lids are made from the mesh itself (:func:`_blink`).
MODES: dict[str, Callable[[Field], np.ndarray] | None] = {
    "jawOpen": _jaw_open,
    "jawLeft": _jaw_left,
    "jawForward": _jaw_forward,
    "mouthLeft": _mouth_left,
    "mouthFunnel": _mouth_funnel,
    "mouthPucker": _mouth_pucker,
    "mouthRollLower": _mouth_roll_lower,
    "mouthRollUpper": _mouth_roll_upper,
    "mouthShrugLower": _mouth_shrug_lower,
    "mouthShrugUpper": _mouth_shrug_upper,
    "mouthClose": _mouth_close,
    "mouthSmileLeft": _sided(_mouth_smile, 1),
    "mouthSmileRight": _sided(_mouth_smile, -1),
    "mouthFrownLeft": _sided(_mouth_frown, 1),
    "mouthFrownRight": _sided(_mouth_frown, -1),
    "mouthStretchLeft": _sided(_mouth_stretch, 1),
    "mouthStretchRight": _sided(_mouth_stretch, -1),
    "mouthUpperUpLeft": _sided(_mouth_upper_up, 1),
    "mouthUpperUpRight": _sided(_mouth_upper_up, -1),
    "mouthLowerDownLeft": _sided(_mouth_lower_down, 1),
    "mouthLowerDownRight": _sided(_mouth_lower_down, -1),
    "mouthPress": _mouth_press,
    "eyeBlinkLeft": None,
    "eyeBlinkRight": None,
    "eyeSquint": _eye_squint,
    "browInnerUp": _brow_inner_up,
    "browOuterUpLeft": _sided(_brow_outer_up, 1),
    "browOuterUpRight": _sided(_brow_outer_up, -1),
    "browDownLeft": _sided(_brow_down, 1),
    "browDownRight": _sided(_brow_down, -1),
    "cheekPuff": _cheek_puff,
    "noseSneer": _nose_sneer,
}


def expression_modes(head: Head) -> np.ndarray:
    """The modes (32, V, 3) in mm per standard deviation, in the order of :data:`MODES`."""
    field = _field(head)
    result = []
    for name, motion in MODES.items():
        if motion is None:
            result.append(_blink(head, "left" if name.endswith("Left") else "right"))
            continue
        moved = motion(field)
        if not name.startswith("jaw"):
            _follow_slit(head, moved)
        result.append(moved)
    return np.stack(result)


# -------------------------------------------------------------------------------------------------------------- tables


def _field(head: Head) -> Field:
    p, skin = head.vertices, head.skin
    front = np.clip((p[:, 2] + 55) / 30, 0, 1)
    front = front**2 * (3 - 2 * front)
    front[head.of(*_ORGANS)] = 0  # what is no skin has no soft motion
    line, row = skin.rows["mouth"], head.coordinates[:, 1]
    below = np.zeros(len(p), bool)
    grid = skin.parts["face"]
    below[grid] = row[grid] > line
    below[skin.lower[line]] = True
    corner = np.clip(np.abs(p[:, 0]) / MOUTH_HALF_WIDTH, 0, 1) ** 3
    reach = 6 + 0.5 * np.clip(np.abs(p[:, 0]) - 20, 0, None)
    # At the corners both sides go half-way; away from the slit each side is its own.
    shared = 0.5 * corner * np.exp(-(((p[:, 1] - MOUTH_Y) / reach) ** 2))
    low = np.where(below, 1 - shared, shared)
    _follow_slit(head, low, decay=False)
    low[head.of("lower_teeth", "tongue")] = 1
    low[head.of("upper_teeth", "left_eyeball", "right_eyeball", "left_ear", "right_ear")] = 0
    hinge = np.clip((p[:, 2] + 88) / 45, 0, 1)  # fades towards the ears
    throat = np.clip((p[:, 1] + 165) / 45, 0, 1)
    under = np.clip((p[:, 2] + 62) / 45, 0, 1)  # below the chin only what is well in front goes along
    below_chin = np.clip((-95 - p[:, 1]) / 30, 0, 1)
    under = 1 - below_chin**2 * (3 - 2 * below_chin) * (1 - under**2 * (3 - 2 * under))
    jaw = low * hinge**2 * (3 - 2 * hinge) * throat**2 * (3 - 2 * throat) * under
    inside = head.of("lower_teeth", "tongue")
    jaw[inside] = np.where(head.part[inside] == head.part[head.of("tongue")[0]], 0.9, 1.0)
    return Field(p, front, low, jaw)


def _follow_slit(head: Head, values: np.ndarray, decay: bool = True) -> None:
    """Let rims and mouth bag take, ring by ring, the values of the loop they hang on; in place.

    With ``decay`` deeper rings of the mouth take less and less.
    """
    fade = {"mouth": (1, 1, 0.97, 0.93, 0.88, 0.8, 0.6, 0.3, 0), "left_eye": (1, 1, 1), "right_eye": (1, 1, 1)}
    for name, part in (("mouth", "mouth_bag"), ("left_eye", "left_lids"), ("right_eye", "right_lids")):
        loop, hung = head.skin.loops[name], head.skin.parts[part]
        rings = len(hung) // len(loop)
        for k in range(rings):
            share = fade[name][k] if decay else 1.0
            values[hung[k * len(loop) : (k + 1) * len(loop)]] = values[loop] * share
        values[hung[rings * len(loop) :]] = 0 if decay else 0.5


def _blink(head: Head, side: str) -> np.ndarray:
    """Half a blink: the upper lid slides four fifths of the way down over the eyeball, the lower meets it."""
    skin, sign = head.skin, 1 if side == "left" else -1
    centre = EYE_CENTRE * (sign, 1, 1)
    moved = np.zeros_like(head.vertices)
    line = skin.rows["lids"]
    columns = [int(c) for c in np.unique(skin.grid[skin.loops[f"{side}_eye"], 0])]
    for c in columns[1:-1]:
        top, bottom = head.vertices[skin.upper[line, c]], head.vertices[skin.lower[line, c]]
        goal = bottom[1] + 0.2 * (top[1] - bottom[1])
        for chain, margin in ((skin.upper[: line + 1, c][::-1], top), (skin.lower[line:, c], bottom)):
            p = head.vertices[chain]
            reach = 11.0 if margin is top else 8.0
            share = np.clip(1 - np.abs(p[:, 1] - margin[1]) / reach, 0, 1)
            share = share**2 * (3 - 2 * share)
            y = p[:, 1] + share * (goal - margin[1])
            moved[chain] += _over_ball(p, y, centre) - p
    _follow_slit_of(head, moved, side)
    return moved / FULL_BLINK


def _over_ball(p: np.ndarray, y: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """``p`` moved to the height ``y`` at its distance from the eyeball's axis, and a little out to clear the chord."""
    offset = p - centre
    radius = np.hypot(offset[:, 1], offset[:, 2])
    height = np.clip(y - centre[1], -0.98 * radius, 0.98 * radius)
    result = p.copy()
    result[:, 1] = centre[1] + height
    lift = 0.10 * np.abs(y - p[:, 1])  # the half-closed lid moves on the chord: stay outside the ball there too
    result[:, 2] = centre[2] + np.sqrt(radius**2 - height**2) + lift
    still = np.abs(y - p[:, 1]) < 1e-9
    result[still] = p[still]
    return result


def _follow_slit_of(head: Head, values: np.ndarray, side: str) -> None:
    loop, hung = head.skin.loops[f"{side}_eye"], head.skin.parts[f"{side}_lids"]
    values[hung] = np.tile(values[loop], (len(hung) // len(loop), 1))
