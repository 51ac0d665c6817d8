"""What all preparations of data sets share: what is made of what, in many processes that end with their parent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

import cv2

from kyn_models.data.calibration import require_pixels
from kyn_models.image_file import read_rgb
from kyn_models.types import UInt8Array

Place = TypeVar("Place")
Recipe = TypeVar("Recipe")
Task = TypeVar("Task")
Content = TypeVar("Content")

BATCH = 8
"""Files that a process is given at once."""


@dataclass(frozen=True)
class Shot:
    """An official file and the one that is made of it."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Made:
    """Official files whose products were written, and were there before; what was wrong with the others."""

    written: int = 0
    kept: int = 0
    faults: tuple[str, ...] = ()

    def __add__(self, other: Made) -> Made:
        return Made(self.written + other.written, self.kept + other.kept, self.faults + other.faults)


def require_size(size: tuple[int, int]) -> None:
    """size: (rows, columns) of prepared images. Raises ``ValueError`` for one that is no image's."""
    if min(size) < 2:
        raise ValueError(f"size: got {size[1]}x{size[0]}, expected a width and a height of at least 2")


def read_official(path: Path, what: str, width: int, height: int) -> UInt8Array:
    """(height, width, 3) uint8 RGB of an official image. what: it is, for the sentence.

    Raises as ``read_rgb``, and ``ValueError`` for an image of another size.
    """
    image = read_rgb(path, what)
    require_pixels(path, image, width, height, "the calibration says")
    return image


def in_batches(
    recipes: Mapping[Place, Recipe], tasks: Mapping[Place, Sequence[Task]]
) -> Iterator[tuple[Recipe, Sequence[Task]]]:
    """What ``make_all`` is given: tasks of one place, a drive's camera say, and the recipe that they have in common."""
    for place, found in tasks.items():
        for start in range(0, len(found), BATCH):
            yield recipes[place], found[start : start + BATCH]


def make_folders(targets: Iterable[Path]) -> None:
    """Make the folders of files."""
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)


def make_each(
    tasks: Sequence[Task],
    done: Callable[[Task], bool],
    read: Callable[[Task], Content],
    write: Callable[[Task, Content], object],
) -> Made:
    """Read and write the tasks that are not ``done``; what cannot be read is a fault, and the others go on.

    Raises as ``write`` does.
    """
    made = Made()
    for task in tasks:
        if done(task):
            made = replace(made, kept=made.kept + 1)
            continue
        try:
            content = read(task)
        except (ValueError, FileNotFoundError) as error:
            made = replace(made, faults=(*made.faults, str(error)))
            continue
        write(task, content)
        made = replace(made, written=made.written + 1)
    return made


def make_all(
    make: Callable[[Recipe, Sequence[Task]], Made],
    batches: Iterable[tuple[Recipe, Sequence[Task]]],
    workers: int,
    strict: bool,
    progress: Callable[[Made], None],
) -> Made:
    """``make`` of every batch, in ``workers`` processes (1: in this one); the sum.

    make: a function of a module, as other processes must find it. strict: a fault ends the work as ``ValueError``.
    progress is given the sum so far. Raises ``OSError`` naming the file that cannot be written.
    """
    total = Made()
    with closing(_results(make, batches, workers)) as results:
        for made in results:
            total += made
            progress(total)
            if strict and total.faults:
                raise ValueError(total.faults[0])
    return total


def _results(
    make: Callable[[Recipe, Sequence[Task]], Made], batches: Iterable[tuple[Recipe, Sequence[Task]]], workers: int
) -> Generator[Made, None, None]:
    if workers == 1:
        yield from (make(recipe, shots) for recipe, shots in batches)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start)
    try:
        pending: set[Any] = set()
        for recipe, shots in batches:
            if len(pending) >= 2 * workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            pending.add(pool.submit(make, recipe, shots))
        yield from (future.result() for future in as_completed(pending))
    except BrokenProcessPool:
        raise OSError("a process ended before its work was done; is memory short? run it again to go on") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """First call in a process: one thread, signals are the parent's affair, and no life without the parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
