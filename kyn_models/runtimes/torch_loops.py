"""The sums of the fused torch runtime in plain torch, for any device: where Triton is missing, and what proves it.

Signatures are those of ``triton_loops``. Tensors are float32 (indices int32), contiguous, on one device. Work goes in
parts, so that no more than about ``PART_BYTES`` are held beside what the caller holds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PART_BYTES = 1 << 27


def march(
    features: Tensor,
    index: Tensor,
    weight: Tensor,
    codes: Tensor,
    along: Tensor,
    w_out: Tensor,
    b_out: float,
    z: Tensor,
    steps: Tensor,
    depth: Tensor,
) -> None:
    """Depth of rays. features (P, H), index and weight (R, 4), codes (R, H), along (H, S), w_out (H,), z and steps
    (S,) with steps[-1] = 0. Writes depth (R,): +Inf where more than half of the light reaches the last sample.
    """
    hidden, samples = along.shape
    count = _part(hidden * samples)
    for start in range(0, len(index), count):
        part = slice(start, start + count)
        pixel = gather(features, index[part], weight[part]) + codes[part]
        raw = (pixel.unsqueeze(2) + along).relu_().mul_(w_out.unsqueeze(1)).sum(1) + b_out
        passed = torch.exp(-functional.softplus(raw) * steps)
        left = torch.cumprod(passed, dim=1)
        before = functional.pad(left[:, :-1], (1, 0), value=1.0)
        expected = ((before - left) * z).sum(1) / (1 - left[:, -1])
        depth[part] = torch.where(left[:, -1] > 0.5, torch.inf, expected)


def density(
    features: Tensor, index: Tensor, weight: Tensor, codes: Tensor, w_out: Tensor, b_out: float, sigma: Tensor
) -> None:
    """Density of points. features (P, H), index and weight (N, 4), codes (N, H), w_out (H,). Writes sigma (N,)."""
    count = _part(6 * len(w_out))
    for start in range(0, len(index), count):
        part = slice(start, start + count)
        value = gather(features, index[part], weight[part]).add_(codes[part]).relu_()
        sigma[part] = functional.softplus(value.mul_(w_out).sum(1) + b_out)


def gather(features: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(n, H) weighted sums of four rows of (P, H) features each; index and weight (n, 4)."""
    rows = features.index_select(0, index.reshape(-1)).view(*index.shape, -1)
    return rows.mul_(weight.unsqueeze(2)).sum(1)


def _part(floats: int) -> int:
    """How many items of so many numbers each are taken at once."""
    return max(1, PART_BYTES // (4 * floats))
