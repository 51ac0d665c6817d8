"""Procedural house walls and roofs of synthetic streets: bricks, plaster, windows, doors, tiles. numba inside.

``s`` is a row of ``surfaces``, ``h`` a row of ``solids``, ``fp`` a pixel's footprint in metres (``street_noise``).
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

from numba import njit

from kyn_models.data.street_noise import fade, grain2, hashed, joint
from kyn_models.data.street_solids import BRICK


@njit(error_model="numpy")
def window(u, v, seed, fp):
    """One window in a cell of 0..1 by 0..1: (kind, shade), kind 0 none, 1 frame, 2 glass, 3 shutter or curtain."""
    if u < 0.0 or u > 1.0 or v < 0.0 or v > 1.0:
        return 0, 1.0
    if u < 0.06 or u > 0.94 or v < 0.05 or v > 0.95 or abs(u - 0.5) < 0.03:
        return 1, 1.0
    if v > 1.0 - 0.95 * max(0.0, hashed(seed, 3, 1, 5) * 1.8 - 0.8):
        return 3, 0.85 + 0.15 * math.cos(v * 60.0) * fade(fp, 0.05)
    return 2, 0.35 + 0.65 * hashed(seed, 7, 7, 7) * (0.4 + 0.6 * v)


@njit(error_model="numpy")
def wall(s, along, up, face, fp):
    """Bricks or plaster with stains, on a darker base: (r, g, b)."""
    seed = int(s[10])
    r, g, b = s[0], s[1], s[2]
    if int(s[8]) == BRICK:
        row = math.floor(up / 0.075)
        column = along / 0.24 + 0.5 * (row % 2)
        tone = 1.0 + 0.45 * (hashed(int(math.floor(column)), int(row), face, seed) - 0.5) * fade(fp, 0.09)
        mortar = 0.8 * max(joint(up / 0.075, 0.16, fp / 0.075), joint(column, 0.05, fp / 0.24))
        r, g, b = r * tone, g * tone, b * tone
        r, g, b = r + (0.32 - r) * mortar, g + (0.3 - g) * mortar, b + (0.27 - b) * mortar
    if up < 0.45:
        r, g, b = s[3], s[4], s[5]
    stain = 1.0 + 0.18 * grain2(along, up * 0.35, 1.7, fp, seed + 11) + 0.1 * grain2(along, up, 0.12, fp, seed)
    return r * stain, g * stain, b * stain


@njit(error_model="numpy")
def opening(s, bay, floor, face, u, v, up, fp):
    """Window, frame, shutter, sill or door at (u, v) of a bay, both 0..1 inside the window: (r, g, b, gloss, found)."""
    seed = int(s[10])
    if floor == 0 and hashed(bay, 9, face, seed) < 0.16:
        v = (up - 0.1) / 2.05
        if not (0.0 < u < 1.0 and 0.0 < v < 1.0):
            return 0.0, 0.0, 0.0, 0.0, False
        panel = 0.75 + 0.25 * (0.12 < u < 0.88 and 0.08 < v < 0.92)
        tone = hashed(bay, 4, face, seed)
        return panel * (0.02 + 0.34 * tone), panel * (0.02 + 0.26 * tone), panel * (0.02 + 0.2 * tone), 0.1, True
    kind, shade = window(u, v, int(hashed(bay, floor, face, seed) * 1e6), fp)
    if kind == 1:
        return 0.62, 0.62, 0.6, 0.0, True
    if kind == 2:
        return 0.045 * shade, 0.05 * shade, 0.055 * shade, 0.5, True
    if kind == 3:
        return 0.5 * shade, 0.48 * shade, 0.43 * shade, 0.0, True
    if -0.35 < u < 1.35 and 0.0 < v < 1.0 and hashed(4, 4, 4, seed) < 0.25:
        return s[3] * 0.8, s[4] * 0.8, s[5] * 0.8, 0.0, True
    if -0.06 < u < 1.06 and -0.09 < v < 0.0:
        return 0.4, 0.4, 0.38, 0.0, True
    return 0.0, 0.0, 0.0, 0.0, False


@njit(error_model="numpy")
def facade(s, h, lx, ly, lz, nx, ny, fp):
    """House wall: (r, g, b, gloss); a: storey height in metres, b: spacing of windows (0: blind wall)."""
    seed = int(s[10])
    along, width = (lx, h[3]) if abs(ny) > abs(nx) else (ly, h[4])
    face = (0 if nx > 0 else 1) if abs(nx) >= abs(ny) else (2 if ny > 0 else 3)
    up = lz + h[5]
    if s[7] > 0.0 and up < 2 * h[5] - 0.5:
        pitch = 2 * width / max(1, int(2 * width / s[7]))
        bay, floor = int((along + width) / pitch), int(up / s[6])
        key = hashed(bay, floor, face, seed)
        # Gable ends have fewer windows than fronts.
        if key > (0.35 if face < 2 else 0.06):
            wide = min(0.72 * pitch, 0.9 + 1.1 * hashed(bay, 5, face, seed) * (hashed(1, 2, face, seed) > 0.4))
            u = ((along + width) - (bay + 0.5) * pitch) / wide + 0.5
            v = (up - floor * s[6] - 0.95) / (s[6] - 1.5)
            r, g, b, gloss, found = opening(s, bay, floor, face, u, v, up, fp)
            if found:
                return r, g, b, gloss
    r, g, b = wall(s, along, up, face, fp)
    return r, g, b, 0.0


@njit(error_model="numpy")
def tiles(s, along, down, fp):
    """Roof tiles in rows; a: tile size in metres."""
    seed = int(s[10])
    row = math.floor(down / s[6])
    tone = 1.0 + 0.3 * (hashed(int(math.floor(along / s[6])), int(row), 1, seed) - 0.5) * fade(fp, s[6])
    tone *= 1.0 - 0.45 * joint(down / s[6], 0.22, fp / s[6]) * fade(fp, s[6] * 2)
    tone *= 1.0 - 0.3 * joint(along / s[6], 0.15, fp / s[6]) * fade(fp, s[6] * 2)
    tone *= 1.0 + 0.3 * grain2(along, down, 2.0, fp, seed)
    return s[0] * tone, s[1] * tone, s[2] * tone
