"""The sums of the fused torch runtime as two Triton kernels. Signatures and meaning are those of ``torch_loops``.

One program of ``march`` takes a few rays: the feature map is read once per ray, and all samples of the rays stay in
registers until their depth is known. relu(a + b) = max(b, -a) + a makes a sample of a hidden unit a maximum and a
product. ``density`` reads the constants of a point once, in order: it is bound by that.

Checked on the CPU with Triton's interpreter and compiled for compute capabilities 8.0, 8.7 and 9.0; not run on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

RAYS_AT_ONCE = 128
"""One per thread of four warps: rays lie along the last axis of tiles, so that no thread waits for another."""
POINTS_AT_ONCE = 32
# mypy: disable-error-code="no-untyped-def"
# Triton infers the types inside its kernels.


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
    """Depth of rays; see ``torch_loops.march``."""
    hidden, samples = along.shape
    count = len(index)
    march_kernel[(triton.cdiv(count, RAYS_AT_ONCE),)](
        *(features, index, weight, codes, along, w_out, b_out, z, steps, depth, count),
        HIDDEN=hidden,
        SAMPLES=samples,
        WIDE=triton.next_power_of_2(samples),
        BLOCK=RAYS_AT_ONCE,
    )


def density(
    features: Tensor, index: Tensor, weight: Tensor, codes: Tensor, w_out: Tensor, b_out: float, sigma: Tensor
) -> None:
    """Density of points; see ``torch_loops.density``."""
    count, hidden = len(index), len(w_out)
    density_kernel[(triton.cdiv(count, POINTS_AT_ONCE),)](
        *(features, index, weight, codes, w_out, b_out, sigma, count),
        HIDDEN=hidden,
        WIDE=triton.next_power_of_2(hidden),
        BLOCK=POINTS_AT_ONCE,
    )


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit(do_not_specialize=["count"])
def march_kernel(
    features,
    index,
    weight,
    codes,
    along,
    w_out,
    b_out,
    z,
    steps,
    depth,
    count,
    HIDDEN: tl.constexpr,  # noqa: N803 - Triton's way to write constants
    SAMPLES: tl.constexpr,  # noqa: N803
    WIDE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    # One kernel and one function: nothing between the loads and the store ever leaves the registers.
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held = ray < count
    sample = tl.arange(0, WIDE)
    real = sample < SAMPLES
    a = tl.load(index + 4 * ray, mask=held, other=0) * HIDDEN
    b = tl.load(index + 4 * ray + 1, mask=held, other=0) * HIDDEN
    c = tl.load(index + 4 * ray + 2, mask=held, other=0) * HIDDEN
    d = tl.load(index + 4 * ray + 3, mask=held, other=0) * HIDDEN
    wa = tl.load(weight + 4 * ray, mask=held, other=0.0)
    wb = tl.load(weight + 4 * ray + 1, mask=held, other=0.0)
    wc = tl.load(weight + 4 * ray + 2, mask=held, other=0.0)
    wd = tl.load(weight + 4 * ray + 3, mask=held, other=0.0)
    start = tl.zeros((BLOCK,), dtype=tl.float32) + b_out
    raw = tl.zeros((WIDE, BLOCK), dtype=tl.float32)
    for h in range(HIDDEN):
        value = tl.load(codes + ray * HIDDEN + h, mask=held, other=0.0)
        value += wa * tl.load(features + a + h) + wb * tl.load(features + b + h)
        value += wc * tl.load(features + c + h) + wd * tl.load(features + d + h)
        unit = tl.load(w_out + h)
        row = tl.load(along + h * SAMPLES + sample, mask=real, other=0.0)
        start += unit * value
        raw += unit * tl.maximum(row[:, None], -value[None, :])
    step = tl.load(steps + sample, mask=real, other=0.0)
    at = tl.load(z + sample, mask=real, other=0.0)
    # exp(-100) is nothing in float32, and a sum of larger numbers would hide what came before them.
    thickness = tl.minimum(softplus(raw + start[None, :]) * step[:, None], 100.0)
    before = tl.cumsum(thickness, axis=0) - thickness
    ended = tl.exp(-before) * (1.0 - tl.exp(-thickness))
    left = tl.exp(-tl.sum(thickness, axis=0))
    expected = tl.sum(ended * at[:, None], axis=0) / (1.0 - left)
    tl.store(depth + ray, tl.where(left > 0.5, float("inf"), expected), mask=held)


@triton.jit(do_not_specialize=["count"])
def density_kernel(
    features,
    index,
    weight,
    codes,
    w_out,
    b_out,
    sigma,
    count,
    HIDDEN: tl.constexpr,  # noqa: N803 - Triton's way to write constants
    WIDE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held = point < count
    h = tl.arange(0, WIDE)
    real = h < HIDDEN
    both = held[:, None] & real[None, :]
    value = tl.load(codes + point[:, None] * HIDDEN + h[None, :], mask=both, other=0.0)
    for corner in tl.static_range(4):
        row = tl.load(index + 4 * point + corner, mask=held, other=0) * HIDDEN
        share = tl.load(weight + 4 * point + corner, mask=held, other=0.0)
        value += share[:, None] * tl.load(features + row[:, None] + h[None, :], mask=both, other=0.0)
    unit = tl.load(w_out + h, mask=real, other=0.0)
    raw = tl.sum(tl.maximum(value, 0.0) * unit[None, :], axis=1) + b_out
    tl.store(sigma + point, softplus(raw), mask=held)
