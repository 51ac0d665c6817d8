"""Depth truth from one lidar scan: the nearest return per pixel, centre-correct or as published for KITTI raw."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from kyn_models.npz import read_npz
from kyn_models.types import Float32Array, Intrinsics
from kyn_models.whole_files import put

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
    return _nearest(column, row, z, intrinsics.width, intrinsics.height)


def published_returns(scan: np.ndarray, projection: np.ndarray, width: int, height: int) -> Float32Array:
    """(height, width) float32 metres, NaN unknown, as the evaluation of Eigen et al. and all who follow it form them.

    scan: (N, 3 or more) in the scanner's axes. projection: (3, 4) P R_rect T from there to pixels. Returns in front of
    the scanner (x >= 0) count, each for the pixel one to the left of and above the nearest one: KITTI's Matlab code
    counts from 1. The depth is the third projected coordinate.
    """
    ahead = scan[scan[:, 0] >= 0, :3].astype(np.float64)
    projected = ahead @ projection[:, :3].T + projection[:, 3]
    z = projected[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        column, row = np.rint(projected[:, 0] / z) - 1, np.rint(projected[:, 1] / z) - 1
    front = z > 0
    return _nearest(column[front], row[front], z[front], width, height)


def _nearest(column: np.ndarray, row: np.ndarray, z: np.ndarray, width: int, height: int) -> Float32Array:
    """The smallest z of each pixel, NaN where there is none; what lies outside the image is left out."""
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    depth = np.full(height * width, np.inf, dtype=np.float32)
    pixel = row[inside].astype(np.int64) * width + column[inside].astype(np.int64)
    np.minimum.at(depth, pixel, z[inside].astype(np.float32))
    depth[np.isinf(depth)] = np.nan
    return depth.reshape(height, width)


def write_returns(path: Path, depth: Float32Array) -> None:
    """Store a (H, W) float32 depth image of which few pixels are known, exactly. Written whole or not at all."""
    index = np.flatnonzero(~np.isnan(depth)).astype(np.uint32)
    content = io.BytesIO()
    np.savez_compressed(content, index=index, depth_m=depth.ravel()[index], shape=np.array(depth.shape))
    put(path, lambda part: part.write_bytes(content.getvalue()))


def read_returns(path: Path) -> Float32Array:
    """What ``write_returns`` stored. Raises ``FileNotFoundError``, or ``ValueError`` for a damaged file."""
    stored = read_npz(path, ("index", "depth_m", "shape"), "`kyn prepare kitti-raw` writes it anew once it is removed")
    depth = np.full(int(np.prod(stored["shape"])), np.nan, dtype=np.float32)
    depth[stored["index"]] = stored["depth_m"]
    return depth.reshape(stored["shape"])


def in_camera(points: np.ndarray, camera_from_points: np.ndarray) -> np.ndarray:
    """(N, 3) coordinates of the first three columns of ``points`` in the camera of a (4, 4) pose."""
    return points[:, :3] @ camera_from_points[:3, :3].T + camera_from_points[:3, 3]
