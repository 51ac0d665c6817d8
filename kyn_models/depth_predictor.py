"""Depth from posed frames, and occupancy from that depth: the path of ``dymultidepth``. numpy and OpenCV.

What ``Predictor`` is for families of one image, with the same surface: the warp of all frames to the canonical camera,
their relative poses, and the meaning of the numbers.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kyn_models import cells, occupancy, runtimes
from kyn_models.artifact import Artifact
from kyn_models.depth_occupancy import DepthCells, depth_to_occupancy
from kyn_models.models import FRAME_FAMILIES
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import KEPT_MOUNTS, OUTPUTS
from kyn_models.relative_poses import neighbours_from_key
from kyn_models.runtimes.frame_queries import FramesAnswer, FramesInput, camera_matrix
from kyn_models.runtimes.frames import choose_frames
from kyn_models.runtimes.queries import LoadOptions, Precision
from kyn_models.types import (
    Float32Array,
    Float64Array,
    Intrinsics,
    Observation,
    PosedFrame,
    Prediction,
    VoxelGridSpec,
)

log = logging.getLogger(__name__)

MOST_NEIGHBOURS = 2
"""The frame before and the one after, as published."""
SKY_BEYOND_M = 80.0
"""Depths beyond this, in the model's metres, become +Inf: no truth that it was trained with lies there, and the sky,
of which it was told nothing, gets any large number up to the end of its range."""


@dataclass(frozen=True)
class PreparedDepth:
    """Everything that is constant while camera, mount and grid stay. Only the predictor that built it can use it.

    seen: (height, width) bool of the canonical image: inside the source image and not the vehicle itself.
    """

    intrinsics: Intrinsics
    base_from_camera: Float64Array
    view: DepthCells
    seen: np.ndarray

    def fits(self, intrinsics: Intrinsics, base_from_camera: np.ndarray) -> bool:
        """True if it was built for this camera and mount."""
        return self.intrinsics == intrinsics and np.array_equal(self.base_from_camera, base_from_camera)


class DepthPredictor:
    """A model of depth from posed frames, ready to be asked.

    Arguments and properties as ``Predictor``'s. Its volume is made of its depth: ``kyn_models.depth_occupancy``.

    metric_scale: metres per metre of the model, of depth and occupancy alike. The baseline between posed frames is
    metric: it is divided by it, so that the model sees a world of one size in one image and between the images. What is
    matched between frames therefore stays where the poses say; what one image says is multiplied.
    Raises ``ValueError`` for options out of range or a family this class does not run, ``RuntimeFailed``.
    """

    frames_wanted = 1 + MOST_NEIGHBOURS

    def __init__(
        self,
        artifact: Artifact,
        runtime: str = "auto",
        spec: VoxelGridSpec | None = None,
        grid: GridOptions | None = None,
        metric_scale: float = 1.0,
        hood_mask: np.ndarray | None = None,
        warn: runtimes.Warn = log.warning,
        precision: Precision = "auto",
        say: Callable[[str], None] = log.info,
    ) -> None:
        if artifact.manifest.family not in FRAME_FAMILIES:
            raise ValueError(
                f"{artifact.path}: got a model of family {artifact.manifest.family!r}, "
                f"expected {' or '.join(sorted(FRAME_FAMILIES))}"
            )
        if not np.isfinite(metric_scale) or metric_scale <= 0:
            raise ValueError(f"metric_scale: got {metric_scale}, expected a number above 0")
        self.artifact = artifact
        self.metric_scale = float(metric_scale)
        self.hood_mask = hood_mask
        self._set_grid(spec or VoxelGridSpec(), grid or GridOptions())
        self.passed_over: tuple[str, ...] = ()

        def pass_over(sentence: str) -> None:
            self.passed_over += (sentence,)
            warn(sentence)

        options = LoadOptions(precision=precision, say=say)
        self._runtime = choose_frames(runtime, artifact, pass_over, options)

    def with_grid(self, spec: VoxelGridSpec, grid: GridOptions) -> DepthPredictor:
        """The same loaded model with another grid. Raises ``ValueError`` for one that cannot be."""
        other = copy.copy(self)
        other._set_grid(spec, grid)
        return other

    def _set_grid(self, spec: VoxelGridSpec, grid: GridOptions) -> None:
        cells.require_memory(spec)
        occupancy.require_band(spec, grid)
        self.spec, self.grid = spec, grid
        self._prepared: PreparedDepth | None = None
        self._views: deque[tuple[Float64Array, DepthCells]] = deque(maxlen=KEPT_MOUNTS)

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
    ) -> PreparedDepth:
        """What ``predict`` needs for one camera and mount, without making it the current one; from any thread.

        intrinsics: of the key frame's rectified source image; hood_mask: (H, W) of that image or None.
        Raises ``ValueError`` if the hood mask has another size.
        """
        seen = self.artifact.camera.seen_beside(intrinsics, hood_mask)
        return PreparedDepth(intrinsics, base_from_camera, self._view(base_from_camera), seen)

    def predict(
        self, observation: Observation, outputs: Iterable[str] = OUTPUTS, prepared: PreparedDepth | None = None
    ) -> Prediction:
        """What the model says about the key frame; only the named outputs (``depth``, ``volume``, ``grid``).

        observation: the key frame, then its neighbours; the first two are used, each in its own camera. Without any the
        model's mono branch answers (``Prediction.frames_used`` is 1). Neighbours a caller gives are believed: with no
        baseline between them and the key frame nothing can be matched, so leave those out.
        prepared: what ``build`` gave for the key frame's camera and mount; without it the predictor keeps its own.
        Raises ``ValueError`` for an unknown output, or neighbours without poses.
        """
        outputs = frozenset(outputs)
        if outputs - OUTPUTS:
            raise ValueError(f"outputs: got {sorted(outputs - OUTPUTS)}, expected some of {sorted(OUTPUTS)}")
        key = observation.key
        if prepared is None:
            prepared = self._prepared_for(key.intrinsics, observation.base_from_camera)
        start = time.perf_counter()
        asked = self._input(observation.frames[: self.frames_wanted])
        stages = {"warp": (time.perf_counter() - start) * 1e3}
        wanted = "fused" if len(asked.neighbours) else "mono"
        answer = self._runtime.depth(asked, frozenset({wanted}))
        stages |= answer.stages_ms
        start = time.perf_counter()
        depth = self._depth(answer, wanted, prepared.seen)
        known = depth_to_occupancy(depth, prepared.view, self.grid) if outputs & {"volume", "grid"} else None
        stages["assemble"] = (time.perf_counter() - start) * 1e3
        return Prediction(
            stamp_ns=key.stamp_ns,
            image=asked.image,
            intrinsics=self.artifact.camera.intrinsics,
            spec=self.spec,
            base_from_camera=observation.base_from_camera,
            depth_m=depth if "depth" in outputs else None,
            volume=known.volume if known and "volume" in outputs else None,
            grid=known.grid if known and "grid" in outputs else None,
            stages_ms=stages,
            frames_used=1 + len(asked.neighbours),
        )

    def _prepared_for(self, intrinsics: Intrinsics, base_from_camera: Float64Array) -> PreparedDepth:
        if self._prepared is None or not self._prepared.fits(intrinsics, base_from_camera):
            self.prepare(intrinsics, base_from_camera)
        assert self._prepared is not None
        return self._prepared

    def _view(self, base_from_camera: np.ndarray) -> DepthCells:
        """What the mount decides. Kept, because cameras change more often: their images are warped to one."""
        for known, view in tuple(self._views):
            if np.array_equal(known, base_from_camera):
                return view
        manifest = self.artifact.manifest
        z_range_m = (manifest.z_near * self.metric_scale, manifest.z_far * self.metric_scale)
        view = DepthCells.of(self.spec, base_from_camera, self.artifact.camera.intrinsics, z_range_m)
        self._views.append((np.array(base_from_camera), view))
        return view

    def _input(self, frames: tuple[PosedFrame, ...]) -> FramesInput:
        """The frames in the canonical camera, with their poses in the model's metres."""
        camera = self.artifact.camera
        images = np.stack([camera.warp(frame.image, frame.intrinsics)[0] for frame in frames])
        poses = neighbours_from_key(frames)
        poses[:, :3, 3] /= self.metric_scale
        return FramesInput(images[0], images[1:], camera_matrix(camera), poses.astype(np.float32))

    def _depth(self, answer: FramesAnswer, wanted: str, seen: np.ndarray) -> Float32Array:
        depth = answer.fused_m if wanted == "fused" else answer.mono_m
        assert depth is not None
        depth = np.where(depth > SKY_BEYOND_M, np.float32(np.inf), depth * np.float32(self.metric_scale))
        return np.where(seen, depth, np.float32(np.nan))
