"""How far the surface of a depth map rises no more steeply than a road, and what hangs free in it. numpy only.

A ramp and a step both rise; only a step has a face, which many rows of the image see at one distance. The surface is
therefore followed from the vehicle outwards, in strips of the image: as long as it rises no faster than a steep ramp it
may be road, and from a face on nothing is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kyn_models.types import Float32Array, Float64Array

STRIP = 8
"""Columns of the image that are followed together: what is narrower than half of that does not end a road."""
STEEPEST_RAMP = 0.17
"""Ramps of car parks have up to 15 %."""
FACE_M = 0.2
"""What rises by more than this above the steepest ramp is a face. Depth that is 5 % wrong lifts a road by 0.08 m."""
ONE_SURFACE = 0.15
"""Pixels above each other whose depths differ by more than this share are of two things."""
FAR_SKY_M = 20.0
"""Depth of the sky may be beyond all range in one part and finite in another, but not nearer than this right beside."""
BEYOND_SHARE = 0.7
"""What is nearer than this share of the farthest depth and has inf below it ends there."""
FAR_ROAD_M = 80.0
"""Rays that meet z = 0 beyond this are at the horizon, where road and sky cannot be told apart."""


class Profile(NamedTuple):
    """ramp: (h, w) bool, pixels of a surface that a road may be. ends_m: (w,) how far ahead in base_link it goes in
    each column of the image; inf where no face ends it."""

    ramp: np.ndarray
    ends_m: Float64Array


def profile_of(depth_m: Float32Array, rays: Float32Array, origin: Float64Array) -> Profile:
    """Follow the surface of a depth map (h, w); 0 invalid, inf sky. It begins at z = 0 where it comes into view.

    rays: (3, h * w) directions of the pixels in base_link for one metre of depth. origin: (3,) of the camera there.
    """
    height, width = depth_m.shape
    strips = -(-width // STRIP)
    middle = np.minimum(np.arange(strips) * STRIP + STRIP // 2, width - 1)
    rays = rays.reshape(3, height, width)
    depth = _middles(depth_m, strips)
    away = depth * np.hypot(rays[0][:, middle], rays[1][:, middle])
    x, z = (np.float32(origin[axis]) + depth * rays[axis][:, middle] for axis in (0, 2))
    highest = np.full((height, strips), -np.inf, dtype=np.float32)
    road_z, road_away = np.zeros(strips, np.float32), np.full(strips, np.nan, np.float32)
    road_x, above = np.zeros(strips, np.float32), np.zeros(strips, np.int32)
    open_ = np.ones(strips, dtype=bool)
    known = np.isfinite(z)
    for row in np.flatnonzero(known.any(axis=1))[::-1]:
        there = open_ & known[row]
        most = road_z + STEEPEST_RAMP * np.fmax(away[row] - road_away, 0)
        rises = there & (z[row] > most + FACE_M)
        on = there & ~rises
        # One row may be noise, two are a face.
        above = np.where(on, 0, above + rises)
        open_ &= above < 2
        road_z = np.where(on, np.minimum(most, z[row]), road_z)
        road_away = np.where(on, np.fmax(road_away, away[row]), road_away)
        road_x = np.where(on, np.maximum(road_x, x[row]), road_x)
        highest[row, on] = road_z[on] + FACE_M
    columns = np.arange(width) // STRIP
    heights = np.float32(origin[2]) + rays[2] * np.where(np.isfinite(depth_m), depth_m, np.float32(0))
    ramp = (depth_m > 0) & np.isfinite(depth_m) & (heights <= highest[:, columns])
    return Profile(ramp, np.where(open_, np.inf, road_x)[columns].astype(np.float64))


def _middles(depth_m: Float32Array, strips: int) -> Float32Array:
    """(h, strips) medians over the columns of each strip; NaN where most see nothing, or the sky."""
    seen = np.where((depth_m > 0) & np.isfinite(depth_m), depth_m, np.float32(np.inf))
    padded = np.pad(seen, ((0, 0), (0, strips * STRIP - depth_m.shape[1])), mode="edge")
    # What is unseen is sorted to the end: of a strip that mostly is so, the middle one is.
    middle = np.partition(padded.reshape(len(seen), strips, STRIP), STRIP // 2, axis=2)[:, :, STRIP // 2]
    found: Float32Array = np.where(np.isfinite(middle), middle, np.float32(np.nan))
    return found


def hanging(depth_m: Float32Array, rays: Float32Array, origin: Float64Array) -> np.ndarray:
    """(h, w) bool: pixels of what comes down from the upper border of the image and ends above the horizon, before
    something farther away.

    depth_m: (h, w); 0 invalid, inf sky. rays, origin: as for ``profile_of``. A facade or a truck goes on below the
    horizon. What does not is the sky, of whatever depth, or a thing that hangs higher than the camera.
    """
    upper, lower = depth_m[:-1], depth_m[1:]
    farthest = depth_m.max(initial=0.0, where=np.isfinite(depth_m))
    with np.errstate(invalid="ignore"):
        ends = np.abs(upper - lower) > ONE_SURFACE * np.minimum(upper, lower)
    # A sky that comes nearer downwards is one surface, and so is one at the limit beyond which depth is inf.
    ends = np.where(np.isinf(upper), lower < FAR_SKY_M, ends)
    ends = np.where(np.isinf(lower), upper < BEYOND_SHARE * farthest, ends) & (upper > 0)
    rows = np.arange(len(depth_m))[:, None]
    last = np.where(ends.any(axis=0), ends.argmax(axis=0), len(depth_m) - 1)
    columns = np.arange(depth_m.shape[1])
    slope = (rays[2] / np.hypot(rays[0], rays[1])).reshape(depth_m.shape)
    beyond = depth_m[np.minimum(last + 1, len(depth_m) - 1), columns] > depth_m[last, columns]
    found: np.ndarray = (slope[last, columns] >= -max(origin[2], 0.0) / FAR_ROAD_M) & beyond & (rows <= last)
    return found
