"""Observation in, prediction out: the one path that robot, demo, evaluation and benchmark share. numpy and OpenCV.

The predictor owns what no runtime and no family needs to know: the warp to the canonical camera, what was built for
which camera, mount and grid, and the check of what is asked. Its answers never depend on which other outputs are asked
for. What a family makes of its numbers: ``kyn_models.field_model`` and ``kyn_models.frames_model``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kyn_models import cells, occupancy
from kyn_models.artifact import Artifact
from kyn_models.occupancy import GridOptions
from kyn_models.runtimes.queries import Precision
from kyn_models.types import (
    Float32Array,
    Float64Array,
    Intrinsics,
    Observation,
    PosedFrame,
    Prediction,
    UInt8Array,
    VoxelGridSpec,
)

OUTPUTS = frozenset({"depth", "volume", "grid"})
KEPT_MOUNTS = 2
PREDICTED_FAMILIES = ("bts", "kyn")
"""Those that say density."""


def check_family(artifact: Artifact) -> None:
    """Raises ``ValueError`` for a model of which the runtimes of density know nothing."""
    if artifact.manifest.family not in PREDICTED_FAMILIES:
        raise ValueError(
            f"{artifact.path}: got a model of family {artifact.manifest.family!r}, "
            f"expected one of {', '.join(PREDICTED_FAMILIES)}"
        )


@dataclass(frozen=True)
class PredictorOptions:
    """How a model is loaded and what its numbers become.

    runtime: a name of ``kyn_models.runtimes.NAMES``. precision: of its convolutions, one of
    ``kyn_models.runtimes.queries.PRECISIONS``. spec, grid: the voxel grid in ``base_link`` and the rule for the 2-D
    grid. depth_rays: (rows, columns) of rendered rays, for families that render depth; the others have one for each
    pixel. metric_scale: multiplies all distances.
    Raises ``ValueError`` for what is out of range.
    """

    runtime: str = "auto"
    spec: VoxelGridSpec = VoxelGridSpec()
    grid: GridOptions = GridOptions()
    depth_rays: tuple[int, int] = (96, 320)
    metric_scale: float = 1.0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not np.isfinite(self.metric_scale) or self.metric_scale <= 0:
            raise ValueError(f"metric_scale: got {self.metric_scale}, expected a number above 0")
        if len(self.depth_rays) != 2 or min(self.depth_rays) < 1:
            raise ValueError(f"depth_rays: got {self.depth_rays}, expected [rows, columns], both above 0")
        occupancy.require_band(self.spec, self.grid)


class Answer(NamedTuple):
    """What a model says about a key frame; fields as ``Prediction``'s, None where they were not asked for."""

    depth_m: Float32Array | None
    volume: UInt8Array | None
    grid: NDArray[np.int8] | None
    stages_ms: Mapping[str, float]
    labels: UInt8Array | None = None
    frames_used: int = 1


class PlacedModel(Protocol):
    """A model on one mount with one grid: constants that take a while to build."""

    def seeing(self, seen: np.ndarray) -> PlacedModel:
        """The same where the camera shows only a part of the canonical image. seen: (height, width) bool of it."""

    def answer(self, frames: Sequence[PosedFrame], images: Sequence[UInt8Array], outputs: frozenset[str]) -> Answer:
        """What the model says about the first frame. images: (height, width, 3) each, in the canonical camera."""


class RuntimeNames(Protocol):
    """What a loaded runtime says of itself. library: product and version."""

    name: str
    precision: str
    library: str


class Model(Protocol):
    """A loaded model of any family. frames_wanted: the key frame and as many neighbours as it can use."""

    @property
    def frames_wanted(self) -> int: ...

    @property
    def runtime(self) -> RuntimeNames: ...

    def place(self, spec: VoxelGridSpec, grid: GridOptions, base_from_camera: Float64Array) -> PlacedModel:
        """Build what mount and grid decide, for a camera that shows all of the canonical image; from any thread."""

    def density(self, image: UInt8Array, points: Float32Array, points_per_call: int | None) -> Float32Array:
        """As ``Predictor.density``, of a canonical image."""


@dataclass(frozen=True)
class Prepared:
    """Everything that is constant while camera, mount and grid stay. Only the predictor that built it can use it."""

    intrinsics: Intrinsics
    base_from_camera: Float64Array
    placed: PlacedModel

    def fits(self, intrinsics: Intrinsics, base_from_camera: np.ndarray) -> bool:
        """True if it was built for this camera and mount."""
        return self.intrinsics == intrinsics and np.array_equal(self.base_from_camera, base_from_camera)


