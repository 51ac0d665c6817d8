"""The loops of the compiled plane sweep. Arrays are float32, C-contiguous, unless said otherwise.

A thread takes a band of rows. For each neighbour and plane it warps the rows of the band, one after the other, and
keeps the last three: those under the window of the SSIM. What it holds at a time stays in the cache.

A pixel counts from the second inside of every border on, so no window ever reaches beyond an image: how windows are
padded there makes no difference.
"""

from __future__ import annotations

import numba
import numpy as np

from kyn_models.runtimes.loops import OPTIONS, exp_of_negative

INLINE = {key: value for key, value in OPTIONS.items() if key != "parallel"}
MOST_ROWS = 32
"""Of a band. Two more on each side are warped for it; its costs of 32 planes of 512 pixels take 2 MB."""
BORDER = 2
SHARPNESS = np.float32(10.0)
CHUNK = 16
SHARES = (np.float32(5 / 32), np.float32(16 / 32), np.float32(11 / 32))
C1, C2 = np.float32(0.01**2), np.float32(0.03**2)
NINTH = np.float32(1 / 9)
BITS = 10
LEVELS = 510.0
ONE = np.uintp(1)
"""Columns are counted without a sign: an index that may be negative counts from the end, which no vector does."""
GREY = 255
"""A packed pixel holds three colours of ``BITS`` bits, 0..``LEVELS``; ``GREY``, the middle, is outside of the image."""
# mypy: disable-error-code="no-untyped-def"
# numba infers the types of everything below.


@numba.njit(**OPTIONS)
def pack(images, packed):
    """images (N, H, W, 3) uint8 -> packed (N, H + 3, W + 3) int32: one grey pixel before each row and column, two after
    it."""
    count, height, width = images.shape[:3]
    outside = np.int32(GREY | GREY << BITS | GREY << 2 * BITS)
    for row in numba.prange(count * (height + 3)):
        n, y = row // (height + 3), row % (height + 3) - 1
        packed[n, y + 1] = outside
        if 0 <= y < height:
            for x in range(width):
                r, g, b = np.int32(images[n, y, x, 0]), np.int32(images[n, y, x, 1]), np.int32(images[n, y, x, 2])
                packed[n, y + 1, x + 1] = 2 * r | 2 * g << BITS | 2 * b << 2 * BITS


@numba.njit(**OPTIONS)
def key_statistics(image, key, mean, spread):
    """image (H, W, 3) uint8 -> key (3, H, W) in 0..1, mean and spread (3, H, W) of 3x3 windows inside of it.

    spread: the variance plus the constant of the SSIM.
    """
    height, width = image.shape[:2]
    for y in numba.prange(height):
        for c in range(3):
            for x in range(width):
                key[c, y, x] = np.float32(image[y, x, c]) * np.float32(1 / 255)
    for y in numba.prange(1, height - 1):
        for c in range(3):
            for x in range(1, width - 1):
                total, squares = np.float32(0), np.float32(0)
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        value = key[c, y + dy, x + dx]
                        total += value
                        squares += value * value
                total *= NINTH
                mean[c, y, x] = total
                spread[c, y, x] = squares * NINTH - total * total + C2


@numba.njit(inline="always")
def inside(m, t, x, y, depth, width, height):
    """Whether a pixel at a depth lies inside of a neighbour's border, and whether in front of it."""
    x, y = np.float32(x), np.float32(y)
    px = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) * depth + t[0]
    py = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) * depth + t[1]
    pz = (m[2, 0] * x + m[2, 1] * y + m[2, 2]) * depth + t[2]
    u, v = px / pz - np.float32(0.5), py / pz - np.float32(0.5)
    one = np.float32(1)
    return one < u < np.float32(width - BORDER) and one < v < np.float32(height - BORDER), pz > 0


