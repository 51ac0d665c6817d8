"""What a runtime is asked for, and what it answers: the seam between the predictor and every runtime. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from kyn_models.types import Float32Array, UInt8Array

Precision = Literal["auto", "float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "float16", "bfloat16")
"""Of convolutions alone: geometry, codes and what follows at a point are float32 everywhere."""

SAMPLES_PER_RAY = 64
"""Samples of a rendered depth, equidistant in inverse depth, as published."""


@dataclass(frozen=True)
class RayQuery:
    """Depth along rays of the canonical camera.

    directions: (h, w, 3) float32, camera axes, z = 1. Answer: (h, w) float32 metres along the optical axis, +Inf
    where the transmittance before the last sample exceeds 0.5, else the expected depth of the other samples.
    """

    directions: Float32Array


@dataclass(frozen=True)
class PointQuery:
    """Density at points. points: (N, 3) float32 in camera axes, metres, z > 0. Answer: (N,) float32 density.

    points_per_call: for families whose points attend to each other: how many at a time do, in the order of ``points``;
    None lets all of them. Other families answer the same with any.
    """

    points: Float32Array
    points_per_call: int | None = None


@dataclass(frozen=True)
class LabelQuery:
    """What stands at points, for families that know labels. points as above. Answer: (N,) uint8 into the artifact's
    label names.
    """

    points: Float32Array


Query = RayQuery | PointQuery | LabelQuery


class StepOutput(NamedTuple):
    """Answers by query name, and milliseconds by stage. The next call of the same step may overwrite the arrays."""

    arrays: dict[str, np.ndarray]
    stages_ms: dict[str, float]


Step = Callable[[UInt8Array, frozenset[str]], StepOutput]
"""From the (H, W, 3) uint8 canonical image and the names of the wanted queries to their answers."""


class NoDevice(RuntimeError):
    """This machine has no device that the runtime runs on: no fault, and no reason to warn."""


def _silent(sentence: str) -> None:
    """Progress that nobody listens to."""


@dataclass(frozen=True)
class LoadOptions:
    """How a runtime is loaded.

    device: "cpu" or "cuda". precision: "auto" leaves it to the runtime. rays, points: how many a query will hold at
    most as far as is known, for runtimes that compile for sizes; 0 if nothing is known. say: receives progress, one
    sentence at a time.
    """

    device: str = "cpu"
    precision: Precision = "auto"
    rays: int = 0
    points: int = 0
    say: Callable[[str], None] = _silent


class Runtime(Protocol):
    """A loaded model. Feature maps never cross this seam: a runtime may fuse all of it in one engine.

    library: product and version that runs it. ``prepare`` builds what depends on camera, mount and grid only, and warms
    it up; it may take seconds. Steps of one runtime are used from one thread at a time, ``prepare`` from any.
    """

    name: str
    precision: str
    library: str

    def prepare(self, queries: Mapping[str, Query]) -> Step: ...
