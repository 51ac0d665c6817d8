"""One runtime of depth from posed frames, or the cost volume alone, measured in a process of its own.

``python -m kyn_models.benchmark.frames FOLDER`` reads ``case.json`` and ``frames.npz`` there and writes
``result.json`` and ``answers.npz``. The runtime ``sweep`` is no runtime: it is the compiled cost volume and torch's in
turn, whose times can be compared because the machine was equally busy for both.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kyn_models import config as configuration
from kyn_models.artifact import Artifact
from kyn_models.benchmark.case import CASE, write_result
from kyn_models.benchmark.record import memory_mb
from kyn_models.runtimes.frame_queries import FramesInput, camera_matrix
from kyn_models.runtimes.frames import choose_frames
from kyn_models.runtimes.queries import LoadOptions, Precision
from kyn_models.types import Observation

SWEEP = "sweep"
FRAMES = "frames.npz"
SPACING_M = 0.8
"""Between the pictures, which are taken as those of a drive straight ahead."""
NEIGHBOURS = 2
MONO = frozenset({"mono"})
SWEEP_ROUNDS = 3
"""Of the comparison of cost volumes: torch takes seconds for each."""


@dataclass(frozen=True)
class FramesCase:
    """What is measured. model: artifact folder. runtime: or ``sweep``. precision: of its convolutions. rounds: how
    often every key frame is answered. cores: how many may be used."""

    model: str
    runtime: str
    precision: Precision
    rounds: int
    cores: int


def frames_of(artifact: Artifact, observations: Sequence[Observation]) -> list[FramesInput]:
    """Every picture as key frame between two others, ``SPACING_M`` before and behind it."""
    camera = artifact.camera
    images = [camera.warp(item.key.image, item.key.intrinsics)[0] for item in observations]
    poses = np.tile(np.eye(4, dtype=np.float32), (NEIGHBOURS, 1, 1))
    poses[:, 2, 3] = SPACING_M, -SPACING_M
    count, k = len(images), camera_matrix(camera)
    return [
        FramesInput(image, np.stack([images[index - 1], images[(index + 1) % count]]), k, poses)
        for index, image in enumerate(images)
    ]


def measure(case: FramesCase, frames: Sequence[FramesInput]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Load, answer every key frame once unmeasured, then ``case.rounds`` times; the depth of one image alone too.

    Returns what goes into ``result.json``, and fused and mono depth of every key frame. Raises as ``choose_frames``.
    """
    before_mb = memory_mb()[0]
    artifact = Artifact.load(case.model)
    start = time.perf_counter()
    runtime = choose_frames(case.runtime, artifact, warn=lambda _: None, options=LoadOptions(precision=case.precision))
    loaded = time.perf_counter()
    answers: dict[str, np.ndarray] = {}
    times: dict[str, list[float]] = {"frame": [], "mono alone": []}
    for number in range(-1, case.rounds):
        for index, asked in enumerate(frames):
            begin = time.perf_counter()
            answer = runtime.depth(asked, frozenset({"fused", "mono"}))
            middle = time.perf_counter()
            alone = runtime.depth(_without_neighbours(asked), MONO)
            end = time.perf_counter()
            assert answer.fused_m is not None and answer.mono_m is not None and alone.mono_m is not None
            answers |= {f"fused{index}": answer.fused_m, f"mono{index}": answer.mono_m}
            if number >= 0:
                times["frame"].append((middle - begin) * 1e3)
                times["mono alone"].append((end - middle) * 1e3)
                for stage, milliseconds in answer.stages_ms.items():
                    times.setdefault(stage, []).append(milliseconds)
    result = {
        "runtime": runtime.name,
        "precision": runtime.precision,
        "library": runtime.library,
        "load_s": loaded - start,
        "before_mb": before_mb,
        "peak_mb": memory_mb()[1],
        "times_ms": times,
    }
    return result, answers


def _without_neighbours(frames: FramesInput) -> FramesInput:
    return frames._replace(neighbours=frames.neighbours[:0], neighbour_from_key=frames.neighbour_from_key[:0])


def measure_sweep(case: FramesCase, frames: Sequence[FramesInput]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The compiled cost volume and torch's in turn, and how far the one is from the other."""
    import torch

    from kyn_models.networks.plane_sweep import cost_volume
    from kyn_models.runtimes.sweep import CompiledSweep
    from kyn_models.runtimes.swept_frames import plane_depths

    artifact = Artifact.load(case.model)
    height, width = artifact.camera.height, artifact.camera.width
    depths = plane_depths(artifact, int(artifact.manifest.config.get("depth_steps", 32)))
    compiled = CompiledSweep(height, width, depths)
    times: dict[str, list[float]] = {"compiled": [], "torch": []}
    differences = []
    for number in range(-1, SWEEP_ROUNDS):
        asked = frames[max(number, 0) % len(frames)]
        cameras = np.broadcast_to(asked.k, (len(asked.neighbours), 3, 3))
        begin = time.perf_counter()
        found = compiled(asked.image, asked.neighbours, asked.k, cameras, asked.neighbour_from_key).volume
        middle = time.perf_counter()
        key, others = (
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).float()[None] / 255 - 0.5
            for images in (asked.image, asked.neighbours)
        )
        tensors = [torch.from_numpy(np.array(value))[None] for value in (asked.k, asked.neighbour_from_key, cameras)]
        with torch.inference_mode():
            plain = cost_volume(key, tensors[0], others, tensors[1], tensors[2], torch.from_numpy(depths))[0].numpy()
        end = time.perf_counter()
        if number >= 0:
            times["compiled"].append((middle - begin) * 1e3)
            times["torch"].append((end - middle) * 1e3)
            differences.append(float(np.quantile(np.abs(found - plain).max(axis=0), 0.999)))
    return {"runtime": SWEEP, "times_ms": times, "difference": max(differences)}, {}


def write_frames(path: Path, frames: Sequence[FramesInput]) -> None:
    """``frames.npz``."""
    fields = {name: np.stack([getattr(item, name) for item in frames]) for name in FramesInput._fields}
    np.savez(path, **fields)  # type: ignore[arg-type]  # numpy's stub takes the names for options


def main(folder: str) -> int:
    """Measure the case in ``folder``; 3 if it cannot be, with the reason in ``result.json``."""
    place = Path(folder)
    case = configuration.from_mapping(FramesCase, json.loads((place / CASE).read_text()), CASE)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case.cores])
    with np.load(place / FRAMES) as stored:
        frames = [FramesInput(*item) for item in zip(*(stored[name] for name in FramesInput._fields), strict=True)]
    run = measure_sweep if case.runtime == SWEEP else measure
    return write_result(place, lambda: run(case, frames))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
