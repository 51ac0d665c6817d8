"""The model as it is written in torch, without any rewrite: the reference, and the fallback everywhere.

On a GPU the runtime called torch is ``FusedTorch``; only models that cannot be fused run plainly there: those of
family ``kyn``, and point networks with blocks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from kyn_models.artifact import Artifact
from kyn_models.geometry import View, project
from kyn_models.models.kyn import KynField
from kyn_models.models.loading import load_model
from kyn_models.render import FieldLike, composite, query, render, surface_depth, z_samples
from kyn_models.runtimes.queries import (
    SAMPLES_PER_RAY,
    LabelQuery,
    LoadOptions,
    NoDevice,
    PointQuery,
    Query,
    RayQuery,
    Step,
    StepOutput,
)
from kyn_models.runtimes.torch_fused import FusedTorch
from kyn_models.types import Float32Array, UInt8Array

RAYS_AT_ONCE = 2048
"""Rays whose samples are held at once, 64 each."""


def load(artifact: Artifact, options: LoadOptions) -> PlainTorch | FusedTorch:
    """The model on the device ("cpu" or "cuda"). Raises ``NoDevice``, ``ValueError`` for a precision it lacks."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise NoDevice("torch finds no CUDA device here; use runtime torch on the CPU, openvino or onnxruntime")
    # A point network with blocks is not linear in what the encoder gives.
    fusible = artifact.manifest.family == "bts" and not artifact.manifest.config.get("blocks", 0)
    if options.device == "cuda" and fusible:
        return FusedTorch(artifact, options.device, options.precision)
    if options.precision not in ("auto", "float32"):
        raise ValueError(f"precision: got {options.precision}, expected float32 on the {options.device}")
    return PlainTorch(artifact, options.device)


class PlainTorch:
    """A runtime that encodes the image and asks the field, ray by ray and point by point."""

    name = "torch"
    precision = "float32"
    library = f"torch {torch.__version__}"

    def __init__(self, artifact: Artifact, device: str) -> None:
        self._device = torch.device(device)
        self._model: nn.Module = load_model(artifact).to(self._device)
        self._k_norm = torch.tensor(artifact.camera.k_norm, dtype=torch.float32, device=self._device)[None]
        self._z = z_samples(artifact.manifest.z_near, artifact.manifest.z_far, SAMPLES_PER_RAY).to(self._device)
        self._image_shape = (artifact.camera.height, artifact.camera.width, 3)

    def prepare(self, queries: Mapping[str, Query]) -> Step:
        """Move all queries to the device and run everything once."""
        tensors = {name: self._tensor(query) for name, query in queries.items()}

        def step(image: UInt8Array, wanted: frozenset[str]) -> StepOutput:
            start = time.perf_counter()
            # TF32 would round convolutions to 10 bits; this runtime is the reference.
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                field = self._encode(image)
                self._wait()
                stages = {"encode": (time.perf_counter() - start) * 1e3}
                arrays = {}
                for name in sorted(wanted):
                    start = time.perf_counter()
                    arrays[name] = self._answer(field, queries[name], tensors[name]).cpu().numpy()
                    stages[name] = (time.perf_counter() - start) * 1e3
            return StepOutput(arrays, stages)

        if self._device.type == "cuda":
            step(np.zeros(self._image_shape, dtype=np.uint8), frozenset(queries))
        return step

    def _tensor(self, query: Query) -> Tensor:
        values: Float32Array = query.directions if isinstance(query, RayQuery) else query.points
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self._device)

    def _encode(self, image: UInt8Array) -> FieldLike:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self._device)
        normalised = pixels.permute(2, 0, 1)[None].float() / 255 * 2 - 1
        here = torch.eye(4, device=self._device)[None]
        return self._model.condition(View(normalised, self._k_norm, here))

    def _answer(self, field: FieldLike, asked: Query, values: Tensor) -> Tensor:
        if isinstance(field, KynField):
            return self._answer_of_set(field, asked, values)
        if not isinstance(asked, RayQuery):
            return query(field, values[None])[0]
        directions = values.reshape(-1, 3)
        depth = [
            surface_depth(render(field, torch.zeros_like(rays)[None], rays[None], self._z), self._z)[0]
            for rays in directions.split(RAYS_AT_ONCE)
        ]
        return torch.cat(depth).view(values.shape[:2])

    def _answer_of_set(self, field: KynField, asked: Query, values: Tensor) -> Tensor:
        """Of a field whose points attend to each other: all of a query are one set, unless it says otherwise."""
        if isinstance(asked, LabelQuery):
            return field.label_at(project(self._k_norm, values[None]).uv)[0].to(torch.uint8)
        if isinstance(asked, PointQuery):
            return field.density(values[None], asked.points_per_call).sigma[0]
        sigma = field.along_rays(values.reshape(1, -1, 3), self._z.view(1, 1, -1))
        return surface_depth(composite(sigma, self._z), self._z).view(values.shape[:2])

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
