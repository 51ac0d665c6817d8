"""Answers that look at no image: what a model must beat before its numbers mean anything. numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kyn_models.data.lidar_occupancy import TILT, X_RANGE_M, Z_RANGE_M, grid_shape
from kyn_models.metrics import DepthScores
from kyn_models.npz import read_npz
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Sample

_NEAR_M, _FAR_M, _BINS = 1.0, 150.0, 512
_LOG_STEP = np.log(_FAR_M / _NEAR_M) / _BINS


def box_street_depth(intrinsics: Intrinsics, base_from_camera: np.ndarray, half_width_m: float) -> Float32Array:
    """(height, width) float32 depth of a straight street: flat road, a wall ``half_width_m`` left and right.

    The walls are parallel to base_link's x axis and endless; +Inf only straight along it.
    """
    columns = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
    rows = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
    x, y = np.meshgrid(columns, rows)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.asarray(base_from_camera)[:3, :3].T
    _, side, height = np.asarray(base_from_camera)[:3, 3]
    with np.errstate(divide="ignore"):
        road = np.where(rays[..., 2] < 0, -height / rays[..., 2], np.inf)
        wall = (np.copysign(half_width_m, rays[..., 1]) - side) / rays[..., 1]
    return np.minimum(road, np.where(rays[..., 1] == 0, np.inf, wall)).astype(np.float32)


@dataclass(frozen=True)
class BoxStreet:
    """A box street as a depth model."""

    half_width_m: float

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        observation = sample.observation
        camera = observation.key.intrinsics
        return box_street_depth(camera, observation.base_from_camera, self.half_width_m), camera


BOX_STREETS: tuple[BoxStreet, ...] = tuple(BoxStreet(float(width)) for width in np.arange(4.0, 12.01, 0.5))
"""Box streets that are tried."""


def best_answer(frames: Iterable[Sequence[DepthScores]]) -> int:
    """Which answer has the least mean abs_rel over the frames that have truth: the best one in hindsight.

    frames: of each frame the scores of all answers. Raises ``ValueError`` if no frame has depth truth.
    """
    table = np.array([[scores.abs_rel for scores in answers] for answers in frames])
    table = table[~np.isnan(table).any(axis=1)] if table.size else table
    if not table.size:
        raise ValueError("box street: got no sample with depth truth, expected at least one")
    return int(np.argmin(table.mean(axis=0)))


@dataclass(frozen=True)
class Prior:
    """What training frames look like on average: the same answer for every image.

    depth_m: (h, w) float32 median depth per pixel, +Inf where more than half is sky, NaN where nothing was seen.
    occupancy: (rows, columns) float32 share of frames in which the cell of the published slice is occupied.
    intrinsics: camera of ``depth_m``. frames: how many training frames it rests on.
    """

    depth_m: Float32Array
    occupancy: Float32Array
    intrinsics: Intrinsics
    frames: int

    @property
    def frames_wanted(self) -> int:
        """It looks at no image."""
        return 1

    @classmethod
    def fit(cls, items: Iterable[tuple[np.ndarray, np.ndarray]], intrinsics: Intrinsics) -> Prior:
        """From (depth, occupied) of each training frame, in bounded memory.

        depth: (h, w) metres at the size of ``intrinsics``, +Inf sky, NaN unknown (left out). occupied: bool
        (rows, columns) of the published slice (the truth's occupied and not visible). The median is taken from 512
        steps of 1 % between 1 and 150 m. Raises ``ValueError`` for another size or no item.
        """
        shape = (intrinsics.height, intrinsics.width)
        pixels = np.arange(shape[0] * shape[1])
        counts = np.zeros((pixels.size, _BINS + 1), dtype=np.uint16)  # the last bin is sky
        occupancy = np.zeros(grid_shape(), dtype=np.float64)
        frames = 0
        for depth, occupied in items:
            if depth.shape != shape or occupied.shape != occupancy.shape:
                raise ValueError(
                    f"prior: got depth {depth.shape} and occupancy {occupied.shape}, "
                    f"expected {shape} and {grid_shape()}"
                )
            known = ~np.isnan(depth.ravel())
            bins = _depth_bins(depth.ravel()[known])
            counts[pixels[known], bins] += 1
            occupancy += occupied
            frames += 1
        if not frames:
            raise ValueError("prior: got no training frame, expected at least one")
        return cls(_medians(counts).reshape(shape), (occupancy / frames).astype(np.float32), intrinsics, frames)

    def save(self, path: str | Path) -> None:
        """Write everything to one npz file."""
        k = self.intrinsics
        camera = np.array([k.fx, k.fy, k.cx, k.cy, k.width, k.height], dtype=np.float64)
        np.savez_compressed(path, depth_m=self.depth_m, occupancy=self.occupancy, camera=camera, frames=self.frames)

    @classmethod
    def load(cls, path: str | Path) -> Prior:
        """Read what ``save`` wrote. Raises ``FileNotFoundError``, or ``ValueError`` for a file that is damaged or of
        another kind."""
        stored = read_npz(Path(path), ("camera", "depth_m", "occupancy", "frames"), "`kyn prior` writes a new one")
        camera, frames = stored["camera"], stored["frames"]
        if camera.shape != (6,) or frames.shape != ():
            raise ValueError(
                f"{path}: got a camera of shape {camera.shape} and frames of shape {frames.shape}, expected 6 numbers "
                "and one; `kyn prior` writes a new one"
            )
        fx, fy, cx, cy, width, height = camera.tolist()
        intrinsics = Intrinsics(fx, fy, cx, cy, int(width), int(height))
        return cls(stored["depth_m"], stored["occupancy"], intrinsics, int(frames))

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        """The median depth, whatever the image."""
        return self.depth_m, self.intrinsics

    def density(self, sample: Sample, points_camera: np.ndarray) -> Float32Array:
        """(N,) density whose probability is the mean occupancy of the nearest cell of the published slice."""
        points = np.asarray(points_camera, dtype=np.float64) @ TILT[:3, :3].T
        rows, columns = self.occupancy.shape
        row = np.rint((points[:, 2] - Z_RANGE_M[0]) / (Z_RANGE_M[1] - Z_RANGE_M[0]) * (rows - 1))
        column = np.rint((points[:, 0] - X_RANGE_M[0]) / (X_RANGE_M[1] - X_RANGE_M[0]) * (columns - 1))
        share = self.occupancy[
            np.clip(row, 0, rows - 1).astype(np.int64), np.clip(column, 0, columns - 1).astype(np.int64)
        ]
        # p = 1 - 2^(-2 sigma); a cell that was always occupied gets a large finite density.
        return (-0.5 * np.log2(np.maximum(1.0 - share.astype(np.float64), 1e-6))).astype(np.float32)


def _depth_bins(depth: np.ndarray) -> np.ndarray:
    """Index of the depth's step; ``_BINS`` for sky."""
    finite = np.where(np.isinf(depth), _FAR_M, np.clip(depth, _NEAR_M, _FAR_M))
    steps = np.minimum((np.log(finite / _NEAR_M) / _LOG_STEP).astype(np.int64), _BINS - 1)
    return np.where(np.isinf(depth), _BINS, steps)


def _medians(counts: np.ndarray) -> Float32Array:
    """(pixels,) float32 medians from (pixels, _BINS + 1) counts, +Inf in the sky's bin, NaN where all are 0."""
    centres: Float64Array = np.append(_NEAR_M * np.exp((np.arange(_BINS) + 0.5) * _LOG_STEP), np.inf)
    medians = np.empty(len(counts), dtype=np.float32)
    for start in range(0, len(counts), 8192):  # blocks: the running sums are wider than the counts
        running = np.cumsum(counts[start : start + 8192], axis=1, dtype=np.int64)
        seen = running[:, -1]
        middle = np.argmax(2 * running >= seen[:, None], axis=1)
        medians[start : start + 8192] = np.where(seen > 0, centres[middle], np.nan)
    return medians
