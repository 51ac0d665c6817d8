"""``kyn gt-occupancy``: occupancy truth from lidar for a whole split, as files that ``kyn eval occupancy`` reads."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from kyn_models import ranks
from kyn_models.cli import interrupt, left_out
from kyn_models.data import truth_writer
from kyn_models.data.kitti360 import Kitti360, drives_of
from kyn_models.data.kitti360_cameras import PERSPECTIVES
from kyn_models.data.occupancy_files import TruthSettings, close_empty, frame_name, open_folder
from kyn_models.data.splits import read_split
from kyn_models.data.truth_writer import Report, Run

PUBLISHED_SCANS = 300
FEWEST_SCANS = 3
"""With fewer scans every cell that is not visible is occupied: two of them may look into any cell."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="KITTI-360 folder in its official layout"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the masks; continued if begun"
    )
    parser.add_argument("--split", type=Path, metavar="FILE", help="frame list: <drive> <frame> <l|r> lines")
    parser.add_argument("--drive", help="without --split: drive, where DIR holds several")
    parser.add_argument(
        "--camera",
        choices=PERSPECTIVES,
        help="camera (else 00, the left one); with --split: only its lines (else they are all of one camera)",
    )
    parser.add_argument("--every", type=int, metavar="N", help="without --split: only every N-th frame (else all)")
    parser.add_argument(
        "--scans", type=int, default=PUBLISHED_SCANS, metavar="N", help="scans that make the truth (else 300)"
    )
    parser.add_argument(
        "--fewest", type=int, default=FEWEST_SCANS, metavar="N", help="leave out frames that have fewer scans (else 3)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (else one per core)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a frame is left out or has fewer scans")


def run(args: argparse.Namespace) -> int:
    ranks.quieten()
    workers = _cores() if args.workers is None else args.workers
    every = 1 if args.every is None else args.every
    if min(args.scans, args.fewest, every, workers) < 1:
        got = f"{args.scans}, {args.fewest}, {every} and {workers}"
        raise ValueError(f"--scans, --fewest, --every, --workers: got {got}, expected all at least 1")
    runs, missing = _plan(args)
    total = sum(len(part.frames) for part in runs)
    if not total:
        raise ValueError(f"{args.split or args.data}: got no frame with a pose among {len(missing)}, expected one")
    if ranks.first():
        open_folder(args.out, TruthSettings(args.scans, runs[0].camera))
    ranks.gather([None])  # nobody writes before the folder is found to be the right one
    shares = [part for whole in runs for part in truth_writer.cut(whole, _share_length(total))]
    share = ranks.share(shares)
    started = time.perf_counter()
    handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        report = truth_writer.write_runs(
            share, args.out, args.scans, args.fewest, workers, _progress(sum(len(part.frames) for part in share))
        )
    finally:
        signal.signal(signal.SIGTERM, handler)
    whole = Report(left_out=missing)
    for part in ranks.gather([report] if share else []):
        whole.add(part)
    ranks.leave()
    if ranks.first():
        _say(args, whole, time.perf_counter() - started)
        if not whole.written + whole.kept:
            close_empty(args.out)
    return int(not whole.written + whole.kept or (args.strict and bool(whole.left_out or whole.short)))


def _cores() -> int:
    """Processor cores for this process: those of the machine, shared with the other ranks on it."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _share_length(total: int) -> int:
    """Frames of a share, the same on all ranks: long enough that neighbours share scans, four shares a rank at least
    where there are enough frames."""
    return max(truth_writer.RUN_FRAMES[0], total // (4 * ranks.here()[1]))


def _plan(args: argparse.Namespace) -> tuple[list[Run], list[tuple[str, str]]]:
    """One run per drive, and the frames of the split that cannot have truth, with the reason."""
    if not args.split:
        drive = Kitti360(args.data, args.drive, args.camera or "00")
        frames = tuple(frame for frame in drive.posed_frames if drive.has_scan(frame))[:: args.every or 1]
        return [Run(args.data, drive.drive, drive.camera, frames)], []
    for name, value in (("--drive", args.drive), ("--every", args.every)):
        if value is not None:
            raise ValueError(f"{name}: got {value} beside --split, which names its frames itself; leave one out")
    lines = [line for line in read_split(args.split) if args.camera in (None, line.camera)]
    if not lines:
        raise ValueError(f"{args.split}: names no frame of camera {args.camera}, expected one")
    if len({line.camera for line in lines}) > 1:
        raise ValueError(
            f"{args.split}: names frames of both cameras, expected one: the files' names do not tell them apart; "
            "take --camera 00 and --camera 01 into a folder each"
        )
    known = drives_of(args.data)
    runs, missing = [], []
    for name in dict.fromkeys(line.drive for line in lines):
        frames = tuple(dict.fromkeys(line.frame for line in lines if line.drive == name))
        if name not in known:
            reason = f"{args.data / 'data_2d_raw' / name}: no such drive"
            missing += [(frame_name(name, frame), reason) for frame in frames]
            continue
        try:
            drive = Kitti360(args.data, name, lines[0].camera)
        except (FileNotFoundError, ValueError) as error:
            missing += [(frame_name(name, frame), str(error)) for frame in frames]
            continue
        reason = f"no pose in {args.data / 'data_poses' / name / 'poses.txt'}"
        missing += [(frame_name(name, frame), reason) for frame in frames if not drive.has_pose(frame)]
        runs.append(Run(args.data, name, lines[0].camera, tuple(frame for frame in frames if drive.has_pose(frame))))
    return runs, missing


def _progress(total: int) -> truth_writer.Progress:
    """A line that is written over on a terminal, else one every half minute; the first rank speaks, of its share."""
    started = last = time.perf_counter()
    of = f"{total} of this process" if ranks.here()[1] > 1 else str(total)
    start, end, pause_s = ("\r", "   ", 0) if sys.stderr.isatty() else ("", "\n", 30)

    def show(done: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if ranks.first() and done and now - last >= pause_s:
            last = now
            left = (now - started) / done * (total - done)
            print(f"{start}frame {done} of {of}, about {left:.0f} s left", end=end, file=sys.stderr, flush=True)

    return show


def _say(args: argparse.Namespace, report: Report, seconds: float) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    rate = f", {report.written / seconds:.2f} a second" if report.written else ""
    written = f"{left_out.counted(report.written)} written{rate}"
    print(f"{args.out}: {written}, {report.kept} were there; from {args.scans} scans each")
    if report.short:
        least = min(scans for _, scans in report.short)
        named = left_out.named([name for name, _ in report.short])
        print(
            f"{len(report.short)} of them from fewer scans, {least} at least, as the drive ends or scans are missing: "
            f"{named}"
        )
    for sentence in left_out.sentences(report.left_out):
        print(sentence)