@numba.njit(**INLINE)
def mark_seen(m, t, depths, height, top, seen):
    """Writes seen (rows, W) bool of the rows from ``top`` on; returns the first column that is seen and the one after
    the last.

    In front of a camera a point that moves along a ray moves on a straight line: the first and the last plane tell of
    all between them.
    """
    width, last = seen.shape[1], len(depths) - 1
    low, high = width, 0
    for row in range(seen.shape[0]):
        for x in range(width):
            far, far_ahead = inside(m, t, x, top + row, depths[0], width, height)
            near, near_ahead = inside(m, t, x, top + row, depths[last], width, height)
            found = far and near and BORDER <= x < width - BORDER
            if found and far_ahead != near_ahead:
                for d in range(1, last):
                    found = found and inside(m, t, x, top + row, depths[d], width, height)[0]
            seen[row, x] = found
            if found:
                low, high = min(low, x), max(high, x + 1)
    return low, high


@numba.njit(**INLINE)
def place_row(m, t, depth, y, low, high, height, width, index, right, down):
    """Where columns low..high of a row lie in a packed neighbour: index (W,) int32 of the pixel above and left of it,
    right and down (W,) how far it is from there. What is outside ends in the grey border."""
    y = np.float32(y)
    xx, yx, zx = m[0, 0] * depth, m[1, 0] * depth, m[2, 0] * depth
    x0 = (m[0, 1] * y + m[0, 2]) * depth + t[0]
    y0 = (m[1, 1] * y + m[1, 2]) * depth + t[1]
    z0 = (m[2, 1] * y + m[2, 2]) * depth + t[2]
    zero, half = np.float32(0), np.float32(0.5)
    most_x, most_y, stride = np.float32(width + 1), np.float32(height + 1), np.float32(width + 3)
    for x in range(np.uintp(low), np.uintp(high)):
        column = np.float32(np.int32(x))
        scale = np.float32(1) / (zx * column + z0)
        u, v = (xx * column + x0) * scale + half, (yx * column + y0) * scale + half
        # Also what is no number is outside.
        u = u if u > zero else zero
        v = v if v > zero else zero
        u = u if u < most_x else most_x
        v = v if v < most_y else most_y
        u0, v0 = np.floor(u), np.floor(v)
        index[x] = np.int32(v0 * stride + u0)
        right[x] = u - u0
        down[x] = v - v0


@numba.njit(**INLINE)
def unpack_row(corners, right, down, low, high, shift, colour):
    """Writes colour (W,) 0..1 of a channel from corners (4, W) int32 packed pixels. shift: bits before the channel."""
    above, beside, below, across = corners[0], corners[1], corners[2], corners[3]
    mask = np.int32((1 << BITS) - 1)
    for x in range(np.uintp(low), np.uintp(high)):
        a = np.float32((above[x] >> shift) & mask)
        b = np.float32((beside[x] >> shift) & mask)
        c = np.float32((below[x] >> shift) & mask)
        d = np.float32((across[x] >> shift) & mask)
        upper, lower = a + right[x] * (b - a), c + right[x] * (d - c)
        colour[x] = (upper + down[x] * (lower - upper)) * np.float32(1 / LEVELS)


@numba.njit(**INLINE)
def warp_row(packed, low, high, index, right, down, corners, colours):
    """Writes colours (3, W) at the places of ``place_row``. packed: (H + 3, W + 3) int32."""
    flat, stride = packed.reshape(-1), np.uintp(packed.shape[1])
    for x in range(np.uintp(low), np.uintp(high)):
        i = np.uintp(index[x])
        corners[0, x] = flat[i]
        corners[1, x] = flat[i + ONE]
        corners[2, x] = flat[i + stride]
        corners[3, x] = flat[i + stride + ONE]
    for c in range(3):
        unpack_row(corners, right, down, low, high, np.int32(BITS * c), colours[c])


@numba.njit(**INLINE)
def sum_columns(a, b, c, low, high, plain, squares):
    """Of three rows."""
    for x in range(np.uintp(low), np.uintp(high)):
        plain[x] = a[x] + b[x] + c[x]
    for x in range(np.uintp(low), np.uintp(high)):
        squares[x] = a[x] * a[x] + b[x] * b[x] + c[x] * c[x]


