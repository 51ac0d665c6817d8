"""Pictures of synthetic streets: rays, light, shadows, haze, camera response. numba inside.

``light`` (24,) float64: 0-2 unit vector to the sun, 3-5 sun rgb, 6 ambient occlusion strength, 7 haze per metre,
8-10 sky rgb at the horizon, 11-13 at the zenith, 14 cloud cover, 15 cloud brightness, 16 cloud seed, 17 half angle of
the shadow-casting light in radians (0: hard shadows), 18-20 ambient rgb, 21 share of sunlight that leaves let through.
``memo`` (4,) int64 is scratch: the last solid that stood before the sun, per ray.
``look`` (9,) float64: exposure, gamma, contrast, white balance rgb, vignette, noise (standard deviation at white),
saturation.
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

import numpy as np
from numba import njit

from kyn_models.data.street_compile import entry
from kyn_models.data.street_ground import ground_colour
from kyn_models.data.street_lens import pixel_ray
from kyn_models.data.street_noise import hashed, noise3
from kyn_models.data.street_rays import (
    GROUND,
    NOTHING,
    _enters,
    _inverse,
    closest,
    normal,
    road_edge,
    span,
)
from kyn_models.data.street_solids import FOLIAGE
from kyn_models.data.street_textures import leaves, sky, solid_colour

_FAR = 1e30


@njit(error_model="numpy")
def sunlight(solids, bounds, links, surfaces, leak, memo, k, ox, oy, oz, dx, dy, dz):
    """Whether sunlight arrives from direction d: not behind solids, in flecks through foliage.

    memo[k] is the solid that stood in the last ray's way, which mostly stands in the next one's too.
    """
    if memo[k] >= 0:
        t0, t1 = span(solids, memo[k], ox, oy, oz, dx, dy, dz)
        if t0 <= t1 and t1 > 0.0 and t0 < 60.0:
            return 0.0
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    stack = np.empty(64, np.int32)
    stack[0], top = 0, 1
    while top > 0:
        top -= 1
        node = stack[top]
        if _enters(bounds, node, ox, oy, oz, ix, iy, iz, 60.0) >= _FAR:
            continue
        if links[node, 2] < 0:
            stack[top], stack[top + 1] = links[node, 0], links[node, 1]
            top += 2
            continue
        for i in range(links[node, 0], links[node, 1]):
            t0, t1 = span(solids, i, ox, oy, oz, dx, dy, dz)
            if t0 <= t1 and t1 > 0.0 and t0 < 60.0:
                if int(surfaces[i, 8]) != FOLIAGE:
                    memo[k] = i
                    return 0.0
                if t0 <= 0.0:
                    return 0.0
                t = 0.5 * (t0 + t1)
                x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                if noise3(x * 2.6, y * 2.6, z * 2.6, 5) > leak:
                    return 0.0
    return 1.0


@njit(error_model="numpy")
def _surface(solids, centre, road, surfaces, paint, i, t, x, y, z, dx, dy, dz, pixel):
    """What the ray along d met at (x, y, z): (r, g, b, gloss, normal x, y, z, leafy)."""
    if i == GROUND:
        edge, d = road_edge(centre, road, x, y)
        nx, ny, nz = 0.0, 0.0, 1.0
        if 1e-4 < z < road[4] - 1e-4:
            nx, ny, nz = 0.0, math.copysign(1.0, -d), 0.0
        fp = t * pixel / math.sqrt(max(abs(dz if nz > 0.5 else dy), 0.02))
        r, g, b = ground_colour(paint, road, x, edge, d, z, fp)
        return r, g, b, 0.0, nx, ny, nz, False
    h = solids[i]
    px, py, lz = x - h[0], y - h[1], z - h[2]
    lx, ly = h[6] * px + h[7] * py, h[6] * py - h[7] * px
    mx, my, nz = normal(solids, i, lx, ly, lz)
    nx, ny = h[6] * mx - h[7] * my, h[7] * mx + h[6] * my
    fp = t * pixel / math.sqrt(max(abs(nx * dx + ny * dy + nz * dz), 0.05))
    if int(surfaces[i, 8]) != FOLIAGE:
        r, g, b, gloss = solid_colour(surfaces[i], h, lx, ly, lz, mx, my, nz, x, y, z, fp)
        return r, g, b, gloss, nx, ny, nz, False
    # Leaves face all ways, more than the ellipsoid's or box's own shape says.
    r, g, b, ux, uy, uz = leaves(surfaces[i], x, y, z, fp)
    nx, ny, nz = nx + ux, ny + uy, nz + uz
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return r, g, b, 0.0, nx / length, ny / length, nz / length, True


@njit(error_model="numpy")
def _sun_share(solids, bounds, links, surfaces, light, memo, t, x, y, z):
    """Share of the sun's disc, or of the bright part of a veiled sky, that a point sees."""
    if t > 120.0:
        return 1.0
    rays = 4 if light[17] > 0.0 and t < 50.0 else 1
    share = 0.0
    for k in range(rays):
        qx, qy, qz = light[0], light[1], light[2]
        if rays > 1:
            # Veiled light: the same few directions everywhere, so that penumbras have steps but no noise.
            away = light[17] * (0.35 + 0.2 * k)
            qx += away * math.cos(1.3 + 2.4 * k)
            qy += away * math.sin(1.3 + 2.4 * k)
            length = math.sqrt(qx * qx + qy * qy + qz * qz)
            qx, qy, qz = qx / length, qy / length, qz / length
        share += sunlight(solids, bounds, links, surfaces, light[21], memo, k, x, y, z, qx, qy, qz)
    return share / rays


