"""The loops of the compiled ``kyn`` decoder. Arrays are float32, C-contiguous; indices int32, labels uint8.

A point is a row, a hidden unit a column. Points are taken ``BLOCK`` at a time through all layers, so that what lies
between them never leaves the cache; every thread takes chunks of blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from kyn_models.runtimes.loops import OPTIONS, exp_of_negative, pixel_coordinate, softplus, transmit
from kyn_models.runtimes.queries import SAMPLES_PER_RAY
from kyn_models.runtimes.tiles import multiply

BLOCK = SAMPLES_PER_RAY
"""A ray, or as many points."""
WITHIN = {
    "nogil": True,
    "cache": True,
    # Nothing here is NaN: a network's answer to an image never is, and the largest of many numbers is then a vector's.
    "fastmath": {"contract", "reassoc", "nsz", "nnan"},
    "error_model": "numpy",
}


class Weights(NamedTuple):
    """H hidden units, W the same rounded up to columns of a product, with zeros; D of the queries likewise.

    code (C + 1, 2W) with the biases last, freqs (F,) each twice the one before; w_2, w_3, w_4 (W, W) and query (W, D)
    from input to output; b_2, b_4 (W,); modulation (L, W); w_out (W,); b_out, epsilon; hidden, heads, channels of a
    head.
    """

    code: np.ndarray
    freqs: np.ndarray
    w_2: np.ndarray
    b_2: np.ndarray
    w_3: np.ndarray
    w_4: np.ndarray
    b_4: np.ndarray
    modulation: np.ndarray
    query: np.ndarray
    w_out: np.ndarray
    b_out: np.float32
    epsilon: np.float32
    hidden: int
    heads: int
    channels: int


class Maps(NamedTuple):
    """Of one image. planes (P, 2H), labels (P,), size (h, w) int32."""

    planes: np.ndarray
    labels: np.ndarray
    size: np.ndarray


# mypy: disable-error-code="no-untyped-def"
# numba infers the types of everything below.


@numba.njit(inline="always")
def scratch(weights):
    """code (BLOCK, C + 1), first and second (BLOCK, W), third (BLOCK, 2W), last (BLOCK, W), query (BLOCK, D)."""
    wide = weights.w_2.shape[0]
    code = np.zeros((BLOCK, weights.code.shape[0]), dtype=np.float32)
    code[:, -1] = 1
    first = np.zeros((BLOCK, wide), dtype=np.float32)
    second = np.zeros((BLOCK, wide), dtype=np.float32)
    third = np.zeros((BLOCK, 2 * wide), dtype=np.float32)
    last = np.zeros((BLOCK, wide), dtype=np.float32)
    query = np.zeros((BLOCK, weights.query.shape[1]), dtype=np.float32)
    return code, first, second, third, last, query


@numba.njit(**WITHIN)
def encode(values, start, count, code, freqs):
    """Positional codes of values[start : start + count], which are (N, 3) u, v, z' or the first of them, into code:
    sines and cosines of doubled angles from those of the first."""
    for j in range(count):
        for axis in range(values.shape[1]):
            value = values[start + j, axis]
            code[j, axis] = value
            sine, cosine = np.sin(value * freqs[0]), np.cos(value * freqs[0])
            for k in range(freqs.shape[0]):
                code[j, 3 + 6 * k + axis] = sine
                code[j, 6 + 6 * k + axis] = cosine
                sine, cosine = np.float32(2) * sine * cosine, np.float32(1) - np.float32(2) * sine * sine


@numba.njit(**WITHIN)
def add_planes(maps, uv, start, count, rows):
    """Add the bilinear samples of both layers at uv[start : start + count], (N, 2 or more), to rows (BLOCK, 2W)."""
    height, width, planes = maps.size[0], maps.size[1], maps.planes
    one, hidden, wide = np.float32(1), planes.shape[1] // 2, rows.shape[1] // 2
    for j in range(count):
        x, y = pixel_coordinate(uv[start + j, 0], width), pixel_coordinate(uv[start + j, 1], height)
        x0, y0 = np.int32(x), np.int32(y)
        x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
        ax, ay = x - np.float32(x0), y - np.float32(y0)
        a, b, c, d = y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1
        wa, wb, wc, wd = (one - ax) * (one - ay), ax * (one - ay), (one - ax) * ay, ax * ay
        for layer in range(2):
            here, there = layer * hidden, layer * wide
            for h in range(hidden):
                one_row = wa * planes[a, here + h] + wb * planes[b, here + h]
                rows[j, there + h] += one_row + wc * planes[c, here + h] + wd * planes[d, here + h]


@numba.njit(**WITHIN)
def modulate(x, bias, label, t, count):
    """x (BLOCK, W) = relu(t[label] (x + bias)); bias (W,), t (L, W)."""
    for j in range(count):
        found = label[j]
        for h in range(x.shape[1]):
            x[j, h] = max((x[j, h] + bias[h]) * t[found, h], np.float32(0))


@numba.njit(**WITHIN)
def modulate_sum(x, rows, half, label, t, count):
    """x (BLOCK, W) = relu(t[label] (x + a half of rows)); rows (BLOCK, 2W), t (L, W)."""
    skipped = half * x.shape[1]
    for j in range(count):
        found = label[j]
        for h in range(x.shape[1]):
            x[j, h] = max((x[j, h] + rows[j, skipped + h]) * t[found, h], np.float32(0))


@numba.njit(**WITHIN)
def start_points(maps, uvz, pixel, start, count, weights, code, first, third, label):
    """Layer 1 of points into first, what layer 3 adds into the right half of third, and their labels."""
    encode(uvz, start, count, code, weights.freqs)
    multiply(code, weights.code, third, count)
    add_planes(maps, uvz, start, count, third)
    for j in range(count):
        label[j] = maps.labels[pixel[start + j]]
    first[:] = np.float32(0)
    modulate_sum(first, third, 0, label, weights.modulation, count)


@numba.njit(**WITHIN)
def start_ray(maps, uv, pixel, i, along, weights, code, row, first, third, label):
    """The same for the samples of ray i of uv (R, 2), pixel (R,): along (S, 2W) of their z'. Overwrites row (2W,)."""
    wide = first.shape[1]
    encode(uv, i, 1, code, weights.freqs)
    multiply(code, weights.code, third, 1)
    add_planes(maps, uv, i, 1, third)
    row[:] = third[0]
    found = maps.labels[pixel[i]]
    label[:] = found
    for s in range(along.shape[0]):
        for h in range(wide):
            first[s, h] = max((row[h] + along[s, h]) * weights.modulation[found, h], np.float32(0))
        for h in range(wide, 2 * wide):
            third[s, h] = row[h] + along[s, h]


