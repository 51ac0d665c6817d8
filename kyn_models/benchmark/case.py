"""One runtime in one precision, measured in a process of its own: its peak memory is then its own.

``python -m kyn_models.benchmark.case FOLDER`` reads ``case.json`` and ``images.npz`` there and writes ``result.json``
and ``answers.npz``. The runtime ``plain`` is the torch model without any rewrite: what all others are compared with.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kyn_models import cells, occupancy
from kyn_models import config as configuration
from kyn_models.artifact import Artifact
from kyn_models.benchmark.images import FEWEST
from kyn_models.benchmark.record import memory_mb
from kyn_models.field_model import PlacedField
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import Predictor, PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.runtimes.queries import PointQuery, Precision, Query, RayQuery
from kyn_models.types import UNKNOWN, Float32Array, Intrinsics, Observation, PosedFrame, UInt8Array, VoxelGridSpec

PLAIN = "plain"
CASE, RESULT, IMAGES, ANSWERS = "case.json", "result.json", "images.npz", "answers.npz"
QUERIES = frozenset({"depth", "volume"})


@dataclass(frozen=True)
class Case:
    """What is measured. model: artifact folder. rounds: how often all images are answered; cores: 0 means all."""

    model: str
    runtime: str
    precision: Precision = "auto"
    grid: VoxelGridSpec = VoxelGridSpec()
    depth_rays: tuple[int, int] = (96, 320)
    rounds: int = 10
    cores: int = 0

    @property
    def name(self) -> str:
        """Runtime and precision, for people."""
        return f"{self.runtime} {self.precision}"


@dataclass
class Timed:
    """frames_ms: milliseconds of whole frames; stages_ms: of each stage; checksums: per image, of each round."""

    frames_ms: list[float]
    stages_ms: dict[str, list[float]]
    checksums: list[list[int]]

    def add(self, image: int, frame_ms: float, stages_ms: dict[str, float], checksum: int) -> None:
        """One answered frame."""
        self.frames_ms.append(frame_ms)
        for stage, milliseconds in stages_ms.items():
            self.stages_ms.setdefault(stage, []).append(milliseconds)
        self.checksums[image].append(checksum)


def write_images(path: Path, observations: Sequence[Observation]) -> None:
    """``images.npz`` of observations of one camera size."""
    keys = [item.key for item in observations]
    k = np.array([(i.fx, i.fy, i.cx, i.cy) for i in (key.intrinsics for key in keys)])
    poses = np.stack([item.base_from_camera for item in observations])
    np.savez(path, images=np.stack([key.image for key in keys]), k=k, base_from_camera=poses)


def read_images(path: Path) -> list[Observation]:
    """What ``write_images`` wrote."""
    with np.load(path) as stored:
        images, ks, poses = stored["images"], stored["k"], stored["base_from_camera"]
    height, width = images.shape[1:3]
    cameras = [Intrinsics(fx, fy, cx, cy, width, height) for fx, fy, cx, cy in ks.tolist()]
    return [
        Observation((PosedFrame(image, camera, number + 1),), pose)
        for number, (image, camera, pose) in enumerate(zip(images, cameras, poses, strict=True))
    ]


def measure(case: Case, observations: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Load, warm up with every image, time every image ``case.rounds`` times.

    Returns what goes into ``result.json`` and the answers about the first images (density, depth along rays, grid).
    Raises as ``make_predictor`` does.
    """
    before_mb = memory_mb()[0]
    artifact = Artifact.load(case.model)
    start = time.perf_counter()
    options = PredictorOptions(case.runtime, case.grid, depth_rays=case.depth_rays, precision=case.precision)
    predictor = make_predictor(artifact, options, warn=_unheard)
    loaded = time.perf_counter()
    placed = [_placed(predictor, item) for item in observations[:1]]
    ready = time.perf_counter()
    timed = Timed([], {}, [[] for _ in observations])
    for number in range(-1, case.rounds):
        for index, item in enumerate(observations):
            begin = time.perf_counter()
            prediction = predictor.predict(item)
            frame_ms = (time.perf_counter() - begin) * 1e3
            assert prediction.depth_m is not None and prediction.volume is not None and prediction.grid is not None
            checksum = _checksum(prediction.volume, prediction.depth_m, prediction.grid)
            if number >= 0:
                timed.add(index, frame_ms, dict(prediction.stages_ms), checksum)
    peak_mb, gpu_mb = memory_mb()[1], _gpu_memory_mb()
    answers: dict[str, np.ndarray] = {}
    for index, item in enumerate(observations[:FEWEST]):
        image, _ = artifact.camera.warp(item.key.image, item.key.intrinsics)
        arrays = _placed(predictor, item).step(image, QUERIES).arrays
        grid = predictor.predict(item, {"grid"}).grid
        assert grid is not None
        answers |= {f"density{index}": arrays["volume"], f"depth{index}": arrays["depth"], f"grid{index}": grid}
    result = {
        "runtime": predictor.runtime_name,
        "precision": predictor.precision,
        "library": predictor.library,
        "load_s": loaded - start,
        "prepare_s": ready - loaded,
        "before_mb": before_mb,
        "peak_mb": peak_mb,
        "gpu_mb": gpu_mb,
        "cells": int(np.prod(case.grid.shape)),
        "cells_in_view": len(placed[0].cells),
        **vars(timed),
    }
    return result, answers


