"""Density from one image, and occupancy from that density: the families ``bts`` and ``kyn``. numpy and OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from kyn_models import cells, occupancy, runtimes
from kyn_models.artifact import Artifact
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import Answer, PredictorOptions
from kyn_models.runtimes.queries import LabelQuery, LoadOptions, PointQuery, Query, RayQuery, Runtime, Step
from kyn_models.types import UNKNOWN, Float32Array, Float64Array, PosedFrame, UInt8Array, VoxelGridSpec


@dataclass(frozen=True)
class PlacedField:
    """A density field on one mount with one grid.

    step: answers ``depth``, ``volume`` and, for families with labels, ``labels``. cells: (n,) flat indices of those in
    the canonical camera's view, which are decoded; pixels: (n,) where in its image. seen: (height, width) bool of that
    image; hidden: (m,) of the cells that the camera says nothing about, for padding or the hood.
    """

    spec: VoxelGridSpec
    grid: GridOptions
    metric_scale: float
    labelled: bool
    step: Step
    cells: np.ndarray
    pixels: np.ndarray
    seen: np.ndarray
    hidden: np.ndarray

    def seeing(self, seen: np.ndarray) -> PlacedField:
        return replace(self, seen=seen, hidden=self.cells[~seen.reshape(-1)[self.pixels]])

    def answer(self, frames: Sequence[PosedFrame], images: Sequence[UInt8Array], outputs: frozenset[str]) -> Answer:
        labelled = {"labels"} if "volume" in outputs and self.labelled else set()
        wanted = frozenset({"depth"} & outputs | ({"volume"} if outputs & {"volume", "grid"} else set()) | labelled)
        answer = self.step(images[0], wanted)
        start = time.perf_counter()
        depth = self._depth(answer.arrays["depth"]) if "depth" in wanted else None
        volume = self._volume(answer.arrays["volume"]) if "volume" in wanted else None
        labels = self._cells(answer.arrays["labels"]) if labelled else None
        grid = occupancy.volume_to_grid(volume, self.spec, self.grid) if volume is not None else None
        return Answer(
            depth_m=depth,
            volume=volume if "volume" in outputs else None,
            grid=grid if "grid" in outputs else None,
            stages_ms={**answer.stages_ms, "assemble": (time.perf_counter() - start) * 1e3},
            labels=labels,
        )

    def _depth(self, rays: Float32Array) -> Float32Array:
        depth = enlarge_depth(rays, self.seen.shape[1], self.seen.shape[0])
        if self.metric_scale != 1.0:
            depth = depth * np.float32(self.metric_scale)
        return np.where(self.seen, depth, np.float32(np.nan))

    def _volume(self, sigma: Float32Array) -> UInt8Array:
        return self._cells(occupancy.probability_to_byte(occupancy.density_to_probability(sigma)))

    def _cells(self, values: UInt8Array) -> UInt8Array:
        """(nz, ny, nx) with the values of the decoded cells, ``UNKNOWN`` elsewhere."""
        volume = np.full(self.spec.shape, UNKNOWN, dtype=np.uint8)
        flat = volume.reshape(-1)
        flat[self.cells] = values
        flat[self.hidden] = UNKNOWN
        return volume


class FieldModel:
    """A loaded model of density from one image.

    warn: receives a sentence for each runtime that was passed over; say: progress.
    Raises ``RuntimeFailed``, ``ValueError`` for an unknown runtime or precision.
    """

    frames_wanted = 1

    def __init__(
        self, artifact: Artifact, options: PredictorOptions, warn: runtimes.Warn, say: Callable[[str], None]
    ) -> None:
        self._artifact, self._metric_scale = artifact, float(options.metric_scale)
        rows, columns = (int(count) for count in options.depth_rays)
        self._rays = artifact.camera.rays(rows, columns)
        points = int(np.prod(options.spec.shape))
        loading = LoadOptions(precision=options.precision, rays=rows * columns, points=points, say=say)
        self.runtime: Runtime = runtimes.choose(options.runtime, artifact, warn, loading)

    def place(self, spec: VoxelGridSpec, grid: GridOptions, base_from_camera: Float64Array) -> PlacedField:
        """The field as a camera on this mount sees it; as ``predictor.Model`` says."""
        manifest, camera = self._artifact.manifest, self._artifact.camera
        z_range_m = (manifest.z_near, manifest.z_far)
        index, points, pixels = cells.cells_in_camera(
            spec, base_from_camera, camera.intrinsics, z_range_m, self._metric_scale
        )
        queries: dict[str, Query] = {"depth": RayQuery(self._rays), "volume": PointQuery(points)}
        if manifest.labels:
            queries["labels"] = LabelQuery(points)
        step = self.runtime.prepare(queries)
        all_of_it = np.ones((camera.height, camera.width), dtype=bool)
        labelled = bool(manifest.labels)
        return PlacedField(spec, grid, self._metric_scale, labelled, step, index, pixels, all_of_it, index[:0])

    def density(self, image: UInt8Array, points: Float32Array, points_per_call: int | None) -> Float32Array:
        """As ``Predictor.density`` says, of a canonical image."""
        step = self.runtime.prepare({"density": PointQuery(points, points_per_call)})
        return step(image, frozenset({"density"})).arrays["density"]


def enlarge_depth(depth: Float32Array, width: int, height: int) -> Float32Array:
    """Bilinear enlargement to (height, width) that never mixes +Inf or NaN into finite pixels.

    A pixel is infinite or NaN where its nearest ray is; a finite pixel is the mean of the finite rays around it.
    """
    if depth.shape == (height, width):
        return depth
    size = (width, height)
    finite = np.isfinite(depth)
    nearest = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
    weight = cv2.resize(finite.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    total = cv2.resize(np.where(finite, depth, np.float32(0)), size, interpolation=cv2.INTER_LINEAR)
    return np.where(np.isfinite(nearest), total / np.maximum(weight, np.float32(1e-6)), nearest)
