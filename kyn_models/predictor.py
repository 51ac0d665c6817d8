"""Observation in, prediction out: the one path that robot, demo, evaluation and benchmark share. numpy and OpenCV.

The predictor owns what no runtime needs to know: the warp to the canonical camera, which cells the camera can say
anything about, and the meaning of the numbers. Its answers never depend on which other outputs are asked for.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from kyn_models import cells, occupancy, runtimes
from kyn_models.artifact import Artifact
from kyn_models.occupancy import GridOptions
from kyn_models.runtimes.queries import LabelQuery, LoadOptions, PointQuery, Precision, Query, RayQuery, Step
from kyn_models.types import (
    UNKNOWN,
    Float32Array,
    Float64Array,
    Intrinsics,
    Observation,
    Prediction,
    UInt8Array,
    VoxelGridSpec,
)

log = logging.getLogger(__name__)

OUTPUTS = frozenset({"depth", "volume", "grid"})
PREDICTED_FAMILIES = ("bts", "kyn")
KEPT_MOUNTS = 2


def check_family(artifact: Artifact) -> None:
    """Raises ``ValueError`` for a model of which the runtimes know nothing."""
    if artifact.manifest.family not in PREDICTED_FAMILIES:
        raise ValueError(
            f"{artifact.path}: got a model of family {artifact.manifest.family!r}, "
            f"expected one of {', '.join(PREDICTED_FAMILIES)}"
        )


@dataclass(frozen=True)
class _Geometry:
    """What depends on the mount and the grid alone. cells: (n,) flat indices of those in the canonical camera's view;
    pixels: (n,) where in its image."""

    base_from_camera: Float64Array
    step: Step
    cells: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """Everything that is constant while camera, mount and grid stay. Only the predictor that built it can use it.

    seen: (height, width) bool of the canonical image. cells: (n,) flat indices of the cells that are decoded;
    hidden: (m,) of those among them that the camera says nothing about, for padding or the hood.
    """

    intrinsics: Intrinsics
    base_from_camera: Float64Array
    step: Step
    seen: np.ndarray
    cells: np.ndarray
    hidden: np.ndarray

    def fits(self, intrinsics: Intrinsics, base_from_camera: np.ndarray) -> bool:
        """True if it was built for this camera and mount."""
        return self.intrinsics == intrinsics and np.array_equal(self.base_from_camera, base_from_camera)


class Predictor:
    """A model ready to be asked.

    artifact: checked model folder. runtime: a name of ``kyn_models.runtimes.NAMES``. precision: of its convolutions,
    one of ``kyn_models.runtimes.queries.PRECISIONS``. passed_over: a sentence for each runtime that ``auto`` could not
    use although its library and device are there; ``warn`` gets them too. say: receives progress.
    spec, grid: the voxel grid in ``base_link`` and the rule for the 2-D grid. depth_rays: (rows, columns) of rendered
    rays. metric_scale: multiplies all distances. hood_mask: (H, W) of the source image, non-zero where the vehicle
    itself is seen; what only such pixels see is unknown.
    Raises ``ValueError`` for options out of range or a family this class does not run, ``RuntimeFailed``.
    """

    frames_wanted = 1

    def __init__(
        self,
        artifact: Artifact,
        runtime: str = "auto",
        spec: VoxelGridSpec | None = None,
        grid: GridOptions | None = None,
        depth_rays: tuple[int, int] = (96, 320),
        metric_scale: float = 1.0,
        hood_mask: np.ndarray | None = None,
        warn: runtimes.Warn = log.warning,
        precision: Precision = "auto",
        say: Callable[[str], None] = log.info,
    ) -> None:
        check_family(artifact)
        if not np.isfinite(metric_scale) or metric_scale <= 0:
            raise ValueError(f"metric_scale: got {metric_scale}, expected a number above 0")
        if len(depth_rays) != 2 or min(depth_rays) < 1:
            raise ValueError(f"depth_rays: got {depth_rays}, expected [rows, columns], both above 0")
        self.artifact = artifact
        self.depth_rays = (int(depth_rays[0]), int(depth_rays[1]))
        self.metric_scale = float(metric_scale)
        self.hood_mask = hood_mask
        self._set_grid(spec or VoxelGridSpec(), grid or GridOptions())
        self.passed_over: tuple[str, ...] = ()

        def pass_over(sentence: str) -> None:
            self.passed_over += (sentence,)
            warn(sentence)

        rays, points = self.depth_rays[0] * self.depth_rays[1], int(np.prod(self.spec.shape))
        options = LoadOptions(precision=precision, rays=rays, points=points, say=say)
        self._runtime = runtimes.choose(runtime, artifact, pass_over, options)

    def with_grid(self, spec: VoxelGridSpec, grid: GridOptions) -> Predictor:
        """The same loaded model with another grid. Raises ``ValueError`` for one that cannot be."""
        other = copy.copy(self)
        other._set_grid(spec, grid)
        return other

    def _set_grid(self, spec: VoxelGridSpec, grid: GridOptions) -> None:
        cells.require_memory(spec)
        occupancy.require_band(spec, grid)
        self.spec, self.grid = spec, grid
        self._prepared: Prepared | None = None
        self._geometries: deque[_Geometry] = deque(maxlen=KEPT_MOUNTS)

    @property
    def runtime_name(self) -> str:
        return self._runtime.name

    @property
    def precision(self) -> str:
        return self._runtime.precision

    @property
    def library(self) -> str:
        """Product and version of the runtime's library."""
        return self._runtime.library

    def prepare(self, intrinsics: Intrinsics, base_from_camera: np.ndarray) -> None:
        """Build everything for one camera and mount. ``predict`` does it when they change.

        intrinsics: of the rectified source image. Raises ``ValueError`` if the hood mask has another size.
        """
        self._prepared = self.build(intrinsics, base_from_camera, self.hood_mask)

    def build(
        self, intrinsics: Intrinsics, base_from_camera: np.ndarray, hood_mask: np.ndarray | None = None
    ) -> Prepared:
        """What ``predict`` needs for one camera and mount, without making it the current one; from any thread.

        intrinsics: of the rectified source image; hood_mask: (H, W) of that image or None.
        Raises ``ValueError`` if the hood mask has another size.
        """
        seen = self.artifact.camera.seen_beside(intrinsics, hood_mask)
        geometry = self._geometry(base_from_camera)
        hidden = geometry.cells[~seen.reshape(-1)[geometry.pixels]]
        return Prepared(intrinsics, base_from_camera, geometry.step, seen, geometry.cells, hidden)

    def predict(
        self, observation: Observation, outputs: Iterable[str] = OUTPUTS, prepared: Prepared | None = None
    ) -> Prediction:
        """What the model says about the key frame; only the named outputs (``depth``, ``volume``, ``grid``).

        prepared: what ``build`` gave for the frame's camera and mount; without it the predictor keeps its own.
        Raises ``ValueError`` for an unknown output.
        """
        outputs = frozenset(outputs)
        if outputs - OUTPUTS:
            raise ValueError(f"outputs: got {sorted(outputs - OUTPUTS)}, expected some of {sorted(OUTPUTS)}")
        key = observation.key
        if prepared is None:
            prepared = self._prepared_for(key.intrinsics, observation.base_from_camera)
        start = time.perf_counter()
        image, _ = self.artifact.camera.warp(key.image, key.intrinsics)
        stages = {"warp": (time.perf_counter() - start) * 1e3}
        labelled = {"labels"} if "volume" in outputs and self.artifact.manifest.labels else set()
        wanted = frozenset({"depth"} & outputs | ({"volume"} if outputs & {"volume", "grid"} else set()) | labelled)
        answer = prepared.step(image, wanted)
        stages |= answer.stages_ms
        start = time.perf_counter()
        depth = self._depth(answer.arrays["depth"], prepared.seen) if "depth" in wanted else None
        volume = self._volume(answer.arrays["volume"], prepared) if "volume" in wanted else None
        labels = self._cells(answer.arrays["labels"], prepared) if labelled else None
        grid = occupancy.volume_to_grid(volume, self.spec, self.grid) if volume is not None else None
        stages["assemble"] = (time.perf_counter() - start) * 1e3
        return Prediction(
            stamp_ns=key.stamp_ns,
            image=image,
            intrinsics=self.artifact.camera.intrinsics,
            spec=self.spec,
            base_from_camera=observation.base_from_camera,
            depth_m=depth,
            volume=volume if "volume" in outputs else None,
            labels=labels,
            grid=grid if "grid" in outputs else None,
            label_names=self.artifact.manifest.labels,
            stages_ms=stages,
        )

    def density(
        self, observation: Observation, points_camera: np.ndarray, points_per_call: int | None = None
    ) -> Float32Array:
        """(N,) float32 density at (N, 3) points in camera axes, metres (evaluators; not scaled by metric_scale).

        Outside the frustum the border of the image is continued, as the papers' evaluators do; z must be above 0.
        points_per_call: of families whose points attend to each other, how many at a time do so, in their order; None
        lets all of them. Raises ``ValueError`` unless it is at least 1.
        """
        if points_per_call is not None and points_per_call < 1:
            raise ValueError(f"points_per_call: got {points_per_call}, expected at least 1")
        key = observation.key
        image, _ = self.artifact.camera.warp(key.image, key.intrinsics)
        points = np.asarray(points_camera, dtype=np.float32)
        step = self._runtime.prepare({"density": PointQuery(points, points_per_call)})
        return step(image, frozenset({"density"})).arrays["density"]

    def _prepared_for(self, intrinsics: Intrinsics, base_from_camera: Float64Array) -> Prepared:
        if self._prepared is None or not self._prepared.fits(intrinsics, base_from_camera):
            self.prepare(intrinsics, base_from_camera)
        assert self._prepared is not None
        return self._prepared

    def _geometry(self, base_from_camera: np.ndarray) -> _Geometry:
        """What the mount decides. Kept, because cameras change more often: their images are warped to one."""
        for known in tuple(self._geometries):
            if np.array_equal(known.base_from_camera, base_from_camera):
                return known
        manifest, camera = self.artifact.manifest, self.artifact.camera
        z_range_m = (manifest.z_near, manifest.z_far)
        index, points, pixels = cells.cells_in_camera(
            self.spec, base_from_camera, camera.intrinsics, z_range_m, self.metric_scale
        )
        queries: dict[str, Query] = {"depth": RayQuery(camera.rays(*self.depth_rays)), "volume": PointQuery(points)}
        if manifest.labels:
            queries["labels"] = LabelQuery(points)
        geometry = _Geometry(base_from_camera, self._runtime.prepare(queries), index, pixels)
        self._geometries.append(geometry)
        return geometry

    def _depth(self, rays: Float32Array, seen: np.ndarray) -> Float32Array:
        depth = enlarge_depth(rays, seen.shape[1], seen.shape[0])
        if self.metric_scale != 1.0:
            depth = depth * np.float32(self.metric_scale)
        return np.where(seen, depth, np.float32(np.nan))

    def _volume(self, sigma: Float32Array, prepared: Prepared) -> UInt8Array:
        return self._cells(occupancy.probability_to_byte(occupancy.density_to_probability(sigma)), prepared)

    def _cells(self, values: UInt8Array, prepared: Prepared) -> UInt8Array:
        """(nz, ny, nx) with the values of the decoded cells, ``UNKNOWN`` elsewhere."""
        volume = np.full(self.spec.shape, UNKNOWN, dtype=np.uint8)
        flat = volume.reshape(-1)
        flat[prepared.cells] = values
        flat[prepared.hidden] = UNKNOWN
        return volume


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
