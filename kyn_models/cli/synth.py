"""``kyn synth``: synthetic streets in a KITTI layout, a contact sheet of them, or the renderer's speed."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kyn_models.cli import interrupt
from kyn_models.cli.left_out import counted
from kyn_models.data.street_build import MOST_METRES, STYLES

SIZES = {"kitti360": (1408, 376), "kitti_odometry": (1226, 370)}
"""Width and height of the images of each layout."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn synth``."""
    parser.add_argument("out", nargs="?", metavar="OUT", help="folder to write (new or empty)")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="frames per drive, 10 a second (else 24)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first street (else 0)")
    parser.add_argument("--drives", type=int, default=1, metavar="K", help="number of drives, one street each (else 1)")
    parser.add_argument(
        "--cameras", default="00", metavar="NAMES", help="comma-separated, of 00, 01, 02, 03, left, right (else 00)"
    )
    parser.add_argument(
        "--layout", choices=tuple(SIZES), default="kitti360", help="of the folder that is written (else kitti360)"
    )
    parser.add_argument("--width", type=int, help="image width in pixels (else 1408, of kitti_odometry 1226)")
    parser.add_argument("--height", type=int, help="image height in pixels (else 376, of kitti_odometry 370)")
    parser.add_argument("--style", default="any", choices=("any", *STYLES), help="how the street is built (else any)")
    parser.add_argument("--no-lidar", action="store_true", help="write no laser scans")
    parser.add_argument("--no-truth", action="store_true", help="write no depth, instance and moving masks")
    parser.add_argument("--threads", type=int, metavar="T", help="threads (else one per core)")
    parser.add_argument("--force", action="store_true", help="replace a folder that an earlier kyn synth wrote")
    parser.add_argument("--contact-sheet", metavar="FILE", help="only write a picture of several streets, PNG or JPEG")
    parser.add_argument("--seeds", type=int, default=12, metavar="N", help="streets on the contact sheet (else 12)")
    parser.add_argument("--benchmark", action="store_true", help="only print images per second at 640x192")


def run(args: argparse.Namespace) -> int:
    """Run ``kyn synth``; raises ValueError or OSError with one sentence for what the user can mend."""
    for name in ("frames", "drives", "seeds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: got {value}, expected at least 1")
    if args.seed < 0:
        raise ValueError(f"--seed: got {args.seed}, expected 0 or above")
    width, height = SIZES[args.layout]
    args.width = width if args.width is None else args.width
    args.height = height if args.height is None else args.height
    if min(args.width, args.height) < 16:
        raise ValueError(f"--width, --height: got {args.width}x{args.height}, expected at least 16x16 pixels")
    if max(args.width, args.height) > 8192:
        raise ValueError(f"--width, --height: got {args.width}x{args.height}, expected at most 8192 each")
    if args.benchmark:
        return _benchmark(args)
    if args.contact_sheet:
        return _contact_sheet(args)
    if not args.out:
        raise ValueError("needs a folder to write, or --contact-sheet FILE, or --benchmark; see kyn synth --help")
    return _write(args)


