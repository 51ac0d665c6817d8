"""Depth truth from one lidar scan: the nearest return per pixel."""

from __future__ import annotations

import numpy as np

from kyn_models.types import Float32Array, Intrinsics

NEAREST_M = 0.1


def nearest_returns(points_camera: np.ndarray, intrinsics: Intrinsics) -> Float32Array:
    """(height, width) float32 metres along the optical axis, NaN where no return falls.

    points_camera: (N, 3) in camera axes, metres. A return counts for the pixel whose centre is nearest. That scanner
    and camera look from different places is not handled, as published: some returns lie behind what the image shows.
    """
    points = points_camera[points_camera[:, 2] > NEAREST_M]
    z = points[:, 2]
    column = np.rint(points[:, 0] / z * intrinsics.fx + intrinsics.cx)
    row = np.rint(points[:, 1] / z * intrinsics.fy + intrinsics.cy)
    inside = (column >= 0) & (column < intrinsics.width) & (row >= 0) & (row < intrinsics.height)
    depth = np.full(intrinsics.height * intrinsics.width, np.inf, dtype=np.float32)
    pixel = row[inside].astype(np.int64) * intrinsics.width + column[inside].astype(np.int64)
    np.minimum.at(depth, pixel, z[inside].astype(np.float32))
    depth[np.isinf(depth)] = np.nan
    return depth.reshape(intrinsics.height, intrinsics.width)


def in_camera(points: np.ndarray, camera_from_points: np.ndarray) -> np.ndarray:
    """(N, 3) coordinates of the first three columns of ``points`` in the camera of a (4, 4) pose."""
    return points[:, :3] @ camera_from_points[:3, :3].T + camera_from_points[:3, 3]