def _placed(predictor: Predictor, item: Observation) -> PlacedField:
    placed = predictor.build(item.key.intrinsics, item.base_from_camera).placed
    assert isinstance(placed, PlacedField)  # the command has checked the family
    return placed


def measure_plain(case: Case, observations: Sequence[Observation]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The same of the torch model as it is written: float32 on the CPU, the first images once."""
    before_mb, artifact = memory_mb()[0], Artifact.load(case.model)
    from kyn_models.runtimes.torch_runtime import PlainTorch

    runtime = PlainTorch(artifact, "cpu")
    timed = Timed([], {}, [[] for _ in observations])
    answers: dict[str, np.ndarray] = {}
    for index, item in enumerate(observations[:FEWEST]):
        points, to_grid = _plain_cells(artifact, case.grid, item)
        queries: dict[str, Query] = {
            "depth": RayQuery(artifact.camera.rays(*case.depth_rays)),
            "volume": PointQuery(points),
        }
        step = runtime.prepare(queries)
        begin = time.perf_counter()
        image, _ = artifact.camera.warp(item.key.image, item.key.intrinsics)
        warp_ms = (time.perf_counter() - begin) * 1e3
        output = step(image, QUERIES)
        grid = to_grid(output.arrays["volume"])
        frame_ms = (time.perf_counter() - begin) * 1e3
        timed.add(index, frame_ms, {"warp": warp_ms, **output.stages_ms}, _checksum(*output.arrays.values()))
        arrays = output.arrays
        answers |= {f"density{index}": arrays["volume"], f"depth{index}": arrays["depth"], f"grid{index}": grid}
    result = {
        "runtime": PLAIN,
        "precision": runtime.precision,
        "library": runtime.library,
        "before_mb": before_mb,
        "peak_mb": memory_mb()[1],
        "gpu_mb": None,
        **vars(timed),
    }
    return result, answers


def _plain_cells(
    artifact: Artifact, spec: VoxelGridSpec, item: Observation
) -> tuple[Float32Array, Callable[[Float32Array], np.ndarray]]:
    """The points of the cells in view, and how their densities become the 2-D grid."""
    camera, manifest = artifact.camera, artifact.manifest
    index, points, pixels = cells.cells_in_camera(
        spec, item.base_from_camera, camera.intrinsics, (manifest.z_near, manifest.z_far), 1.0
    )
    hidden = ~camera.seen(item.key.intrinsics).reshape(-1)[pixels]

    def to_grid(sigma: Float32Array) -> np.ndarray:
        volume: UInt8Array = np.full(spec.shape, UNKNOWN, dtype=np.uint8)
        flat = volume.reshape(-1)
        flat[index] = occupancy.probability_to_byte(occupancy.density_to_probability(sigma))
        flat[index[hidden]] = UNKNOWN
        return occupancy.volume_to_grid(volume, spec, GridOptions())

    return points, to_grid


def _checksum(*arrays: np.ndarray) -> int:
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return found


def _gpu_memory_mb() -> float | None:
    """Most memory that torch took on a GPU in 10^6 bytes; None where it was not used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.max_memory_allocated() / 1e6)


def _unheard(sentence: str) -> None:
    """A named runtime fails instead of being passed over."""


def main(folder: str) -> int:
    """Measure the case in ``folder``; 3 if it cannot be, with the reason in ``result.json``."""
    place = Path(folder)
    case = configuration.from_mapping(Case, json.loads((place / CASE).read_text()), CASE)
    if case.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case.cores])
    run = measure_plain if case.runtime == PLAIN else measure
    return write_result(place, lambda: run(case, read_images(place / IMAGES)))


def write_result(place: Path, run: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]]) -> int:
    """What ``run`` gives, as ``result.json`` and ``answers.npz`` in ``place``; 3 and the reason if it cannot."""
    try:
        result, answers = run()
    except (ImportError, OSError, RuntimeError, ValueError, MemoryError) as error:
        sentence = " ".join(str(error).split()) or type(error).__name__
        (place / RESULT).write_text(json.dumps({"failed": sentence}))
        return 3
    np.savez(place / ANSWERS, **answers)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    (place / RESULT).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
