"""Exact rays through a street: convex solids in a bounding volume hierarchy above a road with kerb steps. numba inside.

A street's geometry is five arrays, always passed in this order as ``*geometry``:

* ``solids`` (N, 12) float64: centre xyz, half sizes xyz, cos yaw, sin yaw, taper front, taper back, taper side, kind.
* ``bounds`` (M, 6) float64 and ``links`` (M, 3) int32: the hierarchy. A link row is (left child, right child, -1) or,
  for a leaf, (first solid, last solid + 1, 0).
* ``centre`` (K,) float64: lateral position y of the road's centre line at x = road[0] + i * road[1].
* ``road`` (8 + 4 J,) float64: x of the first centre point, step, left half width, right half width, kerb height,
  corner radius, number of junctions J, unused; then per junction x, half width, side (+1 left, -1 right, 0 both), skew.

The ground is solid below z = 0 on the road and below z = kerb height beside it. A point is on the road where
``road_edge`` is negative; that function IS the road, there is no finer truth behind it.
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

import numpy as np
from numba import njit

BOX, ELLIPSOID, CONE, WHEEL = 0, 1, 2, 3
"""Kinds of solid: box that tapers upwards, ellipsoid, upright (tapering) cylinder, cylinder about its local y axis."""
NOTHING, GROUND = -1, -2
"""What a ray meets instead of a solid's index."""
_FAR = 1e30


@njit(error_model="numpy")
def _clip(offset: float, slope: float, t0: float, t1: float) -> tuple[float, float]:
    """The part of [t0, t1] where offset + slope * t <= 0."""
    if slope > 1e-14:
        return t0, min(t1, -offset / slope)
    if slope < -1e-14:
        return max(t0, -offset / slope), t1
    if offset > 0.0:
        return 1.0, 0.0
    return t0, t1


@njit(error_model="numpy")
def _round_span(ox, oy, dx, dy, k, kd):
    """Where (ox + t dx)^2 + (oy + t dy)^2 <= (k + t kd)^2: roots and the sign of the leading coefficient."""
    a = dx * dx + dy * dy - kd * kd
    b = ox * dx + oy * dy - k * kd
    c = ox * ox + oy * oy - k * k
    disc = b * b - a * c
    if abs(a) < 1e-14 or disc < 0.0:
        if disc < 0.0 or c > 0.0:
            return 1.0, 0.0, 1
        return -_FAR, _FAR, 1
    root = math.sqrt(disc)
    r0, r1 = (-b - root) / a, (-b + root) / a
    if a > 0.0:
        return r0, r1, 1
    return r1, r0, -1


@njit(error_model="numpy")
def span(solids, i, ox, oy, oz, dx, dy, dz):
    """Interval (t0, t1) of the line o + t d inside solid i; t0 > t1 where the line misses it."""
    s = solids[i]
    c, n = s[6], s[7]
    px, py, oz = ox - s[0], oy - s[1], oz - s[2]
    ox, oy = c * px + n * py, c * py - n * px
    dx, dy = c * dx + n * dy, c * dy - n * dx
    hx, hy, hz = s[3], s[4], s[5]
    kind = int(s[11])
    if kind == ELLIPSOID:
        ox, oy, oz, dx, dy, dz = ox / hx, oy / hy, oz / hz, dx / hx, dy / hy, dz / hz
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        disc = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
        if disc < 0.0:
            return 1.0, 0.0
        root = math.sqrt(disc)
        return (-b - root) / a, (-b + root) / a
    if kind == WHEEL:
        t0, t1 = _clip(oy - hy, dy, -_FAR, _FAR)
        t0, t1 = _clip(-oy - hy, -dy, t0, t1)
        r0, r1, _ = _round_span(ox / hx, oz / hz, dx / hx, dz / hz, 1.0, 0.0)
        return max(t0, r0), min(t1, r1)
    t0, t1 = _clip(oz - hz, dz, -_FAR, _FAR)
    t0, t1 = _clip(-oz - hz, -dz, t0, t1)
    if t0 > t1:
        return t0, t1
    if kind == CONE:
        taper = s[8]
        k, kd = 1.0 - taper * (oz + hz) / (2 * hz), -taper * dz / (2 * hz)
        r0, r1, sign = _round_span(ox / hx, oy / hy, dx / hx, dy / hy, k, kd)
        if sign > 0:
            return max(t0, r0), min(t1, r1)
        # The line is steeper than the cone: inside it before the first or after the second root, on the sheet k > 0.
        if k + kd * r0 > 0.0 or (kd > 0.0 and r0 > t1):
            e0, e1 = t0, min(t1, r0)
            if e0 <= e1 and k + kd * e0 >= 0.0:
                return e0, e1
        return max(t0, r1), t1
    fx, bx, sy = s[8] * hx / (2 * hz), s[9] * hx / (2 * hz), s[10] * hy / (2 * hz)
    t0, t1 = _clip(ox + fx * (oz + hz) - hx, dx + fx * dz, t0, t1)
    t0, t1 = _clip(-ox + bx * (oz + hz) - hx, -dx + bx * dz, t0, t1)
    if t0 > t1:
        return t0, t1
    t0, t1 = _clip(oy + sy * (oz + hz) - hy, dy + sy * dz, t0, t1)
    return _clip(-oy + sy * (oz + hz) - hy, -dy + sy * dz, t0, t1)


