"""Trees, bushes and hedges of a synthetic street.

All functions draw from the generator they are given and return (N, 24) float64 rows of ``street_solids`` in the thing's
own frame: x forward or along, y left, z up, standing on z = 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator

from kyn_models.data.street_rays import BOX, CONE, ELLIPSOID
from kyn_models.data.street_solids import BARK, FOLIAGE, as_rows, solid, varied
from kyn_models.types import Float64Array

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


def foliage(rng: Generator) -> dict[str, Any]:
    """Keyword arguments of ``solid`` for one plant: colours, leaf size, contrast."""
    dark, bright = _LEAF[int(rng.choice(len(_LEAF), p=_LEAF_ODDS))]
    scale = rng.uniform(0.7, 1.4)
    return {
        "colour": varied(rng, np.array(dark) * scale, 0.15),
        "second": varied(rng, np.array(bright) * scale, 0.15),
        "a": rng.uniform(0.05, 0.13),
        "b": rng.uniform(0.7, 1.25),
        "material": FOLIAGE,
    }


def tree(rng: Generator, height: float, tufts: int = 75) -> Float64Array:
    """A leafy tree: trunk, main bodies of the crown and about ``tufts`` small ones around them."""
    leaf = foliage(rng)
    bark = varied(rng, (0.09, 0.07, 0.05), 0.4)
    clear = height * rng.uniform(0.18, 0.4)
    radius = rng.uniform(0.014, 0.026) * height
    spread = height * rng.uniform(0.22, 0.45)
    parts = [solid(CONE, (0, 0, clear * 0.75), (radius, radius, clear * 0.75), bark, BARK, taper=(0.35, 0, 0))]
    middle, tall = (clear + height) / 2, (height - clear) / 2
    bodies = []
    for _ in range(int(rng.integers(4, 10))):
        off = rng.normal(0, 0.36, 3) * (spread, spread, tall)
        size = np.array((spread, spread, tall)) * rng.uniform(0.25, 0.55)
        bodies.append((off, size))
        parts.append(solid(ELLIPSOID, (off[0], off[1], middle + off[2]), size, **leaf))
    for _ in range(int(tufts * rng.uniform(0.7, 1.3))):
        off, size = bodies[int(rng.integers(len(bodies)))]
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        at = off + way * size * rng.uniform(0.85, 1.25)
        tuft = rng.uniform(0.07, 0.2) * spread * np.array((1.3, 0.8, rng.uniform(0.4, 0.9)))
        parts.append(solid(ELLIPSOID, (at[0], at[1], middle + at[2]), tuft, yaw=rng.uniform(0, 3), **leaf))
    return as_rows(parts)


def conifer(rng: Generator, height: float) -> Float64Array:
    """A fir of stacked cones with drooping tufts, or a slim cypress."""
    leaf = foliage(rng)
    leaf["colour"], leaf["second"] = varied(rng, (0.02, 0.042, 0.018)), varied(rng, (0.06, 0.1, 0.04))
    bark = varied(rng, (0.07, 0.05, 0.035), 0.4)
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
    return as_rows(parts)


def grove(rng: Generator, height: float) -> Float64Array:
    """A distant group of trees: a few broad ellipsoids, without trunks."""
    leaf = foliage(rng)
    parts = []
    for _ in range(int(rng.integers(5, 9))):
        x, y = rng.normal(0, 0.6 * height, 2)
        r, tall = rng.uniform(0.25, 0.5) * height, height * rng.uniform(0.6, 1.0)
        parts.append(solid(ELLIPSOID, (x, y, 0.45 * tall), (r, r, 0.55 * tall), **leaf))
    return as_rows(parts)


def bush(rng: Generator, size: float) -> Float64Array:
    """A bush about ``size`` metres wide."""
    leaf = foliage(rng)
    parts = []
    for _ in range(int(rng.integers(9, 22))):
        x, y = rng.normal(0, 0.28 * size, 2)
        r = size * rng.uniform(0.12, 0.36)
        parts.append(solid(ELLIPSOID, (x, y, r * rng.uniform(0.5, 1.1)), (r, r, r * rng.uniform(0.7, 1.2)), **leaf))
    return as_rows(parts)


def hedge(rng: Generator, length: float, height: float, depth: float, plant: dict[str, Any]) -> Float64Array:
    """A trimmed hedge along x with an uneven face and top; ``plant``: its ``foliage``, shared with its neighbours."""
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
    return as_rows(parts)
