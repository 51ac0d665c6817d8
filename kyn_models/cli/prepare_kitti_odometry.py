"""``kyn prepare kitti-odometry``: put the depth truth of KITTI's depth benchmark beside the odometry images."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from kyn_models.cli.prepare import processes, progress, to_be_continued


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn prepare kitti-odometry``."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="KITTI odometry folder; the depth is written into it"
    )
    parser.add_argument(
        "--depth", type=Path, required=True, metavar="DIR", help="annotated depth maps, with the folders train and val"
    )
    parser.add_argument("--sequences", metavar="NAMES", help="comma-separated (else all of 00 to 10 that DIR has)")
    parser.add_argument("--link", action="store_true", help="hard links instead of copies (same disk)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (else one per core)")
    parser.add_argument("--strict", action="store_true", help="stop at a file that is missing or cannot be read")


def run(args: argparse.Namespace) -> int:
    """Run ``kyn prepare kitti-odometry``; raises ValueError or OSError with one sentence for what the user can mend."""
    from kyn_models.data.kitti_odometry_prepare import plan, prepare

    workers = processes(args.workers)
    sequences = tuple(args.sequences.split(",")) if args.sequences else ()
    work = plan(args.depth, args.data, sequences, args.strict)
    for lack in work.lacks:
        print(lack, file=sys.stderr, flush=True)
    counts = ", ".join(f"{name}: {count}" for name, count in work.counts.items())
    print(f"{len(work)} depth images ({counts}), with {workers} process(es)", flush=True)
    started = time.perf_counter()
    with to_be_continued():
        made = prepare(work, workers, args.link, args.strict, progress(len(work), "files"))
    print(
        f"{made.written} files made in {time.perf_counter() - started:.1f} s, {made.kept} were there already, "
        f"{len(made.faults)} could not be read and are left out; drives have no depth of their first and last 5 frames"
    )
    return 0