def _write(args: argparse.Namespace) -> int:
    from kyn_models.data.street_odometry_writer import write_kitti_odometry
    from kyn_models.data.street_sensors import base_from_camera
    from kyn_models.data.street_writer import check_folder, write_kitti360
    from kyn_models.data.streets import StreetOptions, make_street

    cameras = tuple(dict.fromkeys(args.cameras.split(",")))
    for camera in cameras:
        base_from_camera(camera)
    step = (0.7, 1.2)
    drive_m = max(60.0, args.frames * step[1] + 1.0)
    if drive_m > MOST_METRES:
        raise ValueError(f"--frames: got {args.frames}, expected at most {int(MOST_METRES / step[1]) - 1} per drive")
    check_folder(Path(args.out), args.force)
    options = StreetOptions(drive_m=drive_m, step_m=step, style=args.style, threads=args.threads)
    started = time.perf_counter()
    written: list[str] = []
    streets = (make_street(args.seed + k, options) for k in range(args.drives))
    handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        write = write_kitti360 if args.layout == "kitti360" else write_kitti_odometry
        names = write(
            streets,
            args.out,
            args.frames,
            cameras=cameras,
            size=(args.width, args.height),
            lidar=not args.no_lidar,
            truth=not args.no_truth,
            force=args.force,
            progress=_progress(args.frames * args.drives, written),
        )
    except BaseException as error:
        if written or isinstance(error, KeyboardInterrupt):
            print(f"\n{args.out}: not finished, what was written of it is removed", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(
        f"{args.out}: {counted(len(names), 'drive')} of {counted(args.frames)} in {time.perf_counter() - started:.1f} s"
    )
    return 0


def _progress(total: int, written: list[str]) -> Callable[[str, int, int], None]:
    """Shows how far it is; written: gets the drive's name for every frame of the ``total``."""
    started = time.perf_counter()

    def show(drive: str, done: int, of: int) -> None:
        written.append(drive)
        left = (time.perf_counter() - started) / len(written) * (total - len(written))
        if sys.stderr.isatty():
            print(f"\r{drive}  frame {done} of {of}  about {left:.0f} s left   ", end="", file=sys.stderr, flush=True)
        elif done == of or done == 1 or done % 10 == 0:
            print(f"{drive}  frame {done} of {of}  about {left:.0f} s left", file=sys.stderr, flush=True)

    return show


def _contact_sheet(args: argparse.Namespace) -> int:
    """A grid of streets, three across, each with its seed and style."""
    import cv2
    import numpy as np

    from kyn_models import views
    from kyn_models.data.street_sensors import INTRINSICS
    from kyn_models.data.streets import StreetOptions, base_from_camera, make_street

    path = Path(args.contact_sheet)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--contact-sheet: got {path.name}, expected a name that ends in .png, .jpg or .jpeg")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--contact-sheet: the folder {path.parent} does not exist; make it first")
    camera = INTRINSICS.resized(640, 192)
    tiles = []
    for seed in range(args.seed, args.seed + args.seeds):
        street = make_street(seed, StreetOptions(style=args.style, threads=args.threads))
        pose = street.world_from_base(1.0) @ base_from_camera("00")
        tile = street.at(1.0).render(camera, pose, supersample=True).image.copy()
        views.label(tile, f"seed {seed}, {street.style}", (8, 18), 0.45)
        tiles.append(np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255))
    across = min(3, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % across)
    rows = [np.concatenate(tiles[k : k + across], axis=1) for k in range(0, len(tiles), across)]
    sheet = np.concatenate(rows)[..., ::-1]
    if not cv2.imwrite(str(path), sheet, [cv2.IMWRITE_JPEG_QUALITY, 85]):
        raise OSError(f"could not write {path}; is the disk full?")
    print(f"{path}: {args.seeds} streets, {sheet.shape[1]}x{sheet.shape[0]} pixels")
    return 0


def _benchmark(args: argparse.Namespace) -> int:
    """Pictures with depth and masks of 640x192 per second, streets already made; and what making one takes."""
    from kyn_models.data.street_sensors import INTRINSICS
    from kyn_models.data.streets import StreetOptions, base_from_camera, make_street

    camera, mount = INTRINSICS.resized(640, 192), base_from_camera("00")
    options = StreetOptions(style=args.style, threads=args.threads)
    warm = make_street(args.seed, options)
    warm.at(0.0).render(camera, warm.world_from_base(0.0) @ mount)
    started = time.perf_counter()
    streets = [make_street(seed, options) for seed in range(args.seed, args.seed + 10)]
    made = (time.perf_counter() - started) / len(streets)
    started = time.perf_counter()
    for street in streets:
        for time_s in (0.5, 1.5, 2.5, 3.5):
            street.at(time_s).render(camera, street.world_from_base(time_s) @ mount)
    rate = 4 * len(streets) / (time.perf_counter() - started)
    threads = args.threads or os.cpu_count()
    print(f"{rate:.1f} images/s (640x192 with depth and masks, {threads} threads); {made:.2f} s to make a street")
    return 0
