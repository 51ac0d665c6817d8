"""Cars, vans, people and cyclists of a synthetic street.

All functions draw from the generator they are given and return (N, 24) float64 rows of ``street_solids`` in the thing's
own frame: x forward or along, y left, z up, standing on z = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from kyn_models.data.street_rays import BOX, CONE, ELLIPSOID, WHEEL
from kyn_models.data.street_solids import CAR_BODY, CAR_CABIN, RUBBER, Colour, as_rows, placed, solid, varied
from kyn_models.types import Float64Array

_PAINTS: tuple[Colour, ...] = (
    (0.02,) * 3,
    (0.05,) * 3,
    (0.3,) * 3,
    (0.42, 0.43, 0.44),
    (0.65,) * 3,
    (0.75,) * 3,
    (0.03, 0.06, 0.2),
)
_PAINTS += ((0.35, 0.02, 0.02), (0.02, 0.1, 0.06), (0.12, 0.13, 0.15), (0.3, 0.27, 0.2), (0.08, 0.15, 0.3))


def car(rng: Generator) -> Float64Array:
    """A parked or moving car: small car, saloon, estate or sports utility, 3.5 to 4.9 m long."""
    style = int(rng.integers(4))
    length, width = (
        (rng.uniform(3.5, 4.1), rng.uniform(4.4, 4.9), rng.uniform(4.4, 4.9), rng.uniform(4.2, 4.7))[style],
        rng.uniform(1.62, 1.85),
    )
    height = (1.46, 1.42, 1.47, 1.68)[style] * rng.uniform(0.97, 1.04)
    floor, waist = (0.2, 0.28)[style == 3] * rng.uniform(0.8, 1.1), 0.58 * height + rng.uniform(0, 0.06)
    paint = varied(rng, _PAINTS[int(rng.integers(len(_PAINTS)))], 0.25)
    half, wide = length / 2, width / 2
    # Cabin from behind the bonnet to the tail, which only a saloon's boot keeps free.
    front = half - length * (0.26, 0.27, 0.25, 0.25)[style]
    back = -half + length * (0.03, 0.16, 0.03, 0.02)[style]
    cabin, middle = (front - back) / 2, (front + back) / 2
    rake, tail = rng.uniform(0.42, 0.55), (0.22, 0.45, 0.2, 0.15)[style] * rng.uniform(0.8, 1.2)
    body: dict[str, Any] = {"material": CAR_BODY, "gloss": 0.35}
    belt = waist - rng.uniform(0.12, 0.2)
    low, above = (belt + floor) / 2, (height - waist) / 2 + 0.01
    bonnet: dict[str, Any] = {"taper": (rng.uniform(0.2, 0.5) if style != 3 else 0.12, 0.06, 0.08), "gloss": 0.35}
    glass: dict[str, Any] = {"taper": (rake, tail, 0.2), "a": rake, "b": tail, "gloss": 0.35}
    parts = [
        solid(BOX, (0, 0, low), (half, wide, (belt - floor) / 2), paint, taper=(0.03, 0.02, 0.02), **body),
        solid(BOX, (0, 0, (waist + belt) / 2), (half * 0.97, wide * 0.98, (waist - belt) / 2), paint, **bonnet),
        solid(BOX, (middle, 0, (waist + height) / 2), (cabin, wide * 0.93, above), paint, CAR_CABIN, **glass),
    ]
    parts += _bumpers(half, wide, floor, paint * 0.7)
    radius = rng.uniform(0.29, 0.34) + 0.03 * (style == 3)
    for x in (half * 0.62, -half * 0.6):
        for y in (wide - 0.1, 0.1 - wide):
            parts.append(solid(WHEEL, (x, y, radius), (radius, 0.12, radius), (0.02,) * 3, RUBBER))
    for y in (wide + 0.06, -wide - 0.06):
        parts.append(solid(BOX, (front * 0.85, y, waist + 0.04), (0.06, 0.08, 0.07), paint, gloss=0.2))
    return as_rows(parts)


def _bumpers(half: float, wide: float, floor: float, paint: Float64Array) -> list:
    """Of a car of twice that length and width."""
    return [
        solid(BOX, (half - 0.03, 0, floor + 0.17), (0.12, wide * 0.96, 0.15), paint, taper=(0.1, 0, 0.05)),
        solid(BOX, (-half + 0.03, 0, floor + 0.19), (0.12, wide * 0.96, 0.16), paint, taper=(0, 0.1, 0.05)),
    ]


def van(rng: Generator) -> Float64Array:
    """A van or small lorry, 4.8 to 6.5 m long, up to 2.8 m high."""
    length, width, height = rng.uniform(4.8, 6.5), rng.uniform(1.85, 2.1), rng.uniform(1.9, 2.8)
    paint = varied(rng, (0.7,) * 3 if rng.random() < 0.6 else _PAINTS[int(rng.integers(len(_PAINTS)))])
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
    return as_rows(parts)


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
    return as_rows(parts)


def cyclist(rng: Generator) -> Float64Array:
    """A person riding a bicycle along +x."""
    frame = _clothes(rng)
    parts = [solid(WHEEL, (x, 0, 0.34), (0.34, 0.02, 0.34), (0.03,) * 3, seed=1, a=0.0) for x in (-0.52, 0.52)]
    parts.append(solid(BOX, (0.0, 0, 0.55), (0.4, 0.025, 0.16), frame, taper=(0.1, 0.4, 0)))
    parts.append(solid(BOX, (0.42, 0, 1.0), (0.03, 0.26, 0.03), (0.05,) * 3))
    rider = placed(person(rng, stride=0.3), -0.12, 0.0, 0.22, 0.0)
    return np.concatenate([as_rows(parts), rider])
