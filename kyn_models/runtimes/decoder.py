"""The compiled CPU decoder of density fields whose point network has one hidden layer (``bts`` with 0 blocks).

The first layer is linear in [feature, code(u), code(v), code(z)], and bilinear sampling commutes with linear maps. So
the encoder delivers the layer's pre-activations as an image, and everything else is constant for a camera and a grid:

    sigma = softplus(w_out . relu(A(pixel) + W_code code(u, v, z') + b) + b_out)

Along a ray of the encoding camera ``A`` and the codes of u and v stay the same: a sample costs an add, a ReLU and a
product. Sampling, codes and compositing are float32. Why numba: it installs with pip on x86-64 and ARM robots without
a compiler, vectorises for the CPU it runs on, and keeps its compiled code between starts.
"""

from __future__ import annotations

import numba
import numpy as np

from kyn_models.runtimes.constants import DecoderConstants, sample_depths
from kyn_models.runtimes.queries import PointQuery, Query, RayQuery
from kyn_models.types import Float32Array

CHUNK = 1 << 16
"""Points whose codes are held at once while constants are built."""

CACHED_POINTS = 1 << 20
"""Above this number of points their codes are computed again for every image, in chunks: memory stays bounded."""


class CompiledDecoder:
    """The constants of all queries for one feature map size; ``decode`` turns a feature map into answers."""

    def __init__(self, constants: DecoderConstants, queries: dict[str, Query], map_size: tuple[int, int]) -> None:
        self._constants = constants
        self._map_size = map_size
        self._rays = {
            name: self._ray_constants(query) for name, query in queries.items() if isinstance(query, RayQuery)
        }
        self._points = {
            name: self._point_chunks(query) for name, query in queries.items() if isinstance(query, PointQuery)
        }

    def decode(self, name: str, features: Float32Array) -> Float32Array:
        """The answer to query ``name`` from the (h, w, H) float32 pre-activation map."""
        if name in self._rays:
            return self._decode_rays(name, features)
        return self._decode_points(name, features)

    def _ray_constants(self, query: RayQuery) -> tuple:
        directions = query.directions.reshape(-1, 3)
        uv = self._constants.image_coordinates(directions)
        index, weight = corners(uv, self._map_size)
        codes = self._constants.project_codes(uv, (0, 1)) + self._constants.bias
        return query.directions.shape[:2], index, weight, codes

    def _decode_rays(self, name: str, features: Float32Array) -> Float32Array:
        shape, index, weight, codes = self._rays[name]
        c = self._constants
        z = sample_depths(c.z_near, c.z_far)
        along = c.project_codes(c.depth_code(z)[:, None], (2,))
        flat = features.reshape(-1, features.shape[-1])
        depth = np.empty(len(index), dtype=np.float32)
        _march(flat, index, weight, codes, along, c.w_out, np.float32(c.b_out), z, depth)
        return depth.reshape(shape)

    def _point_chunks(self, query: PointQuery) -> tuple[np.ndarray, list[tuple] | None]:
        points = np.ascontiguousarray(query.points, dtype=np.float32)
        if len(points) > CACHED_POINTS:
            return points, None
        return points, [self._point_constants(points[i : i + CHUNK]) for i in range(0, len(points), CHUNK)]

    def _point_constants(self, points: np.ndarray) -> tuple:
        c = self._constants
        uv = c.image_coordinates(points)
        index, weight = corners(uv, self._map_size)
        uvz = np.concatenate([uv, c.depth_code(points[:, 2])[:, None]], axis=1)
        return index, weight, c.project_codes(uvz, (0, 1, 2)) + c.bias

    def _decode_points(self, name: str, features: Float32Array) -> Float32Array:
        points, cached = self._points[name]
        flat = features.reshape(-1, features.shape[-1])
        sigma = np.empty(len(points), dtype=np.float32)
        for number, start in enumerate(range(0, len(points), CHUNK)):
            chunk = cached[number] if cached is not None else self._point_constants(points[start : start + CHUNK])
            _densities(flat, *chunk, self._constants.w_out, np.float32(self._constants.b_out), sigma[start:])
        return sigma


def corners(uv: np.ndarray, map_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear sampling as constants: border padding, align_corners false.

    uv: (N, 2) float32 in [-1, 1]; map_size: (h, w). Returns (N, 4) int32 flat indices and (N, 4) float32 weights.
    """
    h, w = map_size
    x = np.clip(((uv[:, 0] + 1) * w - 1) / 2, 0, w - 1)
    y = np.clip(((uv[:, 1] + 1) * h - 1) / 2, 0, h - 1)
    x0, y0 = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    ax, ay = x - x0, y - y0
    index = np.stack([y0 * w + x0, y0 * w + x1, y1 * w + x0, y1 * w + x1], axis=-1)
    weight = np.stack([(1 - ax) * (1 - ay), ax * (1 - ay), (1 - ax) * ay, ax * ay], axis=-1)
    return np.ascontiguousarray(index, dtype=np.int32), np.ascontiguousarray(weight, dtype=np.float32)


@numba.njit(inline="always", fastmath=True)
def _softplus(x):  # type: ignore[no-untyped-def]  # numba infers the types
    return max(x, np.float32(0)) + np.log1p(np.exp(-abs(x)))


@numba.njit(parallel=True, fastmath={"contract", "reassoc", "nsz"}, cache=True, nogil=True, error_model="numpy")
def _densities(features, index, weight, codes, w_out, b_out, sigma):  # type: ignore[no-untyped-def]
    hidden = w_out.shape[0]
    for i in numba.prange(index.shape[0]):
        a, b, c, d = index[i, 0], index[i, 1], index[i, 2], index[i, 3]
        wa, wb, wc, wd = weight[i, 0], weight[i, 1], weight[i, 2], weight[i, 3]
        total = np.float32(0)
        for h in range(hidden):
            value = wa * features[a, h] + wb * features[b, h] + wc * features[c, h] + wd * features[d, h] + codes[i, h]
            total += w_out[h] * max(value, np.float32(0))
        sigma[i] = _softplus(total + b_out)


@numba.njit(parallel=True, fastmath={"contract", "reassoc", "nsz"}, cache=True, nogil=True, error_model="numpy")
def _march(features, index, weight, codes, along, w_out, b_out, z, depth):  # type: ignore[no-untyped-def]
    hidden = w_out.shape[0]
    count = z.shape[0]
    for i in numba.prange(index.shape[0]):
        a, b, c, d = index[i, 0], index[i, 1], index[i, 2], index[i, 3]
        wa, wb, wc, wd = weight[i, 0], weight[i, 1], weight[i, 2], weight[i, 3]
        base = np.empty(hidden, dtype=np.float32)
        for h in range(hidden):
            base[h] = (
                wa * features[a, h] + wb * features[b, h] + wc * features[c, h] + wd * features[d, h] + codes[i, h]
            )
        optical = np.float32(0)
        before = np.float32(1)
        expected = np.float32(0)
        for s in range(count - 1):
            total = np.float32(0)
            for h in range(hidden):
                total += w_out[h] * max(base[h] + along[s, h], np.float32(0))
            optical += _softplus(total + b_out) * (z[s + 1] - z[s])
            after = np.exp(-optical)
            expected += (before - after) * z[s]
            before = after
            if after < np.float32(1e-6):
                break
        depth[i] = np.inf if before > np.float32(0.5) else expected / (np.float32(1) - before)
