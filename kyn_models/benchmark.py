"""Speed, memory and accuracy of runtimes on one workload: each in a process of its own, on the same images. numpy only.

The path is the node's: the same ``Predictor``, artifact and outputs. What the numbers mean is in ``kyn bench --help``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kyn_models import config as configuration
from kyn_models.benchmark_case import ANSWERS, CASE, IMAGES, RESULT, Case, write_images
from kyn_models.benchmark_images import FEWEST
from kyn_models.benchmark_machine import Rates
from kyn_models.types import Observation, VoxelGridSpec

STAGES = ("warp", "encode", "depth", "labels", "volume", "assemble")
"""Labels come with the volume, from models that know them."""
DECODING = ("depth", "volume")
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
        done = self._run("kyn_models.benchmark_case", str(self._path))
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
        done = self._run("kyn_models.benchmark_machine", str(self._cores))
        if done.returncode:
            raise ValueError(f"the machine's rates cannot be measured: {done.stderr.strip().splitlines()[-1]}")
        return Rates(**json.loads(done.stdout))

    def _run(self, module: str, argument: str) -> subprocess.CompletedProcess:
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        root = str(Path(__file__).resolve().parents[1])
        environment = {
            **os.environ,
            **dict.fromkeys(threads, str(self._cores)),
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


def summary(outcome: Outcome) -> dict[str, Any]:
    """Medians and 95th percentiles in ms, frames per second, memory, checksums of one measured case."""
    result = outcome.result
    stages = {stage: result["stages_ms"][stage] for stage in STAGES if stage in result["stages_ms"]}
    decoding = np.sum([stages[stage] for stage in DECODING if stage in stages], axis=0)
    rounds = [checksums for checksums in result["checksums"] if checksums]
    first = [checksums[0] for checksums in rounds]
    return {
        **{key: value for key, value in result.items() if key not in ("frames_ms", "stages_ms", "checksums")},
        "frames": len(result["frames_ms"]),
        "stages_ms": {stage: spread_of(times) for stage, times in stages.items()},
        "decoding_ms": spread_of(decoding),
        "frame_ms": spread_of(result["frames_ms"]),
        "frames_per_second": 1e3 / float(np.median(result["frames_ms"])),
        "checksums": [f"{checksum:08x}" for checksum in first],
        "same_image_same_answer": all(len(set(checksums)) == 1 for checksums in rounds),
        "other_image_other_answer": len(set(first)) == len(first),
    }


def add_plain_ratios(rows: Sequence[dict[str, Any]], plain: Mapping[str, Any]) -> None:
    """Add to every summary what share of the plain path's time its depth and its volume take."""
    for row in rows:
        medians = {stage: [item["stages_ms"][stage]["median"] for item in (row, plain)] for stage in DECODING}
        row["plain_ratios"] = {stage: own / slow for stage, (own, slow) in medians.items()}


def spread_of(times: Sequence[float] | np.ndarray) -> dict[str, float]:
    """``median`` and ``p95``."""
    return {"median": float(np.median(times)), "p95": float(np.percentile(times, 95))}


def difference(answers: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far answers about the first images are from the plain path's.

    density: at the cells in view; depth: in metres, along the rays that both call finite; sky_share: of rays that only
    one calls finite; grid_share: of cells of the 2-D grid that differ.
    """
    images = range(FEWEST)
    density = np.concatenate([np.abs(answers[f"density{i}"] - plain[f"density{i}"]) for i in images])
    pairs = [(answers[f"depth{i}"], plain[f"depth{i}"]) for i in images]
    finite = [np.isfinite(a) & np.isfinite(b) for a, b in pairs]
    depth = np.concatenate([np.abs(a[both] - b[both]) for (a, b), both in zip(pairs, finite, strict=True)])
    return {
        "density_max": float(density.max(initial=0)),
        "density_mean": float(density.mean()) if density.size else 0.0,
        "depth_max_m": float(depth.max(initial=0)),
        "depth_mean_m": float(depth.mean()) if depth.size else 0.0,
        "sky_share": float(np.mean([np.isfinite(a) != np.isfinite(b) for a, b in pairs])),
        "grid_share": float(np.mean([answers[f"grid{i}"] != plain[f"grid{i}"] for i in images])),
    }


def reference_encoder(rows: Sequence[Mapping[str, Any]], runtime: str) -> tuple[str, float] | None:
    """(name, median ms) of the float32 encoder that ratios are to: the runtime's own, else the fastest of the run."""
    known = [
        (row["runtime"] != runtime, row["stages_ms"]["encode"]["median"], row["runtime"])
        for row in rows
        if row["precision"] == "float32" and "encode" in row["stages_ms"]
    ]
    if not known:
        return None
    _, milliseconds, name = min(known)
    return f"{name} float32", milliseconds


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Add to every summary what decoding and the whole frame are to the float32 encoder of this run."""
    for row in rows:
        reference = reference_encoder(rows, row["runtime"])
        if reference is not None:
            name, milliseconds = reference
            row["ratio_to"] = name
            row["decoding_ratio"] = row["decoding_ms"]["median"] / milliseconds
            row["frame_ratio"] = row["frame_ms"]["median"] / milliseconds
