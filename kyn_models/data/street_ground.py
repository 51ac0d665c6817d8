"""Procedural ground of synthetic streets: asphalt, kerb stones, pavement, verge, gardens. numba inside.

``paint`` (32,) float64: 0-2 asphalt rgb, 3 stain strength, 4 patch strength, 5 marking (0 none, 1 dashed centre line,
2 with edge lines), 6-8 paving rgb, 9 paving joint pitch in metres (0: asphalted pavement), 10-12 garden rgb, 13-15
second garden rgb, 16 pavement width left, 17 right, 18 verge width left, 19 right (grass between kerb and paving),
20 gutter stones (0 or 1), 21 manhole spacing in metres, 22 gravel share of gardens, 23 parking bay width, 24 seed,
25-27 kerb rgb, 28 cobbled road (0 or 1), 29 driveway spacing in metres.
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

from numba import njit

from kyn_models.data.street_noise import fade, grain2, hashed, joint, noise2


@njit(error_model="numpy")
def _cobbles(x, d, fp, seed):
    """Brightness of a cobbled road."""
    row = math.floor(x / 0.16)
    u = d / 0.16 + 0.5 * (row % 2)
    tone = 1.0 + 0.5 * (hashed(int(row), int(math.floor(u)), 3, seed) - 0.5) * fade(fp, 0.16)
    tone *= 1.0 - 0.55 * max(joint(x / 0.16, 0.14, fp / 0.16), joint(u, 0.14, fp / 0.16))
    return tone * (1.0 + 0.4 * grain2(x, d, 2.5, fp, seed))


@njit(error_model="numpy")
def _painted(paint, x, edge, d, fp, seed, r, g, b):
    """A road's colour with the lines on it."""
    if paint[5] > 0.0 and fp < 1.5:
        line = abs(d) < 0.06 and (x / 6.0 - math.floor(x / 6.0)) < 0.5
        if paint[5] > 1.5:
            line = line or abs(edge + 0.35) < 0.06
        if line:
            worn = min(1.0, 0.75 + 0.8 * grain2(x, d, 0.4, fp, seed + 30)) * min(1.0, 0.12 / max(fp, 1e-3))
            r, g, b = r + (0.55 - r) * worn, g + (0.55 - g) * worn, b + (0.53 - b) * worn
    if paint[23] > 0.0 and abs(edge + paint[23]) < 0.06 and fp < 1.5:
        r, g, b = r * 0.4 + 0.3, g * 0.4 + 0.3, b * 0.4 + 0.3
    return r, g, b


@njit(error_model="numpy")
def asphalt(paint, road, x, edge, d, fp):
    """Road surface at arc position x, distance ``edge`` (negative) from the kerb, lateral position d: (r, g, b)."""
    seed = int(paint[24])
    if paint[28] > 0.0:
        tone = _cobbles(x, d, fp, seed)
        return paint[0] * tone, paint[1] * tone, paint[2] * tone
    tone = 1.0 + 0.3 * grain2(x, d, 0.03, fp, seed) + 0.16 * grain2(x, d, 0.5, fp, seed + 2)
    tone += paint[3] * grain2(x * 0.2, d, 1.3, fp, seed + 4)
    wheel = abs(abs(d + 0.2 * math.sin(x * 0.05)) - 1.6)
    tone -= 0.1 * max(0.0, 1.0 - wheel / 0.5)
    cell_x, cell_d = math.floor(x / 9.0), math.floor((d + 20.0) / 2.7)
    if hashed(int(cell_x), int(cell_d), 9, seed) < paint[4]:
        u = (x / 9.0 - cell_x) / (0.25 + 0.7 * hashed(int(cell_x), int(cell_d), 10, seed))
        v = ((d + 20.0) / 2.7 - cell_d) / (0.4 + 0.6 * hashed(int(cell_x), int(cell_d), 11, seed))
        if u < 1.0 and v < 1.0:
            tone *= 0.72 + 0.5 * hashed(int(cell_x), int(cell_d), 12, seed)
            if min(min(u, 1 - u) * 6.0, min(v, 1 - v) * 2.0) < 0.04:
                tone *= 0.7
    keep = fade(fp, 0.04)
    if keep > 0.0:
        seam = abs(d - 0.1 + 0.12 * (noise2(x * 1.7, 0.0, seed + 20) - 0.5))
        k = math.floor(x / 11.0)
        across = abs(x - (k + hashed(int(k), 5, 5, seed)) * 11.0 + 0.6 * (noise2(d * 1.3, k, seed + 21) - 0.5))
        if (seam < 0.012 and noise2(x * 0.07, 0.0, seed + 22) > 0.5) or across < 0.012:
            tone *= 1.0 - 0.5 * keep
    if paint[20] > 0.0 and edge > -0.32:
        tone *= 1.35 - 0.5 * joint(x / 0.16, 0.15, fp / 0.16) - 0.5 * joint(edge / 0.16, 0.15, fp / 0.16)
    r, g, b = paint[0] * tone, paint[1] * tone, paint[2] * tone
    if paint[21] > 0.0:
        k = math.floor(x / paint[21])
        mx, md = (k + 0.2 + 0.6 * hashed(int(k), 1, 2, seed)) * paint[21], 3.6 * (hashed(int(k), 2, 2, seed) - 0.5)
        rho = math.hypot(x - mx, d - md)
        if rho < 0.36:
            shade = 0.1 if rho > 0.3 else (0.06 + 0.1 * (hashed(int(k), 7, 2, seed) < 0.5))
            return shade, shade, shade * 0.97
    return _painted(paint, x, edge, d, fp, seed, r, g, b)


