"""Depth from posed frames, and occupancy from that depth: the family ``dymultidepth``. numpy and OpenCV.

Its metric scale: metres per metre of the model, of depth and occupancy alike. The baseline between posed frames is
metric: it is divided by it, so that the model sees a world of one size in one image and between the images. What is
matched between frames therefore stays where the poses say; what one image says is multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kyn_models import runtimes
from kyn_models.artifact import BRANCHES, Artifact
from kyn_models.depth_occupancy import DepthCells, depth_to_occupancy
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import PREDICTED_FAMILIES, Answer, PredictorOptions
from kyn_models.relative_poses import neighbours_from_key
from kyn_models.runtimes.frame_queries import FramesAnswer, FramesInput, FramesRuntime, camera_matrix
from kyn_models.runtimes.frames import choose_frames
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.types import Float32Array, Float64Array, PosedFrame, UInt8Array, VoxelGridSpec

MOST_NEIGHBOURS = 2
"""The frame before and the one after, as published."""
SKY_BEYOND_M = 80.0
"""Depths beyond this, in the model's metres, become +Inf: no truth that it was trained with lies there, and the sky,
of which it was told nothing, gets any large number up to the end of its range."""


@dataclass(frozen=True)
class PlacedFrames:
    """A model of depth from posed frames on one mount with one grid.

    k: (3, 3) of the canonical camera as the runtime wants it. view: the cells as that camera sees them. seen: (height,
    width) bool of its image: inside the source image and not the vehicle itself.
    """

    runtime: FramesRuntime
    metric_scale: float
    grid: GridOptions
    k: Float32Array
    view: DepthCells
    seen: np.ndarray

    def seeing(self, seen: np.ndarray) -> PlacedFrames:
        return replace(self, seen=seen)

    def answer(self, frames: Sequence[PosedFrame], images: Sequence[UInt8Array], outputs: frozenset[str]) -> Answer:
        """Without neighbours the mono branch answers, and ``frames_used`` is 1. Neighbours that are given are believed:
        with no baseline between them and the key frame nothing can be matched, so leave those out."""
        asked = self._input(frames, images)
        wanted = "fused" if len(asked.neighbours) else "mono"
        answer = self.runtime.depth(asked, frozenset({wanted}))
        start = time.perf_counter()
        depth = self._depth(answer, wanted)
        known = depth_to_occupancy(depth, self.view, self.grid) if outputs & {"volume", "grid"} else None
        return Answer(
            depth_m=depth if "depth" in outputs else None,
            volume=known.volume if known and "volume" in outputs else None,
            grid=known.grid if known and "grid" in outputs else None,
            stages_ms={**answer.stages_ms, "assemble": (time.perf_counter() - start) * 1e3},
            frames_used=1 + len(asked.neighbours),
        )

    def _input(self, frames: Sequence[PosedFrame], images: Sequence[UInt8Array]) -> FramesInput:
        """The frames in the canonical camera, with their poses in the model's metres."""
        stack, poses = np.stack(images), neighbours_from_key(frames)
        poses[:, :3, 3] /= self.metric_scale
        return FramesInput(stack[0], stack[1:], self.k, poses.astype(np.float32))

    def _depth(self, answer: FramesAnswer, wanted: str) -> Float32Array:
        depth = answer.fused_m if wanted == "fused" else answer.mono_m
        assert depth is not None
        depth = np.where(depth > SKY_BEYOND_M, np.float32(np.inf), depth * np.float32(self.metric_scale))
        return np.where(self.seen, depth, np.float32(np.nan))


class FramesModel:
    """A loaded model of depth from posed frames. Its volume is made of its depth: ``kyn_models.depth_occupancy``.

    frames_wanted: 1 where the fused branch was never taught: one image is then all that it knows what to do with.
    warn: receives a sentence for each runtime that was passed over; say: progress.
    Raises ``RuntimeFailed``, ``ValueError`` for an unknown runtime or precision.
    """

    def __init__(
        self, artifact: Artifact, options: PredictorOptions, warn: runtimes.Warn, say: Callable[[str], None]
    ) -> None:
        self._artifact, self._metric_scale = artifact, float(options.metric_scale)
        fuses = "fused" in (artifact.manifest.branches or BRANCHES)
        self.frames_wanted = 1 + MOST_NEIGHBOURS * fuses
        loading = LoadOptions(precision=options.precision, say=say)
        self.runtime: FramesRuntime = choose_frames(options.runtime, artifact, warn, loading)

    def place(self, spec: VoxelGridSpec, grid: GridOptions, base_from_camera: Float64Array) -> PlacedFrames:
        """The model as a camera on this mount has it; as ``predictor.Model`` says."""
        manifest, camera = self._artifact.manifest, self._artifact.camera
        z_range_m = (manifest.z_near * self._metric_scale, manifest.z_far * self._metric_scale)
        view = DepthCells.of(spec, base_from_camera, camera.intrinsics, z_range_m)
        all_of_it = np.ones((camera.height, camera.width), dtype=bool)
        return PlacedFrames(self.runtime, self._metric_scale, grid, camera_matrix(camera), view, all_of_it)

    def density(self, image: UInt8Array, points: Float32Array, points_per_call: int | None) -> Float32Array:
        """There is none: raises ``ValueError``."""
        raise ValueError(no_density(self._artifact, "density"))


def no_density(artifact: Artifact, what: str) -> str:
    """A sentence about such a model where density is needed. what: needs it, as a command is called."""
    return (
        f"{what}: got {artifact.name}, which says the depth of what is seen and no density behind it, "
        f"expected a model of family {' or '.join(PREDICTED_FAMILIES)}"
    )
