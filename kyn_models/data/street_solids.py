"""Rows of exact solids: what the things of a synthetic street are made of.

A row (24,) float64 is a solid (``street_rays``) followed by its surface (``street_textures``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.random import Generator

from kyn_models.types import Float64Array

PLAIN, PLASTER, BRICK, ROOF, FOLIAGE, BARK, CAR_BODY, CAR_CABIN, RUBBER, PLANKS, STONE, METAL, SIGN, GRASS = range(14)
"""Materials of solids. Columns of ``surfaces`` (N, 12): colour rgb, second colour rgb, a, b, material, instance,
seed, gloss; a and b are the material's own numbers, said at each function."""

COLUMNS = 24
_INSTANCE, _SEED = 21, 22

Colour: TypeAlias = Sequence[float] | Float64Array


def solid(
    kind: int,
    centre: Sequence[float] | Float64Array,
    half: Sequence[float] | Float64Array,
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


def as_rows(solids: list[list[float]]) -> Float64Array:
    """(N, 24) float64 of a list of ``solid``."""
    return np.array(solids, dtype=np.float64).reshape(-1, COLUMNS)


def varied(rng: Generator, colour: Colour, spread: float = 0.2) -> Float64Array:
    """A colour with its brightness and each channel changed a little."""
    return np.clip(np.array(colour) * rng.uniform(1 - spread, 1 + spread) * rng.uniform(0.95, 1.05, 3), 0.005, 0.95)
