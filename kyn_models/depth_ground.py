"""The ground that a depth map shows: a plane near the road of the mount, and how far ahead it is believed. numpy only.

What is near the ground is no obstacle and becomes free, so a wrong plane hides obstacles. It is held near z = 0 of the
known mount where the vehicle stands, and compared with what is seen, from near to far: where the lowest surface ahead
is not on it, a platform or a step has drawn it up, and from there on nothing above z = 0 is taken for ground.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kyn_models.types import Float64Array

GROUND_HEIGHT_M = 0.25
"""What is at most this high above the ground is ground: kerbs, and the errors of depth on the road. What is this far
below it is no road that the plane describes."""
PLANE_SPREAD = (0.1, 0.015)
"""How far the ground may be from z = 0 of base_link: metres of height, and slope. Standard deviations."""
STEEPEST = np.array([0.1, 0.06, 0.06])
"""A plane that is farther from z = 0 than this is not believed: metres of height under the vehicle, and slopes."""
PLANE_REACH_M = 40.0
"""Ground farther away than this says nothing about the plane."""
PLANE_STEP = 4
"""Every so many pixels are looked at for the plane."""
LANE_M, NEAR_PLANE_M = 4.0, (-2.0, 0.5)
"""The plane is checked with what lies at most so far to the sides, and so far below and above it."""
SECTIONS_M = 3.0 * 1.25 ** np.arange(13)
"""Ends of the sections ahead in which it is checked."""
LOWEST_SHARE, LEAST_POINTS = 0.3, 20
"""In each section this share of the points, if there are so many, is taken to be ground."""
OFF_PLANE_M = 0.15
"""How far it may be from the plane, as kerbs and the errors of depth allow."""
FALLING_SHARE = 0.1
"""The road falls away where this share of the points is more than GROUND_HEIGHT_M below the plane."""


class Ground(NamedTuple):
    """plane: (a, b, c) of z = a + b x + c y in base_link. trusted_m: how far ahead it is seen to be right; beyond it
    the ground is not above z = 0. Inf where nothing speaks against it. falls: there it is below the plane, and nobody
    knows where it goes from there."""

    plane: Float64Array
    trusted_m: float
    falls: bool

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """z of the ground at places in base_link, metres."""
        z = self.plane[0] + self.plane[1] * x + self.plane[2] * y
        return np.where(x < self.trusted_m, z, np.minimum(z, 0.0))


def ground_of(depth_m: np.ndarray, rays: np.ndarray, origin: np.ndarray) -> Ground:
    """The ground of a depth map (h, w); 0 or NaN invalid.

    rays: (3, h * w) directions of the pixels in base_link for one metre of depth. origin: (3,) of the camera there.
    The plane starts at the road of the mount, z = 0, and is held there by ``PLANE_SPREAD``: without ground in view it
    is just that. Points count by how near they are to the plane of the step before.
    """
    step = np.s_[PLANE_STEP // 2 :: PLANE_STEP]
    rays = rays.reshape(3, *depth_m.shape)[:, step, step].reshape(3, -1).astype(np.float64)
    depth = depth_m[step, step].ravel().astype(np.float64)
    near = (depth > 0) & (depth < PLANE_REACH_M)
    x, y, z = origin[:, None] + rays[:, near] * depth[near]
    terms = np.stack([np.ones_like(x), x, y], axis=1)
    offset, slope = PLANE_SPREAD
    prior = np.diag([1 / offset**2, 1 / slope**2, 1 / slope**2])
    plane = np.zeros(3)
    for width in (0.4, 0.25, 0.15, 0.15, 0.15):
        error = z - terms @ plane
        inlier = np.abs(error) < width + (0.01 * x if width > 0.15 else 0.0)
        weight = np.where(inlier, (1 - (error / (width + 0.01 * np.abs(x) + 1e-9)) ** 2).clip(0) ** 2, 0.0)
        # However many pixels say it: what they say hangs together, as that of 100 independent ones.
        weight *= 100 / 0.1**2 / max(weight.sum(), 100.0)
        plane = np.linalg.solve(prior + (terms * weight[:, None]).T @ terms, (terms * weight[:, None]).T @ z)
    plane = plane.clip(-STEEPEST, STEEPEST)
    return Ground(plane, *_trusted(x, y, z - terms @ plane))


def _trusted(x: Float64Array, y: Float64Array, error: Float64Array) -> tuple[float, bool]:
    """From where on the ground is not on the plane, and whether it is below it: one section before the first that says
    so, for what stands there may have hidden it. error: heights of the points above the plane.
    """
    beside = (np.abs(y) < LANE_M) & (error > NEAR_PLANE_M[0]) & (error < NEAR_PLANE_M[1])
    section, error = np.digitize(x[beside], SECTIONS_M), error[beside]
    for number in range(len(SECTIONS_M)):
        here = error[section == number]
        if len(here) < LEAST_POINTS:
            continue
        lowest, low = np.quantile(here, (FALLING_SHARE, LOWEST_SHARE))
        falls = lowest < -GROUND_HEIGHT_M
        if falls or low > OFF_PLANE_M:
            return (float(SECTIONS_M[number - 2]) if number > 1 else 0.0), bool(falls)
    return float("inf"), False