@njit(error_model="numpy")
def inside(solids, i, x, y, z):
    """Whether the point is inside or on solid i."""
    s = solids[i]
    px, py, lz = x - s[0], y - s[1], z - s[2]
    lx, ly = s[6] * px + s[7] * py, s[6] * py - s[7] * px
    hx, hy, hz = s[3], s[4], s[5]
    kind = int(s[11])
    if kind == ELLIPSOID:
        return (lx / hx) ** 2 + (ly / hy) ** 2 + (lz / hz) ** 2 <= 1.0
    if kind == WHEEL:
        return abs(ly) <= hy and (lx / hx) ** 2 + (lz / hz) ** 2 <= 1.0
    if abs(lz) > hz:
        return False
    u = (lz + hz) / (2 * hz)
    if kind == CONE:
        k = 1.0 - s[8] * u
        return (lx / hx) ** 2 + (ly / hy) ** 2 <= k * k
    return lx <= hx * (1 - s[8] * u) and -lx <= hx * (1 - s[9] * u) and abs(ly) <= hy * (1 - s[10] * u)


@njit(error_model="numpy")
def normal(solids, i, lx, ly, lz):
    """Outward unit normal of solid i in ITS frame, at the local point (lx, ly, lz) on its surface."""
    s = solids[i]
    hx, hy, hz = s[3], s[4], s[5]
    kind = int(s[11])
    if kind == ELLIPSOID:
        nx, ny, nz = lx / (hx * hx), ly / (hy * hy), lz / (hz * hz)
    elif kind == WHEEL:
        if abs(ly) > hy - 1e-5:
            return 0.0, math.copysign(1.0, ly), 0.0
        nx, ny, nz = lx / (hx * hx), 0.0, lz / (hz * hz)
    else:
        if abs(lz) > hz - 1e-5:
            return 0.0, 0.0, math.copysign(1.0, lz)
        u = (lz + hz) / (2 * hz)
        if kind == CONE:
            nx, ny, nz = lx / (hx * hx), ly / (hy * hy), (1 - s[8] * u) * s[8] / (2 * hz)
        else:
            gaps = (hx * (1 - s[8] * u) - lx, hx * (1 - s[9] * u) + lx, hy * (1 - s[10] * u) - abs(ly))
            if gaps[0] <= gaps[1] and gaps[0] <= gaps[2]:
                nx, ny, nz = 1.0, 0.0, s[8] * hx / (2 * hz)
            elif gaps[1] <= gaps[2]:
                nx, ny, nz = -1.0, 0.0, s[9] * hx / (2 * hz)
            else:
                nx, ny, nz = 0.0, math.copysign(1.0, ly), s[10] * hy / (2 * hz)
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return nx / length, ny / length, nz / length


@njit(error_model="numpy")
def road_edge(centre, road, x, y):
    """(signed distance to the kerb, negative on the road; lateral position d, positive left of the centre line)."""
    u = min(max((x - road[0]) / road[1], 0.0), centre.size - 1.001)
    i = int(u)
    slope = (centre[i + 1] - centre[i]) / road[1]
    d = (y - centre[i] - (u - i) * (centre[i + 1] - centre[i])) / math.sqrt(1.0 + slope * slope)
    edge = d - road[2] if d > 0 else -d - road[3]
    for j in range(int(road[6])):
        b = 8 + 4 * j
        side = road[b + 2]
        across = abs(x - road[b] - road[b + 3] * d) - road[b + 1]
        if side != 0.0:
            across = max(across, -side * d)
        blend = max(road[5] - abs(edge - across), 0.0)
        edge = min(edge, across) - blend * blend / (4.0 * road[5])
    return edge, d


