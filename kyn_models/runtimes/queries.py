"""What a runtime is asked for, and what it answers: the seam between the predictor and every runtime. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kyn_models.types import Float32Array, UInt8Array

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
    """Density at points. points: (N, 3) float32 in camera axes, metres, z > 0. Answer: (N,) float32 density."""

    points: Float32Array


Query = RayQuery | PointQuery


class StepOutput(NamedTuple):
    """Answers by query name, and milliseconds by stage."""

    arrays: dict[str, Float32Array]
    stages_ms: dict[str, float]


Step = Callable[[UInt8Array, frozenset[str]], StepOutput]
"""From the (H, W, 3) uint8 canonical image and the names of the wanted queries to their answers."""


class Runtime(Protocol):
    """A loaded model. Feature maps never cross this seam: a runtime may fuse all of it in one engine.

    ``prepare`` builds what depends on camera, mount and grid only, and warms it up; it may take seconds.
    """

    name: str
    precision: str

    def prepare(self, queries: Mapping[str, Query]) -> Step: ...
