"""Evaluation of depth against lidar, and what any evaluation asks of a model. numpy only.

A model here is anything that answers for a sample: a ``Predictor`` (through ``PredictorAnswers``), a baseline, a test's
function. Scores are computed per frame and averaged over frames; a frame without an answer or truth is NaN and counted.

Depth: one scan (or annotated depth), nearest return per pixel of the full image, the prediction sampled there, 3 to
80 m, Inf and NaN scored as 80 m and counted, no crop, no scaling. Of other data sets, whose camera is warped to the
model's, the pixels that lie outside the model's image are left out and counted; of KITTI-360 there are none.
Occupancy: ``kyn_models.evaluate_occupancy``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.neighbours import kitti360_sample
from kyn_models.metrics import DepthScores, depth_scores
from kyn_models.models import published_points_per_call
from kyn_models.predictor import Predictor
from kyn_models.types import Float32Array, Intrinsics, Sample

Progress = Callable[[int, int, str], None]
"""Called with (frames done, frames in all, name of the frame)."""


class DensityModel(Protocol):
    """Answers about occupancy."""

    def density(self, sample: Sample, points_camera: Float32Array) -> Float32Array:
        """(N,) density at (N, 3) points in the key frame's camera axes."""


class DepthModel(Protocol):
    """Answers about depth."""

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        """(h, w) metres along the optical axis (NaN, Inf allowed) and the camera of that image (same optical frame)."""


class PredictorAnswers:
    """The answers of a ``Predictor`` whose model says density, as an evaluator asks for them."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._points_per_call = published_points_per_call(predictor.artifact.manifest.family)

    @property
    def frames_wanted(self) -> int:
        return self._predictor.frames_wanted

    @property
    def reach(self) -> tuple[float, float]:
        """Trained (near, far) along the optical axis, metres."""
        manifest = self._predictor.artifact.manifest
        return manifest.z_near, manifest.z_far

    def density(self, sample: Sample, points_camera: Float32Array) -> Float32Array:
        return self._predictor.density(sample.observation, points_camera, self._points_per_call)

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        prediction = self._predictor.predict(sample.observation, frozenset({"depth"}))
        assert prediction.depth_m is not None
        return prediction.depth_m, prediction.intrinsics


class DepthAnswers:
    """The answers of one whose model says depth. Occupancy is the baseline "Depth" of Behind the Scenes' table:
    everything in front of the depth is free, everything behind it occupied, however far."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._last: tuple[Sample, Float32Array] | None = None

    @property
    def frames_wanted(self) -> int:
        return self._predictor.frames_wanted

    def density(self, sample: Sample, points_camera: Float32Array) -> Float32Array:
        """0 in front of the depth, infinite behind it and where it is invalid; beside the image its border goes on."""
        depth, k = self.depth(sample)
        x, y, z = np.asarray(points_camera, dtype=np.float64).T
        columns = np.rint(x / z * k.fx + k.cx).clip(0, k.width - 1).astype(np.int64)
        rows = np.rint(y / z * k.fy + k.cy).clip(0, k.height - 1).astype(np.int64)
        return np.where(z < depth[rows, columns], np.float32(0), np.float32(np.inf))

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        """The depth of a sample; an evaluation asks about the points of one several times."""
        camera = self._predictor.artifact.camera.intrinsics
        if self._last is None or self._last[0] is not sample:
            depth = self._predictor.predict(sample.observation, frozenset({"depth"})).depth_m
            assert depth is not None
            self._last = (sample, depth)
        return self._last[1], camera


class DepthRow(NamedTuple):
    """Scores of one frame. outside: truth pixels left out because the answer's image does not show them.

    others: scores of further answers on the same pixels. alone: the model was given the key frame without neighbours.
    """

    frame: str
    scores: DepthScores
    outside: int
    others: tuple[DepthScores, ...]
    alone: bool = True


def kitti360_depth_sample(drive: Kitti360, frame: int, frames_wanted: int = 1) -> Sample:
    """A sample with ``depth_m`` from the frame's one scan; a frame without a scan is an error by name.

    frames_wanted: of a model; its neighbours in time come along as far as there are some.
    """
    return replace(kitti360_sample(drive, frame, frames_wanted), depth_m=drive.lidar_depth(frame))


def sample_depth(depth_m: np.ndarray, camera: Intrinsics, wanted: Intrinsics) -> tuple[Float32Array, np.ndarray]:
    """``depth_m`` of ``camera`` at the pixel centres of ``wanted`` (same optical frame), and where it has pixels.

    Returns (wanted.height, wanted.width) float32 and bool; outside the image NaN and False. Nearest pixel, so Inf and
    NaN never mix into others.
    """
    columns = np.rint((np.arange(wanted.width) - wanted.cx) * (camera.fx / wanted.fx) + camera.cx).astype(np.int64)
    rows = np.rint((np.arange(wanted.height) - wanted.cy) * (camera.fy / wanted.fy) + camera.cy).astype(np.int64)
    columns[(columns < 0) | (columns >= camera.width)] = -1
    rows[(rows < 0) | (rows >= camera.height)] = -1
    inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
    sampled = np.full(inside.shape, np.nan, dtype=np.float32)
    sampled[inside] = depth_m[np.ix_(rows[rows >= 0], columns[columns >= 0])].ravel()
    return sampled, inside


def score_depth(
    model: DepthModel, sample: Sample, shown: Sample | None = None, others: Iterable[DepthModel] = ()
) -> DepthRow:
    """Scores of a sample with ``depth_m``.

    shown: the sample whose image the model gets instead. others: further answers, scored on the pixels of the model:
    where its image shows less than the data set's, the two would else be scored on other scenes. Raises ``ValueError``
    for a sample without ``depth_m``.
    """
    if sample.depth_m is None:
        raise ValueError(f"{sample.name}: got no depth_m, expected a sample with depth truth")
    wanted = sample.observation.key.intrinsics
    asked = shown or sample
    at_truth, inside = sample_depth(*model.depth(asked), wanted)
    truth = np.where(inside, sample.depth_m, np.float32(np.nan))
    outside = int(np.count_nonzero(~np.isnan(sample.depth_m)) - np.count_nonzero(~np.isnan(truth)))
    further = tuple(depth_scores(sample_depth(*other.depth(sample), wanted)[0], truth) for other in others)
    alone = len(asked.observation.frames) == 1
    return DepthRow(sample.name, depth_scores(at_truth, truth), outside, further, alone)


class ScoredFrame(Protocol):
    """A row that has depth scores."""

    @property
    def scores(self) -> DepthScores: ...


def mean_depth(rows: Sequence[ScoredFrame]) -> tuple[DepthScores, int]:
    """Means of the seven numbers over the frames that have truth (``pixels`` and ``capped`` are sums), and how many
    frames have none."""
    scores = [row.scores for row in rows]
    nothing = sum(score.pixels == 0 for score in scores)
    pixels, capped = sum(score.pixels for score in scores), sum(score.capped for score in scores)
    return DepthScores._make([*means([score[:7] for score in scores]), pixels, capped]), nothing


def means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Mean of each column over the rows that have it; NaN where none has."""
    values = np.array(rows, dtype=np.float64)
    return [
        float(column[~np.isnan(column)].mean()) if (~np.isnan(column)).any() else float("nan") for column in values.T
    ]