@numba.njit(**WITHIN)
def last_layer(weights, first, second, third, label, last, count):
    """Layers 2 to 4 of count points into last (BLOCK, W). Overwrites first."""
    multiply(first, weights.w_2, second, count)
    modulate(second, weights.b_2, label, weights.modulation, count)
    multiply(second, weights.w_3, first, count)
    modulate_sum(first, third, 1, label, weights.modulation, count)
    multiply(first, weights.w_4, last, count)
    modulate(last, weights.b_4, label, weights.modulation, count)


@numba.njit(**WITHIN)
def add_by_label(last, label, counted, sums, counts):
    """Add the counted rows to sums (L, W) and their number to counts (L,) by label."""
    for j in range(counted.shape[0]):
        if counted[j]:
            found = label[j]
            counts[found] += 1
            for h in range(sums.shape[1]):
                sums[found, h] += last[j, h]


@numba.njit(inline="always")
def largest(part):
    """Of part (n,). Four at a time, because each comparison waits for the one before it."""
    a, b, c, d = part[0], part[0], part[0], part[0]
    whole = part.shape[0] // 4 * 4
    for h in range(0, whole, 4):
        a, b, c, d = max(a, part[h]), max(b, part[h + 1]), max(c, part[h + 2]), max(d, part[h + 3])
    for h in range(whole, part.shape[0]):
        a = max(a, part[h])
    return max(max(a, b), max(c, d))


@numba.njit(**WITHIN)
def softmax(rows, count, heads, channels):
    """Softmax over the channels of each head, in place."""
    for j in range(count):
        for head in range(heads):
            part = rows[j, head * channels : (head + 1) * channels]
            highest, total = largest(part), np.float32(0)
            for h in range(part.shape[0]):
                value = exp_of_negative(part[h] - highest)
                part[h] = value
                total += value
            share = np.float32(1) / total
            for h in range(part.shape[0]):
                part[h] *= share


@numba.njit(**WITHIN)
def densities(weights, attended, last, query, second, count, sigma):
    """sigma (count,) from the last layer: queries times attended (D, W), residual, layer norm, output. Overwrites
    query and second."""
    hidden = weights.hidden
    share = np.float32(1) / np.float32(hidden)
    multiply(last, weights.query, query, count)
    softmax(query, count, weights.heads, weights.channels)
    multiply(query, attended, second, count)
    for j in range(count):
        total, raw, spread = np.float32(0), np.float32(0), np.float32(0)
        for h in range(hidden):
            value = second[j, h] + last[j, h]
            second[j, h] = value
            total += value
            raw += weights.w_out[h] * value
        mean = total * share
        for h in range(hidden):
            spread += (second[j, h] - mean) * (second[j, h] - mean)
        sigma[j] = softplus(raw / np.sqrt(spread * share + weights.epsilon) + weights.b_out)


