"""``kyn prepare kitti360``: rectify the fisheye images and resize all images, as the papers' training reads them."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from kyn_models.cli.prepare import processes, progress, rows_columns, to_be_continued

_NUMBER = r"-?\d+(?:\.\d+)?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn prepare kitti360``."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="KITTI-360 folder in its official layout"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write, in the same layout (else --data)")
    parser.add_argument("--drives", metavar="NAMES", help="comma-separated (else all drives of the folder)")
    parser.add_argument("--cameras", default="00,01,02,03", metavar="NAMES", help="comma-separated (else 00,01,02,03)")
    parser.add_argument(
        "--size",
        default="640x192",
        metavar="WIDTHxHEIGHT",
        help="of the prepared images (else 640x192, in folders that are named data_192x640, as published)",
    )
    parser.add_argument(
        "--rotations",
        default="0x-15",
        metavar="YAWxPITCH",
        help="degrees of the rectified fisheye images, several with commas: 0x-15,0x0 (else 0x-15, as published)",
    )
    parser.add_argument(
        "--splits", type=Path, nargs="+", default=[], metavar="FILE", help="only what samples of these files need"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (else one per core)")
    parser.add_argument("--strict", action="store_true", help="stop at an image that cannot be read")


def run(args: argparse.Namespace) -> int:
    """Run ``kyn prepare kitti360``; raises ValueError or OSError with one sentence for what the user can mend."""
    from kyn_models.data.kitti360_prepare import PrepareOptions, copy_small_files, plan, prepare
    from kyn_models.data.splits import drives_of

    workers = processes(args.workers)
    options = PrepareOptions(
        size=rows_columns(args.size),
        cameras=tuple(dict.fromkeys(args.cameras.split(","))),
        rotations=tuple(dict.fromkeys(_rotation(text) for text in args.rotations.split(","))),
        drives=tuple(dict.fromkeys(args.drives.split(","))) if args.drives else None,
        splits=tuple(args.splits),
    )
    out = args.out or args.data
    work = plan(args.data, out, options)
    for lack in work.lacks:
        print(lack, flush=True)
    print(f"{len(work)} images of cameras {', '.join(work.shots)}, with {workers} process(es)", flush=True)
    if out.resolve() != args.data.resolve():
        copy_small_files(args.data, out, options.drives or drives_of(args.data))
    started = time.perf_counter()
    with to_be_continued():
        made = prepare(work, workers, args.strict, progress(len(work)))
    seconds = time.perf_counter() - started
    print(
        f"{made.written} images made in {seconds:.1f} s ({made.written / seconds:.1f} images/s), {made.kept} were "
        f"there already, {len(made.faults)} could not be read and are left out"
    )
    return 0


def _rotation(text: str) -> tuple[float, float]:
    found = re.fullmatch(rf"({_NUMBER})x({_NUMBER})", text)
    if not found:
        raise ValueError(f"--rotations: got {text!r}, expected yaw and pitch in degrees like 0x-15")
    return float(found[1]), float(found[2])
