"""Occupancy scores by the two published protocols, on one horizontal lidar slice of KITTI-360. numpy only.

``KYN`` (Know Your Neighbors, CVPR 2024): truth from 300 scans over 4..50 m, scored there and over 4..20 m, as a whole,
after the far cut, and near objects. ``BTS`` (Behind the Scenes, CVPR 2023): truth from 20 scans over 4..20 m; a cell
in front of the depth that the answer itself renders also counts as visible. A density above 0.5 is occupied.

Scores are computed per frame and averaged over the frames that have them; a frame without is NaN and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kyn_models.data.drive_truth import FrameTruth, truths
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.lidar_occupancy import (
    NEAR_Z_RANGE_M,
    TILT,
    Z_RANGE_M,
    EmptySliceError,
    OccupancyTruth,
    grid_shape,
    near_rows,
    protocol_grid,
)
from kyn_models.data.neighbours import kitti360_sample
from kyn_models.data.occupancy_files import frame_name, read_truth
from kyn_models.evaluate import DensityModel, Progress, means
from kyn_models.metrics import BoolArray, OccupancyScores, far_cut_row, far_cut_scores, object_scores, occupancy_scores
from kyn_models.types import Float32Array, Intrinsics, Sample, UInt8Array

OCCUPIED_ABOVE = 0.5
"""Published density threshold."""
RENDERED_SIZE = (640, 192)
"""Width and height of the depth image that an answer renders for the ``BTS`` protocol."""
PUBLISHED_RANGE_M = (3.0, 80.0)
"""Trained range of the published KITTI-360 models, also for answers that have none."""
RENDERED_SAMPLES = 64
NOTHING = OccupancyScores(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class OccupancyProtocol:
    """scans: how many make the truth. ranges: (far, near) ends of the scored slices, metres; the truth is that of the
    first. far_cut: also score after the far cut. own_depth: cells before the answer's own depth count as visible."""

    name: str
    scans: int
    ranges: tuple[tuple[float, float], ...]
    far_cut: bool
    own_depth: bool


KYN = OccupancyProtocol("kyn", 300, (Z_RANGE_M, NEAR_Z_RANGE_M), far_cut=True, own_depth=False)
BTS = OccupancyProtocol("bts", 20, (NEAR_Z_RANGE_M,), far_cut=False, own_depth=True)
PROTOCOLS = {protocol.name: protocol for protocol in (KYN, BTS)}

TruthSource = Callable[[Kitti360, Sequence[int]], Iterator[FrameTruth]]
"""From a reader and frame numbers to their truth, in ascending order."""


class OccupancyRow(NamedTuple):
    """Scores of one answer about one frame in one range (its far end, metres). near_objects: NaN without labels."""

    frame: str
    answer: str
    far_m: float
    scene: OccupancyScores
    far_cut: OccupancyScores
    near_objects: OccupancyScores


class OccupancyMeans(NamedTuple):
    """Means over the frames that have the score. nothing: frames without a scene score or one after the far cut;
    no_objects: frames without a score near objects."""

    scene: OccupancyScores
    far_cut: OccupancyScores
    near_objects: OccupancyScores
    nothing: int
    no_objects: int


@dataclass(frozen=True)
class Everywhere:
    """The trivial answer: one density at every point."""

    sigma: float

    def density(self, sample: Sample, points_camera: Float32Array) -> Float32Array:
        return np.full(len(points_camera), self.sigma, dtype=np.float32)


TRIVIAL: Mapping[str, DensityModel] = {"all free": Everywhere(0.0), "all occupied": Everywhere(np.inf)}


def camera_grid(z_range: tuple[float, float] = Z_RANGE_M) -> Float32Array:
    """(rows * 80, 3) float32 points of the published slice in the key frame's camera axes (the grid, tilted back)."""
    return (protocol_grid(z_range=z_range).astype(np.float64) @ TILT[:3, :3]).astype(np.float32)


