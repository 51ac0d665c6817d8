"""From a depth map to occupancy: free along the ray, occupied at the surface, unknown behind. numpy and OpenCV.

For families that say depth instead of density. A cell is judged by every pixel that it covers:

* *Free* where all of them see at least as far as its far side, less ``DEPTH_TOLERANCE`` of the depth. One pixel that
  ends earlier, is invalid, or lies outside the image, and the cell is unknown: a thin pole between two rays that pass
  it is not run over, and nothing below the field of view becomes free.
* *Occupied* where surface points fall into it: points of pixels, and points between neighbouring pixels of one surface,
  for far cells are smaller than the distance between two of these. Of a near cell, which covers hundreds of pixels, at
  least ``HIT_SHARE`` must be surface, so that a few pixels that float between an edge and what is behind it are none.
* *Unknown* everywhere else: behind the surface, outside the view, nearer than the model can say.
* *Ground* is what lies at most ``GROUND_HEIGHT_M`` above the ground of ``kyn_models.depth_ground``. It
  is no obstacle anywhere, and a ray that ends on it is free down to the plane. Cells in the ground are unknown; where
  the road rises into the band of heights of obstacles, they are free there as the first cell above it is.
* *Doubtful* is a ramp that the ground's plane does not describe, and what may be a sky that is said to be near
  (``kyn_models.depth_profile``): unknown. Behind a face nothing is ground because the plane rises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from kyn_models import cells
from kyn_models.depth_ground import GROUND_HEIGHT_M, Ground, ground_of
from kyn_models.depth_profile import Profile, hanging, profile_of
from kyn_models.occupancy import GridOptions, band_layers, volume_to_grid
from kyn_models.types import UNKNOWN, Float32Array, Float64Array, Intrinsics, UInt8Array, VoxelGridSpec

DEPTH_TOLERANCE = 0.05
"""Share of its depth by which a surface may be nearer than said."""
HIT_SHARE = 0.05
"""Share of the pixels that a cell covers which must be surface in it."""
ONE_SURFACE = 0.05
"""Neighbouring pixels whose depths differ by at most this share are one surface, with points between them."""
THICKNESS = (0.0125, 0.025)
"""Shares of its depth behind a surface point where there are further points of it: surfaces are thicker than that, or
nobody knows what is behind them, and depth is not exact."""
BLURRED = 0.06
"""A pixel floats where one neighbour is nearer and the opposite one farther by more than this share of its depth."""
LONGEST_GAP = 12
"""At most so many points are put between two pixels."""
LIFTED_M = 0.1
"""Where the ground is believed to rise, what is more than this above it, and more than GROUND_HEIGHT_M above z = 0, is
no ground for sure, and no obstacle either: unknown."""
FREE, OCCUPIED = np.uint8(0), np.uint8(254)
KERNEL_GROWTH = 1.5
"""Cells are looked at in squares of pixels; each of these is so many times as wide as the one before."""


@dataclass(frozen=True)
class DepthCells:
    """What a camera, its mount and a grid decide, for every depth map of that camera.

    index: (n,) flat indices of the cells whose centres are in view. far: (n,) metres of their far sides along the
    optical axis. kernels: widths of squares of pixels. lookup: (n,) of which square about which pixel the least depth
    decides, number of the square times h * w and the pixel. rays: (3, h * w) directions of
    the pixels in base_link for one metre along the optical axis. base_from_camera: (4, 4) the mount.
    """

    spec: VoxelGridSpec
    camera: Intrinsics
    kernels: tuple[int, ...]
    index: np.ndarray
    far: Float32Array
    lookup: np.ndarray
    rays: Float32Array
    base_from_camera: Float64Array

    @property
    def origin(self) -> Float64Array:
        """(3,) of the camera in base_link."""
        return self.base_from_camera[:3, 3]

    @property
    def reach(self) -> float:
        """Metres beyond which no pixel is in the grid."""
        corners = np.array(np.meshgrid(self.spec.x_m, self.spec.y_m, self.spec.z_m)).reshape(3, -1)
        return float(np.linalg.norm(corners - self.origin[:, None], axis=0).max())

    @classmethod
    def of(
        cls,
        spec: VoxelGridSpec,
        base_from_camera: np.ndarray,
        camera: Intrinsics,
        z_range_m: tuple[float, float],
    ) -> DepthCells:
        """camera: of the depth map. z_range_m: what is said about depths within it, metres of the grid."""
        index, points, pixels = cells.cells_in_camera(spec, base_from_camera, camera, z_range_m, 1.0)
        # Half of a cell's extent along the optical axis, from its centre to its far and its near corner.
        half = 0.5 * spec.resolution_m * np.abs(np.asarray(base_from_camera)[:3, 2]).sum()
        near = np.maximum(points[:, 2] - half, 0.1 * points[:, 2])
        covered = spec.resolution_m * max(camera.fx, camera.fy) / near
        kernels = _kernels(float(covered.max(initial=1.0)))
        lookup = np.searchsorted(kernels, covered) * (camera.width * camera.height) + pixels
        rows, columns = np.meshgrid(
            (np.arange(camera.height) - camera.cy) / camera.fy,
            (np.arange(camera.width) - camera.cx) / camera.fx,
            indexing="ij",
        )
        directions = np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
        rays = (np.asarray(base_from_camera)[:3, :3] @ directions).astype(np.float32)
        return cls(
            spec,
            camera,
            kernels,
            index,
            (points[:, 2] + half).astype(np.float32),
            lookup.astype(np.int32),
            rays,
            np.array(base_from_camera, dtype=np.float64),
        )


def _kernels(widest: float) -> tuple[int, ...]:
    """Odd widths in pixels, from 1 until one is at least ``widest``."""
    widths = [1]
    while widths[-1] < widest:
        widths.append(2 * math.ceil(widths[-1] * KERNEL_GROWTH / 2) + 1)
    return tuple(widths)


class DepthOccupancy(NamedTuple):
    """volume: (nz, ny, nx) uint8: 0 free, 254 occupied, 255 unknown. grid: (ny, nx) int8 as ``volume_to_grid``, and not
    free where the road falls below what the volume says."""

    volume: UInt8Array
    grid: np.ndarray


class _Heights(NamedTuple):
    """Of every pixel, (h, w): is its surface ground; is nobody sure; is it far below the ground that is believed."""

    ground: np.ndarray
    doubtful: np.ndarray
    below: np.ndarray


def depth_to_occupancy(depth_m: np.ndarray, view: DepthCells, options: GridOptions) -> DepthOccupancy:
    """Volume and grid of a depth map.

    depth_m: (h, w) float32 metres along the optical axis, of the camera of ``view``; NaN invalid (the cells that it
    covers are unknown), +Inf sky (free along its ray). options: its band of heights, which is free in rising ground and
    reaches down to falling ground. Raises ``ValueError`` for another size.
    """
    shape = (view.camera.height, view.camera.width)
    if depth_m.shape != shape:
        raise ValueError(f"depth_m: got shape {depth_m.shape}, expected {shape} as its camera")
    depth = np.where(depth_m > 0, depth_m, np.float32(0)).astype(np.float32, copy=False)  # NaN becomes 0
    ground = ground_of(depth, view.rays, view.origin)
    plane = ground.plane
    # Height of the camera, and of each ray per metre, above the plane.
    above = np.float32(view.origin[2] - plane @ (1.0, *view.origin[:2]))
    climb = view.rays[2] - np.float32(plane[1]) * view.rays[0] - np.float32(plane[2]) * view.rays[1]
    climb = climb.reshape(shape)
    profile = profile_of(depth, view.rays, view.origin)
    heights = _heights(depth, above + climb * np.minimum(depth, np.float32(1e6)), climb < 0, ground, profile, view)
    reach = depth * np.float32(1 - DEPTH_TOLERANCE)
    # The plane instead of the ground's depth, whose errors matter most where rays meet it at a small angle.
    reach[heights.ground] = np.maximum(depth[heights.ground], above / -climb[heights.ground])
    volume = np.full(view.spec.shape, UNKNOWN, dtype=np.uint8)
    flat = volume.reshape(-1)
    flat[view.index[_least(reach, view).take(view.lookup) >= view.far]] = FREE
    flat[_surface_cells(depth, heights.doubtful, view)] = UNKNOWN
    flat[_surface_cells(depth, ~heights.ground & ~heights.doubtful, view)] = OCCUPIED
    _, y, x = view.spec.axes()
    road = ground.height(x[None, :], y[:, None])
    ends = _of_columns(profile.ends_m, road, view)
    road = np.where(x < ends, road, np.minimum(road, 0.0))
    _open_ground(volume, road, view.spec, band_layers(view.spec, options))
    grid = volume_to_grid(volume, view.spec, options, road)
    lost = _missed(heights.below, road, view) | (ground.falls & (x >= ground.trusted_m))
    grid[lost & (grid < 100)] = -1
    return DepthOccupancy(volume, grid)


def _heights(
    depth: Float32Array, over: Float32Array, falls: np.ndarray, ground: Ground, profile: Profile, view: DepthCells
) -> _Heights:
    """What lies how high. over: (h, w) metres of the surface above the plane. falls: towards it as the ray goes on."""
    z, x = (
        np.float32(view.origin[axis]) + view.rays[axis].reshape(depth.shape) * np.minimum(depth, np.float32(1e6))
        for axis in (2, 0)
    )
    if np.isfinite(ground.trusted_m):
        over = np.where(x < ground.trusted_m, over, np.maximum(over, z))
    seen = depth > 0
    low = falls & seen & (over <= GROUND_HEIGHT_M)
    doubtful = low & (z > GROUND_HEIGHT_M) & ((over > LIFTED_M) | (x >= profile.ends_m))
    # A ramp that no plane describes, and what may be sky, are neither ground nor an obstacle for sure.
    doubtful |= seen & ~low & (profile.ramp | hanging(depth, view.rays, view.origin))
    return _Heights(low & ~doubtful, doubtful, seen & (over < -GROUND_HEIGHT_M))


def _open_ground(volume: UInt8Array, road: Float64Array, spec: VoxelGridSpec, layers: range) -> None:
    """Make those cells of the ``layers`` free that are ground, where the first one above it is free.

    road: (ny, nx) its height. Where it rises by more than half a cell, the band of heights above z = 0 is in it, and
    the road would be unknown for good. Columns with an obstacle below that cell stay as they are.
    """
    z, road = spec.axes()[0], road.ravel()
    above = np.searchsorted(z, road + GROUND_HEIGHT_M, side="right")
    columns = np.flatnonzero((road > spec.resolution_m / 2) & (above > layers.start) & (above < layers.stop))
    flat = volume.reshape(len(z), -1)
    columns = columns[flat[above[columns], columns] == FREE]
    columns = columns[~(flat[:, columns] == OCCUPIED).any(axis=0)]
    for layer in layers:
        flat[layer, columns[above[columns] > layer]] = FREE


def _missed(below: np.ndarray, road: Float64Array, view: DepthCells) -> np.ndarray:
    """(ny, nx) bool: columns whose ground was looked at and is not there, but far below.

    below: (h, w) bool. road: (ny, nx) heights where it should be.
    """
    rows, columns = _pixels_of(road, view)
    inside = (columns >= 0) & (columns < view.camera.width) & (rows >= 0) & (rows < view.camera.height)
    missed = np.zeros(road.shape, dtype=bool)
    missed[inside] = below[rows[inside].astype(np.int32), columns[inside].astype(np.int32)]
    return missed


def _of_columns(values: Float64Array, road: Float64Array, view: DepthCells) -> Float64Array:
    """(ny, nx) of (w,) values of the image's columns, at the places of the road; inf beside the image."""
    _, columns = _pixels_of(road, view)
    inside = (columns >= 0) & (columns < view.camera.width)
    found = np.full(road.shape, np.inf)
    found[inside] = values[columns[inside].astype(np.int32)]
    return found


