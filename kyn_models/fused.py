"""A whole density field as one graph for TensorRT: image and constants in, depth and density out. torch.

What depends on geometry (where rays and points fall in the image, their codes) comes in as arrays that stay on the
device; the graph holds no coordinates and no trigonometry. Only the image network may be half precision: sampling,
codes and compositing are float32 whatever the precision is.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.models.bts import PreActivation
from kyn_models.render import z_samples
from kyn_models.runtimes.queries import SAMPLES_PER_RAY

INPUTS = ("image", "ray_grid", "ray_code", "point_grid", "point_code")
OUTPUTS = ("depth", "density")
SAMPLES_AT_ONCE = 16
"""Samples of all rays whose hidden units may lie in memory at once, should a compiler not fuse them away."""


class FusedField(nn.Module):
    """image (1, H, W, 3) uint8, ray_grid (1, 1, R, 2), ray_code (R, hidden), point_grid (1, 1, N, 2), point_code (N,
    hidden) -> depth (R,), density (N,), all float32.

    Grids are normalised image coordinates; codes are what ``DecoderConstants.project_codes`` gives, with the bias: of u
    and v for rays, of u, v and z' for points. network, constants: of ``Bts.exportable``. dtype: of the image network.
    Depth is +Inf where more than half of the light reaches the last sample, else the expected depth of the others.
    """

    def __init__(self, network: PreActivation, constants: dict[str, Tensor], along: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.network = copy.deepcopy(network)
        if dtype != torch.float32:
            _lower(self.network, dtype)
        z = z_samples(float(constants["z_near"]), float(constants["z_far"]), SAMPLES_PER_RAY).reshape(-1)
        self.register_buffer("along", along[:-1])
        self.register_buffer("w_out", constants["w_out"])
        self.register_buffer("b_out", constants["b_out"])
        self.register_buffer("z", z[:-1])
        self.register_buffer("steps", z[1:] - z[:-1])
        # Sums over all samples up to each: a product, because compilers make a loop of a cumulative sum.
        self.register_buffer("up_to", torch.triu(torch.ones(len(z) - 1, len(z) - 1)))

    def forward(
        self, image: Tensor, ray_grid: Tensor, ray_code: Tensor, point_grid: Tensor, point_code: Tensor
    ) -> tuple[Tensor, Tensor]:
        # TensorRT can do nothing with 8-bit numbers but widen them: that comes first.
        pixels = image.float().permute(0, 3, 1, 2) / 255
        decoder = self.network.network.decoder
        trunk = decoder.trunk(self.network.network.encoder(pixels))
        features = self.network.merged(functional.pad(trunk, (1, 1, 1, 1), mode="reflect")).float()
        return self._depth(_at(features, ray_grid) + ray_code), self._density(_at(features, point_grid) + point_code)

    def _density(self, hidden: Tensor) -> Tensor:
        return functional.softplus((functional.relu(hidden) * self.w_out).sum(-1) + self.b_out)

    def _depth(self, start: Tensor) -> Tensor:
        rows = [self.along[i : i + SAMPLES_AT_ONCE] for i in range(0, len(self.along), SAMPLES_AT_ONCE)]
        parts = [self._density(start[:, None] + some[None]) for some in rows]
        thickness = torch.cat(parts, dim=1) * self.steps
        passed = thickness @ self.up_to
        after = torch.exp(-passed)
        ended = torch.exp(thickness - passed) - after
        left = after[:, -1]
        expected = (ended * self.z).sum(-1) / (1 - left).clamp(min=1e-6)
        return torch.where(left > 0.5, torch.inf, expected)


def _at(features: Tensor, grid: Tensor) -> Tensor:
    """(N, C) of (1, C, h, w) at (1, 1, N, 2)."""
    return functional.grid_sample(features, grid, padding_mode="border", align_corners=False)[0, :, 0].T


class _Scale(nn.Module):
    """Batch normalisation as a product and a sum, whose factors are computed in float32 and rounded once."""

    def __init__(self, norm: nn.BatchNorm2d, dtype: torch.dtype) -> None:
        super().__init__()
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight.detach().double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        shift = norm.bias.detach().double() - norm.running_mean.double() * scale
        self.register_buffer("scale", scale.to(dtype)[:, None, None])
        self.register_buffer("shift", shift.to(dtype)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _lower(network: nn.Module, dtype: torch.dtype) -> None:
    """Make convolutions and what lies between them half precision, in place; the image is normalised in float32."""
    for module in tuple(network.modules()):
        for name, layer in tuple(module.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                setattr(module, name, _Scale(layer, dtype))
            elif isinstance(layer, nn.Conv2d):
                layer.to(dtype)
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda layer, inputs: (inputs[0].to(dtype),))