@njit(error_model="numpy")
def _mirrored(light, gloss, lit, nx, ny, nz, dx, dy, dz):
    """Radiance (r, g, b) that a glossy surface adds: sky, street fronts near the horizon, glint of the sun."""
    cosine = -(nx * dx + ny * dy + nz * dz)
    mirror = gloss * (0.06 + 0.94 * max(0.0, 1.0 - cosine) ** 4)
    rx, ry, rz = dx + 2 * cosine * nx, dy + 2 * cosine * ny, dz + 2 * cosine * nz
    if rz > 0.0:
        r, g, b = sky(rx, ry, rz, light)
        open_sky = 1.0 - 0.75 * max(0.0, 1.0 - rz * 4.0)
        r, g, b = r * open_sky, g * open_sky, b * open_sky
    else:
        r = g = b = 0.1 * light[18]
    glint = 0.0
    if lit > 0.0:
        glint = gloss * max(0.0, rx * light[0] + ry * light[1] + rz * light[2]) ** 60 * light[3] * 2.0
    return mirror * r + glint, mirror * g + glint, mirror * b + glint


@njit(error_model="numpy")
def _shade(solids, bounds, links, centre, road, surfaces, paint, light, memo, i, t, ox, oy, oz, dx, dy, dz, pixel):
    """Radiance of the surface i met at distance t along the unit direction d."""
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    r, g, b, gloss, nx, ny, nz, leafy = _surface(
        solids, centre, road, surfaces, paint, i, t, x, y, z, dx, dy, dz, pixel
    )
    lit = nx * light[0] + ny * light[1] + nz * light[2]
    if leafy:
        lit = 0.25 + 0.75 * lit
    if lit > 0.0:
        off = 2e-3 + 1e-5 * t
        lit *= _sun_share(solids, bounds, links, surfaces, light, memo, t, x + nx * off, y + ny * off, z + nz * off)
    lit = max(lit, 0.0)
    ambient = 0.62 + 0.38 * nz
    if z < 0.6 and i != GROUND:
        ambient *= 1.0 - light[6] * (0.6 - max(z, 0.0))
    red = r * (light[3] * lit + light[18] * ambient)
    green = g * (light[4] * lit + light[19] * ambient)
    blue = b * (light[5] * lit + light[20] * ambient)
    if gloss > 0.0:
        mr, mg, mb = _mirrored(light, gloss, lit, nx, ny, nz, dx, dy, dz)
        red, green, blue = red + mr, green + mg, blue + mb
    haze = math.exp(-light[7] * t)
    return (
        red * haze + light[8] * (1 - haze),
        green * haze + light[9] * (1 - haze),
        blue * haze + light[10] * (1 - haze),
    )


@njit(error_model="numpy")
def _pixel(solids, bounds, links, centre, road, surfaces, paint, light, memo, pose, lens, u, v, t_max):
    """One ray through image position (u, v): (r, g, b, depth, what was met). See ``render_rows`` for the depth."""
    cx, cy, cz, scale = pixel_ray(lens, u, v)
    if scale == 0.0:
        return 0.0, 0.0, 0.0, np.inf, NOTHING
    dx = (pose[0, 0] * cx + pose[0, 1] * cy + pose[0, 2] * cz) * scale
    dy = (pose[1, 0] * cx + pose[1, 1] * cy + pose[1, 2] * cz) * scale
    dz = (pose[2, 0] * cx + pose[2, 1] * cy + pose[2, 2] * cz) * scale
    ox, oy, oz = pose[0, 3], pose[1, 3], pose[2, 3]
    t, i = closest(solids, bounds, links, centre, road, ox, oy, oz, dx, dy, dz, t_max)
    if i == NOTHING:
        r, g, b = sky(dx, dy, dz, light)
        return r, g, b, np.inf, i
    r, g, b = _shade(
        solids, bounds, links, centre, road, surfaces, paint, light, memo, i, t, ox, oy, oz, dx, dy, dz, lens[4]
    )
    return r, g, b, t * scale, i


