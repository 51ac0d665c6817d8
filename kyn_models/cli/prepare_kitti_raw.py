"""``kyn prepare kitti-raw``: resize images to the size that training reads, store the depth truth of evaluation."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from kyn_models.cli.prepare import processes, progress, rows_columns, to_be_continued


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn prepare kitti-raw``."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="KITTI raw folder in its official layout"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, in the same layout")
    parser.add_argument("--drives", metavar="NAMES", help="comma-separated (else all drives of the folder)")
    parser.add_argument(
        "--size", default="640x192", metavar="WIDTHxHEIGHT", help="of the prepared images (else 640x192)"
    )
    parser.add_argument("--format", choices=("png", "jpg"), default="png", help="png keeps every pixel (else png)")
    parser.add_argument(
        "--splits",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="only what samples of these files need: both cameras, the frame and the next one",
    )
    parser.add_argument(
        "--depth", action="store_true", help="also the lidar depth that evaluation reads, then without scans"
    )
    parser.add_argument("--no-images", action="store_true", help="with --depth: the depth alone")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (else one per core)")
    parser.add_argument("--strict", action="store_true", help="stop at a file that cannot be read")


def run(args: argparse.Namespace) -> int:
    """Run ``kyn prepare kitti-raw``; raises ValueError or OSError with one sentence for what the user can mend."""
    from kyn_models.data.kitti_raw_prepare import RawOptions, plan, prepare

    workers = processes(args.workers)
    options = RawOptions(
        size=rows_columns(args.size),
        ending=f".{args.format}",
        drives=tuple(args.drives.split(",")) if args.drives else None,
        splits=tuple(args.splits),
        depth=args.depth,
        images=not args.no_images,
    )
    work = plan(args.data, args.out, options)
    for lack in work.lacks:
        print(lack, flush=True)
    print(
        f"{len(work)} files of {len({drive for drive, _ in work.shots})} drives, with {workers} process(es)", flush=True
    )
    started = time.perf_counter()
    with to_be_continued():
        made = prepare(work, workers, args.strict, progress(len(work), "files"))
    print(
        f"{made.written} files made in {time.perf_counter() - started:.1f} s, {made.kept} were there already, "
        f"{len(made.faults)} could not be made and are left out"
    )
    return 0
