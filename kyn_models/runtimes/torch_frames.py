"""Depth from posed frames with the model as it is written in torch: the reference, and the fallback everywhere."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kyn_models.artifact import Artifact
from kyn_models.models.loading import load_model
from kyn_models.networks.plane_sweep import best_depth
from kyn_models.runtimes.frame_queries import FUSED, FramesAnswer, FramesInput, check_frames
from kyn_models.runtimes.queries import LoadOptions, NoDevice
from kyn_models.types import Float32Array


def load(artifact: Artifact, options: LoadOptions) -> TorchFrames:
    """The model on the device ("cpu" or "cuda"). Raises ``NoDevice``, ``ValueError`` for a precision it lacks."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise NoDevice("torch finds no CUDA device here; use runtime torch on the CPU, openvino or onnxruntime")
    if options.precision not in ("auto", "float32"):
        raise ValueError(f"precision: got {options.precision}, expected float32 with torch")
    return TorchFrames(artifact, options.device)


class TorchFrames:
    """A ``FramesRuntime``."""

    name = "torch"
    precision = "float32"
    library = f"torch {torch.__version__}"

    def __init__(self, artifact: Artifact, device: str) -> None:
        self._device = torch.device(device)
        self._model: Any = load_model(artifact).to(self._device)
        self._image_shape = (artifact.camera.height, artifact.camera.width)

    def depth(self, frames: FramesInput, wanted: frozenset[str] = FUSED) -> FramesAnswer:
        check_frames(frames, self._image_shape, wanted)
        # TF32 would round convolutions to 10 bits; this runtime is the reference.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._depth(frames, wanted)

    def _depth(self, frames: FramesInput, wanted: frozenset[str]) -> FramesAnswer:
        start = time.perf_counter()
        image, stages = self._images(frames.image[None]), {}
        fused = mono = matched = None
        cost = self._cost(image, frames) if len(frames.neighbours) and wanted & {"fused", "matched"} else None
        if cost is not None:
            if "matched" in wanted:
                matched = _array(best_depth(cost, self._model.depths(cost))[0])
            self._wait()
            stages["sweep"] = (time.perf_counter() - start) * 1e3
            start = time.perf_counter()
        if cost is not None and "fused" in wanted:
            found = self._model.inverse_depths(image, cost)
            fused, mono = _array(1 / found.fused[0][0, 0]), _array(1 / found.mono[0][0, 0])
        elif "mono" in wanted:
            mono = _array(1 / self._model.mono_inverse_depths(image)[0][0, 0])
        if fused is not None or mono is not None:
            stages["network"] = (time.perf_counter() - start) * 1e3
        return FramesAnswer(fused, mono if "mono" in wanted else None, matched, stages)

    def _cost(self, image: Tensor, frames: FramesInput) -> Tensor:
        k = torch.from_numpy(frames.k).to(self._device)[None]
        poses = torch.from_numpy(np.ascontiguousarray(frames.neighbour_from_key)).to(self._device)[None]
        neighbours = self._images(frames.neighbours)[None]
        cameras = k[:, None].expand(-1, neighbours.shape[1], -1, -1)
        cost: Tensor = self._model.cost_volume(image, k, neighbours, poses, cameras)
        return cost

    def _images(self, images: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        return pixels.permute(0, 3, 1, 2).float() / 255 - 0.5

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _array(values: Tensor) -> Float32Array:
    return values.float().cpu().numpy()
