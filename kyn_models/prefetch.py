"""What a training step needs, made by threads while the step before it computes. numpy and OpenCV free Python's lock.

The order of what comes out does not depend on how many threads there are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """``make(step)`` for the steps ``first`` to ``last`` - 1, in their order, by ``workers`` threads.

    A context manager. An error of ``make`` is raised where its step would have come. Every worker holds one step's
    data, and one more is held ready.
    """

    def __init__(self, make: Callable[[int], T], first: int, last: int, workers: int) -> None:
        self._make, self._steps, self._workers = make, range(first, last), workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
        self._spent: deque[float] = deque(maxlen=8 * workers)

    def __enter__(self) -> Iterator[T]:
        return self._items()

    def _items(self) -> Iterator[T]:
        pending: deque[Future[T]] = deque()
        for step in self._steps:
            pending.append(self._pool.submit(self._timed, step))
            if len(pending) > self._workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _timed(self, step: int) -> T:
        started = time.perf_counter()
        made = self._make(step)
        self._spent.append(time.perf_counter() - started)
        return made

    def rate(self) -> float:
        """Steps' worth of data per second that the threads can make, by the last of them; 0 before the first."""
        spent = list(self._spent)
        return self._workers * len(spent) / sum(spent) if spent else 0.0

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
