"""Depth images as the evaluator of Behind the Scenes renders them, from the plain model. torch.

The frame's whole image is resized to the network's size, whatever its camera, and the camera matrix is its own. Rays
go through the corners of the image grid and are sampled at equal steps of inverse DISTANCE, 64 of them, the last one
taking all light that is left; the expected distance becomes depth along the optical axis. The evaluator draws each
sample at random within its step; here it is the middle, so that a model has one score.

Know Your Neighbors (its evaluator does the same): the samples of all rays, row by row and from near to far, attend to
each other in runs of 100,000, as its renderer splits them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from kyn_models.artifact import Artifact
from kyn_models.evaluate import ATTENDING_FAMILIES, POINTS_PER_CALL
from kyn_models.geometry import View, unproject
from kyn_models.models.loading import load_model
from kyn_models.render import composite, z_samples
from kyn_models.types import Float32Array, Intrinsics, Sample

FAMILIES = ("bts", "kyn")
RAYS_AT_ONCE = 8192


class PublishedRays:
    """A model that is asked for depth as published.

    Raises ``FileNotFoundError`` for an artifact without weights, ``ValueError`` for another family's.
    """

    def __init__(self, artifact: Artifact) -> None:
        if artifact.manifest.family not in FAMILIES:
            raise ValueError(
                f"{artifact.path}: got a model of family {artifact.manifest.family!r}, expected one of "
                f"{', '.join(FAMILIES)} for rays as published; --rays runtime asks any model"
            )
        self._model = load_model(artifact)
        self._attends = artifact.manifest.family in ATTENDING_FAMILIES
        self.width, self.height = artifact.camera.width, artifact.camera.height

    @torch.inference_mode()
    def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
        """(height, width) metres along the optical axis of the whole key frame, and its camera at that size."""
        key = sample.observation.key
        image = cv2.resize(
            key.image.astype(np.float32) / 255, (self.width, self.height), interpolation=cv2.INTER_LINEAR
        )
        k_norm = torch.from_numpy(key.intrinsics.normalised().astype(np.float32))[None]
        pixels = torch.from_numpy(image.transpose(2, 0, 1) * 2 - 1)[None]
        field = self._model.condition(View(pixels, k_norm, torch.eye(4)[None]))
        directions = corner_rays(k_norm, self.width, self.height)
        depth_of_metre = 1 / directions.norm(dim=-1, keepdim=True)
        distances = z_samples(field.z_near, field.z_far)
        z = distances * depth_of_metre
        sigma = _by_points(field, directions, z) if self._attends else _by_rays(field, directions, z)
        depth = (composite(sigma, distances).weights * distances).sum(-1) * depth_of_metre[..., 0]
        depth = depth.view(self.height, self.width)
        return depth.numpy(), key.intrinsics.resized(self.width, self.height)


def _by_rays(field: Any, directions: Tensor, z: Tensor) -> Tensor:
    """(1, R, K) density at (1, R, K) depths along (1, R, 3) rays."""
    pieces = zip(directions.split(RAYS_AT_ONCE, dim=1), z.split(RAYS_AT_ONCE, dim=1), strict=True)
    return torch.cat([field.along_rays(*piece) for piece in pieces], dim=1)


def _by_points(field: Any, directions: Tensor, z: Tensor) -> Tensor:
    """The same, where the samples attend to each other in runs: these begin and end within rays."""
    _, rays, samples = z.shape
    parts = []
    for begin in range(0, rays * samples, POINTS_PER_CALL):
        index = torch.arange(begin, min(begin + POINTS_PER_CALL, rays * samples))
        ray = index // samples
        parts.append(field(directions[:, ray] * z[:, ray, index % samples].unsqueeze(-1)))
    return torch.cat(parts, dim=1).view(z.shape)


def corner_rays(k_norm: Tensor, width: int, height: int) -> Tensor:
    """(1, height * width, 3) rays in camera axes, z = 1, over -1..1 in both directions, the ends included."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    uv = torch.stack([u, v], dim=-1).view(1, -1, 2)
    return unproject(k_norm, uv, torch.ones(1, height * width))
