"""Questions about a street's geometry, in bulk: hierarchy, occupancy, line of sight, lidar ranges. numba inside.

``geometry`` is the tuple of arrays that ``street_rays`` describes.
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

import numpy as np
from numba import njit

from kyn_models.data.street_compile import entry
from kyn_models.data.street_rays import BOX, blocked, closest, inside, normal, road_edge

_BINS, _LEAF = 12, 3


@entry
def solid_bounds(solids):
    """(N, 6) axis-parallel bounds (minimum xyz, maximum xyz) of the solids."""
    out = np.empty((solids.shape[0], 6))
    for i in range(solids.shape[0]):
        s = solids[i]
        c, n = abs(s[6]), abs(s[7])
        wide_x = s[3] * max(1.0, 1.0 - s[8], 1.0 - s[9] if int(s[11]) == BOX else 1.0)
        wide_y = s[4] * max(1.0, 1.0 - s[10]) if int(s[11]) == BOX else s[4] * max(1.0, 1.0 - s[8])
        ex, ey = c * wide_x + n * wide_y, n * wide_x + c * wide_y
        out[i] = (s[0] - ex, s[1] - ey, s[2] - s[5], s[0] + ex, s[1] + ey, s[2] + s[5])
    return out


@njit(error_model="numpy")
def _area(b):
    x, y, z = b[3] - b[0], b[4] - b[1], b[5] - b[2]
    return x * y + y * z + z * x


@njit(error_model="numpy")
def _union(a, b):
    for k in range(3):
        a[k] = min(a[k], b[k])
        a[k + 3] = max(a[k + 3], b[k + 3])


@njit(error_model="numpy")
def _best_split(boxes, order, first, last):
    """(axis, coordinate) of the cheapest binned surface-area split of order[first:last]; axis -1: none."""
    best, axis, where = 1e300, -1, 0.0
    empty = np.array([1e300, 1e300, 1e300, -1e300, -1e300, -1e300])
    for k in range(3):
        low, high = 1e300, -1e300
        for j in range(first, last):
            middle = boxes[order[j], k] + boxes[order[j], k + 3]
            low, high = min(low, middle), max(high, middle)
        if high - low < 1e-9:
            continue
        counts = np.zeros(_BINS, np.int64)
        bins = np.empty((_BINS, 6))
        bins[:] = empty
        for j in range(first, last):
            box = boxes[order[j]]
            b = min(int((box[k] + box[k + 3] - low) / (high - low) * _BINS), _BINS - 1)
            counts[b] += 1
            _union(bins[b], box)
        right = np.zeros(_BINS)
        run, total = empty.copy(), 0
        for b in range(_BINS - 1, 0, -1):
            _union(run, bins[b])
            total += counts[b]
            right[b] = total * _area(run) if total > 0 else 0.0
        run, total = empty.copy(), 0
        for b in range(_BINS - 1):
            _union(run, bins[b])
            total += counts[b]
            if 0 < total < last - first:
                cost = total * _area(run) + right[b + 1]
                if cost < best:
                    best, axis, where = cost, k, low + (high - low) * (b + 1) / _BINS
    return axis, where


@entry
def build_hierarchy(boxes):
    """(order (N,), bounds (M, 6), links (M, 3)) over (N, 6) boxes; leaves refer to positions in ``order``."""
    count = boxes.shape[0]
    order = np.arange(count).astype(np.int64)
    bounds, links = np.empty((2 * count, 6)), np.empty((2 * count, 3), np.int32)
    stack = np.empty((128, 3), np.int64)
    stack[0], top, used = (0, 0, count), 1, 1
    while top > 0:
        top -= 1
        node, first, last = stack[top]
        bounds[node] = boxes[order[first]]
        for j in range(first + 1, last):
            _union(bounds[node], boxes[order[j]])
        axis, where = -1, 0.0
        if last - first > _LEAF:
            axis, where = _best_split(boxes, order, first, last)
        if axis < 0:
            links[node] = (first, last, 0)
            continue
        low, high = first, last - 1
        while low <= high:
            if boxes[order[low], axis] + boxes[order[low], axis + 3] < where:
                low += 1
            else:
                order[low], order[high] = order[high], order[low]
                high -= 1
        if low in (first, last):
            low = (first + last) // 2
        links[node] = (used, used + 1, -1)
        stack[top], stack[top + 1] = (used, first, low), (used + 1, low, last)
        top += 2
        used += 2
    return order, bounds[:used].copy(), links[:used].copy()


@entry
def occupied(solids, bounds, links, centre, road, points, out):
    """Fill out (N,) bool: is the point (N, 3) inside a solid or the ground?"""
    stack = np.empty(64, np.int32)
    for p in range(points.shape[0]):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        found = z < 0.0 or (z < road[4] and road_edge(centre, road, x, y)[0] >= 0.0)
        stack[0], top = 0, 1
        while top > 0 and not found:
            top -= 1
            node = stack[top]
            b = bounds[node]
            if x < b[0] or y < b[1] or z < b[2] or x > b[3] or y > b[4] or z > b[5]:
                continue
            if links[node, 2] >= 0:
                for i in range(links[node, 0], links[node, 1]):
                    if inside(solids, i, x, y, z):
                        found = True
                        break
            else:
                stack[top], stack[top + 1] = links[node, 0], links[node, 1]
                top += 2
        out[p] = found


@entry
def visible(solids, bounds, links, centre, road, origins, points, paired, first, last, out):
    """Fill out[first:last]: is the segment free? Rows are points; columns are origins (one column when paired)."""
    for p in range(first, last):
        for m in range(out.shape[1]):
            o = p if paired else m
            ox, oy, oz = origins[o, 0], origins[o, 1], origins[o, 2]
            dx, dy, dz = points[p, 0] - ox, points[p, 1] - oy, points[p, 2] - oz
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            # A point on a surface is seen: the segment stops a tenth of a millimetre before it.
            t_max = 1.0 - 1e-4 / length if length > 1e-4 else 0.0
            out[p, m] = not blocked(solids, bounds, links, centre, road, ox, oy, oz, dx, dy, dz, t_max)


@entry
def ranges(solids, bounds, links, centre, road, origin, directions, t_max, first, last, out_t, out_id, out_cos):
    """For rays first..last: distance, what was met (index, GROUND, NOTHING) and cosine of incidence."""
    ox, oy, oz = origin
    for r in range(first, last):
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        t, i = closest(solids, bounds, links, centre, road, ox, oy, oz, dx, dy, dz, t_max)
        out_t[r], out_id[r], out_cos[r] = t, i, abs(dz)
        if i >= 0:
            s = solids[i]
            px, py = ox + t * dx - s[0], oy + t * dy - s[1]
            nx, ny, nz = normal(solids, i, s[6] * px + s[7] * py, s[6] * py - s[7] * px, oz + t * dz - s[2])
            out_cos[r] = abs((s[6] * nx - s[7] * ny) * dx + (s[7] * nx + s[6] * ny) * dy + nz * dz)
