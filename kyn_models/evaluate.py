"""Evaluation by the published protocols: occupancy on one lidar slice, depth against lidar. numpy only.

A model here is anything that answers for a sample: a ``Predictor`` (through ``PredictorAnswers``), a baseline, a test's
function. Scores are computed per frame and averaged over frames; a frame without an answer or truth is NaN and counted.

Occupancy (Know Your Neighbors, CVPR 2024): ``kyn_models.data.lidar_occupancy`` with the evaluator's 5 degree tilt, the
model's density above 0.5 is occupied; once over the whole slice and once after the far cut. Depth: one scan (or
annotated depth), nearest return per pixel of the full image, the prediction sampled there, 3 to 80 m, Inf and NaN
scored as 80 m and counted, no crop, no scaling. Of other data sets, whose camera is warped to the model's, the pixels
that lie outside the model's image are left out and counted; of KITTI-360 there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.lidar_occupancy import (
    TILT,
    EmptySliceError,
    OccupancyTruth,
    grid_shape,
    occupancy_truth,
    protocol_grid,
)
from kyn_models.metrics import DepthScores, OccupancyScores, depth_scores, far_cut_scores, occupancy_scores
from kyn_models.predictor import Predictor
from kyn_models.types import Float32Array, Intrinsics, Sample

OCCUPIED_ABOVE = 0.5
"""Published density threshold."""
DEFAULT_SCANS = 12

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
    """The answers of a ``Predictor``, as an evaluator asks for them."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def density(self, sample: Sample, points_camera: Float32Array) -> Float32Array:
        return self._predictor.density(sample.observation, points_camera)

    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        prediction = self._predictor.predict(sample.observation, frozenset({"depth"}))
        assert prediction.depth_m is not None
        return prediction.depth_m, prediction.intrinsics


class OccupancyRow(NamedTuple):
    """Scores of one answer about one frame."""

    frame: str
    answer: str
    scene: OccupancyScores
    far_cut: OccupancyScores


class DepthRow(NamedTuple):
    """Scores of one frame. outside: truth pixels left out because the answer's image does not show them.

    camera: of the answer's image.
    """

    frame: str
    scores: DepthScores
    outside: int
    camera: Intrinsics


def camera_grid() -> Float32Array:
    """(36800, 3) float32 points of the published slice in the key frame's camera axes (the grid, tilted back)."""
    return (protocol_grid().astype(np.float64) @ TILT[:3, :3]).astype(np.float32)


def frames_for_occupancy(drive: Kitti360, scans: int) -> tuple[int, ...]:
    """The drive's frames that have a scan and are followed by at least ``scans`` posed frames with scans."""
    place = {frame: index for index, frame in enumerate(drive.posed_frames)}
    chosen = []
    for frame in drive.frames:
        window = drive.posed_frames[place[frame] : place[frame] + scans + 1]
        if len(window) == scans + 1 and all(drive.has_scan(later) for later in window):
            chosen.append(frame)
    return tuple(chosen)


class TruthOfDrive:
    """Occupancy truth of a drive's frames; neighbouring frames share the scans that are held in memory."""

    def __init__(self, drive: Kitti360, scans: int = DEFAULT_SCANS) -> None:
        if scans < 1:
            raise ValueError(f"scans: got {scans}, expected at least 1")
        self._drive = drive
        self._scans = scans
        self._place = {frame: index for index, frame in enumerate(drive.posed_frames)}
        self._held: dict[int, Float32Array] = {}

    def __call__(self, frame: int) -> OccupancyTruth:
        """Truth from the frame's scan and those of the following posed frames, fewer at the end of the drive."""
        drive = self._drive
        start = self._place[frame]
        window = drive.posed_frames[start : start + self._scans]
        self._held = {kept: self._held[kept] if kept in self._held else drive.scan(kept) for kept in window}
        world_from_camera = drive.world_from_base(frame) @ drive.base_from_camera()
        tilted_from_world = TILT @ np.linalg.inv(world_from_camera)
        poses = np.stack([tilted_from_world @ drive.world_from_velo(later) for later in window])
        return occupancy_truth([self._held[later] for later in window], poses, protocol_grid())


