"""Coloured points of a sequence: the depth of every frame, seen from where it was taken, in one metric cloud. numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from kyn_models.drive_window import DriveWindow, Place
from kyn_models.frame_window import WindowOptions
from kyn_models.metrics import BoolArray
from kyn_models.roi import Roi, check_roi, inside
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Observation, PosedFrame, Prediction, UInt8Array

MERGE_AT = 1 << 20
"""Points that wait before they are merged into the cells of a thinned cloud."""
CELL_BITS = 21
"""Of each coordinate of a cell: 2 million cells to a side, 100 km of 5 cm."""


IMAGES_KEPT = 24
"""Of a slow drive too each image is read once."""


@dataclass(frozen=True)
class CloudOptions:
    """near_m, far_m: depths that become points. edge: share of the inverse depth by which it may bend between three
    neighbouring pixels (planes have none, whatever their slope); more is an edge between two things, where depth images
    smear. step: every so many pixels of both directions. voxel_m: one point (the mean) in each cube, 0 for all points.
    min_frames: only cubes into which so many frames put points. roi: only this part of the depth images.
    """

    near_m: float = 3.0
    far_m: float = 30.0
    edge: float = 0.05
    step: int = 1
    voxel_m: float = 0.1
    min_frames: int = 1
    roi: Roi | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.near_m < self.far_m < np.inf:
            raise ValueError(f"--near, --far: got {self.near_m} and {self.far_m}, expected 0 <= near < far, in metres")
        if not self.edge > 0:
            raise ValueError(f"--edge: got {self.edge}, expected a share above 0")
        if self.step < 1:
            raise ValueError(f"--step: got {self.step}, expected at least 1")
        if not 0 <= self.voxel_m < np.inf:
            raise ValueError(f"--voxel: got {self.voxel_m}, expected metres, 0 for all points")
        if self.min_frames < 1 or (self.min_frames > 1 and not self.voxel_m):
            raise ValueError(
                f"--min-frames: got {self.min_frames} with --voxel {self.voxel_m}, expected at least 1, and cubes to "
                "count frames in where it is more"
            )
        check_roi(self.roi)


class Points(NamedTuple):
    """xyz: (N, 3) float32 metres. rgb: (N, 3) uint8."""

    xyz: Float32Array
    rgb: UInt8Array


class Drive(Protocol):
    """A sequence of posed images."""

    @property
    def frames(self) -> Sequence[int]: ...

    def posed_frame(self, frame: int) -> PosedFrame: ...

    def stamp_ns(self, frame: int) -> int: ...

    def intrinsics(self) -> Intrinsics: ...

    def base_from_camera(self) -> Float64Array: ...

    def world_from_base(self, frame: int) -> Float64Array: ...


class Predicts(Protocol):
    """A predictor of any artifact."""

    @property
    def frames_wanted(self) -> int: ...

    def predict(self, observation: Observation, outputs: Iterable[str]) -> Prediction: ...


class Seen(NamedTuple):
    """Points of one frame in the cloud's axes. frames_used: 1 where the depth is of the key frame alone."""

    points: Points
    frames_used: int


def seen_from(
    drive: Drive,
    frames: Sequence[int],
    predictor: Predicts,
    options: CloudOptions,
    every: int = 1,
    damaged: Callable[[Exception], None] | None = None,
    moving: Callable[[int, Intrinsics], BoolArray] | None = None,
) -> Iterator[Seen]:
    """Points of the key frames of a sequence, in base_link of the first of ``frames``: x forward, y left, z up.

    Every N-th frame becomes a key frame. A model of several frames gets neighbours of the drive as ``DriveWindow``
    chooses them, which may lie outside ``frames``. damaged: receives what a key frame that cannot be read raises, else
    it is raised, as for a neighbour.
    moving: (H, W) bool of a frame number and the camera of its depth image, pixels that become no points.
    """
    cloud_from_world = np.linalg.inv(drive.world_from_base(frames[0]))
    mount = drive.base_from_camera()
    for frame, key, neighbours in _questions(drive, frames, predictor.frames_wanted > 1, every, damaged):
        prediction = predictor.predict(Observation((key, *neighbours), mount), frozenset({"depth"}))
        assert prediction.depth_m is not None and key.world_from_camera is not None
        camera = prediction.intrinsics
        unwanted = None if moving is None else moving(frame, camera)
        points = depth_points(prediction.depth_m, prediction.image, camera, options, unwanted)
        pose = cloud_from_world @ key.world_from_camera
        xyz = points.xyz.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
        yield Seen(Points(xyz.astype(np.float32), points.rgb), prediction.frames_used)


def _questions(
    drive: Drive, frames: Sequence[int], several: bool, every: int, damaged: Callable[[Exception], None] | None
) -> Iterator[tuple[int, PosedFrame, tuple[PosedFrame, ...]]]:
    """Every N-th key frame, its number first, with its neighbours."""
    window = _window(drive, frames) if several else None
    read = lru_cache(maxsize=IMAGES_KEPT)(drive.posed_frame)
    broken: set[int] = set()
    for frame in frames[::every]:
        try:
            key = read(frame)
        except (ValueError, OSError) as error:
            if damaged is None:
                raise
            damaged(error)
            broken.add(frame)
            continue
        yield frame, key, _neighbours(window, frame, read, broken, damaged is None) if window else ()


def _neighbours(
    window: DriveWindow, frame: int, read: Callable[[int], PosedFrame], broken: set[int], strict: bool
) -> tuple[PosedFrame, ...]:
    """Those that can be read; the others are added to ``broken``, or raised where ``strict``."""
    while True:
        chosen, unread = window.beside(frame, broken), len(broken)
        found = []
        for number in chosen:
            try:
                found.append(read(number))
            except (ValueError, OSError):
                if strict:
                    raise
                broken.add(number)
        if len(broken) == unread:
            return tuple(found)


