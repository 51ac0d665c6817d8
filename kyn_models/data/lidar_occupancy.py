"""Occupancy truth from accumulated lidar scans: the published protocol, vectorised.

Behind the Scenes (CVPR 2023) and Know Your Neighbors (CVPR 2024) score occupancy on one horizontal slice in front of
the camera: x -4..4 m, y 0..0.75 m below the camera, z 50..4 m (4..20 m in the first paper), 10 cells per metre. The
truth follows from several scans of the passing scanner: a cell that (nearly) no scan could look into is solid, and a
cell that the first scan sees is free. So "occupied" needs later scans that look behind what the first one sees; the
more scans, the less hidden free space is called occupied (12 to 300 are in use, numbers do not mix).

World here is the first camera's frame, after the evaluator's 5 degree tilt that lays the slice parallel to the road.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kyn_models.types import Float32Array, Float64Array

BoolArray = NDArray[np.bool_]

X_RANGE_M = (-4.0, 4.0)
Y_RANGE_M = (0.0, 0.75)
Z_RANGE_M = (50.0, 4.0)
CELLS_PER_M = 10
BINS = 360
MIN_RANGE_M = 3.0
"""Nearer than this to a scanner nothing counts as seen by it (the car itself)."""

TILT: Float64Array = np.array(
    [[1.0, 0, 0, 0], [0, 0.9961947, 0.0871557, 0], [0, -0.0871557, 0.9961947, 0], [0, 0, 0, 1.0]]
)
"""(4, 4) world_from_camera of the published evaluators: KITTI-360's cameras look down by 5 degrees, the grid does not.
y' = 0.9962 y + 0.0872 z, z' = -0.0872 y + 0.9962 z."""


def _bin_borders() -> Float32Array:
    """(BINS + 1,) float32 angles -pi..pi, counted inwards from both ends, each rounded once to float32.

    Scanners turn by round fractions of a degree, so whole columns of points lie on borders and the last bit of a
    border decides where they count. The published borders are torch's float32 linspace, whose step is float32 and
    whose multiply-add rounds once.
    """
    pi = float(np.float32(np.pi))
    offset = float(np.float32(2 * np.pi) / np.float32(BINS)) * np.arange(BINS // 2 + 1)
    return np.concatenate([-pi + offset[:-1], pi - offset[::-1]]).astype(np.float32)


_BORDERS = _bin_borders()


class EmptySliceError(ValueError):
    """A scan has no point in the slice, so the protocol says nothing about the frame."""


class OccupancyTruth(NamedTuple):
    """(rows, columns) bool each; row 0 is the far end, column 0 the left. The scores' truth is occupied & ~visible.

    occupied: at most two of the scans (this bin, the published rounding) could look into the cell.
    visible: the first scan sees the cell.
    """

    occupied: BoolArray
    visible: BoolArray


def grid_shape(
    x_range: tuple[float, float] = X_RANGE_M, z_range: tuple[float, float] = Z_RANGE_M, ppm: int = CELLS_PER_M
) -> tuple[int, int]:
    """(rows, columns) of the slice."""
    return round(abs(z_range[1] - z_range[0]) * ppm), round(abs(x_range[1] - x_range[0]) * ppm)


def protocol_grid(
    y_range: tuple[float, float] = Y_RANGE_M,
    x_range: tuple[float, float] = X_RANGE_M,
    z_range: tuple[float, float] = Z_RANGE_M,
    ppm: int = CELLS_PER_M,
) -> Float32Array:
    """(rows * columns, 3) float32 points of the slice in the evaluator's (tilted) world, row by row from the far end.

    Points lie on linspace over both ranges, ends included, at the middle of the y range, as published.
    """
    rows, columns = grid_shape(x_range, z_range, ppm)
    z, x = np.meshgrid(np.linspace(*z_range, rows), np.linspace(*x_range, columns), indexing="ij")
    return np.stack([x, np.full_like(x, sum(y_range) / 2), z], axis=-1).reshape(-1, 3).astype(np.float32)


def occupancy_truth(
    points_velo: Sequence[np.ndarray],
    velo_to_world: np.ndarray,
    grid_xyz: np.ndarray,
    y_range: tuple[float, float] = Y_RANGE_M,
    x_range: tuple[float, float] = X_RANGE_M,
    z_range: tuple[float, float] = Z_RANGE_M,
    ppm: int = CELLS_PER_M,
) -> OccupancyTruth:
    """Which cells of the slice are occupied, and which the first scan sees.

    points_velo: S scans of (N_i, 3 or more) float32, metres, scanner axes; further columns are ignored.
    velo_to_world: (S, 4, 4) pose of the scanner at each scan. grid_xyz: (rows * columns, 3) as ``protocol_grid``.
    A scan's slice holds the points within ``y_range`` of the world and those farther from its origin than the grid
    reaches; per degree about the scanner the nearest one is the surface; a cell behind the surface (or nearer than
    3 m) is occupied for that scan. A cell is occupied if it is so for all scans but two.
    Raises ``ValueError`` for mismatching sizes, ``EmptySliceError`` for a scan without a point in the slice.
    """
    poses = np.asarray(velo_to_world, dtype=np.float64)
    rows, columns = grid_shape(x_range, z_range, ppm)
    if len(points_velo) == 0 or poses.shape != (len(points_velo), 4, 4):
        raise ValueError(
            f"velo_to_world: got shape {poses.shape}, expected ({len(points_velo)}, 4, 4), at least 1 scan"
        )
    if np.shape(grid_xyz) != (rows * columns, 3):
        raise ValueError(f"grid_xyz: got shape {np.shape(grid_xyz)}, expected ({rows * columns}, 3)")
    reach = float(np.hypot(z_range[0], x_range[0]))
    cells = np.ascontiguousarray(np.asarray(grid_xyz, dtype=np.float32).T)
    count = np.zeros(rows * columns, dtype=np.int32)
    visible = np.zeros(rows * columns, dtype=bool)
    for index, (points, pose) in enumerate(zip(points_velo, poses, strict=True)):
        slice_xy = _slice_points(np.asarray(points), pose, y_range, reach)
        if slice_xy.shape[1] == 0:
            raise EmptySliceError(f"scan {index}: got no point in the slice, expected a scan that sees something there")
        surface = _surface_ranges(slice_xy)
        behind = _behind(cells, np.linalg.inv(pose), surface)
        if index == 0:
            visible = ~behind
        count += behind
    occupied = 1 + count > len(poses) - 2
    return OccupancyTruth(occupied.reshape(rows, columns), visible.reshape(rows, columns))


def _slice_points(points: np.ndarray, pose: Float64Array, y_range: tuple[float, float], reach: float) -> Float32Array:
    """(2, K) float32 horizontal scanner coordinates of the points that count for the slice."""
    xyz = points[:, :3].astype(np.float32, copy=False)
    rotation, offset = pose[:3, :3].astype(np.float32), pose[:3, 3].astype(np.float32)
    y = xyz @ rotation[1] + offset[1]
    in_band = (y >= y_range[0]) & (y <= y_range[1])
    # |R p + t|^2 = |p|^2 + 2 (R^T t) p + |t|^2: no need for the other two world coordinates.
    far = np.einsum("ij,ij->i", xyz, xyz) + xyz @ (2 * rotation.T @ offset) >= reach**2 - float(offset @ offset)
    return xyz[in_band | far, :2].T


def _surface_ranges(slice_xy: Float32Array) -> Float32Array:
    """(BINS + 2,) float32 horizontal range of the nearest slice point per degree, one wrapped bin at each end."""
    x, y = slice_xy
    angle = np.arctan2(y, x)
    ranges = np.hypot(x, y)
    # The angle +pi closes the circle and belongs to no bin, as published; the last slot takes it.
    bins = np.searchsorted(_BORDERS, angle, side="right") - 1
    nearest = np.full(BINS + 1, np.inf, dtype=np.float32)
    np.minimum.at(nearest, bins, ranges)
    nearest = nearest[:BINS]
    source = np.maximum.accumulate(np.where(np.isfinite(nearest), np.arange(BINS), -1))
    filled = np.where(source >= 0, nearest[source], ranges[np.argmin(angle)])
    return np.concatenate([filled[-1:], filled, filled[:1]]).astype(np.float32)


def _behind(cells: Float32Array, velo_from_world: Float64Array, surface: Float32Array) -> BoolArray:
    """(M,) bool: cells (3, M) that a scan cannot look into."""
    seen = velo_from_world[:3, :3].astype(np.float32) @ cells + velo_from_world[:3, 3:].astype(np.float32)
    # The published code takes the norm of the homogeneous vector, whose last entry is 1.
    distance = np.sqrt(np.einsum("ij,ij->j", seen, seen) + 1)
    position = (np.arctan2(seen[1], seen[0]) + np.float32(np.pi)) * np.float32(BINS / (2 * np.pi)) + np.float32(0.5)
    left = np.clip(position.astype(np.int32), 0, BINS)
    part = position - left
    limit = surface[left] * (1 - part) + surface[left + 1] * part
    return (distance > limit) | (distance < MIN_RANGE_M)