def evaluate_occupancy(
    model: DensityModel | None,
    drives: Sequence[tuple[Kitti360, Sequence[int]]],
    scans: int = DEFAULT_SCANS,
    other_images: bool = False,
    progress: Progress | None = None,
) -> list[OccupancyRow]:
    """Rows for the model (left out where it is None) and for the trivial answers "all free" and "all occupied".

    drives: readers and the frame numbers to score. scans: how many make the truth. other_images: the model is given
    the image of another frame (half the list further): what it then still scores, it does not owe to the image.
    A frame whose truth cannot be formed (a scan without a point in the slice) has NaN scores.
    """
    rows: list[OccupancyRow] = []
    total, done = sum(len(frames) for _, frames in drives), 0
    points = camera_grid()
    for drive, frames in drives:
        truth_of = TruthOfDrive(drive, scans)
        for index, frame in enumerate(frames):
            name = f"{drive.drive}_{frame:010d}"
            answers: dict[str, np.ndarray] = {}
            if model is not None:
                shown = frames[(index + len(frames) // 2) % len(frames)] if other_images else frame
                sigma = model.density(drive.sample(shown), points).reshape(grid_shape())
                answers["model"] = sigma > OCCUPIED_ABOVE
            answers |= {"all free": np.zeros(grid_shape(), bool), "all occupied": np.ones(grid_shape(), bool)}
            rows += _score_frame(name, answers, truth_of, frame)
            done += 1
            if progress:
                progress(done, total, name)
    return rows


def _score_frame(
    name: str, answers: Mapping[str, np.ndarray], truth_of: TruthOfDrive, frame: int
) -> Iterator[OccupancyRow]:
    try:
        occupied, visible = truth_of(frame)
    except EmptySliceError:
        nothing = OccupancyScores(np.nan, np.nan, np.nan)
        yield from (OccupancyRow(name, answer, nothing, nothing) for answer in answers)
        return
    for answer, predicted in answers.items():
        scene = occupancy_scores(predicted, occupied, visible)
        yield OccupancyRow(name, answer, scene, far_cut_scores(predicted, occupied, visible))


def kitti360_depth_samples(drive: Kitti360, frames: Sequence[int]) -> Iterator[Sample]:
    """Samples with ``depth_m`` from the frame's one scan; frames without a scan are an error by name."""
    return (replace(drive.sample(frame), depth_m=drive.lidar_depth(frame)) for frame in frames)


def sample_depth(depth_m: np.ndarray, camera: Intrinsics, wanted: Intrinsics) -> tuple[Float32Array, np.ndarray]:
    """``depth_m`` of ``camera`` at the pixel centres of ``wanted`` (same optical frame), and where it has pixels.

    Returns (wanted.height, wanted.width) float32 and bool; outside the image NaN and False. Nearest pixel, so Inf and
    NaN never mix into others.
    """
    rows, columns = _nearest_pixels(camera, wanted)
    inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
    sampled = np.full(inside.shape, np.nan, dtype=np.float32)
    sampled[inside] = depth_m[np.ix_(rows[rows >= 0], columns[columns >= 0])].ravel()
    return sampled, inside


def _nearest_pixels(camera: Intrinsics, wanted: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """(wanted.height,) rows and (wanted.width,) columns of ``camera`` nearest to ``wanted``'s, -1 outside its image."""
    columns = np.rint((np.arange(wanted.width) - wanted.cx) * (camera.fx / wanted.fx) + camera.cx).astype(np.int64)
    rows = np.rint((np.arange(wanted.height) - wanted.cy) * (camera.fy / wanted.fy) + camera.cy).astype(np.int64)
    columns[(columns < 0) | (columns >= camera.width)] = -1
    rows[(rows < 0) | (rows >= camera.height)] = -1
    return rows, columns


def truth_within(sample: Sample, camera: Intrinsics) -> Sample:
    """The sample with its depth truth NaN where an image of ``camera`` (same optical frame) has no pixel.

    Raises ``ValueError`` for a sample without ``depth_m``.
    """
    if sample.depth_m is None:
        raise ValueError(f"{sample.name}: got no depth_m, expected a sample with depth truth")
    rows, columns = _nearest_pixels(camera, sample.observation.key.intrinsics)
    inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
    return replace(sample, depth_m=np.where(inside, sample.depth_m, np.float32(np.nan)))


def evaluate_depth(
    model: DepthModel,
    samples: Iterable[Sample],
    total: int = 0,
    shown: Callable[[int], Sample] | None = None,
    progress: Progress | None = None,
) -> list[DepthRow]:
    """One row per sample with ``depth_m``.

    total: how many samples come, for ``progress``. shown: the sample whose image the model gets instead, by index.
    Raises ``ValueError`` for a sample without ``depth_m``.
    """
    rows = []
    for index, sample in enumerate(samples):
        if sample.depth_m is None:
            raise ValueError(f"{sample.name}: got no depth_m, expected a sample with depth truth")
        predicted, camera = model.depth(shown(index) if shown else sample)
        at_truth, inside = sample_depth(predicted, camera, sample.observation.key.intrinsics)
        truth = np.where(inside, sample.depth_m, np.float32(np.nan))
        outside = int(np.count_nonzero(~np.isnan(sample.depth_m)) - np.count_nonzero(~np.isnan(truth)))
        rows.append(DepthRow(sample.name, depth_scores(at_truth, truth), outside, camera))
        if progress:
            progress(index + 1, total, sample.name)
    return rows


def mean_occupancy(rows: Iterable[OccupancyRow], answer: str) -> tuple[OccupancyScores, OccupancyScores, int]:
    """(scene, far cut, frames without a score) of one answer: means over the frames that have the score."""
    of_answer = [row for row in rows if row.answer == answer]
    nothing = sum(np.isnan(row.scene.o_acc) or np.isnan(row.far_cut.o_acc) for row in of_answer)
    scene = OccupancyScores(*_means([row.scene for row in of_answer]))
    return scene, OccupancyScores(*_means([row.far_cut for row in of_answer])), int(nothing)


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
    return DepthScores._make([*_means([score[:7] for score in scores]), pixels, capped]), nothing


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    values = np.array(rows, dtype=np.float64)
    return [
        float(column[~np.isnan(column)].mean()) if (~np.isnan(column)).any() else float("nan") for column in values.T
    ]