def _window(drive: Drive, frames: Sequence[int]) -> DriveWindow:
    """Where the frames were taken, and those of the drive that come shortly before and after them."""
    options = WindowOptions()
    stamps: dict[int, int] = {}
    for frame in drive.frames:
        with suppress(ValueError):  # a frame without a stamp cannot be read either
            stamps[frame] = drive.stamp_ns(frame)
    age_ns = round(options.max_age_s * 1e9)
    known = [stamps[frame] for frame in frames if frame in stamps] or [0]
    camera, mount = drive.intrinsics(), drive.base_from_camera()
    return DriveWindow(
        (
            Place(frame, stamp_ns, camera, drive.world_from_base(frame) @ mount)
            for frame, stamp_ns in stamps.items()
            if known[0] - age_ns <= stamp_ns <= known[-1] + age_ns
        ),
        options,
    )


def depth_points(
    depth_m: Float32Array,
    image: UInt8Array,
    camera: Intrinsics,
    options: CloudOptions,
    unwanted: BoolArray | None = None,
) -> Points:
    """Points of a depth image in camera axes (x right, y down, z forward).

    depth_m: (H, W) metres along the optical axis, NaN and Inf without points; image: (H, W, 3) of the same camera.
    unwanted: (H, W) bool, further pixels without points. Raises ``ValueError`` for a part beyond the image.
    """
    with np.errstate(invalid="ignore"):
        wanted = (depth_m >= options.near_m) & (depth_m <= options.far_m)
    wanted &= inside(options.roi, depth_m.shape) & ~edges(depth_m, options.edge)
    if unwanted is not None:
        wanted &= ~unwanted
    grid = np.zeros_like(wanted)
    grid[:: options.step, :: options.step] = True
    row, column = np.nonzero(wanted & grid)
    z = depth_m[row, column].astype(np.float64)
    xyz = np.stack([(column - camera.cx) / camera.fx * z, (row - camera.cy) / camera.fy * z, z], axis=1)
    return Points(xyz.astype(np.float32), image[row, column])


def edges(depth_m: Float32Array, share: float) -> BoolArray:
    """(H, W) bool: pixels where inverse depth, which is linear in the image of a plane, bends by more than ``share``.

    Beside NaN too. At the border of the image its last slope goes on.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = np.pad(1.0 / depth_m.astype(np.float64), 1, mode="reflect", reflect_type="odd")
        inner = inverse[1:-1, 1:-1]
        across = np.abs(inverse[1:-1, :-2] + inverse[1:-1, 2:] - 2 * inner)
        down = np.abs(inverse[:-2, 1:-1] + inverse[2:, 1:-1] - 2 * inner)
        found: BoolArray = ~(np.maximum(across, down) <= share * inner)
    return found


class Cloud:
    """Points of many frames: all of them, or the mean of each cube of ``voxel_m``.

    min_frames: only of cubes into which so many frames put points.
    """

    def __init__(self, voxel_m: float, min_frames: int = 1) -> None:
        self._voxel_m, self._min_frames = voxel_m, min_frames
        self._waiting: list[Points] = []
        self._cells = np.empty(0, dtype=np.int64)
        self._sums = np.empty((0, 8))
        self.seen = 0
        """Points that were added."""

    def add(self, points: Points) -> None:
        """The points of one frame. Raises ``ValueError`` for points that are too far away for cubes so small."""
        self.seen += len(points.xyz)
        self._waiting.append(points)
        if self._voxel_m and sum(len(some.xyz) for some in self._waiting) >= max(MERGE_AT, len(self._cells)):
            self._merge()

    def points(self) -> Points:
        """All that is kept."""
        if not self._voxel_m:
            xyz = np.concatenate([np.empty((0, 3), dtype=np.float32), *(some.xyz for some in self._waiting)])
            return Points(xyz, np.concatenate([np.empty((0, 3), "u1"), *(some.rgb for some in self._waiting)]))
        self._merge()
        sums = self._sums if self._min_frames == 1 else self._sums[self._sums[:, 7] >= self._min_frames]
        means = sums[:, :6] / sums[:, 6:7]
        return Points(means[:, :3].astype(np.float32), np.rint(means[:, 3:]).astype(np.uint8))

    def _merge(self) -> None:
        for_all = [(self._cells, self._sums)]
        for some in self._waiting:
            cells, frames = self._cell_of(some.xyz), np.zeros((len(some.xyz), 1))
            if self._min_frames > 1:
                # One point of each of its cubes speaks for the frame.
                frames[np.unique(cells, return_index=True)[1]] = 1
            values = np.concatenate([some.xyz, some.rgb, np.ones_like(frames), frames], axis=1, dtype=np.float64)
            for_all.append((cells, values))
        cells, inverse = np.unique(np.concatenate([cells for cells, _ in for_all]), return_inverse=True)
        values = np.concatenate([values for _, values in for_all])
        sums = [np.bincount(inverse, values[:, column], len(cells)) for column in range(8)]
        self._cells, self._sums, self._waiting = cells, np.stack(sums, axis=1), []

    def _cell_of(self, xyz: Float32Array) -> np.ndarray:
        """(N,) int64 number of the cube of each point."""
        half = 1 << (CELL_BITS - 1)
        cells = np.floor(xyz / self._voxel_m).astype(np.int64) + half
        if cells.size and not (cells.min() >= 0 and cells.max() < 2 * half):
            raise ValueError(
                f"--voxel: got {self._voxel_m} m and points {np.abs(xyz).max():.0f} m away, expected larger cubes or 0"
            )
        return (cells[:, 0] << 2 * CELL_BITS) | (cells[:, 1] << CELL_BITS) | cells[:, 2]