class Predictor:
    """A model ready to be asked; ``kyn_models.predictors.make_predictor`` makes it of an artifact.

    passed_over: a sentence for each runtime that ``auto`` could not use although its library and device are there.
    Raises ``ValueError`` for a grid that does not fit into the memory.
    """

    def __init__(
        self, artifact: Artifact, model: Model, options: PredictorOptions, passed_over: tuple[str, ...] = ()
    ) -> None:
        cells.require_memory(options.spec)
        self.artifact = artifact
        self.options = options
        self.passed_over = passed_over
        self._model = model
        self._prepared: Prepared | None = None
        self._placed: deque[tuple[Float64Array, PlacedModel]] = deque(maxlen=KEPT_MOUNTS)

    def with_grid(self, spec: VoxelGridSpec, grid: GridOptions) -> Predictor:
        """The same loaded model with another grid. Raises ``ValueError`` for one that cannot be."""
        return Predictor(self.artifact, self._model, replace(self.options, spec=spec, grid=grid), self.passed_over)

    @property
    def frames_wanted(self) -> int:
        """Frames of an observation that count: 1, or the key frame and as many neighbours as the model can use."""
        return self._model.frames_wanted

    @property
    def runtime_name(self) -> str:
        return self._model.runtime.name

    @property
    def precision(self) -> str:
        return self._model.runtime.precision

    @property
    def library(self) -> str:
        """Product and version of the runtime's library."""
        return self._model.runtime.library

    def build(
        self, intrinsics: Intrinsics, base_from_camera: np.ndarray, hood_mask: np.ndarray | None = None
    ) -> Prepared:
        """What ``predict`` needs for one camera and mount, without making it the current one; from any thread.

        intrinsics: of the key frame's rectified source image. hood_mask: (H, W) of that image or None, non-zero where
        the vehicle itself is seen; what only such pixels see is unknown.
        Raises ``ValueError`` if the hood mask has another size.
        """
        seen = self.artifact.camera.seen_beside(intrinsics, hood_mask)
        return Prepared(intrinsics, base_from_camera, self._place(base_from_camera).seeing(seen))

    def predict(
        self, observation: Observation, outputs: Iterable[str] = OUTPUTS, prepared: Prepared | None = None
    ) -> Prediction:
        """What the model says about the key frame; only the named outputs (``depth``, ``volume``, ``grid``).

        observation: the key frame, then its neighbours, of which the first ``frames_wanted - 1`` are used, each in its
        own camera. prepared: what ``build`` gave for the key frame's camera and mount; without it the predictor keeps
        its own. Raises ``ValueError`` for an unknown output, or neighbours without poses.
        """
        outputs = frozenset(outputs)
        if outputs - OUTPUTS:
            raise ValueError(f"outputs: got {sorted(outputs - OUTPUTS)}, expected some of {sorted(OUTPUTS)}")
        key, frames = observation.key, observation.frames[: self.frames_wanted]
        if prepared is None:
            prepared = self._prepared_for(key.intrinsics, observation.base_from_camera)
        start = time.perf_counter()
        images = [self._canonical(frame) for frame in frames]
        warp_ms = (time.perf_counter() - start) * 1e3
        answer = prepared.placed.answer(frames, images, outputs)
        return Prediction(
            stamp_ns=key.stamp_ns,
            image=images[0],
            intrinsics=self.artifact.camera.intrinsics,
            spec=self.options.spec,
            base_from_camera=observation.base_from_camera,
            depth_m=answer.depth_m,
            volume=answer.volume,
            labels=answer.labels,
            grid=answer.grid,
            label_names=self.artifact.manifest.labels,
            stages_ms={"warp": warp_ms, **answer.stages_ms},
            frames_used=answer.frames_used,
        )

    def density(
        self, observation: Observation, points_camera: np.ndarray, points_per_call: int | None = None
    ) -> Float32Array:
        """(N,) float32 density at (N, 3) points in camera axes, metres (evaluators; not scaled by metric_scale).

        Outside the frustum the border of the image is continued, as the papers' evaluators do; z must be above 0.
        points_per_call: of families whose points attend to each other, how many at a time do so, in their order; None
        lets all of them. Raises ``ValueError`` unless it is at least 1, or for a model that says no density.
        """
        if points_per_call is not None and points_per_call < 1:
            raise ValueError(f"points_per_call: got {points_per_call}, expected at least 1")
        points = np.asarray(points_camera, dtype=np.float32)
        return self._model.density(self._canonical(observation.key), points, points_per_call)

    def _canonical(self, frame: PosedFrame) -> UInt8Array:
        return self.artifact.camera.warp(frame.image, frame.intrinsics)[0]

    def _prepared_for(self, intrinsics: Intrinsics, base_from_camera: Float64Array) -> Prepared:
        prepared = self._prepared
        if prepared is None or not prepared.fits(intrinsics, base_from_camera):
            prepared = self._prepared = self.build(intrinsics, base_from_camera)
        return prepared

    def _place(self, base_from_camera: np.ndarray) -> PlacedModel:
        """What the mount decides. Kept, because cameras change more often: their images are warped to one."""
        for known, placed in tuple(self._placed):
            if np.array_equal(known, base_from_camera):
                return placed
        placed = self._model.place(self.options.spec, self.options.grid, base_from_camera)
        self._placed.append((np.array(base_from_camera), placed))
        return placed
