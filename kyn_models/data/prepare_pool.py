"""What all preparations of data sets share: many processes that end with their parent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

import cv2

Recipe = TypeVar("Recipe")
Shot = TypeVar("Shot")

BATCH = 8
"""Shots that a process is given at once."""


@dataclass(frozen=True)
class Made:
    """Official files whose products were written, and were there before; what was wrong with the others."""

    written: int = 0
    kept: int = 0
    faults: tuple[str, ...] = ()

    def __add__(self, other: Made) -> Made:
        return Made(self.written + other.written, self.kept + other.kept, self.faults + other.faults)


def make_all(
    make: Callable[[Recipe, Sequence[Shot]], Made],
    batches: Iterable[tuple[Recipe, Sequence[Shot]]],
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
    make: Callable[[Recipe, Sequence[Shot]], Made], batches: Iterable[tuple[Recipe, Sequence[Shot]]], workers: int
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
