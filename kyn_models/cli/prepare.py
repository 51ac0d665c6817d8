"""``kyn prepare DATASET``: make what the readers of a downloaded data set need; one module per data set.

This module names them and holds what they share. A data set's module has ``add_arguments(parser)`` and
``run(args) -> int``, as a subcommand's, and imports what is heavy inside ``run``.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kyn_models.cli import add_kinds, interrupt

if TYPE_CHECKING:
    from kyn_models.data.prepare_pool import Made

QUIET_S = 10.0
"""Where the output is no terminal, progress is said this seldom."""

DATA_SETS: dict[str, tuple[str, str]] = {
    "kitti360": ("kyn_models.cli.prepare_kitti360", "rectify fisheye images and resize all images of KITTI-360"),
    "kitti-raw": (
        "kyn_models.cli.prepare_kitti_raw",
        "resize the images of KITTI raw, store lidar depth",
    ),
    "kitti-odometry": (
        "kyn_models.cli.prepare_kitti_odometry",
        "put annotated depth beside the images of KITTI odometry",
    ),
    "realestate10k": ("kyn_models.cli.prepare_realestate10k", "take the frames of RealEstate10K from its videos"),
}
"""Name to module and one line of help, in the order of ``kyn prepare --help``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn prepare``: a data set, and what its module asks for."""
    add_kinds(parser, DATA_SETS, "data sets", "DATASET")


def run(args: argparse.Namespace) -> int:
    """Run the data set's module; raises as it does."""
    return int(args.run_kind(args))


def processes(asked: int | None) -> int:
    """How many to use: as asked, else one per core. Raises ``ValueError``."""
    if asked is not None and asked < 1:
        raise ValueError(f"--workers: got {asked}, expected at least 1")
    return asked or len(os.sched_getaffinity(0))


def rows_columns(text: str) -> tuple[int, int]:
    """(rows, columns) of a text like 640x192, which is WIDTHxHEIGHT as everywhere. Raises ``ValueError``."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ValueError(f"--size: got {text!r}, expected WIDTHxHEIGHT like 640x192")
    columns, rows = int(found[1]), int(found[2])
    if rows > columns:
        # The folders' names are the other way round, and no camera of these data sets stands upright.
        raise ValueError(
            f"--size: got {text}, an image higher than wide, expected WIDTHxHEIGHT; did you mean {rows}x{columns}?"
        )
    return rows, columns


@contextmanager
def to_be_continued() -> Iterator[None]:
    """Ends the work inside on SIGTERM as on Ctrl-C, and says of either that the same command goes on."""
    handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, OSError)):
            print("not finished: what is written is whole, the same command goes on with it", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def progress(total: int, what: str = "images") -> Callable[[Made], None]:
    """For ``make_all``: names what cannot be read, and says how far it is; where no terminal is, seldom."""
    started = said = time.perf_counter()
    named = 0

    def show(made: Made) -> None:
        nonlocal said, named
        for fault in made.faults[named:]:
            print(f"{fault} (left out)", file=sys.stderr)
        named = len(made.faults)
        now, done = time.perf_counter(), made.written + made.kept + named
        rate = made.written / (now - started)
        left = (total - done) / max(done / (now - started), 1e-9)
        text = f"{done} of {total} {what}, {rate:.1f} {what}/s, about {left:.0f} s left"
        if sys.stderr.isatty():
            print(f"\r{text}   ", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif now - said > QUIET_S:
            said = now
            print(text, file=sys.stderr, flush=True)

    return show