@numba.njit(**INLINE)
def sum_products(a, b, c, key_a, key_b, key_c, low, high, products):
    """Of three rows with three others."""
    for x in range(np.uintp(low), np.uintp(high)):
        products[x] = a[x] * key_a[x] + b[x] * key_b[x]
    for x in range(np.uintp(low), np.uintp(high)):
        products[x] += c[x] * key_c[x]


@numba.njit(**INLINE)
def add_distance(plain, squares, products, key_mean, key_spread, low, high, share, distance):
    """Adds share (1 - SSIM) / 2 of one channel to ``distance``. plain, squares, products: sums of columns."""
    two = np.float32(2)
    for x in range(np.uintp(low), np.uintp(high)):
        mean = (plain[x - ONE] + plain[x] + plain[x + ONE]) * NINTH
        square = (squares[x - ONE] + squares[x] + squares[x + ONE]) * NINTH
        product = (products[x - ONE] + products[x] + products[x + ONE]) * NINTH
        both = mean * key_mean[x]
        above = (two * both + C1) * (two * (product - both) + C2)
        below = (mean * mean + key_mean[x] * key_mean[x] + C1) * (square - mean * mean + key_spread[x])
        distance[x] += share * (np.float32(0.5) - np.float32(0.5) * (above / below))


@numba.njit(**INLINE)
def plane_cost(packed, m, t, depth, key, key_mean, key_spread, top, low, high, work, ring, index, corners, cost):
    """Writes cost (rows, W) of one plane, columns low..high, rows from ``top`` on.

    ring: (3, 3, W) warped rows by row and channel; work: (9, W); index (W,) int32, corners (4, W) int32.
    """
    height, width = key.shape[1:]
    for y in range(top - 2, top + cost.shape[0] + 2):
        place_row(m, t, depth, y, low - 2, high + 2, height, width, index, work[0], work[1])
        warp_row(packed, low - 2, high + 2, index, work[0], work[1], corners, ring[y % 3])
        if y < top:
            continue
        a, b, c = ring[(y - 2) % 3], ring[(y - 1) % 3], ring[y % 3]
        distance, across = work[2], work[3 + y % 3]
        distance[low - 1 : high + 1] = np.float32(0)
        for i in range(3):
            sum_columns(a[i], b[i], c[i], low - 2, high + 2, work[6], work[7])
            ka, kb, kc = key[i, y - 2], key[i, y - 1], key[i, y]
            sum_products(a[i], b[i], c[i], ka, kb, kc, low - 2, high + 2, work[8])
            means, spreads = key_mean[i, y - 1], key_spread[i, y - 1]
            add_distance(work[6], work[7], work[8], means, spreads, low - 1, high + 1, SHARES[i], distance)
        for x in range(np.uintp(low), np.uintp(high)):
            across[x] = distance[x - ONE] + distance[x] + distance[x + ONE]
        if y >= top + 2:
            first, second, third, row = work[3], work[4], work[5], cost[y - 2 - top]
            for x in range(np.uintp(low), np.uintp(high)):
                row[x] = (first[x] + second[x] + third[x]) * NINTH


@numba.njit(**INLINE)
def weigh(cost, seen, low, high, best, alike, part, weight):
    """Writes weight (rows, W): how clearly cost (planes, rows, W) prefers one plane, 0 where unseen.

    Where all planes are alike, as on a white sky, rounding decides between a neighbour that counts a little and one
    that does not count: sums are taken in torch's order, ``CHUNK`` planes at a time.
    """
    planes = cost.shape[0]
    share, one = np.float32(1) / np.float32(planes - 1), np.float32(1)
    for row in range(cost.shape[1]):
        best[low:high] = cost[0, row, low:high]
        for d in range(1, planes):
            values = cost[d, row]
            for x in range(np.uintp(low), np.uintp(high)):
                best[x] = min(best[x], values[x])
        alike[low:high] = np.float32(0)
        for first in range(0, planes, CHUNK):
            part[low:high] = np.float32(0)
            for d in range(first, min(first + CHUNK, planes)):
                values = cost[d, row]
                for x in range(np.uintp(low), np.uintp(high)):
                    more = values[x] - best[x]
                    part[x] += exp_of_negative(-SHARPNESS * (more * more))
            for x in range(np.uintp(low), np.uintp(high)):
                alike[x] += part[x]
        for x in range(np.uintp(low), np.uintp(high)):
            found = max(one - share * (alike[x] - one), np.float32(0))
            weight[row, x] = found if seen[row, x] else np.float32(0)


