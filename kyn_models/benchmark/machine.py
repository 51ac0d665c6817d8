"""What the machine can do, measured: float32 multiply-adds per second, and bytes of memory per second. numpy only.

``python -m kyn_models.benchmark.machine CORES`` prints both as JSON, measured on so many cores.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

MATRIX = 1536
TRIAD_BYTES = 128 << 20
"""Of each of the three arrays, over all cores: together larger than caches."""
TRIES = 5


class Rates(NamedTuple):
    """multiply_adds: float32 multiply-adds per second; bytes: read or written per second."""

    multiply_adds: float
    bytes: float


def measure_rates(cores: int) -> Rates:
    """Best of some tries of a large matrix product, and of a = b + c over arrays larger than the caches."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((MATRIX, MATRIX), dtype=np.float32) for _ in range(2))
    product = np.empty_like(a)
    multiply_adds = MATRIX**3 / _best(lambda: np.matmul(a, b, out=product))
    length = TRIAD_BYTES // 4 // cores
    parts = [tuple(np.ones(length, np.float32) for _ in range(3)) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:

        def triad() -> None:
            # numpy leaves the interpreter alone while it adds, so the threads run side by side.
            list(pool.map(lambda part: np.add(part[0], part[1], out=part[2]), parts))

        rate = 3 * 4 * length * cores / _best(triad)
    return Rates(multiply_adds, rate)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some tries, after one to warm up."""
    work()
    found = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def main(cores: str) -> int:
    """Print the rates of so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    print(json.dumps(measure_rates(int(cores))._asdict()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