def stored_truths(folder: Path, drive: Kitti360, frames: Iterable[int]) -> Iterator[FrameTruth]:
    """Truth of frames from files of 4..50 m, as ``truths`` gives it; the number of scans is unknown (0)."""
    for frame in sorted(set(frames)):
        try:
            yield FrameTruth(frame, read_truth(folder, frame_name(drive.drive, frame)), 0, None)
        except (ValueError, OSError) as error:
            yield FrameTruth(frame, None, 0, error)


def evaluate_occupancy(
    models: Mapping[str, DensityModel],
    drives: Sequence[tuple[Kitti360, Sequence[int]]],
    protocol: OccupancyProtocol = KYN,
    truth_of: TruthSource | None = None,
    objects: Callable[[str], UInt8Array | None] = lambda name: None,
    shown: Callable[[Kitti360, int], int] = lambda drive, frame: frame,
    skip: Callable[[str, str], None] | None = None,
    progress: Progress | None = None,
    reach: Mapping[str, tuple[float, float]] | None = None,
    frames_wanted: int = 1,
) -> list[OccupancyRow]:
    """Rows of every model and range for every frame, frames of a drive in ascending order.

    drives: readers and the frame numbers to score. truth_of: where truth comes from, else computed from the protocol's
    scans; masks of 4..50 m or of the protocol's first range. objects: (460, 80) object map by frame name, or None.
    shown: the frame whose image the models are given. skip: gets name and reason of a frame whose truth or image is
    missing or damaged; without it that is raised. reach: answers' trained (near, far) in metres, in which their own
    depth is rendered, else ``PUBLISHED_RANGE_M``. frames_wanted: a sample's observation has neighbours in time beside
    its key frame, as far as there are some. A frame about which the protocol says nothing has NaN scores.
    """
    truth_of = truth_of or partial(truths, scans=protocol.scans, z_range=protocol.ranges[0])
    rows: list[OccupancyRow] = []
    total, done = sum(len(frames) for _, frames in drives), 0
    for drive, frames in drives:
        for frame, truth, _, problem in truth_of(drive, frames):
            name, sample = frame_name(drive.drive, frame), None
            if truth is not None:
                try:
                    sample = kitti360_sample(drive, shown(drive, frame), frames_wanted)
                except (ValueError, OSError) as error:
                    problem = error
            if truth is not None and sample is not None:
                for answer, model in models.items():
                    ends = (reach or {}).get(answer, PUBLISHED_RANGE_M)
                    density = partial(model.density, sample)
                    rows += score_frame(name, answer, density, truth, sample, protocol, objects, ends)
            elif isinstance(problem, EmptySliceError):
                rows += [
                    OccupancyRow(name, answer, far, NOTHING, NOTHING, NOTHING)
                    for answer in models
                    for far, _ in protocol.ranges
                ]
            elif skip and problem:
                skip(name, str(problem))
            elif problem:
                raise problem
            done += 1
            if progress:
                progress(done, total, name)
    return rows


def score_frame(
    name: str,
    answer: str,
    density: Callable[[Float32Array], Float32Array],
    truth: OccupancyTruth,
    sample: Sample,
    protocol: OccupancyProtocol,
    objects: Callable[[str], UInt8Array | None] = lambda name: None,
    reach: tuple[float, float] = PUBLISHED_RANGE_M,
) -> list[OccupancyRow]:
    """Rows of one answer about one frame, one per range. density: (N,) at (N, 3) points in camera axes. reach: of its
    own depth."""
    rows = []
    for z_range in protocol.ranges:
        shape = grid_shape(z_range=z_range)
        points = camera_grid(z_range)
        # A call per slice: some models look at all points of a call together.
        predicted = (density(points) > OCCUPIED_ABOVE).reshape(shape)
        occupied, visible = truth if truth.occupied.shape == shape else near_rows(truth)
        if protocol.own_depth:
            own = before_own_depth(density, points, sample.observation.key.intrinsics, reach)
            visible = visible | own.reshape(shape)
        cut = far_cut_scores(predicted, occupied, visible) if protocol.far_cut else NOTHING
        labels = objects(name)
        near = NOTHING
        # As published, a frame without a visible cell has no score near objects either.
        if labels is not None and far_cut_row(visible) is not None:
            near = object_scores(predicted, occupied, visible, labels[-shape[0] :])
        scene = occupancy_scores(predicted, occupied, visible)
        rows.append(OccupancyRow(name, answer, z_range[0], scene, cut, near))
    return rows