@numba.njit(**INLINE)
def finish(total, weights, depths, matched):
    """total (planes, rows, W) of weighed costs becomes the volume, in place; writes matched (rows, W)."""
    for row in range(total.shape[1]):
        for x in range(total.shape[2]):
            weight = weights[row, x]
            weights[row, x] = np.float32(1) / weight if weight > 0 else np.float32(0)
        scale, best, best_depth = weights[row], np.full(total.shape[2], np.float32(-2)), matched[row]
        best_depth[:] = np.float32(np.nan)
        for d in range(total.shape[0]):
            values = total[d, row]
            for x in range(len(values)):
                agreement = np.float32(1) - np.float32(2) * (values[x] * scale[x])
                values[x] = agreement if scale[x] > 0 else np.float32(0)
            for x in range(len(values)):
                better = scale[x] > 0 and values[x] > best[x]
                best_depth[x] = depths[d] if better else best_depth[x]
                best[x] = values[x] if better else best[x]


def rows_of_bands(height: int, threads: int) -> int:
    """So that every thread has as many rows to do as the others, in bands of at most ``MOST_ROWS``."""
    rows = height - 2 * BORDER
    rounds = -(-rows // (threads * MOST_ROWS))
    return -(-rows // (threads * rounds))


@numba.njit(**OPTIONS)
def sweep(packed, ms, ts, depths, key, key_mean, key_spread, band_rows, volume, matched):
    """packed (N, H + 3, W + 3) int32, ms (N, 3, 3) and ts (N, 3) such that m [x, y, 1] depth + t is the place in a
    neighbour, half a pixel too far right and down; depths (D,); key and its statistics of ``key_statistics``;
    band_rows: how many rows a thread takes at a time.

    Writes volume (D, H, W) and matched (H, W) metres.
    """
    planes, (height, width) = len(depths), key.shape[1:]
    volume_rows = height - 2 * BORDER
    for band in numba.prange((volume_rows + band_rows - 1) // band_rows):
        top = BORDER + band * band_rows
        bottom = min(top + band_rows, height - BORDER)
        rows = bottom - top
        total = volume[:, top:bottom]
        total[:] = np.float32(0)
        weights, weight = np.zeros((rows, width), np.float32), np.empty((rows, width), np.float32)
        cost, seen = np.empty((planes, rows, width), np.float32), np.empty((rows, width), np.bool_)
        work, ring = np.empty((9, width), np.float32), np.empty((3, 3, width), np.float32)
        index, corners = np.empty(width, np.int32), np.empty((4, width), np.int32)
        for n in range(len(packed)):
            m, t = ms[n], ts[n]
            low, high = mark_seen(m, t, depths, height, top, seen)
            if low >= high:
                continue
            for d in range(planes):
                plane_cost(
                    packed[n],
                    m,
                    t,
                    depths[d],
                    key,
                    key_mean,
                    key_spread,
                    top,
                    low,
                    high,
                    work,
                    ring,
                    index,
                    corners,
                    cost[d],
                )
            weigh(cost, seen, low, high, work[0], work[1], work[2], weight)
            for row in range(rows):
                for x in range(np.uintp(low), np.uintp(high)):
                    weights[row, x] += weight[row, x]
                for d in range(planes):
                    sums, values, here = total[d, row], cost[d, row], weight[row]
                    for x in range(np.uintp(low), np.uintp(high)):
                        sums[x] += values[x] * here[x]
        finish(total, weights, depths, matched[top:bottom])
