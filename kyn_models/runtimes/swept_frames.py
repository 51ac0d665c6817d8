"""What the ONNX runtimes share for posed frames: the compiled cost volume, and sessions of the networks behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from kyn_models.artifact import Artifact
from kyn_models.runtimes.frame_queries import FUSED, FramesAnswer, FramesInput, camera_matrix, check_frames
from kyn_models.runtimes.sweep import CompiledSweep
from kyn_models.types import Float32Array

Ask = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""From the inputs of a graph, in its order, to its outputs."""


class Networks:
    """Opened graphs. fuse: image and cost (1, D, H, W) to fused and mono; mono: image to mono. planes: D."""

    def __init__(self, fuse: Ask, mono: Ask, planes: int) -> None:
        self.fuse, self.mono, self.planes = fuse, mono, planes


class SweptFrames:
    """A ``FramesRuntime`` of compiled loops and two graphs, warm once it is made."""

    def __init__(self, name: str, precision: str, library: str, artifact: Artifact, networks: Networks) -> None:
        self.name, self.precision, self.library = name, precision, library
        self._networks = networks
        self._image_shape = height, width = artifact.camera.height, artifact.camera.width
        self._sweep = CompiledSweep(height, width, plane_depths(artifact, networks.planes))
        image = np.zeros((height, width, 3), np.uint8)
        frames = FramesInput(image, image[None], camera_matrix(artifact.camera), np.eye(4, dtype=np.float32)[None])
        for count in (1, 0):
            asked = frames._replace(neighbours=frames.neighbours[:count], neighbour_from_key=frames[3][:count])
            self.depth(asked, frozenset({"fused", "mono"}))

    def depth(self, frames: FramesInput, wanted: frozenset[str] = FUSED) -> FramesAnswer:
        check_frames(frames, self._image_shape, wanted)
        stages: dict[str, float] = {}
        start = time.perf_counter()
        fused = mono = matched = swept = None
        if len(frames.neighbours) and wanted & {"fused", "matched"}:
            cameras = np.broadcast_to(frames.k, (len(frames.neighbours), 3, 3))
            swept = self._sweep(frames.image, frames.neighbours, frames.k, cameras, frames.neighbour_from_key)
            matched = swept.matched_m.copy() if "matched" in wanted else None
            stages["sweep"] = (time.perf_counter() - start) * 1e3
            start = time.perf_counter()
        image = np.ascontiguousarray(frames.image[None])
        if swept is not None and "fused" in wanted:
            fused, mono = self._networks.fuse((image, swept.volume[None]))
        elif "mono" in wanted:
            (mono,) = self._networks.mono((image,))
        if fused is not None or mono is not None:
            stages["network"] = (time.perf_counter() - start) * 1e3
        own = [None if values is None else np.array(values, np.float32) for values in (fused, mono)]
        return FramesAnswer(own[0], own[1] if "mono" in wanted else None, matched, stages)


def plane_depths(artifact: Artifact, planes: int) -> Float32Array:
    """(planes,) metres of the sweep, evenly spaced in inverse depth, the far end first."""
    near, far = artifact.manifest.z_near, artifact.manifest.z_far
    return (1 / np.linspace(1 / far, 1 / near, planes)).astype(np.float32)
