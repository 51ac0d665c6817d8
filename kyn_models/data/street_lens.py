"""From a pixel to its ray, for the cameras of the street renderer. numba inside.

``lens`` (11,) float64: 0-1 focal lengths, 2-3 principal point, in pixels; 4 radians that a pixel covers in the middle
of the image; 5 is 1 for a fisheye camera, whose 6 xi, 7-8 radial and 9-10 tangential distortion follow (see
``mei_camera.MeiCamera``), 0 for a pinhole.
"""

# mypy: allow-untyped-defs
# numba infers the types of compiled functions from their arguments; module docstrings say what the arrays are.
from __future__ import annotations

import math

import numpy as np
from numba import njit

from kyn_models.data.mei_camera import MeiCamera
from kyn_models.types import Float64Array, Intrinsics


def lens_of(camera: Intrinsics | MeiCamera) -> Float64Array:
    """The ``lens`` of a camera."""
    if isinstance(camera, Intrinsics):
        return np.array((camera.fx, camera.fy, camera.cx, camera.cy, 1.0 / camera.fx, 0, 0, 0, 0, 0, 0), np.float64)
    c, angle = camera, (1.0 + camera.xi) / camera.gamma1
    return np.array((c.gamma1, c.gamma2, c.u0, c.v0, angle, 1, c.xi, c.k1, c.k2, c.p1, c.p2), np.float64)


@njit(error_model="numpy")
def pixel_ray(lens, u, v):
    """Ray through image position (u, v) in camera axes: (x, y, z, its inverse length).

    The inverse length is 0 where the lens shows nothing: a fisheye camera sees the half space before it.
    """
    x, y = (u - lens[2]) / lens[0], (v - lens[3]) / lens[1]
    if lens[5] == 0.0:
        return x, y, 1.0, 1.0 / math.sqrt(x * x + y * y + 1.0)
    x, y = _undistorted(lens, x, y)
    r2, xi = x * x + y * y, lens[6]
    under_root = 1.0 + (1.0 - xi * xi) * r2
    # No ray at all comes from far outside the image of the sphere, where the solution is no number either.
    if not under_root >= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    scale = (xi + math.sqrt(under_root)) / (1.0 + r2)
    if scale <= xi:
        return 0.0, 0.0, 0.0, 0.0
    return scale * x, scale * y, scale - xi, 1.0


@njit(error_model="numpy")
def _undistorted(lens, u, v):
    """Position on the plane before the lens's distortion, by Newton's method."""
    k1, k2, p1, p2 = lens[7], lens[8], lens[9], lens[10]
    x, y = u, v
    for _ in range(30):
        r2 = x * x + y * y
        radial, slope = 1.0 + r2 * (k1 + k2 * r2), k1 + 2.0 * k2 * r2
        ex = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x) - u
        ey = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y - v
        xx = radial + 2.0 * x * x * slope + 2.0 * p1 * y + 6.0 * p2 * x
        yy = radial + 2.0 * y * y * slope + 6.0 * p1 * y + 2.0 * p2 * x
        xy = 2.0 * x * y * slope + 2.0 * p1 * x + 2.0 * p2 * y
        area = xx * yy - xy * xy
        dx, dy = (yy * ex - xy * ey) / area, (xx * ey - xy * ex) / area
        x, y = x - dx, y - dy
        if dx * dx + dy * dy < 1e-26:
            break
    return x, y
