"""Scores of depth from several frames: everywhere, where nothing moves, and on what moves. numpy only.

As published (the evaluator of Li et al., CVPR 2023, after MonoRec's): the whole crop, truth up to 80 m with no nearest
distance, predictions cut at 80 m, no scaling; every number is the mean over the pixels of a frame, then over the frames
that have such pixels. Published are all pixels and the moving ones; the static ones are the rest of the frames that
have a mask. Their evaluator can also score a part of the image, other distances, and predictions scaled by medians.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kyn_models.evaluate import mean_depth
from kyn_models.metrics import BoolArray, DepthScores, depth_scores
from kyn_models.relative_poses import neighbours_from_key
from kyn_models.roi import Roi, check_roi, inside
from kyn_models.runtimes.frame_queries import ANSWERS, FramesInput, FramesRuntime
from kyn_models.types import Float32Array, Observation, Sample

AREAS = ("all", "static", "moving")
FAR_M = 80.0
ROWS = ("fused", "mono", "matched", "fused where matched")
"""Answers that are scored: of all frames, of the key frame alone, of the cost volume alone, which says nothing where no
neighbour sees a pixel, and the first one on the pixels of the third."""
EDGE = 1e-4
"""Frames of one camera may differ by this share of a focal length or, times the width, in their centres."""


@dataclass(frozen=True)
class Scoring:
    """Which pixels are scored and how; the defaults are the published ones.

    far_m: truth beyond it is not scored, predictions are cut there. roi: only this part of the image. median_scaling:
    the inverse depths of an answer times median of the true ones / median of its own, on all known pixels of the frame.
    """

    far_m: float = FAR_M
    roi: Roi | None = None
    median_scaling: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.far_m < np.inf:
            raise ValueError(f"--far: got {self.far_m}, expected metres above 0")
        check_roi(self.roi)


PUBLISHED = Scoring()


class FrameScores(NamedTuple):
    """frame: its name. masked: it has a mask of what moves. neighbours: how many. scores: by (answer, area)."""

    frame: str
    masked: bool
    neighbours: int
    scores: Mapping[tuple[str, str], DepthScores]


class _Of(NamedTuple):
    """A row for ``mean_depth``."""

    scores: DepthScores


def frames_input(observation: Observation) -> FramesInput:
    """An observation in the network's image size as runtimes take it; relative poses from float64.

    Raises ``ValueError`` as ``neighbours_from_key``, and for frames of another size than the key frame or of another
    camera.
    """
    key, *neighbours = observation.frames
    for frame in observation.frames:
        away = np.abs(frame.intrinsics.matrix - key.intrinsics.matrix).max()
        if frame.image.shape != key.image.shape or away > EDGE * key.intrinsics.fx:
            raise ValueError(
                f"frame at {frame.stamp_ns} ns: got {frame.intrinsics}, expected {key.intrinsics} as the key frame has"
            )
    images = np.stack([frame.image for frame in neighbours]) if neighbours else np.empty((0, *key.image.shape), "u1")
    poses = neighbours_from_key(observation.frames)
    return FramesInput(key.image, images, key.intrinsics.matrix.astype(np.float32), poses.astype(np.float32))


def answers(runtime: FramesRuntime, observation: Observation) -> dict[str, Float32Array]:
    """Depth in metres by the names of ``ROWS``, as far as the runtime says it and there are neighbours."""
    answer = runtime.depth(frames_input(observation), ANSWERS)
    found = {"fused": answer.fused_m, "mono": answer.mono_m, "matched": answer.matched_m}
    return {name: depth for name, depth in found.items() if depth is not None}


def score_frames(depths: Mapping[str, Float32Array], sample: Sample, scoring: Scoring = PUBLISHED) -> FrameScores:
    """Scores of the depth images of ``answers`` for a sample with ``depth_m``. Raises ``ValueError`` without, or for a
    part of the image that reaches beyond it."""
    if sample.depth_m is None:
        raise ValueError(f"{sample.name}: got no depth_m, expected a sample with depth truth")
    scores = {}
    part = inside(scoring.roi, sample.depth_m.shape)
    if scoring.median_scaling:
        depths = {answer: median_scaled(depth, sample.depth_m) for answer, depth in depths.items()}
    for answer, depth in with_matched_pixels(depths).items():
        # The cost volume alone is not asked where it says nothing; an answer of a network always counts.
        said = part & ~np.isnan(depth) if "matched" in answer else part
        for area, where in areas(sample.moving, depth.shape).items():
            truth = np.where(where & said, sample.depth_m, np.float32(np.nan))
            scores[answer, area] = depth_scores(depth, truth, near_m=0.0, far_m=scoring.far_m)
    neighbours = len(sample.observation.frames) - 1
    return FrameScores(sample.name, sample.moving is not None, neighbours, scores)


def median_scaled(depth: Float32Array, truth: Float32Array) -> Float32Array:
    """Depth whose inverse has the median of the true one on the pixels that both know; (H, W) metres each.

    Of an even number of pixels the lower of the two in the middle is the median, as published.
    """
    known = np.isfinite(truth) & (truth > 0) & np.isfinite(depth)
    if not known.any():
        return depth
    true, own = (np.sort(1 / values[known].astype(np.float64)) for values in (truth, depth))
    middle = (len(true) - 1) // 2
    return (depth * (own[middle] / true[middle])).astype(np.float32)


def with_matched_pixels(depths: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
    """The answers, and the fused one on the pixels where the cost volume says something."""
    found = dict(depths)
    if "fused" in found and "matched" in found:
        found[ROWS[3]] = np.where(np.isnan(found["matched"]), np.float32(np.nan), found["fused"])
    return found


def areas(moving: BoolArray | None, shape: tuple[int, ...]) -> dict[str, BoolArray]:
    """Where each of ``AREAS`` is; without a mask only "all" is known."""
    everywhere, nowhere = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    if moving is None:
        return {"all": everywhere, "static": nowhere, "moving": nowhere}
    return {"all": everywhere, "static": ~moving, "moving": moving}


def mean_scores(rows: Sequence[FrameScores]) -> dict[tuple[str, str], tuple[DepthScores, int]]:
    """Means by (answer, area) in the order of ``ROWS`` and ``AREAS``, and how many frames each rests on."""
    found = {}
    for name in ((answer, area) for answer in ROWS for area in AREAS):
        of_name = [_Of(row.scores[name]) for row in rows if name in row.scores]
        if of_name:
            mean, nothing = mean_depth(of_name)
            found[name] = mean, len(of_name) - nothing
    return found