def before_own_depth(
    density: Callable[[Float32Array], Float32Array],
    points: Float32Array,
    camera: Intrinsics,
    reach: tuple[float, float] = PUBLISHED_RANGE_M,
) -> BoolArray:
    """(N,) bool: (N, 3) points in camera axes that are not behind the depth which the density itself renders.

    As in Behind the Scenes' evaluator: a depth image of 640x192 whose outermost pixel centres lie on the edges of the
    image, the nearest pixel (of the border, for points outside), 64 samples along the unit ray over the model's trained
    range, the last of which takes the light that is left. The published samples are at random places of their steps,
    these in the middle. camera: of the source image. reach: (near, far) metres.
    """
    k_norm = camera.normalised()
    width, height = RENDERED_SIZE
    uv = (points @ k_norm.T.astype(np.float32))[:, :2] / points[:, 2:]
    last = np.array([width - 1, height - 1], dtype=np.float32)
    pixels = np.rint(np.clip((uv + 1) / 2 * last, 0, last)).astype(np.int64)
    unique, place = np.unique(pixels[:, 1] * width + pixels[:, 0], return_inverse=True)
    corner_uv = np.stack([unique % width, unique // width], axis=-1) / last * 2 - 1
    rays = np.concatenate([(corner_uv - k_norm[:2, 2]) / k_norm[[0, 1], [0, 1]], np.ones((len(unique), 1))], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    depth = rendered_distance(density, rays.astype(np.float32), reach) * rays[:, 2]
    return np.asarray(points[:, 2] <= depth[place.reshape(-1)])


def rendered_distance(
    density: Callable[[Float32Array], Float32Array],
    rays: Float32Array,
    reach: tuple[float, float] = PUBLISHED_RANGE_M,
) -> Float32Array:
    """(R,) metres along (R, 3) unit rays from the camera: the expected distance, the last sample taking all light."""
    near, far = reach
    step = (np.arange(RENDERED_SAMPLES) + 0.5) / RENDERED_SAMPLES
    distance = (1 / ((1 - step) / near + step / far)).astype(np.float32)
    sigma = density((rays[:, None] * distance[:, None]).reshape(-1, 3)).reshape(len(rays), RENDERED_SAMPLES)
    passed = np.exp(-np.maximum(sigma[:, :-1], 0) * np.diff(distance))
    reaching = np.cumprod(np.concatenate([np.ones_like(passed[:, :1]), passed], axis=1), axis=1)
    weights = np.concatenate([reaching[:, :-1] - reaching[:, 1:], reaching[:, -1:]], axis=1)
    return np.asarray(weights @ distance, dtype=np.float32)


def mean_occupancy(
    rows: Iterable[OccupancyRow], answer: str, far_m: float = Z_RANGE_M[0], protocol: OccupancyProtocol = KYN
) -> OccupancyMeans:
    """Means of one answer in one range."""
    chosen = [row for row in rows if row.answer == answer and row.far_m == far_m]
    nothing = sum(np.isnan(row.scene.o_acc) or (protocol.far_cut and np.isnan(row.far_cut.o_acc)) for row in chosen)
    return OccupancyMeans(
        OccupancyScores(*means([row.scene for row in chosen])),
        OccupancyScores(*means([row.far_cut for row in chosen])),
        OccupancyScores(*means([row.near_objects for row in chosen])),
        int(nothing),
        int(sum(np.isnan(row.near_objects.o_acc) for row in chosen)),
    )
