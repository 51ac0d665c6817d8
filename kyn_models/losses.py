"""Losses of density fields: from true geometry, and from the colours of other views. torch.

All of them return one scalar, the mean over what is known.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TWO_LN2 = 2 * math.log(2)


def occupancy_loss(sigma: Tensor, occupied: Tensor) -> Tensor:
    """Cross entropy of the occupancy probability p = 1 - 2^(-2 sigma).

    sigma: (..., N) density at points; occupied: same shape, 1 occupied, 0 free, NaN unknown.
    """
    known = torch.isfinite(occupied)
    x = TWO_LN2 * sigma
    log_p = torch.log(-torch.expm1(-x.clamp(min=1e-4)))
    loss = torch.where(occupied > 0.5, -log_p, x)
    return torch.where(known, loss, torch.zeros_like(loss)).sum() / known.sum().clamp(min=1)


def depth_loss(depth: Tensor, passed: Tensor, truth: Tensor, z_near: float, z_far: float) -> Tensor:
    """Difference of log depths where there is a surface, light that did not pass where there is sky.

    depth: (..., R) composited depth; passed: (..., R) transmittance before the last sample; truth: (..., R) metres,
    +Inf sky, NaN unknown. Surfaces outside (z_near, z_far) do not count.
    """
    surface = torch.isfinite(truth) & (truth > z_near) & (truth < z_far)
    sky = torch.isposinf(truth)
    log_truth = torch.log(torch.where(surface, truth, torch.ones_like(truth)))
    difference = (torch.log(depth.clamp(min=1e-3)) - log_truth).abs()
    loss = torch.where(surface, difference, torch.where(sky, 1 - passed, torch.zeros_like(passed)))
    return loss.sum() / (surface | sky).sum().clamp(min=1)


def ssim_distance(a: Tensor, b: Tensor) -> Tensor:
    """(1 - SSIM) / 2 per pixel, 3x3 means, clamped to 0..1. a, b: (B, C, H, W) in 0..1 -> (B, C, H, W).

    One of them may have a single channel, which then meets every channel of the other.
    """
    a, b = functional.pad(a, (1, 1, 1, 1), mode="reflect"), functional.pad(b, (1, 1, 1, 1), mode="reflect")
    mean_a, mean_b = functional.avg_pool2d(a, 3, 1), functional.avg_pool2d(b, 3, 1)
    var_a = functional.avg_pool2d(a * a, 3, 1) - mean_a**2
    var_b = functional.avg_pool2d(b * b, 3, 1) - mean_b**2
    covariance = functional.avg_pool2d(a * b, 3, 1) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return ((1 - above / below) / 2).clamp(0, 1)


def colour_loss(rendered: Tensor, truth: Tensor, invalid: Tensor) -> Tensor:
    """0.85 SSIM + 0.15 L1 over patches, as published (Godard et al. 2019, Wimbauer et al. 2023).

    rendered, truth: (P, 3, h, w) in 0..1; invalid: (P, h, w) in 0..1, the share of a pixel's weight whose colour no
    view has. Pixels with more than half of it invalid do not count.
    """
    error = 0.85 * ssim_distance(rendered, truth).mean(dim=1) + 0.15 * (rendered - truth).abs().mean(dim=1)
    known = invalid < 0.5
    return torch.where(known, error, torch.zeros_like(error)).sum() / known.sum().clamp(min=1)


WINDOW = ((0.0947, 0.1183, 0.0947), (0.1183, 0.1478, 0.1183), (0.0947, 0.1183, 0.0947))
"""Gaussian means of the published training's SSIM."""


def patch_error(rendered: Tensor, truth: Tensor) -> Tensor:
    """0.85 SSIM distance + 0.15 L1 per pixel, as the authors' training has it: (..., 3, h, w) in 0..1 -> (..., h, w).

    Their SSIM takes Gaussian 3x3 means with zeros outside of the patch, and (1 - SSIM) clamped to 0..1, halved.
    """
    shape = rendered.shape
    a, b = rendered.reshape(-1, 1, *shape[-2:]), truth.reshape(-1, 1, *shape[-2:])
    window = torch.tensor(WINDOW, dtype=a.dtype, device=a.device)[None, None]

    def mean(x: Tensor) -> Tensor:
        return functional.conv2d(x, window, padding=1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, covariance = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similar = similar / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    distance = (1 - similar).clamp(0, 1) / 2
    return 0.85 * distance.view(shape).mean(dim=-3) + 0.15 * (rendered - truth).abs().mean(dim=-3)


def edge_aware_smoothness(distance: Tensor, colour: Tensor) -> Tensor:
    """Steps of normalised inverse distance, less where the colour steps too (Godard et al. 2019): (P, h, w) metres and
    (P, 3, h, w) in 0..1 -> (P, h, w)."""
    near = 1 / distance.clamp(1e-3, 80)
    near = near / near.mean(dim=(1, 2), keepdim=True)
    across = (near[:, :, :-1] - near[:, :, 1:]).abs()
    down = (near[:, :-1] - near[:, 1:]).abs()
    across = across * torch.exp(-(colour[..., :-1] - colour[..., 1:]).abs().mean(dim=1))
    down = down * torch.exp(-(colour[..., :-1, :] - colour[..., 1:, :]).abs().mean(dim=1))
    return functional.pad(across, (0, 1)) + functional.pad(down, (0, 0, 0, 1))
