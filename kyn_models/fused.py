"""Image and constants in, depth and density out: a whole model in one graph, for runtimes that compile graphs. torch.

The convolutions may be float16. Everything else is float32: sampling, codes, the dot product, compositing. Channels
come first throughout, as GridSample writes them, so that no large map is ever transposed; there is no loop and no
arithmetic of shapes, so that a compiler can fuse what follows the sampling into one kernel per output.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.models.bts import PreActivation
from kyn_models.runtimes.constants import DecoderConstants, sample_depths

SAMPLES_AT_ONCE = 16
"""Samples of all rays whose hidden units lie in memory at once where a compiler does not fuse them away: 126 MB for
96x320 rays and 64 units."""


class Fused(nn.Module):
    """The graph of a model whose point network has one hidden layer of ``hidden`` units.

    half: convolutions in float16. ``forward`` takes R rays and N points of the encoding camera; grids are normalised
    image coordinates, codes are ``W_code code + bias`` (without the code of z' for rays), float32:

        image (1, H, W, 3) uint8, ray_grid (1, 1, R, 2), ray_code (1, hidden, 1, R), point_grid (1, 1, N, 2),
        point_code (1, hidden, 1, N) -> depth (1, 1, 1, R) metres or +Inf, density (1, 1, 1, N)
    """

    def __init__(self, network: PreActivation, constants: DecoderConstants, half: bool) -> None:
        super().__init__()
        self.network = _in_half(network) if half else network
        z = sample_depths(constants.z_near, constants.z_far).astype(np.float64)
        along = constants.project_codes(constants.depth_code(z[:-1])[:, None], (2,))
        self.depth = Compositing(z)
        add_constant(self, "along", along.T[None, :, :, None])
        add_constant(self, "w_out", constants.w_out[None, :, None, None])
        add_constant(self, "b_out", np.float32(constants.b_out))

    def forward(
        self, image: Tensor, ray_grid: Tensor, ray_code: Tensor, point_grid: Tensor, point_code: Tensor
    ) -> tuple[Tensor, Tensor]:
        planes = self.network.planes(image).float()
        rays = sampled(planes, ray_grid) + ray_code
        starts = range(0, self.along.shape[2], SAMPLES_AT_ONCE)
        along = [self._density(rays + self.along[:, :, i : i + SAMPLES_AT_ONCE]) for i in starts]
        return self.depth(torch.cat(along, dim=2)), self._density(sampled(planes, point_grid) + point_code)

    def _density(self, hidden: Tensor) -> Tensor:
        """(1, hidden, K, M) pre-activations to (1, 1, K, M) density."""
        raw = (functional.relu(hidden) * self.w_out).sum(dim=1, keepdim=True) + self.b_out
        return softplus(raw)


class Compositing(nn.Module):
    """Depth of rays from density at samples. z: (K + 1,) float64 depths of the samples, metres."""

    def __init__(self, z: np.ndarray) -> None:
        super().__init__()
        steps = np.diff(z)
        # Optical depth behind each sample: a prefix sum as one small product, which every compiler has.
        add_constant(self, "prefix", np.tril(np.broadcast_to(steps, (len(steps), len(steps)))))
        # sum (T[k - 1] - T[k]) z[k], sorted by T.
        add_constant(self, "share", np.append(steps[:-1], -z[-2])[:, None])
        add_constant(self, "nearest", np.float32(z[0]))

    def forward(self, sigma: Tensor) -> Tensor:
        """(1, 1, K, R) density at all samples but the last to (1, 1, 1, R) depth."""
        transmittance = torch.exp(-torch.matmul(self.prefix, sigma))
        passed = transmittance[:, :, -1:]
        expected = (transmittance * self.share).sum(dim=2, keepdim=True) + self.nearest
        # Where the surface counts, 1 - passed is at least 1/2.
        return torch.where(passed > 0.5, torch.inf, expected / (1 - passed).clamp(min=0.5))


def add_constant(module: nn.Module, name: str, value: np.ndarray | np.floating) -> None:
    """Give a module a float32 buffer."""
    module.register_buffer(name, torch.from_numpy(np.array(value, dtype=np.float32)))


def softplus(raw: Tensor) -> Tensor:
    """log(1 + exp(raw)) in operations that every compiler has, for any raw."""
    return functional.relu(raw) + torch.log(1 + torch.exp(-torch.abs(raw)))


def sampled(planes: Tensor, grid: Tensor) -> Tensor:
    """(1, C, H, W) maps bilinearly at (1, h, w, 2) normalised coordinates, the border continued: (1, C, h, w)."""
    return functional.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _in_half(network: PreActivation) -> PreActivation:
    """A copy in float16."""
    return rounded_once(copy.deepcopy(network)).half()


def rounded_once(network: nn.Module) -> nn.Module:
    """Make every batch normalisation a scale and a shift, in place, so that float16 does not round its variances."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            scale = layer.weight.double() / torch.sqrt(layer.running_var.double() + layer.eps)
            with torch.no_grad():
                layer.bias.copy_(layer.bias.double() - layer.running_mean.double() * scale)
                # The layer still divides by sqrt(1 + eps).
                layer.weight.copy_(scale * (1 + layer.eps) ** 0.5)
            layer.running_mean.zero_()
            layer.running_var.fill_(1.0)
    return network
