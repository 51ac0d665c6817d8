"""Volume rendering as plain functions over a field: a callable from points to density. torch.

Depths are along the optical axis; ray directions have z = 1 in the encoding camera, so that distances between samples
are depths, exactly as published (Wimbauer et al. 2023, equations 3 and 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

FieldLike = Callable[[Tensor], Tensor]
"""From (B, N, 3) points to (B, N) density."""

SAMPLES = 64
LAST_INTERVAL = 1e10


class Composite(NamedTuple):
    """weights: (..., K), their sum 1 with the hard last sample; passed: (...) transmittance before the last sample."""

    weights: Tensor
    passed: Tensor


def z_samples(z_near: float, z_far: float, count: int = SAMPLES, jitter: Tensor | None = None) -> Tensor:
    """Depths at equal steps of inverse depth: (count,), or the shape of ``jitter`` (..., count).

    jitter: where in its step each sample lies, 0..1 (training); without it the middle.
    """
    steps = torch.arange(count, dtype=torch.float32, device=None if jitter is None else jitter.device)
    s = (steps + (0.5 if jitter is None else jitter)) / count
    return 1 / ((1 - s) / z_near + s / z_far)


def composite(sigma: Tensor, z: Tensor, hard_last: bool = True) -> Composite:
    """Weights of samples along rays. sigma: (..., K) density, z: (K,) or (..., K) depths.

    The last interval has no end, as in the authors' code. With ``hard_last`` the last sample takes all light that is
    left even where the density is 0; without it only then nothing is taken.
    """
    z = z.expand_as(sigma)
    steps = z[..., 1:] - z[..., :-1]
    last = torch.full_like(steps[..., :1], LAST_INTERVAL)
    alpha = 1 - torch.exp(-torch.cat([steps, last], dim=-1) * sigma)
    if hard_last:
        alpha = torch.cat([alpha[..., :-1], torch.ones_like(alpha[..., :1])], dim=-1)
    passed = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha], dim=-1), dim=-1)
    return Composite(alpha * passed[..., :-1], passed[..., -2])


def query(field: FieldLike, points: Tensor, chunk: int = 1 << 16) -> Tensor:
    """(B, N) density of (B, N, 3) points, in chunks; the split does not change the answer.

    A field that says ``one_set`` is asked once: its points count for each other, and it bounds its memory itself.
    """
    if points.shape[1] == 0:
        return points.new_zeros(points.shape[:2])
    if getattr(field, "one_set", False):
        return field(points)
    return torch.cat([field(part) for part in points.split(chunk, dim=1)], dim=1)


def ray_points(origins: Tensor, directions: Tensor, z: Tensor) -> Tensor:
    """(B, R, 3) rays at (K,) or (B, R, K) depths: (B, R * K, 3) points."""
    z = z.expand(*directions.shape[:2], z.shape[-1])
    points = origins.unsqueeze(2) + directions.unsqueeze(2) * z.unsqueeze(-1)
    return points.flatten(1, 2)


def render(field: FieldLike, origins: Tensor, directions: Tensor, z: Tensor, chunk: int = 1 << 16) -> Composite:
    """Weights of (B, R) rays at depths (K,) or (B, R, K); expected depth is ``(weights * z).sum(-1)``."""
    sigma = query(field, ray_points(origins, directions, z), chunk)
    return composite(sigma.view(*directions.shape[:2], z.shape[-1]), z)


def surface_depth(rendered: Composite, z: Tensor) -> Tensor:
    """Depth by the rule of robots: +Inf where more than half of the light reaches the last sample, else the expected
    depth of the other samples. (..., K) weights to (...) metres."""
    seen = (1 - rendered.passed).clamp(min=1e-6)
    expected = (rendered.weights[..., :-1] * z[..., :-1]).sum(-1) / seen
    return torch.where(rendered.passed > 0.5, torch.inf, expected)
