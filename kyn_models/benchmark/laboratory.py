"""One workload, many runtimes: each case is measured in a process of its own, on the same images. numpy only.

The path is the node's: the same ``Predictor``, artifact and outputs. What the numbers mean is in ``kyn bench --help``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kyn_models import config as configuration
from kyn_models.benchmark.case import ANSWERS, CASE, IMAGES, RESULT, Case, write_images
from kyn_models.benchmark.machine import Rates
from kyn_models.types import Observation, VoxelGridSpec

ONE_MILLION = 1 << 20


class Outcome(NamedTuple):
    """What became of a case: ``result`` and ``answers`` of its process, or ``failed``, the reason why there is none."""

    case: Case
    result: dict[str, Any]
    answers: dict[str, np.ndarray]
    failed: str


class Laboratory(AbstractContextManager):
    """A folder with the images, in which cases are measured one after the other. cores: how many they may use."""

    def __init__(self, observations: Sequence[Observation], cores: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kyn_bench_")
        self._path, self._cores = Path(self._folder.name), cores
        write_images(self._path / IMAGES, observations)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def measure(self, case: Case) -> Outcome:
        """Run the case in a process of its own."""
        for name in (RESULT, ANSWERS):
            (self._path / name).unlink(missing_ok=True)
        (self._path / CASE).write_text(json.dumps(configuration.to_mapping(case)))
        done = self._run("kyn_models.benchmark.case", str(self._path))
        if not (self._path / RESULT).is_file():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return Outcome(case, {}, {}, f"its process ended with {done.returncode}: {last}")
        result = json.loads((self._path / RESULT).read_text())
        if "failed" in result:
            return Outcome(case, {}, {}, result["failed"].removeprefix(f"runtime {case.runtime}: "))
        with np.load(self._path / ANSWERS) as stored:
            answers = {name: stored[name] for name in stored.files}
        return Outcome(case, result, answers, "")

    def rates(self) -> Rates:
        """What the machine can do on these cores. Raises ``ValueError`` if that cannot be measured."""
        done = self._run("kyn_models.benchmark.machine", str(self._cores))
        if done.returncode:
            raise ValueError(f"the machine's rates cannot be measured: {done.stderr.strip().splitlines()[-1]}")
        return Rates(**json.loads(done.stdout))

    def _run(self, module: str, argument: str) -> subprocess.CompletedProcess:
        return run_module(module, argument, self._cores)


def run_module(module: str, argument: str, cores: int) -> subprocess.CompletedProcess:
    """``python -m module argument`` of this very package, whose libraries use so many threads; its output as text."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        **dict.fromkeys(threads, str(cores)),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", module, argument]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def grid_in_view(voxels: int) -> VoxelGridSpec:
    """A grid of about ``voxels`` cells that lie inside the view of a camera with the training mount.

    51.2 x 25.6 x 6.4 m, 13.4 m ahead, where it also lies inside the view of KITTI-360's camera; 1,048,576 cells are
    of 0.2 m. Raises ``ValueError`` below 32.
    """
    if voxels < 32:
        raise ValueError(f"--voxels: got {voxels}, expected at least 32")
    layers = max(1, round((voxels / 32) ** (1 / 3)))
    edge = 6.4 / layers
    front, bottom = math.ceil(13.4 / edge - 1e-6), round(-1.2 / edge)
    # Six digits keep every bound a multiple of the edge to the accuracy that a grid asks for.
    bounds = [(front, front + 8 * layers), (-2 * layers, 2 * layers), (bottom, bottom + layers)]
    x, y, z = ((round(low * edge, 6), round(high * edge, 6)) for low, high in bounds)
    return VoxelGridSpec(x, y, z, edge)


def measure_all(
    laboratory: Laboratory, cases: Sequence[Case], say: Callable[[str], None]
) -> tuple[list[Outcome], list[Outcome]]:
    """(measured, failed) cases. A runtime whose library is missing is tried once, not in every precision."""
    measured: list[Outcome] = []
    failed: list[Outcome] = []
    for case in cases:
        if any(other.case.runtime == case.runtime and "not installed" in other.failed for other in failed):
            continue
        say(f"measuring {case.name} ...")
        outcome = laboratory.measure(case)
        (failed if outcome.failed else measured).append(outcome)
    return measured, failed