def _pixels_of(road: Float64Array, view: DepthCells) -> tuple[Float64Array, Float64Array]:
    """Row and column, (ny, nx) each, at which the places of the road are seen; NaN behind the camera."""
    _, y, x = view.spec.axes()
    places = np.stack([*np.meshgrid(x, y), road]).reshape(3, -1) - view.origin[:, None]
    right, down, ahead = view.base_from_camera[:3, :3].T @ places
    ahead = np.where(ahead > 0.1, ahead, np.nan)
    rows, columns = (
        np.rint(view.camera.fy * down / ahead + view.camera.cy),
        np.rint(view.camera.fx * right / ahead + view.camera.cx),
    )
    return rows.reshape(road.shape), columns.reshape(road.shape)


def _least(reach: Float32Array, view: DepthCells) -> Float32Array:
    """The least of (h, w) over the squares of ``view.kernels``, one after the other; 0 where one leaves the image."""
    stack = np.empty((len(view.kernels), *reach.shape), dtype=np.float32)
    for out, size in zip(stack, view.kernels, strict=True):
        if size == 1:
            out[:] = reach
        else:
            kernel = np.ones((size, size), np.uint8)
            cv2.erode(reach, kernel, dst=out, borderType=cv2.BORDER_CONSTANT, borderValue=0.0)
    return stack.reshape(-1)


