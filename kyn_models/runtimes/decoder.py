"""The compiled CPU decoder of density fields whose point network has one hidden layer (``bts`` with 0 blocks).

The first layer is linear in [feature, code(u), code(v), code(z')], and bilinear sampling commutes with linear maps. So
the encoder delivers the layer's pre-activations as an image, and everything else is constant for a camera and a grid:

    sigma = softplus(w_out . relu(A(pixel) + f(u) + g(v) + h(z')) + b_out)

Along a ray of the encoding camera ``A``, f and g stay the same, and relu(a + b) = max(b, -a) + a: a sample costs a
maximum and a product. At a point, f, g and h come from tables (``Tables``), 16 bytes of constants instead of 256.
Points are visited in the order of their pixels, so that the feature map streams through the cache once.

Everything here is float32. Why numba: it installs with pip on x86-64 and ARM robots without a compiler, vectorises for
the CPU it runs on, and keeps its compiled code between starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kyn_models.runtimes import loops
from kyn_models.runtimes.constants import DecoderConstants, corners, sample_depths
from kyn_models.runtimes.queries import PointQuery, Query, RayQuery
from kyn_models.types import Float32Array

CHUNK = 1 << 16
"""Points outside the tables whose codes are held at once."""

KEPT_POINTS = 1 << 24
"""Points of a query beyond which constants are computed anew for every image, so many at a time: memory is bounded."""

TABLE_ERROR = 1e-5
"""Largest error of a density that the table of one axis may cause: a tenth of what counts as exact, all axes less than
a third of it."""
TABLE_RANGES = ((-1.25, 1.25), (-1.25, 1.25), (-1.1, 1.1))
"""Of u, v and z'. The image is [-1, 1], and z' of the depths from z_near to z_far too."""
MAX_TABLE_ROWS = 1 << 18


@dataclass(frozen=True)
class Tables:
    """f, g and h at equal steps, for linear interpolation; the bias of the layer is in f.

    values: per axis (n, H) float32. low, rows_per_unit: (3,) float32.
    """

    values: tuple[Float32Array, Float32Array, Float32Array]
    low: Float32Array
    rows_per_unit: Float32Array

    @classmethod
    def of(cls, constants: DecoderConstants) -> Tables:
        """Tables so fine that they change no density by more than ``TABLE_ERROR`` per axis.

        A chord of a curve is off by at most step^2 / 8 times its second derivative, the layers after it pass on
        ``|w_out|`` of that, softplus no more than it gets.
        """
        values, steps = [], []
        for axis, (low, high) in enumerate(TABLE_RANGES):
            curvature = float(np.abs(constants.w_out) @ constants.greatest_curvature(axis))
            rows = int(np.ceil((high - low) * np.sqrt(curvature / (8 * TABLE_ERROR)))) + 2
            # Steeper networks than any that was trained are served with the finest table.
            rows = int(np.clip(rows, 64, MAX_TABLE_ROWS))
            at = np.linspace(low, high, rows)[:, None]
            bias = constants.bias if axis == 0 else np.float32(0)
            values.append(np.ascontiguousarray(constants.project_codes(at, (axis,)) + bias))
            steps.append((rows - 1) / (high - low))
        low_ends = np.array([low for low, _ in TABLE_RANGES], dtype=np.float32)
        return cls((values[0], values[1], values[2]), low_ends, np.array(steps, dtype=np.float32))

    def hold(self, uvz: Float32Array) -> np.ndarray:
        """(N,) bool: which of (N, 3) float32 u, v, z' the tables can answer."""
        low, high = np.array(TABLE_RANGES, dtype=np.float32).T
        return np.asarray(((uvz >= low) & (uvz < high)).all(axis=1))


@dataclass(frozen=True)
class _Rays:
    """index, weight: (N, 4) of the four pixels; codes: (N, H)."""

    shape: tuple[int, ...]
    index: np.ndarray
    weight: Float32Array
    codes: Float32Array


@dataclass(frozen=True)
class _Points:
    """uvz: (n, 3) of the points that the tables hold, in the order of their pixels; place: (n,) where they came from.

    others: (m, 3) of the rest, and other_place: (m,).
    """

    count: int
    uvz: Float32Array
    place: np.ndarray
    others: Float32Array
    other_place: np.ndarray


class PreparedDecoder:
    """The constants of all queries for one feature map; ``decode`` turns such a map into answers."""

    def __init__(self, decoder: CompiledDecoder, queries: Mapping[str, Query]) -> None:
        self._decoder = decoder
        self._queries = {name: _constants(decoder, query) for name, query in queries.items()}

    def decode(self, name: str, *maps: np.ndarray) -> Float32Array:
        """The answer to query ``name`` from the (h, w, H) float32 pre-activation map."""
        (features,) = maps
        query, decoder = self._queries[name], self._decoder
        if isinstance(query, _Rays):
            return decoder.depth(query, features)
        if isinstance(query, _Points):
            return decoder.density(query, features)
        assert isinstance(query, PointQuery)
        parts = (query.points[i : i + KEPT_POINTS] for i in range(0, len(query.points), KEPT_POINTS))
        return np.concatenate([decoder.density(decoder.points(PointQuery(part)), features) for part in parts])


