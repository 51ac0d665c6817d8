"""Masks of many frames by many processes: each takes runs of neighbouring frames, whose scans are read once.

A frame is done when both its files are there, so that an interrupted job continues where it was. Workers end with
their parent, on its word, or when a signal takes them; what they have written stays.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import Array, c_int64
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path

from kyn_models.data.drive_truth import truths, window
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.occupancy_files import frame_name, has_truth, write_truth

RUN_FRAMES = (8, 32)
"""A run is at least and at most so long: neighbours share scans, and short runs keep all workers busy to the end."""
POLL_S = 0.2

Progress = Callable[[int], None]
"""Called with the number of frames done so far."""


@dataclass(frozen=True)
class Run:
    """Frames of one drive and camera that one process takes in one go."""

    root: Path
    drive: str
    camera: str
    frames: tuple[int, ...]


@dataclass
class Report:
    """What became of the frames. written, kept: how many are new and how many were there.

    short: name and number of scans of those written from fewer than asked for. left_out: name and reason.
    """

    written: int = 0
    kept: int = 0
    short: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take in another report."""
        self.written += other.written
        self.kept += other.kept
        self.short += other.short
        self.left_out += other.left_out


def cut(run: Run, length: int) -> list[Run]:
    """The same frames in runs of at most ``length``."""
    starts = range(0, len(run.frames), length)
    return [Run(run.root, run.drive, run.camera, run.frames[start : start + length]) for start in starts]


def missing(run: Run, out: Path) -> Run:
    """The run without the frames whose masks are in ``out``."""
    left = (frame for frame in run.frames if not has_truth(out, frame_name(run.drive, frame)))
    return Run(run.root, run.drive, run.camera, tuple(left))


def write_run(run: Run, out: Path, scans: int, fewest: int, progress: Progress) -> Report:
    """Write the masks of a run's frames to ``out``.

    scans: how many make the truth; fewest: with fewer than so many, as the drive ends or scans are missing,
    a frame is left out.
    Raises ``OSError`` if a file cannot be written.
    """
    report = Report()
    drive = Kitti360(run.root, run.drive, run.camera)
    for done, (frame, truth, taken, problem) in enumerate(truths(drive, run.frames, scans, gaps=True), start=1):
        name = frame_name(run.drive, frame)
        if truth is None:
            report.left_out.append((name, str(problem)))
        elif taken < fewest:
            report.left_out.append((name, f"fewer than {fewest} scans from it on"))
        else:
            write_truth(out, name, truth)
            report.written += 1
            if taken < scans:
                report.short.append((name, taken))
        progress(done)
    return report


def write_runs(runs: Sequence[Run], out: Path, scans: int, fewest: int, workers: int, progress: Progress) -> Report:
    """``write_run`` for all runs, cut for ``workers`` processes; frames whose masks are there are kept, and named where
    they have fewer scans.

    Raises ``OSError`` as ``write_run``, and ``ChildProcessError`` if a worker dies.
    """
    left = [missing(run, out) for run in runs]
    total = sum(len(run.frames) for run in left)
    report = Report(kept=sum(len(run.frames) for run in runs) - total)
    for run, new in zip(runs, left, strict=True):
        report.short += _short(run, frozenset(run.frames) - frozenset(new.frames), scans)
    shortest, longest = RUN_FRAMES
    length = min(max(total // (4 * workers), shortest), longest)
    jobs = [part for run in left for part in cut(run, length)]
    if workers == 1:
        done = 0
        for job in jobs:
            report.add(write_run(job, out, scans, fewest, partial(_shifted, progress, done)))
            done += len(job.frames)
    elif jobs:
        for part in _by_processes(jobs, out, scans, fewest, workers, progress):
            report.add(part)
    return report


def _short(run: Run, kept: frozenset[int], scans: int) -> list[tuple[str, int]]:
    """Name and number of scans of the kept frames that have fewer than asked for; scans are not read."""
    if not kept:
        return []
    drive = Kitti360(run.root, run.drive, run.camera)
    there = {frame for frame in drive.posed_frames if drive.has_scan(frame)}
    counts = {frame: sum(later in there for later in window(drive, frame, scans)) for frame in sorted(kept)}
    return [(frame_name(run.drive, frame), count) for frame, count in counts.items() if count < scans]


def _shifted(progress: Progress, before: int, done: int) -> None:
    progress(before + done)


def _by_processes(
    jobs: Sequence[Run], out: Path, scans: int, fewest: int, workers: int, progress: Progress
) -> Iterable[Report]:
    context = multiprocessing.get_context("spawn")
    counts = context.RawArray(c_int64, len(jobs))  # one writer each: no lock that a killed worker could keep
    end, hold = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _begin, (end, counts))
    try:
        waiting = {pool.submit(_work, index, job, out, scans, fewest) for index, job in enumerate(jobs)}
        while waiting:
            done, waiting = wait(waiting, timeout=POLL_S)
            progress(sum(counts))
            yield from (job.result() for job in done)
        pool.shutdown()
    except BrokenProcessPool:
        raise ChildProcessError(
            f"{out}: a worker process died (ended by someone, or the machine is out of memory); what is written "
            "stays, run the same command again, with fewer --workers if memory is short"
        ) from None
    finally:
        hold.close()  # ends workers that still run: what they write is whole or not there
        pool.shutdown(cancel_futures=True)
        end.close()


_counts: Array[c_int64]


def _begin(end: Connection, counts: Array[c_int64]) -> None:
    """Set up a worker: what processes share reaches it only here, not with a job."""
    global _counts
    _counts = counts
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave, args=(end,), daemon=True).start()


def _leave(end: Connection) -> None:
    """End this process when the parent is gone or says so by closing its side."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_any([parent.sentinel, end])
    os._exit(1)


def _work(index: int, run: Run, out: Path, scans: int, fewest: int) -> Report:
    def count(done: int) -> None:
        _counts[index] = done

    return write_run(run, out, scans, fewest, count)