def _surface_cells(depth: Float32Array, candidates: np.ndarray, view: DepthCells) -> np.ndarray:
    """Flat indices of the cells that hold enough surface. candidates: (h, w) bool, pixels that may be an obstacle."""
    solid = candidates & (depth > 0) & (depth < view.reach) & ~_floating(depth)
    height = view.rays[2].reshape(depth.shape) * np.where(solid, depth, np.float32(0)) + np.float32(view.origin[2])
    solid &= (height >= view.spec.z_m[0]) & (height < view.spec.z_m[1])
    pixels = np.flatnonzero(solid)
    number = np.empty(depth.size, dtype=np.int32)
    number[pixels] = np.arange(len(pixels), dtype=np.int32)
    scale = np.float32(1 / view.spec.resolution_m)
    along = view.rays[:, pixels] * (depth.reshape(-1)[pixels] * scale)
    points = along + ((view.origin - view.spec.origin_m) * scale).astype(np.float32)[:, None]
    # Surfaces are thicker than a point: what follows right behind one is unknown at best.
    deeper = [points + along * np.float32(share) for share in THICKNESS]
    between = _between(points, number.reshape(depth.shape), solid, depth, view.spec.resolution_m)
    hits = np.bincount(_cells_of(np.concatenate([points, *deeper, *between], axis=1), view.spec))
    found = np.flatnonzero(hits)
    return found[hits[found] >= _needed(found, view)]


