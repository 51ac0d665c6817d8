"""Depth images and second views as the evaluators of Behind the Scenes render them, from the plain model. torch.

The frame's whole image is resized to the network's size, whatever its camera, and the camera matrix is its own. Rays
go through the corners of the image grid and are sampled at equal steps of inverse DISTANCE, 64 of them, the last one
taking all light that is left; the expected distance becomes depth along the optical axis. The evaluator draws each
sample at random within its step; here it is the middle, so that a model has one score.

Second views: see ``kyn_models.evaluate_nvs``.

Know Your Neighbors (its evaluator does the same): the samples of all rays, row by row and from near to far, attend to
each other in runs of 100,000, as its renderer splits them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from kyn_models.artifact import Artifact
from kyn_models.evaluate_nvs import NvsOptions, published_source, published_view
from kyn_models.geometry import View, unproject
from kyn_models.models import ATTENDING_FAMILIES, POINTS_PER_CALL
from kyn_models.models.loading import load_model
from kyn_models.novel_view import Scene
from kyn_models.render import composite, z_samples
from kyn_models.types import Float32Array, Intrinsics, Sample

RAYS_AT_ONCE = 8192


class PublishedRays:
    """A model that is asked for depth and second views as published.

    device: "cpu", "cuda" or "cuda:<number>". Raises ``FileNotFoundError`` for an artifact without weights,
    ``ValueError`` as ``load_model`` does.
    """

    def __init__(self, artifact: Artifact, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._model = load_model(artifact).to(self._device)
        self._attends = artifact.manifest.family in ATTENDING_FAMILIES
        self.width, self.height = artifact.camera.width, artifact.camera.height

    @torch.inference_mode()
    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        """(height, width) metres along the optical axis of the whole key frame, and its camera at that size."""
        camera = sample.observation.key.intrinsics
        # TF32 would round convolutions to 10 bits.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            field = self._field(sample)
            directions = corner_rays(_k_norm(camera), self.width, self.height).to(self._device)
            depth_of_metre = 1 / directions.norm(dim=-1, keepdim=True)
            distances = z_samples(field.z_near, field.z_far).to(self._device)
            z = distances * depth_of_metre
            sigma = _by_points(field, directions, z) if self._attends else _by_rays(field, directions, z)
        depth = (composite(sigma, distances).weights * distances).sum(-1) * depth_of_metre[..., 0]
        return depth.view(self.height, self.width).cpu().numpy(), camera.resized(self.width, self.height)

    @torch.inference_mode()
    def view(self, sample: Sample, options: NvsOptions) -> Float32Array:
        """(options.height, options.width, 3) float32 in 0..1: what the camera of the sample's first view sees."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            field = self._field(sample)
            density = partial(_in_runs, field, self._device)
            scene = Scene(density, (published_source(sample, options),), whole=self._attends, outside="continued")
            return published_view(scene, sample, options, (field.z_near, field.z_far)).colours

    def _field(self, sample: Sample) -> Any:
        """What the model makes of the whole key frame, resized to its size."""
        key = sample.observation.key
        image = cv2.resize(
            key.image.astype(np.float32) / 255, (self.width, self.height), interpolation=cv2.INTER_LINEAR
        )
        pixels = torch.from_numpy(image.transpose(2, 0, 1) * 2 - 1)[None]
        view = (pixels, _k_norm(key.intrinsics), torch.eye(4)[None])
        return self._model.condition(View(*(tensor.to(self._device) for tensor in view)))


def _k_norm(camera: Intrinsics) -> Tensor:
    return torch.from_numpy(camera.normalised().astype(np.float32))[None]


def _in_runs(field: Any, device: torch.device, points: Float32Array) -> Float32Array:
    """(N,) density at (N, 3) points in key frame axes, in runs as the authors' renderer has them."""
    runs = torch.from_numpy(points).split(POINTS_PER_CALL)
    return torch.cat([field(run[None].to(device))[0].cpu() for run in runs]).numpy()


def _by_rays(field: Any, directions: Tensor, z: Tensor) -> Tensor:
    """(1, R, K) density at (1, R, K) depths along (1, R, 3) rays."""
    pieces = zip(directions.split(RAYS_AT_ONCE, dim=1), z.split(RAYS_AT_ONCE, dim=1), strict=True)
    return torch.cat([field.along_rays(*piece) for piece in pieces], dim=1)


def _by_points(field: Any, directions: Tensor, z: Tensor) -> Tensor:
    """The same, where the samples attend to each other in runs: these begin and end within rays."""
    _, rays, samples = z.shape
    parts = []
    for begin in range(0, rays * samples, POINTS_PER_CALL):
        index = torch.arange(begin, min(begin + POINTS_PER_CALL, rays * samples), device=z.device)
        ray = index // samples
        parts.append(field(directions[:, ray] * z[:, ray, index % samples].unsqueeze(-1)))
    return torch.cat(parts, dim=1).view(z.shape)


def corner_rays(k_norm: Tensor, width: int, height: int) -> Tensor:
    """(1, height * width, 3) rays in camera axes, z = 1, over -1..1 in both directions, the ends included."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    uv = torch.stack([u, v], dim=-1).view(1, -1, 2)
    return unproject(k_norm, uv, torch.ones(1, height * width))