@entry
def render_rows(
    solids, bounds, links, centre, road, surfaces, paint, light, pose, lens, t_max, first, last, rgb, depth, met
):
    """Fill rows first..last of rgb (H, W, 3) f32 radiance, depth (H, W) f32 and met (H, W) i32, one ray per pixel.

    Depth is along the optical axis of a pinhole camera, along the ray of a fisheye camera (see ``street_lens``).
    """
    memo = np.full(4, -1)
    for v in range(first, last):
        for u in range(depth.shape[1]):
            r, g, b, z, i = _pixel(
                solids, bounds, links, centre, road, surfaces, paint, light, memo, pose, lens, float(u), float(v), t_max
            )
            rgb[v, u, 0], rgb[v, u, 1], rgb[v, u, 2] = r, g, b
            depth[v, u], met[v, u] = z, i


@njit(error_model="numpy")
def _on_edge(surfaces, rgb, met, v, u):
    """Whether a neighbour of a pixel met another thing, or looks unlike it; leaves of one plant are one thing."""
    height, width = met.shape
    i = met[v, u]
    leafy = i >= 0 and int(surfaces[i, 8]) == FOLIAGE
    for k in range(4):
        p, q = v + (k == 0) - (k == 1), u + (k == 2) - (k == 3)
        if not (0 <= p < height and 0 <= q < width):
            continue
        j = met[p, q]
        if leafy and j >= 0 and surfaces[j, 9] == surfaces[i, 9]:
            continue
        a, b = rgb[p, q, 1], rgb[v, u, 1]
        if j != i or abs(a - b) > 0.35 * (a + b) + 0.02:
            return True
    return False


@entry
def smooth_rows(
    solids,
    bounds,
    links,
    centre,
    road,
    surfaces,
    paint,
    light,
    pose,
    lens,
    t_max,
    first,
    last,
    rgb,
    met,
    everywhere,
    out,
):
    """Fill rows of out (H, W, 3): rgb, with three more rays in each pixel where neighbours met different things."""
    memo = np.full(4, -1)
    for v in range(first, last):
        for u in range(met.shape[1]):
            for c in range(3):
                out[v, u, c] = rgb[v, u, c]
            if not everywhere and not _on_edge(surfaces, rgb, met, v, u):
                continue
            # Bright sky would win against everything: average what the sensor can tell apart.
            red, green, blue = min(rgb[v, u, 0], 3.0), min(rgb[v, u, 1], 3.0), min(rgb[v, u, 2], 3.0)
            for k in range(3):
                du, dv = (0.36, -0.1, -0.26)[k], (0.12, -0.36, 0.26)[k]
                r, g, b, _, _ = _pixel(
                    solids, bounds, links, centre, road, surfaces, paint, light, memo, pose, lens, u + du, v + dv, t_max
                )
                red, green, blue = red + min(r, 3.0), green + min(g, 3.0), blue + min(b, 3.0)
            out[v, u, 0], out[v, u, 1], out[v, u, 2] = 0.25 * red, 0.25 * green, 0.25 * blue


@entry
def develop_rows(rgb, look, seed, first, last, out):
    """Radiance (H, W, 3) to uint8 by exposure, colour, vignette, noise and a contrast curve, rows first..last."""
    height, width = rgb.shape[0], rgb.shape[1]
    for v in range(first, last):
        for u in range(width):
            rho = ((2.0 * u / width - 1) ** 2 + (2.0 * v / height - 1) ** 2) * 0.5
            grey = (rgb[v, u, 0] + rgb[v, u, 1] + rgb[v, u, 2]) / 3.0
            for c in range(3):
                value = max(grey + look[8] * (rgb[v, u, c] - grey), 0.0)
                value *= look[0] * look[3 + c] * (1.0 - look[6] * rho)
                n = hashed(u, v, c, seed) + hashed(u, v, c + 3, seed) + hashed(u, v, c + 6, seed) - 1.5
                value = max(value + 2.0 * n * look[7] * (0.02 + math.sqrt(max(value, 0.0))), 0.0)
                value = min(value, 1.0) ** look[1]
                value += look[2] * value * (1 - value) * (2 * value - 1)
                out[v, u, c] = np.uint8(min(max(value, 0.0), 1.0) * 255.0 + 0.5)
