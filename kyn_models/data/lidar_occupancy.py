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
NEAR_Z_RANGE_M = (20.0, 4.0)
CELLS_PER_M = 10
BINS = 360
MIN_RANGE_M = 3.0
"""Nearer than this to a scanner nothing counts as seen by it (the car itself)."""
FORGIVEN_SCANS = 2
"""So many scans may look into an occupied cell. Published as (1 + hidden) / N > (N - 2) / N over N scans."""
_SLACK_M = 0.5
"""Far more than float32 rounding moves a border: what is left out for distance alone never comes near one."""

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

    occupied: at most two of the scans could look into the cell.
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


def near_rows(truth: OccupancyTruth) -> OccupancyTruth:
    """The 4..20 m part of masks of 4..50 m: their last 160 rows, as Know Your Neighbors' evaluator cuts them.

    Not what ``occupancy_truth`` says for ``NEAR_Z_RANGE_M``: rows of the two grids are up to 7 cm apart, and a grid
    that ends at 20 m takes all points beyond 20.4 m into its slice.
    """
    rows = grid_shape(z_range=NEAR_Z_RANGE_M)[0]
    return OccupancyTruth(truth.occupied[-rows:], truth.visible[-rows:])


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
    if len(points_velo) == 0 or poses.shape != (len(points_velo), 4, 4):
        raise ValueError(
            f"velo_to_world: got shape {poses.shape}, expected ({len(points_velo)}, 4, 4), at least 1 scan"
        )
    making = TruthInMaking(grid_xyz, y_range, x_range, z_range, ppm)
    for points, pose in zip(points_velo, poses, strict=True):
        making.add(SortedScan.of(points), pose)
    return making.truth()


class SortedScan(NamedTuple):
    """A scan prepared once for all frames that use it: its N points by their degree about the scanner.

    xyz: (3, N) float32. ranges: (N,) float32 horizontal distance; squared: (N,) float32 squared distance in space.
    bins, starts: the (K,) degrees that hold points, ascending, and where each begins. farthest: metres.
    """

    xyz: Float32Array
    ranges: Float32Array
    squared: Float32Array
    bins: NDArray[np.int64]
    starts: NDArray[np.int64]
    farthest: float

    @classmethod
    def of(cls, points: np.ndarray) -> SortedScan:
        """From (N, 3 or more) float32 points in scanner axes, metres; points that are not finite are left out."""
        xyz = np.ascontiguousarray(np.asarray(points)[:, :3].T, dtype=np.float32)
        finite = np.isfinite(xyz).all(axis=0)
        if not finite.all():
            xyz = xyz[:, finite]
        # The angle +pi closes the circle and belongs to no degree, as published; the last slot takes it.
        bins = (np.searchsorted(_BORDERS, np.arctan2(xyz[1], xyz[0]), side="right") - 1).astype(np.int16)
        xyz = xyz[:, np.argsort(bins, kind="stable")]
        sizes = np.bincount(bins, minlength=BINS + 1)
        filled = np.flatnonzero(sizes)
        squared = np.einsum("ij,ij->j", xyz, xyz)
        farthest = float(np.sqrt(squared.max())) if squared.size else 0.0
        starts = (np.cumsum(sizes) - sizes)[filled]
        return cls(xyz, np.sqrt(xyz[0] * xyz[0] + xyz[1] * xyz[1]), squared, filled, starts, farthest)

    def surface(self, counts: BoolArray) -> Float32Array | None:
        """(BINS + 2,) float32 horizontal range of the nearest point that counts per degree, one wrapped degree at each
        end; a degree without one has the range of the degree before. None where no point counts.

        counts: (N,) bool.
        """
        if not counts.any():
            return None
        in_order = np.minimum.reduceat(np.where(counts, self.ranges, np.float32(np.inf)), self.starts)
        nearest = np.full(BINS + 1, np.inf, dtype=np.float32)
        nearest[self.bins] = in_order
        source = np.maximum.accumulate(np.where(np.isfinite(nearest[:BINS]), np.arange(BINS), -1))
        filled = nearest[source]
        if source[0] < 0:  # degrees before the first point have the range of that point
            first = int(np.flatnonzero(np.isfinite(in_order))[0])
            stop = self.starts[first + 1] if first + 1 < len(self.starts) else counts.size
            group = self.starts[first] + np.flatnonzero(counts[self.starts[first] : stop])
            angle = np.arctan2(self.xyz[1, group], self.xyz[0, group])
            filled = np.where(source >= 0, filled, self.ranges[group[np.argmin(angle)]])
        return np.concatenate([filled[-1:], filled, filled[:1]])


