"""Procedural surface colours of synthetic streets: sky, leaves, cars, and one for every material. numba inside.

Colours are linear reflectances; ``fp`` is the footprint of a pixel on the surface in metres (``street_noise``).
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

from numba import njit

from kyn_models.data.street_facades import facade, tiles
from kyn_models.data.street_noise import fade, grain2, grain3, hashed, joint, noise2, noise3, scrambled
from kyn_models.data.street_solids import (
    BARK,
    BRICK,
    CAR_BODY,
    CAR_CABIN,
    GRASS,
    PLANKS,
    PLASTER,
    ROOF,
    RUBBER,
    SIGN,
    STONE,
)


@njit(error_model="numpy")
def sky(dx, dy, dz, light):
    """Radiance of the sky in direction d. ``light``: see ``street_light``."""
    up = max(dz, 0.0)
    mix = min(1.0, up * 1.6) ** 0.6
    r = light[8] * (1 - mix) + light[11] * mix
    g = light[9] * (1 - mix) + light[12] * mix
    b = light[10] * (1 - mix) + light[13] * mix
    if light[14] > 0.0 and dz > 0.015:
        x, y = dx / (dz + 0.12), dy / (dz + 0.12)
        seed = int(light[16])
        n = 0.55 * noise2(x * 1.3, y * 1.3, seed) + 0.3 * noise2(x * 3.1, y * 3.1, seed + 1)
        n += 0.15 * noise2(x * 7.7, y * 7.7, seed + 2)
        cover = min(max((n - 1.0 + light[14]) * 3.5, 0.0), 1.0) * min(1.0, dz * 12.0)
        white = light[15] * (0.75 + 0.35 * noise2(x * 2.0 + 9.0, y * 2.0, seed + 3))
        r, g, b = r + (white - r) * cover, g + (white - g) * cover, b + (white - b) * cover
    toward = dx * light[0] + dy * light[1] + dz * light[2]
    if toward > 0.6 and light[3] > 0.0:
        glow = 0.35 * light[3] * ((toward - 0.6) / 0.4) ** 8
        r, g, b = r + glow, g + glow * 0.95, b + glow * 0.85
    return r, g, b


@njit(error_model="numpy")
def leaf(x, y, z, seed):
    """Which leaf covers a point of a clump with leaves of size 1: (32 bits of that leaf's own, distance to it)."""
    i, j, k = int(math.floor(x - 0.5)), int(math.floor(y - 0.5)), int(math.floor(z - 0.5))
    best, own = 9.0, 0
    for n in range(8):
        p, q, r = i + (n & 1), j + ((n >> 1) & 1), k + (n >> 2)
        h = scrambled(p, q, r, seed)
        a = x - p - (h & 255) / 256.0
        c = y - q - ((h >> 8) & 255) / 256.0
        e = z - r - ((h >> 16) & 255) / 256.0
        # Squeezed to one of two slants, so that leaves are longer than wide.
        slant = a + e if h & 0x1000000 else a - e
        distance = a * a + c * c + e * e + 0.9 * slant * slant
        if distance < best:
            best, own = distance, h
    return own, math.sqrt(best)


@njit(error_model="numpy")
def leaves(s, x, y, z, fp):
    """Foliage; a: size of a leaf in metres, b: contrast. Returns (r, g, b, tilt x, y, z of the leaf's normal)."""
    seed, size = int(s[10]), s[6]
    clump, reach = 0.0, size * 5.0
    for octave in range(2):
        keep = fade(fp, reach)
        if keep > 0.0:
            clump += keep * (noise3(x / reach, y / reach, z / reach, seed + octave) - 0.5)
        reach *= 0.5
    coarse = noise3(x * 0.9, y * 0.9, z * 0.9, seed + 3) - 0.5
    lump = (noise3(x * 2.7, y * 2.7, z * 2.7, seed + 5) - 0.5) * fade(fp, 0.6)
    bright = 0.5 + s[7] * (0.9 * clump + 0.4 * coarse + 0.5 * lump)
    keep = fade(fp, size * 1.8)
    mix = 0.5 + coarse
    tx, ty, tz = 0.0, 0.0, 0.25
    if keep > 0.0:
        bits, gap = leaf(x / size, y / size, z / size, seed)
        own = ((bits >> 5) & 1023) / 1024.0 - 0.5
        bright += keep * s[7] * (0.85 * own - 0.55 * max(gap - 0.42, 0.0))
        mix += 0.7 * keep * own
        tx = 1.6 * keep * (((bits >> 3) & 255) / 256.0 - 0.5)
        ty = 1.6 * keep * (((bits >> 12) & 255) / 256.0 - 0.5)
        tz += 1.6 * keep * (((bits >> 21) & 255) / 256.0 - 0.5)
    bright = min(max(bright, 0.02), 1.3)
    bright = 0.1 + 1.75 * bright * bright
    mix = min(max(mix, 0.0), 1.0)
    return (
        bright * (s[0] + (s[3] - s[0]) * mix),
        bright * (s[1] + (s[4] - s[1]) * mix),
        bright * (s[2] + (s[5] - s[2]) * mix),
        tx,
        ty,
        tz,
    )


@njit(error_model="numpy")
def car_body(s, h, lx, lz, ly, nx, nz):
    """Lower part of a car: lamps, number plate, bumpers, door gaps: (r, g, b, gloss)."""
    u, w, up = lx / h[3], ly / h[4], lz / h[5]
    if up < -0.75:
        return 0.02, 0.02, 0.02, 0.05
    if abs(nx) > 0.6:
        if abs(w) > 0.62 and 0.1 < up < 0.75:
            return (0.75, 0.75, 0.72, 0.4) if nx > 0 else (0.45, 0.02, 0.02, 0.3)
        if abs(w) < 0.3 and -0.35 < up < 0.0:
            return 0.65, 0.65, 0.62, 0.1
        if abs(w) < 0.55 and nx > 0 and 0.15 < up < 0.6:
            return 0.03, 0.03, 0.03, 0.2
    elif abs(nz) < 0.5:
        for at in (-0.42, 0.02, 0.45):
            if abs(u - at) < 0.006:
                return 0.02, 0.02, 0.02, 0.0
        if up < -0.5:
            return 0.03, 0.03, 0.03, 0.1
    return s[0], s[1], s[2], s[11]


@njit(error_model="numpy")
def car_cabin(s, h, lx, ly, lz, nx, ny, nz):
    """Upper part of a car: glass between pillars, painted roof: (r, g, b, gloss)."""
    up = (lz / h[5] + 1) * 0.5
    if nz > 0.8 or up > 0.9:
        return s[0], s[1], s[2], s[11]
    if abs(ny) > 0.5:
        u = lx / h[3]
        pillar = abs(u - 0.05) < 0.035 or u > 0.9 - s[6] * up or u < -0.9 + s[7] * up
    else:
        pillar = abs(ly) / h[4] > 0.88 - 0.16 * up
    if pillar or up < 0.08:
        return s[0] * 0.8, s[1] * 0.8, s[2] * 0.8, s[11]
    return 0.012, 0.014, 0.015, 0.75


@njit(error_model="numpy")
def sign_face(s, h, ly, lz, nx):
    """Front of a traffic sign; a: 0 ring, 1 blue, 2 yellow lozenge or name plate, 3 stop."""
    if nx < 0.5:
        return 0.3, 0.3, 0.3
    rim = max(abs(ly) / h[4], abs(lz) / h[5]) if s[6] == 2 else math.sqrt((ly / h[4]) ** 2 + (lz / h[5]) ** 2)
    bar = abs(lz) / h[5] < 0.18 and abs(ly) / h[4] < 0.6
    if rim > 0.78:
        return (0.6, 0.6, 0.58) if s[6] == 1 or s[6] == 3 else (s[0], s[1], s[2])
    if s[6] == 0 or s[6] == 2:
        return (0.03, 0.03, 0.03) if bar else (s[3], s[4], s[5])
    return (0.65, 0.65, 0.65) if bar else (s[0], s[1], s[2])


@njit(error_model="numpy")
def solid_colour(s, h, lx, ly, lz, nx, ny, nz, wx, wy, wz, fp):
    """(r, g, b, gloss) of a solid without leaves: surfaces row s, solids row h, local point and normal, world point."""
    material, seed = int(s[8]), int(s[10])
    if material in (PLASTER, BRICK):
        if abs(nz) > 0.9:
            return s[3], s[4], s[5], 0.0
        return facade(s, h, lx, ly, lz, nx, ny, fp)
    if material == ROOF:
        if nz < 0.2:
            return s[3], s[4], s[5], 0.0
        r, g, b = tiles(s, lx if abs(ny) > abs(nx) else ly, lz / max(0.25, math.sqrt(1 - nz * nz) + 0.02), fp)
        return r, g, b, 0.0
    if material == CAR_BODY:
        return car_body(s, h, lx, lz, ly, nx, nz)
    if material == CAR_CABIN:
        return car_cabin(s, h, lx, ly, lz, nx, ny, nz)
    if material == RUBBER:
        rim = (lx / h[3]) ** 2 + (lz / h[5]) ** 2
        return (0.35, 0.35, 0.36, 0.2) if rim < 0.4 and abs(ny) > 0.5 else (0.02, 0.02, 0.02, 0.0)
    along = lx if abs(ny) >= abs(nx) else ly
    if material == PLANKS:
        gap = joint(along / s[6], 0.12, fp / s[6])
        tone = 1.0 + 0.35 * (hashed(int(math.floor(along / s[6])), 1, 1, seed) - 0.5) * fade(fp, s[6])
        tone *= (1.0 - 0.8 * gap) * (1.0 + 0.25 * grain2(along, lz * 0.15, 0.05, fp, seed))
        return s[0] * tone, s[1] * tone, s[2] * tone, 0.0
    if material == STONE:
        row = math.floor(lz / s[6])
        column = along / (2 * s[6]) + 0.5 * (row % 2)
        tone = 1.0 + 0.5 * (hashed(int(math.floor(column)), int(row), 1, seed) - 0.5) * fade(fp, s[6])
        tone *= 1.0 - 0.45 * max(joint(lz / s[6], 0.1, fp / s[6]), joint(column, 0.05, 0.5 * fp / s[6]))
        tone *= 1.0 + 0.5 * grain3(lx, ly, lz, 0.3, fp, seed)
        return s[0] * tone, s[1] * tone, s[2] * tone, 0.0
    if material == SIGN:
        r, g, b = sign_face(s, h, ly, lz, nx)
        return r, g, b, 0.05
    tone = 1.0
    if material == BARK:
        tone += 0.9 * grain3(lx, ly, lz * 0.2, 0.12, fp, seed)
    elif material == GRASS:
        tone += 0.8 * grain2(wx, wy, 0.35, fp, seed) + 0.5 * grain2(wx, wy, 3.0, fp, seed + 5)
    else:
        tone += 0.2 * grain3(lx, ly, lz, 0.5, fp, seed)
    return s[0] * tone, s[1] * tone, s[2] * tone, s[11]
