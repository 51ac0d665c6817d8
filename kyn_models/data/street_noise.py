"""Noise and patterns for procedural surfaces, filtered by the size of a pixel on them. numba inside.

``fp`` is the footprint of a pixel on the surface in metres. Every pattern fades to its mean where it is finer than
that, so that distant surfaces do not alias.
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

from numba import njit

_MASK = 0xFFFFFFFF


@njit(error_model="numpy")
def scrambled(x, y, z, seed):
    """32 random bits that depend on four integers."""
    h = (x * 374761393 + y * 668265263 + z * 2246822519 + seed * 3266489917) & _MASK
    h = ((h ^ (h >> 13)) * 1274126177) & _MASK
    h = ((h ^ (h >> 16)) * 2654435761) & _MASK
    return h ^ (h >> 15)


@njit(error_model="numpy")
def hashed(x, y, z, seed):
    """A number in [0, 1) that depends on four integers."""
    return (scrambled(x, y, z, seed) & 0xFFFFFF) / 16777216.0


@njit(error_model="numpy")
def noise2(x, y, seed):
    """Smooth noise in [0, 1) with features of size 1."""
    i, j = int(math.floor(x)), int(math.floor(y))
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    a = hashed(i, j, 0, seed) * (1 - u) + hashed(i + 1, j, 0, seed) * u
    b = hashed(i, j + 1, 0, seed) * (1 - u) + hashed(i + 1, j + 1, 0, seed) * u
    return a * (1 - v) + b * v


@njit(error_model="numpy")
def noise3(x, y, z, seed):
    """Smooth noise in [0, 1) with features of size 1."""
    i, j, k = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
    u, v, w = x - i, y - j, z - k
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    a = hashed(i, j, k, seed) * (1 - u) + hashed(i + 1, j, k, seed) * u
    b = hashed(i, j + 1, k, seed) * (1 - u) + hashed(i + 1, j + 1, k, seed) * u
    c = hashed(i, j, k + 1, seed) * (1 - u) + hashed(i + 1, j, k + 1, seed) * u
    d = hashed(i, j + 1, k + 1, seed) * (1 - u) + hashed(i + 1, j + 1, k + 1, seed) * u
    return (a * (1 - v) + b * v) * (1 - w) + (c * (1 - v) + d * v) * w


@njit(error_model="numpy")
def fade(fp, size):
    """How much of a pattern with features of ``size`` metres a pixel of footprint ``fp`` still resolves, 0 to 1."""
    return min(max(1.6 - 1.6 * fp / size, 0.0), 1.0)


@njit(error_model="numpy")
def grain2(x, y, size, fp, seed):
    """Noise of three octaves around 0, about -1 to 1, coarsest features of ``size`` metres."""
    total, amplitude = 0.0, 1.0
    for octave in range(3):
        keep = fade(fp, size)
        if keep <= 0.0:
            break
        total += amplitude * keep * (noise2(x / size, y / size, seed + octave) - 0.5)
        size *= 0.37
        amplitude *= 0.75
    return total


@njit(error_model="numpy")
def grain3(x, y, z, size, fp, seed):
    """Like ``grain2`` in space."""
    total, amplitude = 0.0, 1.0
    for octave in range(3):
        keep = fade(fp, size)
        if keep <= 0.0:
            break
        total += amplitude * keep * (noise3(x / size, y / size, z / size, seed + octave) - 0.5)
        size *= 0.42
        amplitude *= 0.85
    return total


@njit(error_model="numpy")
def joint(u, width, fp):
    """Coverage 0 to 1 of a line of ``width`` at integer + 0 positions of u (all in the unit of u)."""
    distance = abs(u - math.floor(u + 0.5))
    soft = max(fp, 1e-4)
    return min(max((0.5 * width - distance) / soft + 0.5, 0.0), 1.0) * min(1.0, width / soft + 0.2)