class TruthInMaking:
    """Masks of one frame that grow scan by scan; the first scan is the frame's own. Arguments as ``occupancy_truth``.

    Cells that three scans looked into are free for good and are not looked at again.
    """

    def __init__(
        self,
        grid_xyz: np.ndarray,
        y_range: tuple[float, float] = Y_RANGE_M,
        x_range: tuple[float, float] = X_RANGE_M,
        z_range: tuple[float, float] = Z_RANGE_M,
        ppm: int = CELLS_PER_M,
    ) -> None:
        self._shape = grid_shape(x_range, z_range, ppm)
        size = self._shape[0] * self._shape[1]
        if np.shape(grid_xyz) != (size, 3):
            raise ValueError(f"grid_xyz: got shape {np.shape(grid_xyz)}, expected ({size}, 3)")
        self._grid = np.asarray(grid_xyz, dtype=np.float32)
        self._y_range = y_range
        self._reach = float(np.hypot(z_range[0], x_range[0]))
        self._seen = np.zeros(size, dtype=np.uint8)
        self._open = np.arange(size, dtype=np.int32)
        self._visible: BoolArray | None = None
        self.scans = 0
        """How many scans it rests on."""

    def add(self, scan: SortedScan, velo_to_world: np.ndarray) -> None:
        """Take one more scan, of a scanner at the (4, 4) pose. Raises ``EmptySliceError``."""
        pose = np.asarray(velo_to_world, dtype=np.float64)
        # So far away that every point is farther than the grid reaches, and every cell farther than any point.
        away = float(np.linalg.norm(pose[:3, 3])) > scan.farthest + self._reach + _SLACK_M
        if not away or not scan.ranges.size or self.scans == 0:
            surface = scan.surface(self._counts(scan, pose))
            if surface is None:
                raise EmptySliceError(
                    f"scan {self.scans}: got no point in the slice, expected a scan that sees something there"
                )
            cells = np.ascontiguousarray(self._grid[self._open].T)
            velo_from_world = np.asarray(np.linalg.inv(pose), dtype=np.float64)
            seen = self._open[~_behind(cells, velo_from_world, surface)]
            self._seen[seen] += 1
            self._open = self._open[self._seen[self._open] <= FORGIVEN_SCANS]
        if self.scans == 0:
            self._visible = self._seen > 0
        self.scans += 1

    def truth(self) -> OccupancyTruth:
        """The masks so far. Raises ``ValueError`` before the first scan."""
        if self._visible is None:
            raise ValueError("occupancy truth: got no scan, expected at least 1")
        occupied = self._seen <= FORGIVEN_SCANS
        return OccupancyTruth(occupied.reshape(self._shape), self._visible.reshape(self._shape))

    def _counts(self, scan: SortedScan, pose: Float64Array) -> BoolArray:
        """(N,) bool: points that count for the slice."""
        rotation, offset = pose[:3, :3].astype(np.float32), pose[:3, 3].astype(np.float32)
        y = _along(scan.xyz, rotation[1])
        y += offset[1]
        counts = (y >= self._y_range[0]) & (y <= self._y_range[1])
        # |R p + t|^2 = |p|^2 + 2 (R^T t) p + |t|^2: no need for the other two world coordinates.
        far = _along(scan.xyz, 2 * rotation.T @ offset)
        far += scan.squared
        counts |= far >= self._reach**2 - float(offset @ offset)
        return counts


def _along(xyz: Float32Array, direction: Float32Array) -> Float32Array:
    """(N,) dot products of (3, N) with (3,), without BLAS: its threads would fight those of other processes."""
    x, y, z = direction
    total = xyz[0] * x
    total += xyz[1] * y
    total += xyz[2] * z
    return total


def _behind(cells: Float32Array, velo_from_world: Float64Array, surface: Float32Array) -> BoolArray:
    """(M,) bool: cells (3, M) that a scan cannot look into."""
    turn, offset = velo_from_world[:3, :3].astype(np.float32), velo_from_world[:3, 3].astype(np.float32)
    x, y, z = (_along(cells, turn[axis]) + offset[axis] for axis in range(3))
    # The published code takes the norm of the homogeneous vector, whose last entry is 1.
    distance = np.sqrt(x * x + y * y + z * z + 1)
    position = (np.arctan2(y, x) + np.float32(np.pi)) * np.float32(BINS / (2 * np.pi)) + np.float32(0.5)
    left = np.clip(position.astype(np.int32), 0, BINS)
    part = position - left
    limit = surface[left] * (1 - part) + surface[left + 1] * part
    return (distance > limit) | (distance < MIN_RANGE_M)