def _floating(depth: Float32Array) -> np.ndarray:
    """(h, w) bool: pixels between an edge and what is behind it, where networks blur: one neighbour much nearer, the
    opposite one much farther. Of a thin pole both are farther, of an edge one is."""
    floating = np.zeros(depth.shape, dtype=bool)
    for part, a, b in (
        (np.s_[:, 1:-1], depth[:, :-2], depth[:, 2:]),
        (np.s_[1:-1], depth[:-2], depth[2:]),
    ):
        near, far = depth[part] * np.float32(1 - BLURRED), depth[part] * np.float32(1 + BLURRED)
        floating[part] |= (np.minimum(a, b) < near) & (np.maximum(a, b) > far)
    return floating


def _cells_of(points: Float32Array, spec: VoxelGridSpec) -> np.ndarray:
    """Flat indices of the cells of those of (3, n) points in units of cells that are in the grid."""
    nz, ny, nx = spec.shape
    inside = (points >= 0).all(axis=0) & (points < np.array([[nx], [ny], [nz]], np.float32)).all(axis=0)
    x, y, z = points[:, inside].astype(np.int32)
    return (z * ny + y) * nx + x


def _between(
    points: Float32Array, number: np.ndarray, solid: np.ndarray, depth: Float32Array, resolution_m: float
) -> list[Float32Array]:
    """Points (3, n) in units of cells between neighbouring pixels of one surface.

    points: of the ``solid`` pixels. number: (h, w) which of them a pixel is.
    """
    found = []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        pair = np.flatnonzero(solid[first] & solid[second])
        a, b = number[first].reshape(-1)[pair], number[second].reshape(-1)[pair]
        near, step = depth[first].reshape(-1)[pair], depth[second].reshape(-1)[pair]
        step = np.abs(step - near)
        gap = np.flatnonzero((step > resolution_m) & (step <= ONE_SURFACE * near))
        start, away = points[:, a[gap]], points[:, b[gap]] - points[:, a[gap]]
        count = np.minimum(np.abs(away).max(axis=0), LONGEST_GAP).astype(np.int64)
        which = np.repeat(np.arange(len(gap)), count)
        place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        share = ((place + 1) / (count[which] + 1)).astype(np.float32)
        found.append(start[:, which] + away[:, which] * share)
    return found


def _needed(found: np.ndarray, view: DepthCells) -> Float32Array:
    """Hits that make each cell of (n,) flat indices occupied."""
    z, y, x = np.unravel_index(found, view.spec.shape)
    centres = (np.stack([x, y, z]) + 0.5) * view.spec.resolution_m + np.array(view.spec.origin_m)[:, None]
    squared = np.square(centres - view.origin[:, None]).sum(axis=0)
    covered = view.camera.fx * view.camera.fy * view.spec.resolution_m**2 / squared
    return np.maximum(HIT_SHARE * covered, 1.0)
