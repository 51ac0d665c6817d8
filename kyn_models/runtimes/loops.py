"""The loops of the compiled decoder. Arrays are float32, C-contiguous; indices int32.

numba compiles them once per machine and keeps the result. The polynomials of exp and log1p are here because the
compiler turns them into vector instructions, which it cannot do with calls of the C library.
"""

from __future__ import annotations

import numba
import numpy as np

OPTIONS = {
    "parallel": True,
    "fastmath": {"contract", "reassoc", "nsz"},
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
}
LOG2_E = np.float32(1.4426950408889634)
LN_2 = np.float32(0.6931471805599453)
RAYS_AT_ONCE = 64
POINTS_AT_ONCE = 512
# mypy: disable-error-code="no-untyped-def"
# numba infers the types of everything below.


@numba.njit(inline="always")
def exp_of_negative(x):
    """exp(x) for x <= 0, relative error below 4e-6 + 1e-7 |x|; about 1e-38 where less is meant."""
    t = max(x * LOG2_E, np.float32(-126.0))
    whole = np.floor(t + np.float32(0.5))
    r = (t - whole) * LN_2
    tail = np.float32(1 / 6) + r * (np.float32(1 / 24) + r * np.float32(1 / 120))
    power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (np.float32(1) + r * (np.float32(1) + r * (np.float32(0.5) + r * tail))) * power


@numba.njit(inline="always")
def softplus(x):
    """log(1 + exp(x)): the larger of x and 0, and 2 artanh(t / (2 + t)) of t = exp(-|x|). Relative
    error as of the exponential where the value is small, error below 4e-6 elsewhere."""
    t = exp_of_negative(-abs(x))
    s = t / (np.float32(2) + t)
    q = s * s
    tail = np.float32(2 / 7) + q * (np.float32(2 / 9) + q * np.float32(2 / 11))
    series = np.float32(2) + q * (np.float32(2 / 3) + q * (np.float32(2 / 5) + q * tail))
    return max(x, np.float32(0)) + s * series


@numba.njit(inline="always")
def pixel_coordinate(u, size):
    """From [-1, 1] to pixels, clamped to the border."""
    x = ((u + np.float32(1)) * np.float32(size) - np.float32(1)) * np.float32(0.5)
    return min(max(x, np.float32(0)), np.float32(size - 1))


@numba.njit(inline="always")
def transmit(passed, z, begin, end):
    """Through samples begin..end of a ray: what is left of the light, and the sum of depth where it ended."""
    left, depth = np.float32(1), np.float32(0)
    for s in range(begin, end):
        after = left * passed[s]
        depth += (left - after) * z[s]
        left = after
    return left, depth


