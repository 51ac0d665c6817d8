"""``kyn bag``: a drive of KITTI-360 or KITTI odometry as a rosbag2. Needs no ROS, but the Python package rosbags."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
import time
from pathlib import Path

from kyn_models.cli.left_out import counted
from kyn_models.data.drives import Drive, is_odometry, open_drive
from kyn_models.data.kitti360 import DEFAULT_RATE_HZ, Kitti360
from kyn_ros.kitti360_bag import BagOptions, BagSummary, Progress, write_bag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="KITTI-360 or KITTI odometry folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the bag; must be new")
    parser.add_argument("--drive", help="drive or sequence, where the folder holds several")
    parser.add_argument(
        "--camera",
        choices=("left", "right", "both"),
        default="left",
        help="left, right, or both below /left and /right, of KITTI-360 only (else left)",
    )
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="file format (else mcap)")
    parser.add_argument("--compressed", action="store_true", help="the PNG files as they are, on image/compressed")
    parser.add_argument("--no-lidar", action="store_true", help="leave the scans out")
    parser.add_argument("--start", type=int, metavar="FRAME", help="first frame (else of the drive)")
    parser.add_argument("--stop", type=int, metavar="FRAME", help="last frame (else of the drive)")
    parser.add_argument(
        "--rate-hz",
        type=float,
        metavar="HZ",
        default=DEFAULT_RATE_HZ,
        help=f"frames per second where the drive has no file of stamps (else {DEFAULT_RATE_HZ:g})",
    )


def run(args: argparse.Namespace) -> int:
    if not 0 < args.rate_hz < math.inf:
        raise ValueError(f"--rate-hz: got {args.rate_hz:g}, expected a rate above 0")
    drive = _open(args)
    if drive.stamps_assumed:
        print(f"no file of stamps: frames are stamped at {args.rate_hz:g} Hz")
    if drive.frames_without_pose:
        print(f"{len(drive.frames_without_pose)} images have no pose in the data set and are left out")
    options = BagOptions(
        storage=args.storage,
        cameras=("00", "01") if args.camera == "both" else (drive.camera,),
        compressed=args.compressed,
        lidar=not args.no_lidar,
        start=args.start,
        stop=args.stop,
    )
    asked = threading.Event()
    handlers = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        summary = write_bag(drive, args.out, options, asked.is_set, _progress())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    _report(summary, args.out)
    if summary.stopped:
        return 130
    return 1 if summary.broken else 0


def _open(args: argparse.Namespace) -> Drive:
    if args.camera != "both":
        return open_drive(args.data, args.drive, args.camera, args.rate_hz)
    if is_odometry(args.data):
        raise ValueError(f"--camera: got both for {args.data}, expected left or right: both is for KITTI-360")
    return Kitti360(args.data, args.drive, views=(("01", 0),), rate_hz=args.rate_hz)


def _report(summary: BagSummary, out: Path) -> None:
    if not summary.frames:
        print("stopped on request before the first frame, nothing was written")
        return
    size = sum(path.stat().st_size for path in out.iterdir())
    early = "stopped on request, the bag is complete up to there: " if summary.stopped else ""
    print(f"{early}{counted(summary.frames)}, {size / 1e6:.1f} MB: {out}")
    for topic, count in summary.messages.items():
        print(f"  {topic:24s} {count}")
    if summary.without_scan:
        print(f"no scan in the data set for {counted(summary.without_scan)}")
    for sentence in summary.broken:
        print(f"left out: {sentence}", file=sys.stderr)


def _progress() -> Progress:
    """A line that is written over on a terminal, and one line every ten seconds elsewhere."""
    terminal = sys.stderr.isatty()
    last = [time.monotonic()]

    def show(done: int, total: int, frame: int) -> None:
        now = time.monotonic()
        if terminal and (done == total or now - last[0] > 0.1):
            print(f"\r{done}/{total} frame {frame}", end="\n" if done == total else "", file=sys.stderr, flush=True)
            last[0] = now
        elif not terminal and now - last[0] > 10:
            print(f"{done}/{total} frame {frame}", file=sys.stderr, flush=True)
            last[0] = now

    return show
