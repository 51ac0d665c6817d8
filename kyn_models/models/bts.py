"""Behind the Scenes: a density field from one image (Wimbauer, Yang, Rupprecht, Cremers, CVPR 2023). torch.

``field = model.condition(view)``, then ``field(points)``; nothing is remembered between calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.geometry import EPSILON_M, View, project, sample, transform
from kyn_models.networks.monodepth2 import Monodepth2
from kyn_models.networks.point_mlp import PositionalCode, ResnetFC


@dataclass(frozen=True)
class BtsConfig:
    """encoder: image trunk. channels_dec: decoder channels from fine to coarse. d_out: feature channels.

    feature_scale: stride 2^n of the feature map, 0 as published. hidden, blocks: of the point network.
    frequencies, frequency_factor: of the positional code. z_near, z_far: range in metres.
    """

    encoder: str = "resnet50"
    channels_dec: tuple[int, ...] = (32, 32, 64, 128, 256)
    d_out: int = 64
    feature_scale: int = 0
    hidden: int = 64
    blocks: int = 0
    frequencies: int = 6
    frequency_factor: float = 1.5
    z_near: float = 3.0
    z_far: float = 80.0


class Density(NamedTuple):
    """sigma: (B, N) density, 0 or above; invalid: (B, N) bool, outside the encoding view."""

    sigma: Tensor
    invalid: Tensor


@dataclass(frozen=True)
class BtsField:
    """Density at any point of the world, as one encoded view says.

    features: (B, d_out, h, w) of the view's image; code and mlp: the parts of the model that answer at a point.
    """

    features: Tensor
    k_norm: Tensor
    camera_from_world: Tensor
    code: PositionalCode
    mlp: ResnetFC
    z_near: float
    z_far: float

    def density(self, points: Tensor) -> Density:
        """(B, N, 3) world points in metres. Equation 2 of the paper."""
        uv, z, invalid = project(self.k_norm, transform(self.camera_from_world, points))
        far = 1 / self.z_far
        nearness = 2 * (1 / z.clamp(min=EPSILON_M) - far) / (1 / self.z_near - far) - 1
        code = self.code(torch.cat([uv, nearness.unsqueeze(-1)], dim=-1))
        raw = self.mlp(torch.cat([sample(self.features, uv), code], dim=-1))
        return Density(functional.softplus(raw[..., 0].float()), invalid)

    def __call__(self, points: Tensor) -> Tensor:
        """(B, N) density of (B, N, 3) world points."""
        return self.density(points).sigma


class Bts(nn.Module):
    """The network, with the parameter names of the official checkpoints."""

    def __init__(self, config: BtsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Monodepth2(config.encoder, config.channels_dec, config.d_out, config.feature_scale)
        self.code_xyz = PositionalCode(config.frequencies, config.frequency_factor)
        self.mlp_coarse = ResnetFC(config.d_out + self.code_xyz.size, 1, config.blocks, config.hidden)

    def condition(self, view: View) -> BtsField:
        """Encode one view; the field it gives answers in that view's world."""
        features = self.encoder(view.image * 0.5 + 0.5)
        return self.field(features, view.k_norm, view.camera_from_world)

    def field(self, features: Tensor, k_norm: Tensor, camera_from_world: Tensor) -> BtsField:
        """The field of a feature map that is already there."""
        config = self.config
        return BtsField(
            features, k_norm, camera_from_world, self.code_xyz, self.mlp_coarse, config.z_near, config.z_far
        )
