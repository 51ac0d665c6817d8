"""Houses, garages, fences and street furniture of a synthetic street.

All functions draw from the generator they are given and return (N, 24) float64 rows of ``street_solids`` in the thing's
own frame: x forward or along, y left, z up, standing on z = 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator

from kyn_models.data.street_rays import BOX, CONE, ELLIPSOID
from kyn_models.data.street_solids import (
    BRICK,
    GRASS,
    METAL,
    PLANKS,
    PLASTER,
    ROOF,
    SIGN,
    STONE,
    Colour,
    as_rows,
    solid,
    varied,
)
from kyn_models.types import Float64Array

_PLASTERS: tuple[Colour, ...] = (
    (0.72, 0.7, 0.66),
    (0.68, 0.62, 0.48),
    (0.62, 0.5, 0.36),
    (0.5, 0.5, 0.48),
    (0.6, 0.4, 0.3),
)
_PLASTERS += ((0.7, 0.66, 0.55), (0.42, 0.46, 0.42), (0.66, 0.52, 0.5), (0.35, 0.33, 0.3), (0.75, 0.75, 0.74))
_BRICKS = ((0.28, 0.1, 0.065), (0.22, 0.09, 0.06), (0.35, 0.2, 0.12), (0.4, 0.33, 0.22), (0.18, 0.12, 0.1))
_ROOFS = ((0.24, 0.09, 0.055), (0.16, 0.07, 0.05), (0.09, 0.075, 0.07), (0.06, 0.06, 0.065), (0.3, 0.13, 0.08))


def house(rng: Generator, width: float, depth: float, storeys: int, pitched: bool) -> Float64Array:
    """A building with its front on y = 0, body towards +y, centred on x = 0; width along x."""
    storey = rng.uniform(2.65, 3.1)
    eaves = storeys * storey + rng.uniform(0.3, 0.9)
    brick = rng.random() < 0.22
    wall = varied(rng, (_BRICKS if brick else _PLASTERS)[int(rng.integers(5 if brick else 10))])
    look: dict[str, Any] = {
        "material": BRICK if brick else PLASTER,
        "second": varied(rng, (0.3, 0.29, 0.27), 0.4) if rng.random() < 0.8 else wall * 0.5,
        "a": storey,
        "b": rng.uniform(2.0, 3.6),
    }
    half, deep = width / 2, depth / 2
    parts = [solid(BOX, (0, deep, eaves / 2), (half, deep, eaves / 2), wall, **look)]
    cover = varied(rng, _ROOFS[int(rng.integers(5))], 0.3)
    tile: dict[str, Any] = {"material": ROOF, "a": rng.uniform(0.22, 0.4), "second": wall}
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
        edge = solid(BOX, (0, deep, eaves + 0.15), (half + 0.12, deep + 0.12, 0.18), varied(rng, (0.3,) * 3, 0.5))
        parts.append(edge)
    if rng.random() < 0.35:
        x, high = rng.uniform(-0.5, 0.5) * half, storey
        parts.append(solid(BOX, (x, -0.5, high + 0.05), (1.5, 0.6, 0.1), (0.45,) * 3))
        parts.append(solid(BOX, (x, -1.05, high + 0.6), (1.5, 0.04, 0.5), varied(rng, (0.4,) * 3, 0.6), PLANKS, a=0.12))
    if rng.random() < 0.5:
        parts.append(solid(BOX, (rng.uniform(-0.8, 0.8) * half, -0.4, 2.45), (0.8, 0.5, 0.06), (0.4,) * 3))
    return as_rows(parts)


def garage(rng: Generator) -> Float64Array:
    """A flat garage or shed with its front on y = 0."""
    wide, deep, high = rng.uniform(1.4, 3.2), rng.uniform(2.5, 3.5), rng.uniform(1.1, 1.4)
    wall, door = varied(rng, (0.55, 0.53, 0.5)), varied(rng, (0.4, 0.38, 0.34), 0.6)
    return as_rows(
        [
            solid(BOX, (0, deep, high), (wide, deep, high), wall, seed=3),
            solid(BOX, (0, 0.0, 1.02), (min(wide - 0.2, 2.4), 0.02, 1.02), door, PLANKS, a=0.15),
            solid(BOX, (0, deep, 2 * high + 0.06), (wide + 0.1, deep + 0.15, 0.08), (0.12,) * 3),
        ]
    )


def terrace(rng: Generator, length: float, depth: float) -> Float64Array:
    """A raised lawn behind a low wall on y = 0, body towards +y."""
    half, high = length / 2, rng.uniform(0.12, 0.55)
    lawn, stone = varied(rng, (0.07, 0.11, 0.03), 0.5), varied(rng, (0.32, 0.3, 0.26), 0.45)
    return as_rows(
        [
            solid(BOX, (0, depth / 2, high / 2), (half, depth / 2 - 0.2, high / 2), lawn, GRASS),
            solid(
                BOX, (0, 0.1, high / 2 + 0.03), (half, 0.12, high / 2 + 0.03), stone, STONE, a=rng.uniform(0.1, 0.25)
            ),
        ]
    )


def fence(rng: Generator, length: float, height: float, style: int) -> Float64Array:
    """Along x: 0 planks, 1 stone or rendered wall, 2 wall with pickets, 3 rail fence of single pales."""
    half = length / 2
    wood, stone = varied(rng, (0.2, 0.13, 0.08), 0.6), varied(rng, (0.32, 0.3, 0.26), 0.45)
    if style == 0:
        return as_rows(
            [solid(BOX, (0, 0, height / 2), (half, 0.04, height / 2), wood, PLANKS, a=rng.uniform(0.1, 0.2))]
        )
    if style == 1:
        return as_rows(
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
    return as_rows(parts)


def lamp(rng: Generator) -> Float64Array:
    """A street lamp, 4.5 to 8 m, its arm towards +y."""
    high, grey = rng.uniform(4.5, 8.0), varied(rng, (0.25, 0.26, 0.26), 0.5)
    parts = [solid(CONE, (0, 0, high / 2), (0.08, 0.08, high / 2), grey, METAL, taper=(0.4, 0, 0))]
    reach = rng.choice((0.0, 0.9, 1.5))
    if reach:
        parts.append(solid(BOX, (0, reach / 2, high), (0.035, reach / 2, 0.035), grey))
    parts.append(solid(ELLIPSOID, (0, reach, high + 0.02), (0.16, 0.34 if reach else 0.16, 0.12), grey * 1.3))
    return as_rows(parts)


def traffic_sign(rng: Generator) -> Float64Array:
    """A sign on a pole that faces +x."""
    high, style = rng.uniform(2.1, 2.7), int(rng.integers(4))
    colour = ((0.5, 0.02, 0.02), (0.02, 0.08, 0.4), (0.65, 0.65, 0.62), (0.5, 0.02, 0.02))[style]
    second = ((0.68,) * 3, (0.68,) * 3, (0.65, 0.45, 0.03), (0.68,) * 3)[style]
    size = rng.uniform(0.24, 0.35)
    kind = BOX if style == 2 else ELLIPSOID
    return as_rows(
        [
            solid(CONE, (0, 0, high / 2 + 0.2), (0.03, 0.03, high / 2 + 0.2), (0.35,) * 3, METAL),
            solid(kind, (0.05, 0, high), (0.02, size, size), colour, SIGN, second=second, a=float(style)),
        ]
    )


def clutter(rng: Generator) -> Float64Array:
    """One small thing: waste bin, post box, bollard, electrical cabinet or stone."""
    kind = int(rng.integers(5))
    colour = varied(rng, ((0.06,) * 3, (0.6, 0.42, 0.02), (0.5,) * 3, (0.35, 0.36, 0.33), (0.25, 0.23, 0.2))[kind], 0.3)
    if kind == 0:
        size = (0.28, 0.3, 0.53)
        lid = solid(BOX, (0, 0, 1.08), (0.3, 0.32, 0.04), varied(rng, (0.1, 0.1, 0.3), 0.8))
        return as_rows([solid(BOX, (0, 0, 0.53), size, colour, taper=(-0.1, -0.1, -0.1)), lid])
    if kind == 2:
        return as_rows([solid(CONE, (0, 0, 0.45), (0.07, 0.07, 0.45), colour)])
    if kind == 4:
        r = rng.uniform(0.2, 0.5)
        return as_rows([solid(ELLIPSOID, (0, 0, 0.3 * r), (r, 0.8 * r, 0.7 * r), colour, STONE, a=0.5)])
    high = rng.uniform(0.8, 1.3)
    return as_rows([solid(BOX, (0, 0, high / 2), (rng.uniform(0.25, 0.8), 0.2, high / 2), colour)])