def _constants(decoder: CompiledDecoder, query: Query) -> _Rays | _Points | PointQuery:
    if isinstance(query, RayQuery):
        return decoder.rays(query)
    if not isinstance(query, PointQuery):
        raise ValueError(f"query: got {type(query).__name__}, expected rays or points; this family knows no labels")
    return query if len(query.points) > KEPT_POINTS else decoder.points(query)


class CompiledDecoder:
    """What is constant for a model and a feature map size, compiled and warm. map_size: (h, w).

    ``prepare`` runs no compiled loop, so that it may be called while another thread decodes: some of numba's threading
    layers end the process when two threads use them at once.
    """

    def __init__(self, constants: DecoderConstants, map_size: tuple[int, int]) -> None:
        self._constants = constants
        self._map_size = map_size
        self._tables = Tables.of(constants)
        z = sample_depths(constants.z_near, constants.z_far)
        self._z, self._steps = z, np.append(np.diff(z), np.float32(0)).astype(np.float32)
        along = constants.project_codes(constants.depth_code(z)[:, None], (2,))
        # Rows of zeros change nothing and let the loop take four hidden units at once.
        padding = -len(constants.w_out) % 4
        self._along = np.ascontiguousarray(np.pad(along, ((0, 0), (0, padding))).T)
        self._w_out = np.pad(constants.w_out, (0, padding))
        self._warm_up()

    def prepare(self, queries: Mapping[str, Query]) -> PreparedDecoder:
        """Build the constants of all queries (numpy only)."""
        return PreparedDecoder(self, queries)

    def rays(self, query: RayQuery) -> _Rays:
        uv = self._constants.image_coordinates(query.directions.reshape(-1, 3))
        index, weight = corners(uv, self._map_size)
        codes = self._constants.project_codes(uv, (0, 1)) + self._constants.bias
        return _Rays(query.directions.shape[:2], index, weight, codes)

    def points(self, query: PointQuery) -> _Points:
        points, c = query.points, self._constants
        uvz = np.empty((len(points), 3), dtype=np.float32)
        uvz[:, :2] = c.image_coordinates(points)
        uvz[:, 2] = c.depth_code(points[:, 2])
        held = self._tables.hold(uvz)
        place = np.flatnonzero(held)
        place = place[np.argsort(self._pixels(uvz[place]), kind="stable")]
        others = np.flatnonzero(~held)
        return _Points(len(points), uvz[place], place.astype(np.int32), uvz[others], others.astype(np.int32))

    def depth(self, query: _Rays, features: Float32Array) -> Float32Array:
        flat = features.reshape(-1, features.shape[-1])
        depth = np.empty(len(query.index), dtype=np.float32)
        b_out = np.float32(self._constants.b_out)
        places = (query.index, query.weight, query.codes)
        loops.march(flat, *places, self._along, self._w_out, b_out, self._z, self._steps, depth)
        return depth.reshape(query.shape)

    def density(self, query: _Points, features: Float32Array) -> Float32Array:
        flat, c, tables = features.reshape(-1, features.shape[-1]), self._constants, self._tables
        b_out = np.float32(c.b_out)
        sigma = np.empty(query.count, dtype=np.float32)
        size = np.array(self._map_size, dtype=np.int32)
        scale = (tables.low, tables.rows_per_unit)
        loops.interpolated(flat, size, query.uvz, query.place, *tables.values, *scale, c.w_out, b_out, sigma)
        for start in range(0, len(query.others), CHUNK):
            uvz = query.others[start : start + CHUNK]
            codes = c.project_codes(uvz, (0, 1, 2)) + c.bias
            place = query.other_place[start : start + CHUNK]
            loops.coded(flat, *corners(uvz[:, :2], self._map_size), codes, place, c.w_out, b_out, sigma)
        return sigma

    def _pixels(self, uvz: Float32Array) -> np.ndarray:
        """(N,) number of the pixel that each point falls on: what its four corners begin with."""
        h, w = self._map_size
        x = np.clip(((uvz[:, 0] + 1) * w - 1) / 2, 0, w - 1).astype(np.int32)
        y = np.clip(((uvz[:, 1] + 1) * h - 1) / 2, 0, h - 1).astype(np.int32)
        return y * w + x

    def _warm_up(self) -> None:
        """Compile every loop, or load it from numba's cache."""
        features = np.zeros((*self._map_size, len(self._constants.w_out)), dtype=np.float32)
        inside, outside = [0.0, 0.0, 10.0], [1000.0, 0.0, 10.0]
        queries: dict[str, Query] = {
            "rays": RayQuery(np.array([[[0.0, 0.0, 1.0]]], dtype=np.float32)),
            "points": PointQuery(np.array([inside, outside], dtype=np.float32)),
        }
        prepared = self.prepare(queries)
        for name in queries:
            prepared.decode(name, features)
