"""What a runtime of depth from posed frames is asked, and what it answers. numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from kyn_models.canonical import CanonicalCamera
from kyn_models.types import Float32Array, UInt8Array

ANSWERS = frozenset({"fused", "mono", "matched"})
"""What may be wanted: fields of ``FramesAnswer`` without their unit."""
FUSED = frozenset({"fused"})


class FramesInput(NamedTuple):
    """A key frame and its neighbours, all in the artifact's canonical camera.

    image: (H, W, 3) uint8 RGB key frame. neighbours: (N, H, W, 3) uint8, N may be 0; in any order.
    k: (3, 3) float32 camera matrix of all of them in pixels, in the published form c' = c s.
    neighbour_from_key: (N, 4, 4) float32 rigid transforms from the key camera's axes to a neighbour's, in metres; to be
    made from float64 poses, since a map whose origin is far away has no centimetres in float32.
    """

    image: UInt8Array
    neighbours: UInt8Array
    k: Float32Array
    neighbour_from_key: Float32Array


class FramesAnswer(NamedTuple):
    """Depth of the key frame along its optical axis in metres, (H, W) float32 each, None where nobody wanted it.

    fused_m: of all frames; None without neighbours. mono_m: of the key frame alone. matched_m: the plane of the sweep
    at which the neighbours match best, before any network; NaN where none counts; None without neighbours, and from
    runtimes that cannot say it. stages_ms: milliseconds by stage. The arrays are the caller's own.
    """

    fused_m: Float32Array | None
    mono_m: Float32Array | None
    matched_m: Float32Array | None
    stages_ms: Mapping[str, float]


class FramesRuntime(Protocol):
    """A loaded and warm model. Used from one thread at a time.

    library: product and version that runs it. ``depth`` raises ``ValueError`` for shapes that do not fit each other or
    the artifact, and for a name that is none of ``ANSWERS``.
    """

    name: str
    precision: str
    library: str

    def depth(self, frames: FramesInput, wanted: frozenset[str] = FUSED) -> FramesAnswer: ...


def camera_matrix(camera: CanonicalCamera) -> Float32Array:
    """``k`` of a canonical camera: (3, 3) float32, c' = c s and f' = f s."""
    scale = np.diag([camera.width / camera.source.width, camera.height / camera.source.height, 1.0])
    return (scale @ camera.source.matrix).astype(np.float32)


def check_frames(frames: FramesInput, image_shape: tuple[int, int], wanted: frozenset[str]) -> None:
    """Raises ``ValueError`` as ``FramesRuntime`` says. image_shape: (H, W) of the artifact."""
    count = len(frames.neighbours)
    expected: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
        "image": (frames.image, (*image_shape, 3)),
        "neighbours": (frames.neighbours, (count, *image_shape, 3)),
        "k": (frames.k, (3, 3)),
        "neighbour_from_key": (frames.neighbour_from_key, (count, 4, 4)),
    }
    for name, (value, shape) in expected.items():
        if value.shape != shape:
            raise ValueError(f"frames: {name}: got shape {value.shape}, expected {shape}")
    if not wanted <= ANSWERS:
        raise ValueError(f"frames: got {sorted(wanted - ANSWERS)}, expected some of {', '.join(sorted(ANSWERS))}")
