"""The meshes of the demo clip: the builtin head of one person with hair, and a clothed torso; and their paint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from manvatar.face_models.builtin import build_head, load
from manvatar.face_models.builtin.expressions import FULL_BLINK
from manvatar.face_models.builtin.head import PARTS
from manvatar.face_models.builtin.mesh import MOUTH_BAG
from manvatar.synthesis import textures
from manvatar.synthesis.hair import HAIR_THICKNESS_MM, Lashes, hair_shell, hair_texture, lashes
from manvatar.synthesis.noise import Number, layered_noise, smooth_noise
from manvatar.synthesis.textures import Colors, Texture

VERGENCE_RAD = 0.065


@dataclass(frozen=True)
class Paint:
    """What shading needs about a mesh besides where its vertices are."""

    triangles: np.ndarray  # (T, 3)
    material: np.ndarray  # (T,) index into textures
    textures: tuple[Texture, ...]
    coordinates: np.ndarray  # (V, 2) texture coordinates
    shade: np.ndarray  # (V,) how much of the light reaches a vertex, [0, 1], float32
    gloss: np.ndarray  # (V,) strength of highlights, float32
    area_sum: scipy.sparse.csr_matrix  # (V, T): adds face normals up to vertex normals


@dataclass(frozen=True)
class Person:
    """The head and hair of one identity as linear functions of the expression; metres, head frame."""

    neutral_m: np.ndarray  # (V, 3), head and hair
    expression_m: np.ndarray  # (E, H, 3) of head and lashes, which come first
    paint: Paint

    def vertices_m(self, expression: np.ndarray) -> np.ndarray:
        """(V, 3) for the coefficients (E,)."""
        result = self.neutral_m.copy()
        result[: self.expression_m.shape[1]] += np.tensordot(expression, self.expression_m, 1)
        return result


def make_person(identity: np.ndarray, colors: Colors, seed: int) -> Person:
    """Head, ears, eyes, teeth, lashes and hair of the builtin model with the given identity coefficients."""
    head, model = build_head(), load()
    neutral = model.mean_m.numpy() + np.tensordot(identity.astype(np.float32), model.identity_basis_m.numpy(), 1)
    expression = model.expression_basis_m.numpy()
    fringe = lashes(seed)
    fringe_m = _between(neutral, fringe) + fringe.offset_m
    fringe_basis = np.stack([_between(mode, fringe) for mode in expression])
    for name, mine in (("eyeBlinkLeft", fringe.left), ("eyeBlinkRight", ~fringe.left)):
        fringe_basis[model.expression_names.index(name), mine] += fringe.closing_m[mine] / FULL_BLINK
    base, lift_mm, hair_triangles = hair_shell(seed)
    normals = _unit(_area_sum(head.triangles, len(neutral)) @ _face_normals(neutral, head.triangles))
    hair = neutral[base] + normals[base] * lift_mm[:, None] * 1e-3
    count = len(neutral)
    meshes = (head.triangles, fringe.triangles + count, hair_triangles + count + len(fringe_m))
    triangles = np.concatenate(meshes)
    coordinates = np.concatenate([_coordinates(), np.zeros((len(fringe_m), 2)), head.coordinates[base]])
    material_of_part = {"left_eyeball": 1, "right_eyeball": 1, "upper_teeth": 2, "lower_teeth": 2}
    material_of_part |= {"mouth_bag": 3, "tongue": 4, "left_ear": 5, "right_ear": 5, "left_lids": 6, "right_lids": 6}
    part = np.array([material_of_part.get(name, 0) for name in PARTS])
    of_head = part[head.part[head.triangles]].max(1)
    material = np.concatenate([of_head, *(np.full(len(meshes[k]), k + 6) for k in (1, 2))])
    lips = tuple(0.6 * c for c in colors.lips)
    rim = tuple(0.5 * (a + b) for a, b in zip(colors.skin, colors.lips, strict=True))
    paints = (
        textures.skin_texture(head, colors, seed),
        textures.eye_texture(colors, seed + 20),
        textures.teeth_texture(seed + 21),
        textures.plain_texture(lips, 0.25),
        textures.plain_texture((0.36, 0.13, 0.12), 0.3),
        textures.ear_texture(colors),
        textures.plain_texture(rim, 0.4),
        textures.plain_texture((0.016, 0.011, 0.009), 0.0),
        hair_texture(colors, seed),
    )
    shade = np.concatenate([_shade(), np.ones(len(fringe_m)), np.clip(0.75 + 0.25 * lift_mm / HAIR_THICKNESS_MM, 0, 1)])
    gloss = _gloss(triangles, material, paints, len(coordinates))
    paint = Paint(
        triangles,
        material,
        paints,
        coordinates,
        shade.astype(np.float32),
        gloss,
        _area_sum(triangles, len(coordinates)),
    )
    everything = np.concatenate([neutral, fringe_m, hair]).astype(np.float32)
    return Person(everything, np.concatenate([expression, fringe_basis], 1).astype(np.float32), paint)


def _between(values: np.ndarray, fringe: Lashes) -> np.ndarray:
    share = fringe.share[:, None]
    return values[fringe.root[:, 0]] * (1 - share) + values[fringe.root[:, 1]] * share


def make_torso(seed: int) -> tuple[np.ndarray, Paint]:
    """Shoulders in a jacket over a shirt: vertices (V, 3) in metres and paint.

    In the head frame of a person who looks straight ahead.
    """
    sectors = 96
    angle = 2 * np.pi * np.arange(sectors) / sectors
    # Rings down from the collar: height, half width, half depth, z of the middle (mm).
    rings = np.array([
        (-163, 56, 58, -100), (-157, 61, 63, -100), (-160, 66, 68, -100), (-176, 72, 74, -102), (-188, 96, 80, -106),
        (-199, 135, 88, -108), (-212, 172, 95, -108), (-230, 200, 101, -106), (-255, 217, 107, -104),
        (-300, 228, 116, -100), (-380, 236, 126, -96), (-520, 240, 132, -95),
    ])  # fmt: skip
    fine = np.linspace(0, len(rings) - 1, 70)
    y, wide, deep, middle = (np.interp(fine, np.arange(len(rings)), rings[:, k]) for k in range(4))
    c, s = np.cos(angle), np.sin(angle)
    # Towards the shoulders the outline is more a rectangle than an ellipse; the chest hangs lower than the shoulders.
    power = np.interp(fine, [0, 3, 7, 11], [1, 1, 0.72, 0.7])[:, None]
    x = wide[:, None] * np.sign(c) * np.abs(c) ** power
    z = middle[:, None] + deep[:, None] * np.sign(s) * np.abs(s) ** power
    drop = np.interp(fine, [0, 3, 5, 8], [0, 6, 22, 0])[:, None] * np.clip(s, 0, 1) + np.interp(
        fine, [0, 2, 3], [0, 4, 0]
    )[:, None] * np.clip(s, 0, 1)
    vertices = np.stack([x, y[:, None] - drop + 0 * x, z], -1).reshape(-1, 3)
    vertices += (_cloth_folds(vertices, seed) * np.clip((-175 - vertices[:, 1]) / 40, 0, 1))[:, None] * (0, 0, 1)
    grid = np.arange(len(fine) * sectors).reshape(len(fine), sectors)
    following = np.roll(grid, -1, 1)
    quads = (grid[:-1], following[:-1], grid[1:], following[1:])
    a, b, p, q = (index.ravel() for index in quads)
    triangles = np.concatenate([np.stack([a, b, p], 1), np.stack([b, q, p], 1)])
    texture = _cloth_texture(seed)
    paint = Paint(
        triangles,
        np.zeros(len(triangles), np.int64),
        (texture,),
        vertices[:, :2],
        np.clip(0.5 + (-155 - vertices[:, 1]) / 60, 0.45, 1).astype(np.float32),
        np.full(len(vertices), texture.gloss, np.float32),
        _area_sum(triangles, len(vertices)),
    )
    return vertices * 1e-3, paint


# --------------------------------------------------------------------------------------------------------------- cloth


def _cloth_folds(p: np.ndarray, seed: int) -> np.ndarray:
    return 2.5 * smooth_noise(p, (70, 30, 70), seed + 40) + 1.2 * smooth_noise(p, (30, 22, 30), seed + 41)


def _cloth_texture(seed: int) -> Texture:
    """Front view, in mm: a jacket, open over a light shirt."""
    x, y = np.meshgrid(np.arange(-250, 250, 0.8), np.arange(-540, -150, 0.8))
    p = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    weave = 0.10 * np.sin(x * 2.6 + y * 0.9) * np.sin(y * 2.6) + 0.06 * smooth_noise(p, 1.6, seed + 42).reshape(x.shape)
    patch = 1 + weave + 0.10 * layered_noise(p, 60, seed + 43).reshape(x.shape)
    jacket = np.array([0.030, 0.042, 0.075]) * patch[..., None]
    shirt = np.array([0.55, 0.56, 0.58]) * (1 + 0.05 * np.sin(x * 1.4) + 0.3 * weave)[..., None]
    opening = np.interp(y, [-420, -180, -150], [4, 52, 60])
    edge = np.clip((opening - np.abs(x)) / 1.5 + 0.5, 0, 1)[..., None]
    albedo = jacket * (1 - edge) + shirt * edge
    lapel = np.exp(-(((np.abs(x) - opening - 34 * np.clip((y + 420) / 150, 0, 1)) / 1.4) ** 2)) * (y < -185)
    button = np.clip(3.6 - np.hypot(x - 1.5, (y + 210) % 62 - 31), 0, 1) * (np.abs(x) < 8)
    albedo = albedo * (1 - 0.6 * lapel - 0.5 * button)[..., None]
    return Texture(albedo.astype(np.float32), (-250, -540), (250, -150), gloss=0.03)


# -------------------------------------------------------------------------------------------------------------- tables


def _coordinates() -> np.ndarray:
    """Texture coordinates of the head; eyeballs get a vector in the plane of the iris instead of polar ones.

    The irises are turned inwards a little: both eyes look at the camera, half a metre away.
    """
    head = build_head()
    result = head.coordinates.copy()
    for name, inwards in (("left_eyeball", -1), ("right_eyeball", 1)):
        vertices = head.of(name)
        polar, angle = head.coordinates[vertices].T
        result[vertices] = polar[:, None] * np.stack([np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)], 1)
        result[vertices, 0] -= inwards * VERGENCE_RAD / np.pi
    return result


def _shade() -> np.ndarray:
    """Light that reaches the head's vertices past its own overhangs."""
    head = build_head()
    p = head.vertices
    side = np.abs(p[:, 0])
    shade = np.ones(len(p))

    def dim(amount: Number, x: Number, y: Number, z: Number, wide: Number, high: Number, deep: Number) -> None:
        distance = ((side - x) / wide) ** 2 + ((p[:, 1] - y) / high) ** 2 + ((p[:, 2] - z) / deep) ** 2
        shade[:] *= 1 - amount * np.exp(-0.5 * distance)

    dim(0.35, 17, 5, 4, 6, 7, 9)  # beside the root of the nose
    dim(0.25, 34, 11, 5, 14, 3.5, 9)  # fold of the upper lid
    dim(0.40, 4, -47, 23, 10, 3, 7)  # under the nose
    dim(0.25, 0, -83, 18, 17, 3.5, 8)  # under the lower lip
    dim(0.22, 0, -69.2, 22, 24, 1.6, 12)  # between the lips
    neck = np.clip((-118 - p[:, 1]) / 20, 0, 1) * np.clip(1.6 - (-118 - p[:, 1]) / 60, 0.35, 1)
    shade *= 1 - 0.45 * neck * (p[:, 2] > -90)
    loop, bag = head.skin.loops["mouth"], head.skin.parts["mouth_bag"]
    depth = np.array([0.8, 0.6, 0.42, 0.3, 0.22, 0.16, 0.1, 0.06, 0.04])
    assert len(depth) == len(MOUTH_BAG)
    shade[bag] = np.append(np.repeat(depth, len(loop)), 0.04)
    for names, front, amount in ((("upper_teeth", "lower_teeth"), 16.0, 0.75), (("tongue",), 12.0, 0.55)):
        vertices = head.of(*names)
        shade[vertices] = amount * np.clip(1 - (front - p[vertices, 2]) / 38, 0.08, 1)
    for side_name in ("left", "right"):
        shade[head.of(f"{side_name}_lids")] = np.repeat([0.9, 0.7, 0.4], len(head.skin.loops[f"{side_name}_eye"]))
    return shade


def _gloss(triangles: np.ndarray, material: np.ndarray, paints: tuple[Texture, ...], count: int) -> np.ndarray:
    result = np.zeros(count, np.float32)
    result[triangles] = np.array([texture.gloss for texture in paints], np.float32)[material][:, None]
    return result


def _area_sum(triangles: np.ndarray, count: int) -> scipy.sparse.csr_matrix:
    row, column = triangles.ravel(), np.repeat(np.arange(len(triangles)), 3)
    return scipy.sparse.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=(count, len(triangles)))


def _face_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def vertex_normals(vertices: np.ndarray, paint: Paint) -> np.ndarray:
    """Unit normals (V, 3), outwards."""
    return _unit(paint.area_sum @ _face_normals(vertices, paint.triangles))
