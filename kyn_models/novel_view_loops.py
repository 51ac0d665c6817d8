"""The loops of novel views: samples along rays that a field can answer for, and their composition. numba.

Arrays are float32, C-contiguous. A view is (3, 4): normalised camera matrix times pose, from key frame axes to
homogeneous image coordinates in which the image is [-1, 1] and the third number is the depth.
"""

from __future__ import annotations

import numba
import numpy as np

from kyn_models.runtimes.loops import OPTIONS, exp_of_negative, pixel_coordinate

EPSILON_M = np.float32(1e-3)
# mypy: disable-error-code="no-untyped-def"
# numba infers the types of everything below.


@numba.njit(inline="always")
def place(near, far, index, samples):
    """Distance of a sample: the middle of its step, steps equal in inverse distance."""
    s = (np.float32(index) + np.float32(0.5)) / np.float32(samples)
    return np.float32(1) / ((np.float32(1) - s) / near + s / far)


@numba.njit(inline="always")
def project(view, x, y, z):
    """Image coordinates and depth."""
    depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
    inverse = np.float32(1) / max(depth, EPSILON_M)
    u = (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) * inverse
    v = (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) * inverse
    return u, v, depth


@numba.njit(inline="always")
def within(u, v, depth, low):
    return depth > low and abs(u) <= np.float32(1) and abs(v) <= np.float32(1)


@numba.njit(inline="always")
def first_view(views, x, y, z):
    """The first of views (V, 3, 4) that sees a point; V where none does."""
    seeing = views.shape[0]
    for i in range(views.shape[0] - 1, -1, -1):
        u, v, depth = project(views[i], x, y, z)
        if within(u, v, depth, EPSILON_M):
            seeing = i
    return seeing


@numba.njit(**OPTIONS)
def mark(origin, directions, near, far, views, nearest, known):
    """Which samples lie in all views, and deeper than ``nearest`` in key frame axes.

    origin (3,), directions (R, 3), near and far (R,), views (F, 3, 4). Writes known (R, S) uint8.
    """
    rays, samples = known.shape
    for r in numba.prange(rays):
        for s in range(samples):
            t = place(near[r], far[r], s, samples)
            x = origin[0] + t * directions[r, 0]
            y = origin[1] + t * directions[r, 1]
            z = origin[2] + t * directions[r, 2]
            inside = z > nearest
            for f in range(views.shape[0]):
                if inside:
                    u, v, depth = project(views[f], x, y, z)
                    inside = within(u, v, depth, EPSILON_M)
            known[r, s] = np.uint8(1) if inside else np.uint8(0)


@numba.njit(**OPTIONS)
def gather(origin, directions, near, far, known, first, points):
    """The marked samples of ray r as points[first[r]], points[first[r] + 1], ... of (N, 3)."""
    rays, samples = known.shape
    for r in numba.prange(rays):
        n = first[r]
        for s in range(samples):
            if known[r, s]:
                t = place(near[r], far[r], s, samples)
                for k in range(3):
                    points[n, k] = origin[k] + t * directions[r, k]
                n += 1


@numba.njit(inline="always")
def add_colour(pixels, start, height, width, u, v, weight, colour, r):
    """Adds the colour at u, v, bilinear and with the border continued, times ``weight``."""
    x, y = pixel_coordinate(u, width), pixel_coordinate(v, height)
    x0, y0 = np.int32(x), np.int32(y)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    ax, ay = x - np.float32(x0), y - np.float32(y0)
    bx, by = np.float32(1) - ax, np.float32(1) - ay
    top, bottom = start + y0 * width, start + y1 * width
    for k in range(3):
        upper = bx * pixels[top + x0, k] + ax * pixels[top + x1, k]
        lower = bx * pixels[bottom + x0, k] + ax * pixels[bottom + x1, k]
        colour[r, k] += weight * (by * upper + ay * lower)


@numba.njit(**OPTIONS)
def compose(
    origin, directions, slope, near, far, known, first, sigma, views, pixels, starts, sizes, continued, colour, depth,
    surface, unseen,
):  # fmt: skip
    """Colour, depths and the share of light without a colour.

    slope (R,): depth along the optical axis per unit of distance. sigma (N,): density of the marked samples, all
    others have 0. views (V, 3, 4) with pixels (P, 3), starts (V,) and sizes (V, 2) as height, width: a sample takes
    its colour from the first view that sees it; from the border of the first one if ``continued`` and none does.
    Writes colour (R, 3), depth (R,) of all samples, surface (R,) without the last one, unseen (R,).
    """
    rays, samples = known.shape
    half = np.float32(0.5)
    for r in numba.prange(rays):
        n = first[r]
        passed, before, seen, total = np.float32(1), np.float32(1), np.float32(0), np.float32(0)
        behind = np.float32(0)
        t = place(near[r], far[r], 0, samples)
        for k in range(3):
            colour[r, k] = np.float32(0)
        for s in range(samples):
            after = t if s + 1 == samples else place(near[r], far[r], s + 1, samples)
            weight = passed
            if s + 1 == samples:
                before = passed
            else:
                weight = np.float32(0)
                if known[r, s]:
                    left = passed * exp_of_negative(-(after - t) * max(sigma[n], np.float32(0)))
                    weight = passed - left
                    passed = left
            n += known[r, s]
            if weight > 0:
                x = origin[0] + t * directions[r, 0]
                y = origin[1] + t * directions[r, 1]
                z = origin[2] + t * directions[r, 2]
                i = first_view(views, x, y, z)
                if i < views.shape[0]:
                    seen += weight
                if i < views.shape[0] or continued:
                    i %= views.shape[0]
                    u, v, _ = project(views[i], x, y, z)
                    add_colour(pixels, starts[i], sizes[i, 0], sizes[i, 1], u, v, weight, colour, r)
                total += weight * t
                if s + 1 == samples:
                    behind = weight * t
            t = after
        depth[r] = total * slope[r]
        if before <= half:
            surface[r] = (total - behind) * slope[r] / (np.float32(1) - before)
        else:
            surface[r] = np.inf if known[r, samples - 1] else np.nan
        unseen[r] = min(max(np.float32(1) - seen, np.float32(0)), np.float32(1))
        if not continued:
            for k in range(3):
                colour[r, k] /= max(seen, np.float32(1e-6))
