"""Occupancy truth of many frames of a drive: every scan is read once and given to all frames whose window holds it.

The window of a frame is its own scan and those of the frames with a pose that follow, fewer at the end of the drive, as
published. Memory holds one scan and the unfinished masks, whatever the number of scans.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.lidar_occupancy import (
    TILT,
    Z_RANGE_M,
    EmptySliceError,
    OccupancyTruth,
    SortedScan,
    TruthInMaking,
    protocol_grid,
)
from kyn_models.types import Float64Array


class FrameTruth(NamedTuple):
    """Truth of one frame from ``scans`` scans; or ``problem``, why there is none: ``EmptySliceError`` where the
    protocol says nothing about it, else what is wrong with a file."""

    frame: int
    truth: OccupancyTruth | None
    scans: int
    problem: ValueError | OSError | None


class _Open(NamedTuple):
    """A frame whose window has begun. stop: the place after its last scan among the posed frames; lacks: frames of the
    window without a scan."""

    frame: int
    stop: int
    tilted_from_world: Float64Array
    making: TruthInMaking
    problems: list[ValueError | OSError]
    lacks: list[int]


def window(drive: Kitti360, frame: int, scans: int) -> tuple[int, ...]:
    """Frames whose scans make the truth of ``frame``: itself and the next ones with a pose, ``scans`` at most.

    Raises ``ValueError`` for a frame without a pose, or fewer than one scan.
    """
    if scans < 1:
        raise ValueError(f"scans: got {scans}, expected at least 1")
    drive.world_from_base(frame)
    start = int(np.searchsorted(drive.posed_frames, frame))
    return drive.posed_frames[start : start + scans]


def frames_with_scans(drive: Kitti360, scans: int) -> tuple[int, ...]:
    """The drive's frames that have a scan and are followed by at least ``scans`` posed frames with scans."""
    chosen = []
    for frame in drive.frames:
        following = window(drive, frame, scans + 1)
        if len(following) == scans + 1 and all(drive.has_scan(later) for later in following):
            chosen.append(frame)
    return tuple(chosen)


def truths(
    drive: Kitti360,
    frames: Iterable[int],
    scans: int,
    z_range: tuple[float, float] = Z_RANGE_M,
    gaps: bool = False,
) -> Iterator[FrameTruth]:
    """Truth of the frames, in ascending order, each once.

    z_range: the far and the near end of the slice, metres. gaps: a later scan that is missing, as KITTI-360 lacks some,
    makes the truth poorer by one. A frame's own scan, which says what is visible, is always needed; without ``gaps``,
    and of damaged ones, all. Raises as ``window``.
    """
    grid = protocol_grid(z_range=z_range)
    waiting = deque(sorted(set(frames)))
    places = {frame: place for place, frame in enumerate(drive.posed_frames)}
    windows = {frame: window(drive, frame, scans) for frame in waiting}
    open_frames: deque[_Open] = deque()
    while waiting or open_frames:
        if not open_frames:
            place = places[waiting[0]]
        current = drive.posed_frames[place]
        if waiting and waiting[0] == current:
            stop = place + len(windows[current])
            tilted = TILT @ np.linalg.inv(drive.world_from_base(current) @ drive.base_from_camera())
            open_frames.append(_Open(waiting.popleft(), stop, tilted, TruthInMaking(grid, z_range=z_range), [], []))
        if gaps and not drive.has_scan(current):
            _add_scan(drive, current, [entry for entry in open_frames if entry.frame == current])
            for entry in open_frames:
                entry.lacks.append(current)
        else:
            _add_scan(drive, current, open_frames)
        place += 1
        while open_frames and open_frames[0].stop == place:
            done = open_frames.popleft()
            problem = done.problems[0] if done.problems else None
            taken = len(windows.pop(done.frame)) - len(done.lacks)
            yield FrameTruth(done.frame, None if problem else done.making.truth(), taken, problem)


def _add_scan(drive: Kitti360, frame: int, open_frames: Iterable[_Open]) -> None:
    """Give the scan of ``frame`` to the open frames that have no problem yet."""
    wanting = [entry for entry in open_frames if not entry.problems]
    if not wanting:
        return
    try:
        scan = SortedScan.of(drive.scan(frame))
    except (ValueError, OSError) as error:
        for entry in wanting:
            entry.problems.append(error)
        return
    world_from_velo = drive.world_from_velo(frame)
    for entry in wanting:
        try:
            entry.making.add(scan, entry.tilted_from_world @ world_from_velo)
        except EmptySliceError as error:
            entry.problems.append(error)
