"""From a depth map to occupancy: free along the ray, occupied at the surface, unknown behind. numpy and OpenCV.

For families that say depth instead of density. A cell is judged by every pixel that it covers:

* *Free* where all of them see at least as far as its far side, less ``DEPTH_TOLERANCE`` of the depth. One pixel that
  ends earlier, is invalid, or lies outside the image, and the cell is unknown: a thin pole between two rays that pass
  it is not run over, and nothing below the field of view becomes free.
* *Occupied* where surface points fall into it: points of pixels, and points between neighbouring pixels of one surface,
  for far cells are smaller than the distance between two of these. Of a near cell, which covers hundreds of pixels, at
  least ``HIT_SHARE`` must be surface, so that a few pixels that float between an edge and what is behind it are none.
* *Unknown* everywhere else: behind the surface, outside the view, nearer than the model can say.
* *Ground* is what lies at most ``GROUND_HEIGHT_M`` above a plane that is fitted to each frame near the known mount. It
  is no obstacle anywhere, and a ray that ends on it is free down to the plane. Cells in the ground are unknown; where
  the road rises into the band of heights of obstacles, they are free there as the first cell above it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from kyn_models import cells
from kyn_models.occupancy import GridOptions, band_layers
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
GROUND_HEIGHT_M = 0.25
"""What is at most this high above the ground's plane is ground: kerbs, and the errors of depth on the road."""
PLANE_SPREAD = (0.1, 0.015)
"""How far the ground may be from z = 0 of base_link: metres of height, and slope. Standard deviations."""
STEEPEST = np.array([0.3, 0.06, 0.06])
"""A plane that is farther from z = 0 than this is not believed: metres of height, and slopes."""
PLANE_REACH_M = 40.0
"""Ground farther away than this says nothing about the plane."""
PLANE_STEP = 4
"""Every so many pixels are looked at for the plane."""
FREE, OCCUPIED = np.uint8(0), np.uint8(254)
KERNEL_GROWTH = 1.5
"""Cells are looked at in squares of pixels; each of these is so many times as wide as the one before."""


@dataclass(frozen=True)
class DepthCells:
    """What a camera, its mount and a grid decide, for every depth map of that camera.

    index: (n,) flat indices of the cells whose centres are in view. far: (n,) metres of their far sides along the
    optical axis. kernels: widths of squares of pixels. lookup: (n,) of which square about which pixel the least depth
    decides, number of the square times h * w and the pixel. rays: (3, h * w) directions of
    the pixels in base_link for one metre along the optical axis. origin: (3,) of the camera in base_link.
    """

    spec: VoxelGridSpec
    camera: Intrinsics
    kernels: tuple[int, ...]
    index: np.ndarray
    far: Float32Array
    lookup: np.ndarray
    rays: Float32Array
    origin: Float64Array

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
            np.array(np.asarray(base_from_camera)[:3, 3]),
        )


def _kernels(widest: float) -> tuple[int, ...]:
    """Odd widths in pixels, from 1 until one is at least ``widest``."""
    widths = [1]
    while widths[-1] < widest:
        widths.append(2 * math.ceil(widths[-1] * KERNEL_GROWTH / 2) + 1)
    return tuple(widths)


def depth_to_volume(depth_m: np.ndarray, view: DepthCells, options: GridOptions) -> UInt8Array:
    """(nz, ny, nx) uint8 volume of a depth map: 0 free, 254 occupied, 255 unknown.

    depth_m: (h, w) float32 metres along the optical axis, of the camera of ``view``; NaN invalid (the cells that it
    covers are unknown), +Inf sky (free along its ray). options: its band of heights, in which rising ground is free.
    Raises ``ValueError`` for another size.
    """
    shape = (view.camera.height, view.camera.width)
    if depth_m.shape != shape:
        raise ValueError(f"depth_m: got shape {depth_m.shape}, expected {shape} as its camera")
    depth = np.where(depth_m > 0, depth_m, np.float32(0)).astype(np.float32, copy=False)  # NaN becomes 0
    plane = ground_plane(depth, view)
    # Height of the camera, and of each ray per metre, above the plane.
    above = np.float32(view.origin[2] - plane @ (1.0, *view.origin[:2]))
    climb = view.rays[2] - np.float32(plane[1]) * view.rays[0] - np.float32(plane[2]) * view.rays[1]
    climb = climb.reshape(shape)
    ground = (climb < 0) & (depth > 0) & (above + climb * np.minimum(depth, np.float32(1e6)) <= GROUND_HEIGHT_M)
    reach = depth * np.float32(1 - DEPTH_TOLERANCE)
    # The plane instead of the ground's depth, whose errors matter most where rays meet it at a small angle.
    reach[ground] = np.maximum(depth[ground], above / -climb[ground])
    volume = np.full(view.spec.shape, UNKNOWN, dtype=np.uint8)
    flat = volume.reshape(-1)
    flat[view.index[_least(reach, view).take(view.lookup) >= view.far]] = FREE
    flat[_surface_cells(depth, ~ground, view)] = OCCUPIED
    _open_ground(volume, plane, view.spec, band_layers(view.spec, options))
    return volume


def ground_plane(depth_m: np.ndarray, view: DepthCells) -> Float64Array:
    """(a, b, c) of the ground z = a + b x + c y in base_link, fitted to a depth map (h, w); 0 or NaN invalid.

    Starts at the road of the mount, z = 0, and is held there by ``PLANE_SPREAD``: without ground in view it is just
    that. Points count by how near they are to the plane of the step before.
    """
    step = np.s_[PLANE_STEP // 2 :: PLANE_STEP]
    rays = view.rays.reshape(3, *depth_m.shape)[:, step, step].reshape(3, -1).astype(np.float64)
    depth = depth_m[step, step].ravel().astype(np.float64)
    near = (depth > 0) & (depth < PLANE_REACH_M)
    x, y, z = view.origin[:, None] + rays[:, near] * depth[near]
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
    return plane.clip(-STEEPEST, STEEPEST)


def _open_ground(volume: UInt8Array, plane: Float64Array, spec: VoxelGridSpec, layers: range) -> None:
    """Make those cells of the ``layers`` free that are ground, where the first one above it is free.

    Where the road rises by more than half a cell, the band of heights above z = 0 is in it, and the road would be
    unknown for good.
    """
    z, y, x = spec.axes()
    road = (plane[0] + plane[1] * x[None, :] + plane[2] * y[:, None]).ravel()
    above = np.searchsorted(z, road + GROUND_HEIGHT_M, side="right")
    columns = np.flatnonzero((road > spec.resolution_m / 2) & (above > layers.start) & (above < layers.stop))
    flat = volume.reshape(len(z), -1)
    columns = columns[flat[above[columns], columns] == FREE]
    for layer in layers:
        flat[layer, columns[above[columns] > layer]] = FREE


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