@numba.njit(**OPTIONS)
def sum_points(maps, uvz, pixel, counted, weights, chunk, kept, sums, counts):
    """First pass over points uvz (N, 3), pixel (N,), counted (N,) bool, a chunk of them per row of sums (K, L, W) and
    counts (K, L). Writes the last layers of as many points as kept (R, W) has room for.
    """
    points = uvz.shape[0]
    for k in numba.prange(sums.shape[0]):
        code, first, second, third, spare, _ = scratch(weights)
        label = np.zeros(BLOCK, dtype=np.uint8)
        for start in range(k * chunk, min(points, (k + 1) * chunk), BLOCK):
            end = min(points, start + BLOCK)
            last = kept[start : start + BLOCK] if start + BLOCK <= kept.shape[0] else spare
            start_points(maps, uvz, pixel, start, end - start, weights, code, first, third, label)
            last_layer(weights, first, second, third, label, last, end - start)
            add_by_label(last, label, counted[start:end], sums[k], counts[k])


@numba.njit(**OPTIONS)
def points_density(maps, uvz, pixel, place, weights, chunk, kept, attended, sigma):
    """Second pass over the same points: writes sigma[place], place (N,). attended (D, W)."""
    points = uvz.shape[0]
    for k in numba.prange((points + chunk - 1) // chunk):
        code, first, second, third, spare, query = scratch(weights)
        label, answer = np.zeros(BLOCK, dtype=np.uint8), np.empty(BLOCK, dtype=np.float32)
        for start in range(k * chunk, min(points, (k + 1) * chunk), BLOCK):
            end = min(points, start + BLOCK)
            last = spare
            if start + BLOCK <= kept.shape[0]:
                last = kept[start : start + BLOCK]
            else:
                start_points(maps, uvz, pixel, start, end - start, weights, code, first, third, label)
                last_layer(weights, first, second, third, label, last, end - start)
            densities(weights, attended, last, query, second, end - start, answer)
            for j in range(start, end):
                sigma[place[j]] = answer[j - start]


@numba.njit(**OPTIONS)
def sum_rays(maps, uv, pixel, counted, along, weights, chunk, kept, sums, counts):
    """First pass over rays uv (R, 2), pixel (R,), counted (R,) bool, samples along (S, 2W), chunk of rays per
    row of sums (K, L, W) and counts (K, L). Writes the last layers of as many samples as kept has room for.
    """
    rays, samples = uv.shape[0], along.shape[0]
    for k in numba.prange(sums.shape[0]):
        code, first, second, third, spare, _ = scratch(weights)
        label, seen = np.zeros(BLOCK, dtype=np.uint8), np.empty(samples, dtype=np.bool_)
        row = np.empty(along.shape[1], dtype=np.float32)
        for i in range(k * chunk, min(rays, (k + 1) * chunk)):
            start = i * BLOCK
            last = kept[start : start + BLOCK] if start + BLOCK <= kept.shape[0] else spare
            start_ray(maps, uv, pixel, i, along, weights, code, row, first, third, label)
            last_layer(weights, first, second, third, label, last, samples)
            seen[:] = counted[i]
            add_by_label(last, label, seen, sums[k], counts[k])


@numba.njit(**OPTIONS)
def rays_depth(maps, uv, pixel, along, weights, chunk, kept, attended, z, steps, depth):
    """Second pass over the same rays: writes depth (R,), +Inf where more than half of the light reaches the last
    sample. attended (D, W), z and steps (S,) with steps[-1] = 0.
    """
    rays, samples = uv.shape[0], along.shape[0]
    for k in numba.prange((rays + chunk - 1) // chunk):
        code, first, second, third, spare, query = scratch(weights)
        label, passed = np.zeros(BLOCK, dtype=np.uint8), np.empty(BLOCK, dtype=np.float32)
        row = np.empty(along.shape[1], dtype=np.float32)
        for i in range(k * chunk, min(rays, (k + 1) * chunk)):
            start = i * BLOCK
            last = spare
            if start + BLOCK <= kept.shape[0]:
                last = kept[start : start + BLOCK]
            else:
                start_ray(maps, uv, pixel, i, along, weights, code, row, first, third, label)
                last_layer(weights, first, second, third, label, last, samples)
            densities(weights, attended, last, query, second, samples, passed)
            for s in range(samples):
                passed[s] = exp_of_negative(-passed[s] * steps[s])
            left, expected = transmit(passed, z, 0, samples)
            depth[i] = np.inf if left > np.float32(0.5) else expected / (np.float32(1) - left)
