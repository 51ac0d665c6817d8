"""Things of a synthetic street, as rows of exact solids in their own frame: x forward or along, y left, z up, on z = 0.

A row (24,) float64 is a solid (``street_rays``) followed by its surface (``street_textures``). All functions draw from
the generator they are given and return (N, 24) float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from kyn_models.data.street_rays import BOX, CONE, ELLIPSOID, WHEEL
from kyn_models.data.street_textures import (
    BARK,
    BRICK,
    CAR_BODY,
    CAR_CABIN,
    FOLIAGE,
    METAL,
    PLAIN,
    PLANKS,
    PLASTER,
    ROOF,
    RUBBER,
    SIGN,
    STONE,
)
from kyn_models.types import Float64Array

COLUMNS = 24
_INSTANCE, _SEED = 21, 22

Colour = Sequence[float]


def solid(
    kind: int,
    centre: Sequence[float],
    half: Sequence[float],
    colour: Colour,
    material: int = PLAIN,
    *,
    second: Colour = (0.2, 0.2, 0.2),
    yaw: float = 0.0,
    taper: Sequence[float] = (0.0, 0.0, 0.0),
    a: float = 0.0,
    b: float = 0.0,
    gloss: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """One row: half sizes in metres, yaw in radians, taper (front, back, side) as share of the half size lost at the
    top (a ``CONE`` uses the first alone), colours as linear reflectances."""
    place = [*centre, *half, math.cos(yaw), math.sin(yaw), *taper, float(kind)]
    return [*place, *colour, *second, a, b, float(material), 0.0, float(seed), gloss]


def placed(rows: Float64Array, x: float, y: float, z: float, yaw: float) -> Float64Array:
    """Rows of an object moved from its own frame to a place: turned by yaw about z, then shifted."""
    c, s = math.cos(yaw), math.sin(yaw)
    out = rows.copy()
    out[:, 0] = x + c * rows[:, 0] - s * rows[:, 1]
    out[:, 1] = y + s * rows[:, 0] + c * rows[:, 1]
    out[:, 2] += z
    out[:, 6] = c * rows[:, 6] - s * rows[:, 7]
    out[:, 7] = s * rows[:, 6] + c * rows[:, 7]
    return out


def marked(rows: Float64Array, instance: int, seed: int) -> Float64Array:
    """Rows with their instance number, and seeds that differ between objects."""
    rows[:, _INSTANCE] = instance
    rows[:, _SEED] += seed % 100_000
    return rows


def _rows(solids: list[list[float]]) -> Float64Array:
    return np.array(solids, dtype=np.float64).reshape(-1, COLUMNS)


def _vary(rng: Generator, colour: Colour, spread: float = 0.2) -> Float64Array:
    """A colour with its brightness and each channel changed a little."""
    return np.clip(np.array(colour) * rng.uniform(1 - spread, 1 + spread) * rng.uniform(0.95, 1.05, 3), 0.005, 0.95)


_CAR_PAINT = ((0.02,) * 3, (0.05,) * 3, (0.3,) * 3, (0.42, 0.43, 0.44), (0.65,) * 3, (0.75,) * 3, (0.03, 0.06, 0.2))
_CAR_PAINT += ((0.35, 0.02, 0.02), (0.02, 0.1, 0.06), (0.12, 0.13, 0.15), (0.3, 0.27, 0.2), (0.08, 0.15, 0.3))


def car(rng: Generator) -> Float64Array:
    """A parked or moving car: small car, saloon, estate or sports utility, 3.5 to 4.9 m long."""
    style = int(rng.integers(4))
    length, width = (
        (rng.uniform(3.5, 4.1), rng.uniform(4.4, 4.9), rng.uniform(4.4, 4.9), rng.uniform(4.2, 4.7))[style],
        rng.uniform(1.62, 1.85),
    )
    height = (1.46, 1.42, 1.47, 1.68)[style] * rng.uniform(0.97, 1.04)
    floor, waist = (0.2, 0.28)[style == 3] * rng.uniform(0.8, 1.1), 0.58 * height + rng.uniform(0, 0.06)
    paint = _vary(rng, _CAR_PAINT[int(rng.integers(len(_CAR_PAINT)))], 0.25)
    half, wide = length / 2, width / 2
    # Cabin from behind the bonnet to the tail, which only a saloon's boot keeps free.
    front = half - length * (0.26, 0.27, 0.25, 0.25)[style]
    back = -half + length * (0.03, 0.16, 0.03, 0.02)[style]
    cabin, middle = (front - back) / 2, (front + back) / 2
    rake, tail = rng.uniform(0.42, 0.55), (0.22, 0.45, 0.2, 0.15)[style] * rng.uniform(0.8, 1.2)
    body = {"material": CAR_BODY, "gloss": 0.35}
    belt = waist - rng.uniform(0.12, 0.2)
    low = (belt + floor) / 2
    parts = [
        solid(BOX, (0, 0, low), (half, wide, (belt - floor) / 2), paint, taper=(0.03, 0.02, 0.02), **body),
        solid(
            BOX,
            (0, 0, (waist + belt) / 2),
            (half * 0.97, wide * 0.98, (waist - belt) / 2),
            paint,
            taper=(rng.uniform(0.2, 0.5) if style != 3 else 0.12, 0.06, 0.08),
            gloss=0.35,
        ),
        solid(
            BOX,
            (middle, 0, (waist + height) / 2),
            (cabin, wide * 0.93, (height - waist) / 2 + 0.01),
            paint,
            CAR_CABIN,
            taper=(rake, tail, 0.2),
            a=rake,
            b=tail,
            gloss=0.35,
        ),
    ]
    parts += [
        solid(BOX, (half - 0.03, 0, floor + 0.17), (0.12, wide * 0.96, 0.15), paint * 0.7, taper=(0.1, 0, 0.05)),
        solid(BOX, (-half + 0.03, 0, floor + 0.19), (0.12, wide * 0.96, 0.16), paint * 0.7, taper=(0, 0.1, 0.05)),
    ]
    radius = rng.uniform(0.29, 0.34) + 0.03 * (style == 3)
    for x in (half * 0.62, -half * 0.6):
        for y in (wide - 0.1, 0.1 - wide):
            parts.append(solid(WHEEL, (x, y, radius), (radius, 0.12, radius), (0.02,) * 3, RUBBER))
    for y in (wide + 0.06, -wide - 0.06):
        parts.append(solid(BOX, (front * 0.85, y, waist + 0.04), (0.06, 0.08, 0.07), paint, gloss=0.2))
    return _rows(parts)


def van(rng: Generator) -> Float64Array:
    """A van or small lorry, 4.8 to 6.5 m long, up to 2.8 m high."""
    length, width, height = rng.uniform(4.8, 6.5), rng.uniform(1.85, 2.1), rng.uniform(1.9, 2.8)
    paint = _vary(rng, (0.7,) * 3 if rng.random() < 0.6 else _CAR_PAINT[int(rng.integers(len(_CAR_PAINT)))])
    half, wide, nose = length / 2, width / 2, rng.uniform(0.5, 1.1)
    split = 1.05
    parts = [
        solid(BOX, (0, 0, 0.65), (half, wide, 0.4), paint, CAR_BODY, gloss=0.25, taper=(0.02, 0, 0)),
        solid(
            BOX,
            (half - nose - 0.75, 0, (split + height) / 2),
            (0.95, wide * 0.97, (height - split) / 2),
            paint,
            CAR_CABIN,
            taper=(0.7, 0, 0.08),
            a=0.7,
            gloss=0.25,
        ),
    ]
    rear = length - nose - 1.4
    parts.append(
        solid(
            BOX, (-half + rear / 2, 0, (split + height) / 2), (rear / 2, wide, (height - split) / 2), paint, gloss=0.2
        )
    )
    for x in (half - 0.9, -half + 0.95):
        for y in (wide - 0.11, 0.11 - wide):
            parts.append(solid(WHEEL, (x, y, 0.34), (0.34, 0.13, 0.34), (0.02,) * 3, RUBBER))
    return _rows(parts)


def _clothes(rng: Generator) -> Float64Array:
    return np.clip(rng.uniform(0.02, 0.5) * rng.uniform(0.3, 1.3, 3), 0.01, 0.8)


def person(rng: Generator, stride: float = 0.0) -> Float64Array:
    """A standing or walking adult or child, 1.15 to 1.9 m tall; ``stride`` spreads the legs, metres."""
    tall = rng.uniform(1.55, 1.9) if rng.random() < 0.8 else rng.uniform(1.15, 1.5)
    coat, trousers = _clothes(rng), _clothes(rng)
    skin = np.array((0.45, 0.28, 0.2)) * rng.uniform(0.4, 1.1)
    hair = np.array((0.06, 0.04, 0.03)) * rng.uniform(0.3, 4.0)
    parts = [solid(ELLIPSOID, (0, 0, tall * 0.68), (0.13, 0.22, tall * 0.18), coat)]
    for y, x in ((0.09, stride / 2), (-0.09, -stride / 2)):
        parts.append(solid(CONE, (x, y, tall * 0.25), (0.06, 0.06, tall * 0.25), trousers, taper=(-0.45, 0, 0)))
        parts.append(solid(CONE, (-0.6 * x, 2.7 * y, tall * 0.64), (0.05, 0.05, tall * 0.17), coat))
    parts.append(solid(ELLIPSOID, (0, 0, tall * 0.92), (0.1, 0.085, tall * 0.08), skin))
    parts.append(solid(ELLIPSOID, (-0.02, 0, tall * 0.945), (0.105, 0.095, tall * 0.062), hair))
    return _rows(parts)


def cyclist(rng: Generator) -> Float64Array:
    """A person riding a bicycle along +x."""
    frame = _clothes(rng)
    parts = [solid(WHEEL, (x, 0, 0.34), (0.34, 0.02, 0.34), (0.03,) * 3, seed=1, a=0.0) for x in (-0.52, 0.52)]
    parts.append(solid(BOX, (0.0, 0, 0.55), (0.4, 0.025, 0.16), frame, taper=(0.1, 0.4, 0)))
    parts.append(solid(BOX, (0.42, 0, 1.0), (0.03, 0.26, 0.03), (0.05,) * 3))
    rider = placed(person(rng, stride=0.3), -0.12, 0.0, 0.22, 0.0)
    return np.concatenate([_rows(parts), rider])


_LEAF = (
    ((0.035, 0.08, 0.012), (0.12, 0.2, 0.03)),
    ((0.03, 0.06, 0.012), (0.1, 0.15, 0.03)),
    ((0.05, 0.085, 0.015), (0.2, 0.24, 0.05)),
    ((0.02, 0.04, 0.015), (0.05, 0.09, 0.03)),
    ((0.09, 0.09, 0.02), (0.28, 0.24, 0.05)),
    ((0.05, 0.02, 0.02), (0.12, 0.045, 0.04)),
    ((0.14, 0.07, 0.02), (0.35, 0.18, 0.04)),
)
_LEAF_ODDS = np.array((0.32, 0.22, 0.2, 0.12, 0.06, 0.05, 0.03))


def _foliage(rng: Generator) -> dict[str, object]:
    """Colours and texture numbers of one plant."""
    dark, bright = _LEAF[int(rng.choice(len(_LEAF), p=_LEAF_ODDS))]
    scale = rng.uniform(0.7, 1.4)
    return {
        "colour": _vary(rng, np.array(dark) * scale, 0.15),
        "second": _vary(rng, np.array(bright) * scale, 0.15),
        "a": rng.uniform(0.05, 0.13),
        "b": rng.uniform(0.7, 1.25),
        "material": FOLIAGE,
    }


def tree(rng: Generator, height: float, tufts: int = 90) -> Float64Array:
    """A leafy tree: trunk, three limbs, and a ragged crown of main bodies and about ``tufts`` small ones around them."""
    leaf = _foliage(rng)
    bark = _vary(rng, (0.09, 0.07, 0.05), 0.4)
    clear = height * rng.uniform(0.18, 0.4)
    radius = rng.uniform(0.014, 0.026) * height
    spread = height * rng.uniform(0.2, 0.38)
    parts = [solid(CONE, (0, 0, clear * 0.75), (radius, radius, clear * 0.75), bark, BARK, taper=(0.35, 0, 0))]
    middle, tall = (clear + height) / 2, (height - clear) / 2
    bodies = []
    for _ in range(int(rng.integers(3, 7))):
        off = rng.normal(0, 0.32, 3) * (spread, spread, tall)
        size = np.array((spread, spread, tall)) * rng.uniform(0.35, 0.6)
        bodies.append((off, size))
        parts.append(solid(ELLIPSOID, (off[0], off[1], middle + off[2]), size, **leaf))
    for _ in range(int(tufts * rng.uniform(0.7, 1.3))):
        off, size = bodies[int(rng.integers(len(bodies)))]
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        at = off + way * size * rng.uniform(0.85, 1.25)
        tuft = rng.uniform(0.07, 0.2) * spread * np.array((1.3, 0.8, rng.uniform(0.4, 0.9)))
        parts.append(solid(ELLIPSOID, (at[0], at[1], middle + at[2]), tuft, yaw=rng.uniform(0, 3), **leaf))
    return _rows(parts)


def conifer(rng: Generator, height: float) -> Float64Array:
    """A fir of stacked cones with drooping tufts, or a slim cypress."""
    leaf = _foliage(rng)
    leaf["colour"], leaf["second"] = _vary(rng, (0.02, 0.042, 0.018)), _vary(rng, (0.06, 0.1, 0.04))
    bark = _vary(rng, (0.07, 0.05, 0.035), 0.4)
    slim = rng.random() < 0.35
    wide = height * (rng.uniform(0.08, 0.13) if slim else rng.uniform(0.18, 0.28))
    start = 0.1 if slim else height * rng.uniform(0.05, 0.2)
    parts = [solid(CONE, (0, 0, height * 0.3), (0.02 * height,) * 2 + (height * 0.3,), bark, BARK, taper=(0.4, 0, 0))]
    layers = 3 if slim else int(rng.integers(6, 10))
    for k in range(layers):
        low, high = start + (height - start) * k / layers, start + (height - start) * min(1.0, (k + 1.6) / layers)
        r = wide * (1 - 0.85 * k / layers) * rng.uniform(0.85, 1.1)
        off = rng.normal(0, 0.04 * wide, 2)
        parts.append(
            solid(CONE, (off[0], off[1], (low + high) / 2), (r, r, (high - low) / 2), taper=(0.8, 0, 0), **leaf)
        )
        for angle in rng.uniform(0, 6.28, 0 if slim else 5):
            at = (0.75 * r * math.cos(angle), 0.75 * r * math.sin(angle), low + 0.15)
            parts.append(solid(ELLIPSOID, at, (0.45 * r, 0.22 * r, 0.09 * r + 0.1), yaw=angle, **leaf))
    return _rows(parts)


def grove(rng: Generator, height: float) -> Float64Array:
    """A distant group of trees: a few broad ellipsoids, without trunks."""
    leaf = _foliage(rng)
    parts = []
    for _ in range(int(rng.integers(5, 9))):
        x, y = rng.normal(0, 0.6 * height, 2)
        r, tall = rng.uniform(0.25, 0.5) * height, height * rng.uniform(0.6, 1.0)
        parts.append(solid(ELLIPSOID, (x, y, 0.45 * tall), (r, r, 0.55 * tall), **leaf))
    return _rows(parts)


def bush(rng: Generator, size: float) -> Float64Array:
    """A bush about ``size`` metres wide."""
    leaf = _foliage(rng)
    parts = []
    for _ in range(int(rng.integers(9, 22))):
        x, y = rng.normal(0, 0.28 * size, 2)
        r = size * rng.uniform(0.12, 0.36)
        parts.append(solid(ELLIPSOID, (x, y, r * rng.uniform(0.5, 1.1)), (r, r, r * rng.uniform(0.7, 1.2)), **leaf))
    return _rows(parts)


def hedge(rng: Generator, length: float, height: float, depth: float, plant: dict[str, object]) -> Float64Array:
    """A trimmed hedge along x with an uneven face and top; ``plant``: texture shared by its neighbours."""
    half = length / 2
    sides = rng.uniform(0.0, 0.12)
    parts = [solid(BOX, (0, 0, height / 2), (half, depth / 2, height / 2), taper=(0, 0, sides), **plant)]
    for _ in range(int(length * height * 2.2)):
        face = rng.random()
        x = rng.uniform(-half, half)
        r = rng.uniform(0.08, 0.22)
        if face < 0.65:
            at = (x, math.copysign(depth / 2 - 0.4 * r, rng.uniform(-1, 1)), rng.uniform(0.1, height - 0.1))
            parts.append(solid(ELLIPSOID, at, (1.6 * r, 0.6 * r, 1.3 * r), **plant))
        else:
            at = (x, rng.uniform(-depth / 2, depth / 2), height - 0.3 * r)
            parts.append(solid(ELLIPSOID, at, (1.8 * r, r, 0.7 * r), **plant))
    return _rows(parts)


def hedge_plant(rng: Generator) -> dict[str, object]:
    """Texture of a hedge: see ``hedge``."""
    return _foliage(rng)


_PLASTERS = ((0.72, 0.7, 0.66), (0.68, 0.62, 0.48), (0.62, 0.5, 0.36), (0.5, 0.5, 0.48), (0.6, 0.4, 0.3))
_PLASTERS += ((0.7, 0.66, 0.55), (0.42, 0.46, 0.42), (0.66, 0.52, 0.5), (0.35, 0.33, 0.3), (0.75, 0.75, 0.74))
_BRICKS = ((0.28, 0.1, 0.065), (0.22, 0.09, 0.06), (0.35, 0.2, 0.12), (0.4, 0.33, 0.22), (0.18, 0.12, 0.1))
_ROOFS = ((0.24, 0.09, 0.055), (0.16, 0.07, 0.05), (0.09, 0.075, 0.07), (0.06, 0.06, 0.065), (0.3, 0.13, 0.08))


def house(rng: Generator, width: float, depth: float, storeys: int, pitched: bool) -> Float64Array:
    """A building with its front on y = 0, body towards +y, centred on x = 0; width along x."""
    storey = rng.uniform(2.65, 3.1)
    eaves = storeys * storey + rng.uniform(0.3, 0.9)
    brick = rng.random() < 0.22
    wall = _vary(rng, (_BRICKS if brick else _PLASTERS)[int(rng.integers(5 if brick else 10))])
    look = {
        "material": BRICK if brick else PLASTER,
        "second": _vary(rng, (0.3, 0.29, 0.27), 0.4) if rng.random() < 0.8 else wall * 0.5,
        "a": storey,
        "b": rng.uniform(2.0, 3.6),
    }
    half, deep = width / 2, depth / 2
    parts = [solid(BOX, (0, deep, eaves / 2), (half, deep, eaves / 2), wall, **look)]
    cover = _vary(rng, _ROOFS[int(rng.integers(5))], 0.3)
    tile = {"material": ROOF, "a": rng.uniform(0.22, 0.4), "second": wall}
    if pitched:
        over, rise = rng.uniform(0.2, 0.6), rng.uniform(0.55, 1.0)
        hip = rng.choice((0.0, 0.0, 0.0, 0.35))
        if rng.random() < 0.72:
            high = rise * deep
            size, taper, turn = (half + 0.3, deep + over, high / 2), (hip, hip, 1.0), 0.0
        else:
            high = rise * half
            size, taper, turn = (deep + 0.3, half + over, high / 2), (hip, hip, 1.0), math.pi / 2
        parts.append(solid(BOX, (0, deep, eaves + high / 2 - 0.05), size, cover, taper=taper, yaw=turn, **tile))
        parts.append(
            solid(
                BOX, (rng.uniform(-0.6, 0.6) * half, deep * 1.2, eaves + 0.75 * high), (0.3, 0.3, 0.7), (0.2, 0.1, 0.07)
            )
        )
        for at in rng.uniform(-0.7, 0.7, int(rng.integers(0, 3))) * half if turn == 0.0 else ():
            parts.append(
                solid(BOX, (at, 0.45 * deep, eaves + 0.6), (0.7, 0.5 * deep, 0.75), wall, **{**look, "a": 1.7})
            )
    else:
        edge = solid(BOX, (0, deep, eaves + 0.15), (half + 0.12, deep + 0.12, 0.18), _vary(rng, (0.3,) * 3, 0.5))
        parts.append(edge)
    if rng.random() < 0.35:
        x, high = rng.uniform(-0.5, 0.5) * half, storey
        parts.append(solid(BOX, (x, -0.5, high + 0.05), (1.5, 0.6, 0.1), (0.45,) * 3))
        parts.append(solid(BOX, (x, -1.05, high + 0.6), (1.5, 0.04, 0.5), _vary(rng, (0.4,) * 3, 0.6), PLANKS, a=0.12))
    if rng.random() < 0.5:
        parts.append(solid(BOX, (rng.uniform(-0.8, 0.8) * half, -0.4, 2.45), (0.8, 0.5, 0.06), (0.4,) * 3))
    return _rows(parts)


def garage(rng: Generator) -> Float64Array:
    """A flat garage or shed with its front on y = 0."""
    wide, deep, high = rng.uniform(1.4, 3.2), rng.uniform(2.5, 3.5), rng.uniform(1.1, 1.4)
    wall, door = _vary(rng, (0.55, 0.53, 0.5)), _vary(rng, (0.4, 0.38, 0.34), 0.6)
    return _rows(
        [
            solid(BOX, (0, deep, high), (wide, deep, high), wall, seed=3),
            solid(BOX, (0, 0.0, 1.02), (min(wide - 0.2, 2.4), 0.02, 1.02), door, PLANKS, a=0.15),
            solid(BOX, (0, deep, 2 * high + 0.06), (wide + 0.1, deep + 0.15, 0.08), (0.12,) * 3),
        ]
    )


def fence(rng: Generator, length: float, height: float, style: int) -> Float64Array:
    """Along x: 0 planks, 1 stone or rendered wall, 2 wall with pickets, 3 rail fence of single pales."""
    half = length / 2
    wood, stone = _vary(rng, (0.2, 0.13, 0.08), 0.6), _vary(rng, (0.32, 0.3, 0.26), 0.45)
    if style == 0:
        return _rows([solid(BOX, (0, 0, height / 2), (half, 0.04, height / 2), wood, PLANKS, a=rng.uniform(0.1, 0.2))])
    if style == 1:
        return _rows(
            [
                solid(BOX, (0, 0, height / 2), (half, 0.13, height / 2), stone, STONE, a=rng.uniform(0.1, 0.3)),
                solid(BOX, (0, 0, height + 0.04), (half, 0.17, 0.05), stone * 0.8),
            ]
        )
    parts = [solid(BOX, (0, 0, 0.2), (half, 0.12, 0.2), stone, STONE, a=0.15)] if style == 2 else []
    base = 0.4 if style == 2 else 0.05
    for z in (base + 0.15, height - 0.15):
        parts.append(solid(BOX, (0, 0, z), (half, 0.03, 0.04), wood))
    step = rng.uniform(0.13, 0.3)
    for x in np.arange(-half + step / 2, half, step):
        parts.append(solid(BOX, (x, 0.05, (base + height) / 2), (0.035, 0.012, (height - base) / 2), wood))
    return _rows(parts)


def lamp(rng: Generator) -> Float64Array:
    """A street lamp, 4.5 to 8 m, its arm towards +y."""
    high, grey = rng.uniform(4.5, 8.0), _vary(rng, (0.25, 0.26, 0.26), 0.5)
    parts = [solid(CONE, (0, 0, high / 2), (0.08, 0.08, high / 2), grey, METAL, taper=(0.4, 0, 0))]
    reach = rng.choice((0.0, 0.9, 1.5))
    if reach:
        parts.append(solid(BOX, (0, reach / 2, high), (0.035, reach / 2, 0.035), grey))
    parts.append(solid(ELLIPSOID, (0, reach, high + 0.02), (0.16, 0.34 if reach else 0.16, 0.12), grey * 1.3))
    return _rows(parts)


def traffic_sign(rng: Generator) -> Float64Array:
    """A sign on a pole that faces +x."""
    high, style = rng.uniform(2.1, 2.7), int(rng.integers(4))
    colour = ((0.5, 0.02, 0.02), (0.02, 0.08, 0.4), (0.65, 0.65, 0.62), (0.5, 0.02, 0.02))[style]
    second = ((0.68,) * 3, (0.68,) * 3, (0.65, 0.45, 0.03), (0.68,) * 3)[style]
    size = rng.uniform(0.24, 0.35)
    kind = BOX if style == 2 else ELLIPSOID
    return _rows(
        [
            solid(CONE, (0, 0, high / 2 + 0.2), (0.03, 0.03, high / 2 + 0.2), (0.35,) * 3, METAL),
            solid(kind, (0.05, 0, high), (0.02, size, size), colour, SIGN, second=second, a=float(style)),
        ]
    )


def clutter(rng: Generator) -> Float64Array:
    """One small thing: waste bin, post box, bollard, electrical cabinet or stone."""
    kind = int(rng.integers(5))
    colour = _vary(rng, ((0.06,) * 3, (0.6, 0.42, 0.02), (0.5,) * 3, (0.35, 0.36, 0.33), (0.25, 0.23, 0.2))[kind], 0.3)
    if kind == 0:
        size = (0.28, 0.3, 0.53)
        lid = solid(BOX, (0, 0, 1.08), (0.3, 0.32, 0.04), _vary(rng, (0.1, 0.1, 0.3), 0.8))
        return _rows([solid(BOX, (0, 0, 0.53), size, colour, taper=(-0.1, -0.1, -0.1)), lid])
    if kind == 2:
        return _rows([solid(CONE, (0, 0, 0.45), (0.07, 0.07, 0.45), colour)])
    if kind == 4:
        r = rng.uniform(0.2, 0.5)
        return _rows([solid(ELLIPSOID, (0, 0, 0.3 * r), (r, 0.8 * r, 0.7 * r), colour, STONE, a=0.5)])
    high = rng.uniform(0.8, 1.3)
    return _rows([solid(BOX, (0, 0, high / 2), (rng.uniform(0.25, 0.8), 0.2, high / 2), colour)])