@njit(error_model="numpy")
def ground_hit(centre, road, ox, oy, oz, dx, dy, dz, t_max):
    """Distance t to the ground along a ray from above it, ``_FAR`` where it misses, 0 where it starts below."""
    kerb = road[4]
    if oz > kerb:
        if dz >= 0.0:
            return _FAR
        ta = (kerb - oz) / dz
    else:
        ta = 0.0
    if ta > t_max:
        return _FAR
    if road_edge(centre, road, ox + ta * dx, oy + ta * dy)[0] >= 0.0:
        return ta
    if dz < -1e-12:
        tb, floor = -oz / dz, True
    else:
        tb, floor = (kerb - oz) / dz if dz > 1e-12 else t_max, False
    tb = max(tb, 0.0)
    run = (tb - ta) * math.sqrt(dx * dx + dy * dy)
    steps = min(max(int(run * 2.0) + 1, 1), 32)
    for k in range(1, steps + 1):
        t = ta + (tb - ta) * k / steps
        if road_edge(centre, road, ox + t * dx, oy + t * dy)[0] >= 0.0:
            low, high = ta + (tb - ta) * (k - 1) / steps, t
            for _ in range(24):
                mid = 0.5 * (low + high)
                if road_edge(centre, road, ox + mid * dx, oy + mid * dy)[0] >= 0.0:
                    high = mid
                else:
                    low = mid
            return high
    return tb if floor else _FAR


@njit(error_model="numpy")
def _enters(bounds, node, ox, oy, oz, ix, iy, iz, t_max):
    """Distance at which the ray enters a node's box, ``_FAR`` where it does not before t_max."""
    b = bounds[node]
    a0, a1 = (b[0] - ox) * ix, (b[3] - ox) * ix
    t0, t1 = min(a0, a1), max(a0, a1)
    a0, a1 = (b[1] - oy) * iy, (b[4] - oy) * iy
    t0, t1 = max(t0, min(a0, a1)), min(t1, max(a0, a1))
    a0, a1 = (b[2] - oz) * iz, (b[5] - oz) * iz
    t0, t1 = max(t0, min(a0, a1)), min(t1, max(a0, a1))
    if t0 > t1 or t1 < 0.0 or t0 > t_max:
        return _FAR
    return t0


@njit(error_model="numpy")
def _inverse(d):
    return 1.0 / d if abs(d) > 1e-15 else 1e15


@njit(error_model="numpy")
def closest(solids, bounds, links, centre, road, ox, oy, oz, dx, dy, dz, t_max):
    """First surface along o + t d for 0 < t < t_max: (t, index of the solid, GROUND or NOTHING)."""
    best, found = ground_hit(centre, road, ox, oy, oz, dx, dy, dz, t_max), GROUND
    if best >= t_max:
        best, found = t_max, NOTHING
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    stack = np.empty(64, np.int32)
    near = np.empty(64, np.float64)
    stack[0], near[0], top = 0, _enters(bounds, 0, ox, oy, oz, ix, iy, iz, best), 1
    while top > 0:
        top -= 1
        node = stack[top]
        if near[top] > best:
            continue
        if links[node, 2] >= 0:
            for i in range(links[node, 0], links[node, 1]):
                t0, t1 = span(solids, i, ox, oy, oz, dx, dy, dz)
                if t0 <= t1 and 0.0 < t0 < best:
                    best, found = t0, i
            continue
        left, right = links[node, 0], links[node, 1]
        tl = _enters(bounds, left, ox, oy, oz, ix, iy, iz, best)
        tr = _enters(bounds, right, ox, oy, oz, ix, iy, iz, best)
        if tl < tr:
            left, right, tl, tr = right, left, tr, tl
        if tl < _FAR:
            stack[top], near[top] = left, tl
            top += 1
        if tr < _FAR:
            stack[top], near[top] = right, tr
            top += 1
    return best, found


@njit(error_model="numpy")
def blocked(solids, bounds, links, centre, road, ox, oy, oz, dx, dy, dz, t_max):
    """Whether any point o + t d with 0 < t < t_max is inside a solid or the ground."""
    if ground_hit(centre, road, ox, oy, oz, dx, dy, dz, t_max) < t_max:
        return True
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    stack = np.empty(64, np.int32)
    stack[0], top = 0, 1
    while top > 0:
        top -= 1
        node = stack[top]
        if _enters(bounds, node, ox, oy, oz, ix, iy, iz, t_max) >= _FAR:
            continue
        if links[node, 2] >= 0:
            for i in range(links[node, 0], links[node, 1]):
                t0, t1 = span(solids, i, ox, oy, oz, dx, dy, dz)
                if t0 <= t1 and t1 > 0.0 and t0 < t_max:
                    return True
            continue
        stack[top], stack[top + 1] = links[node, 0], links[node, 1]
        top += 2
    return False