@numba.njit(**OPTIONS)
def march(features, index, weight, codes, along, w_out, b_out, z, steps, depth):
    """Depth of rays. features (P, H), index and weight (R, 4), codes (R, H), along (H4, S), w_out (H4,), z and steps
    (S,) with steps[-1] = 0, H4 = H rounded up to a multiple of 4. Writes depth (R,).
    """
    hidden, wide, samples = features.shape[1], w_out.shape[0], z.shape[0]
    rays = index.shape[0]
    quarter = (samples + 3) // 4
    for block in numba.prange((rays + RAYS_AT_ONCE - 1) // RAYS_AT_ONCE):
        lowest = np.zeros(wide, dtype=np.float32)
        passed = np.empty(samples, dtype=np.float32)
        for i in range(block * RAYS_AT_ONCE, min(rays, (block + 1) * RAYS_AT_ONCE)):
            a, b, c, d = index[i, 0], index[i, 1], index[i, 2], index[i, 3]
            wa, wb, wc, wd = weight[i, 0], weight[i, 1], weight[i, 2], weight[i, 3]
            start = b_out
            for h in range(hidden):
                value = wa * features[a, h] + wb * features[b, h] + wc * features[c, h] + wd * features[d, h]
                value += codes[i, h]
                lowest[h] = -value
                start += w_out[h] * value
            for s in range(samples):
                passed[s] = start
            for h in range(0, wide, 4):
                l0, l1, l2, l3 = lowest[h], lowest[h + 1], lowest[h + 2], lowest[h + 3]
                w0, w1, w2, w3 = w_out[h], w_out[h + 1], w_out[h + 2], w_out[h + 3]
                for s in range(samples):
                    one = w0 * max(along[h, s], l0) + w1 * max(along[h + 1, s], l1)
                    passed[s] += one + w2 * max(along[h + 2, s], l2) + w3 * max(along[h + 3, s], l3)
            for s in range(samples):
                passed[s] = exp_of_negative(-softplus(passed[s]) * steps[s])
            # Four parts whose products do not wait for each other.
            t0, e0 = transmit(passed, z, 0, quarter)
            t1, e1 = transmit(passed, z, quarter, 2 * quarter)
            t2, e2 = transmit(passed, z, 2 * quarter, 3 * quarter)
            t3, e3 = transmit(passed, z, 3 * quarter, samples)
            left = t0 * t1 * t2 * t3
            expected = e0 + t0 * (e1 + t1 * (e2 + t2 * e3))
            depth[i] = np.inf if left > np.float32(0.5) else expected / (np.float32(1) - left)


@numba.njit(**OPTIONS)
def interpolated(features, size, uvz, place, table_u, table_v, table_z, low, rows_per_unit, w_out, b_out, sigma):
    """Density of points inside the tables. features (P, H), size (h, w), uvz (N, 3), place (N,), tables (n, H) with
    low and rows_per_unit (3,). Writes sigma[place].
    """
    hidden, points = w_out.shape[0], uvz.shape[0]
    height, width = size[0], size[1]
    one = np.float32(1)
    for block in numba.prange((points + POINTS_AT_ONCE - 1) // POINTS_AT_ONCE):
        begin = block * POINTS_AT_ONCE
        count = min(POINTS_AT_ONCE, points - begin)
        answer = np.empty(POINTS_AT_ONCE, dtype=np.float32)
        for j in range(count):
            u, v, z = uvz[begin + j, 0], uvz[begin + j, 1], uvz[begin + j, 2]
            x, y = pixel_coordinate(u, width), pixel_coordinate(v, height)
            x0, y0 = np.int32(x), np.int32(y)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            ax, ay = x - np.float32(x0), y - np.float32(y0)
            a, b, c, d = y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1
            wa, wb, wc, wd = (one - ax) * (one - ay), ax * (one - ay), (one - ax) * ay, ax * ay
            u, v, z = (u - low[0]) * rows_per_unit[0], (v - low[1]) * rows_per_unit[1], (z - low[2]) * rows_per_unit[2]
            # The last step of a table ends at its end: rounding must not lead beyond.
            iu = min(np.int32(u), table_u.shape[0] - 2)
            iv = min(np.int32(v), table_v.shape[0] - 2)
            iz = min(np.int32(z), table_z.shape[0] - 2)
            u1, v1, z1 = u - np.float32(iu), v - np.float32(iv), z - np.float32(iz)
            u0, v0, z0 = one - u1, one - v1, one - z1
            total = b_out
            for h in range(hidden):
                value = wa * features[a, h] + wb * features[b, h] + wc * features[c, h] + wd * features[d, h]
                value += u0 * table_u[iu, h] + u1 * table_u[iu + 1, h]
                value += v0 * table_v[iv, h] + v1 * table_v[iv + 1, h]
                value += z0 * table_z[iz, h] + z1 * table_z[iz + 1, h]
                total += w_out[h] * max(value, np.float32(0))
            answer[j] = total
        for j in range(count):
            answer[j] = softplus(answer[j])
        for j in range(count):
            sigma[place[begin + j]] = answer[j]


@numba.njit(**OPTIONS)
def coded(features, index, weight, codes, place, w_out, b_out, sigma):
    """Density of points with codes of their own. features (P, H), index and weight (N, 4), codes (N, H), place (N,).

    Writes sigma[place].
    """
    hidden = w_out.shape[0]
    for i in numba.prange(index.shape[0]):
        a, b, c, d = index[i, 0], index[i, 1], index[i, 2], index[i, 3]
        wa, wb, wc, wd = weight[i, 0], weight[i, 1], weight[i, 2], weight[i, 3]
        total = b_out
        for h in range(hidden):
            value = wa * features[a, h] + wb * features[b, h] + wc * features[c, h] + wd * features[d, h] + codes[i, h]
            total += w_out[h] * max(value, np.float32(0))
        sigma[place[i]] = softplus(total)