@njit(error_model="numpy")
def paving(paint, x, edge, d, fp):
    """Pavement: slabs or asphalt: (r, g, b)."""
    seed = int(paint[24]) + 40
    tone = 1.0 + 0.22 * grain2(x, d, 0.6, fp, seed) + 0.12 * grain2(x, d, 0.02, fp, seed + 1)
    tone += 0.3 * grain2(x * 0.5, d, 2.0, fp, seed + 3)
    pitch = paint[9]
    if pitch > 0.0:
        row = math.floor(edge / pitch)
        u = x / pitch + 0.5 * (row % 2)
        tone *= 1.0 + 0.3 * (hashed(int(math.floor(u)), int(row), 1, seed) - 0.5) * fade(fp, pitch)
        tone *= 1.0 - 0.4 * max(joint(edge / pitch, 0.05, fp / pitch), joint(u, 0.05, fp / pitch))
    return paint[6] * tone, paint[7] * tone, paint[8] * tone


@njit(error_model="numpy")
def garden(paint, x, d, fp):
    """Lawn, soil or gravel beside the pavement: (r, g, b)."""
    seed = int(paint[24]) + 60
    side = 1 if d > 0 else 0
    plot = int(math.floor(x / 13.0 + 0.4 * side))
    kind = hashed(plot, side, 5, seed)
    tone = 1.0 + 0.9 * grain2(x, d, 0.12, fp, seed) + 0.6 * grain2(x, d, 1.5, fp, seed + 2)
    tone = max(tone, 0.15)
    if kind < paint[22]:
        grey = (0.16 + 0.14 * hashed(plot, side, 6, seed)) * (0.5 + 0.5 * tone)
        return grey, grey * 0.96, grey * 0.88
    mix = min(max(0.4 + 1.5 * grain2(x, d, 4.0, fp, seed + 8), 0.0), 1.0)
    return (
        tone * (paint[10] + (paint[13] - paint[10]) * mix),
        tone * (paint[11] + (paint[14] - paint[11]) * mix),
        tone * (paint[12] + (paint[15] - paint[12]) * mix),
    )


@njit(error_model="numpy")
def ground_colour(paint, road, x, edge, d, z, fp):
    """Colour of the ground by distance from the kerb and lateral position: (r, g, b)."""
    if edge < 0.0 and z < 0.4 * road[4]:
        return asphalt(paint, road, x, edge, d, fp)
    if edge < 0.14:
        seed = int(paint[24])
        tone = 1.0 + 0.3 * grain2(x, d + z, 0.15, fp, seed + 6) - 0.4 * joint(x, 0.02, fp)
        return paint[25] * tone, paint[26] * tone, paint[27] * tone
    verge = paint[18] if d > 0 else paint[19]
    wide = paint[16] if d > 0 else paint[17]
    if edge < verge:
        return garden(paint, x, d, fp)
    if edge < verge + wide:
        return paving(paint, x, edge, d, fp)
    if paint[29] > 0.0:
        place = x / paint[29] + (0.5 if d > 0 else 0.13)
        if abs(place - math.floor(place) - 0.5) * paint[29] < 1.5 and hashed(int(place), int(d > 0), 8, 77) < 0.6:
            return paving(paint, x, edge, d, fp)
    return garden(paint, x, d, fp)
