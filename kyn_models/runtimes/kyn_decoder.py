"""The compiled CPU decoder of ``kyn``: modulated point network and linear attention, exact over any number of points.

Layers 1 and 3 are linear in the fused feature, and bilinear sampling commutes with linear maps: the image network
delivers both layers' pre-activations. Attention is linear with keys that depend on the label alone, so that of the
values of a set of points only their sum and their number per label count. Two passes over the set:

    1. layers 1 to 4; per label, how many points are in view and the sum of their last layer
    2. queries times what attention makes of those sums, layer norm, density

The last layer of up to ``KEPT_ROWS`` points is kept between the passes, that of further points computed again: memory
is bounded, and no answer depends on it. Everything is float32, sums over all points float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kyn_models.runtimes import kyn_loops as loops
from kyn_models.runtimes.constants import sample_depths
from kyn_models.runtimes.kyn_constants import KynConstants, in_view, label_pixels
from kyn_models.runtimes.queries import SAMPLES_PER_RAY, LabelQuery, PointQuery, Query, RayQuery
from kyn_models.runtimes.tiles import COLUMN_STEP
from kyn_models.types import Float32Array, UInt8Array

KEPT_ROWS = 1 << 20
"""Points whose last layer is kept between the passes: 512 MB of 128 hidden units."""
PART = 1 << 20
"""Points that are sorted together."""
KEPT_POINTS = 1 << 22
"""Points of a query beyond which constants are computed anew for every image."""
CHUNK = 1 << 10
"""Points that one thread takes at a time."""
MOST_CHUNKS = 1 << 8
"""Of a part: each holds sums per label of its own, so that no answer depends on the number of threads."""


@dataclass(frozen=True)
class _Points:
    """Points in the order of their pixels. uvz (n, 3), pixel (n,) of the label map, counted (n,) bool, place (n,)."""

    uvz: Float32Array
    pixel: np.ndarray
    counted: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class _Rays:
    """uv (n, 2), pixel (n,), counted (n,) bool, place of the answers."""

    uv: Float32Array
    pixel: np.ndarray
    counted: np.ndarray
    place: slice


@dataclass(frozen=True)
class _Set:
    """Points that attend to each other. count: of points; ``parts`` gives them all, again at every call."""

    count: int
    parts: Callable[[], Iterable[_Points | _Rays]]


class PreparedKyn:
    """The constants of all queries for one map size; ``decode`` turns an image's maps into answers."""

    def __init__(self, decoder: KynDecoder, queries: Mapping[str, Query]) -> None:
        self._decoder = decoder
        self._queries = queries
        self._sets = {name: decoder.sets(query) for name, query in queries.items()}

    def decode(self, name: str, *maps_of_image: np.ndarray) -> np.ndarray:
        """The answer to query ``name`` from the (h, w, 2H) float32 pre-activations and (h, w) uint8 labels."""
        planes, labels = maps_of_image
        query, decoder = self._queries[name], self._decoder
        maps = loops.Maps(planes.reshape(-1, planes.shape[-1]), labels.reshape(-1), decoder.size)
        if isinstance(query, LabelQuery):
            return decoder.labels(query, maps)
        if isinstance(query, RayQuery):
            return decoder.depth(query, self._sets[name][0], maps)
        return decoder.density(len(query.points), self._sets[name], maps)


class KynDecoder:
    """What is constant for a model and a map size, compiled and warm. map_size: (h, w).

    ``prepare`` runs no compiled loop, so that it may be called while another thread decodes.
    """

    def __init__(self, constants: KynConstants, map_size: tuple[int, int]) -> None:
        self._constants = constants
        self._map_size = map_size
        self.size = np.array(map_size, dtype=np.int32)
        self._weights = _weights(constants)
        code = constants.code
        z = sample_depths(code.z_near, code.z_far)
        self._z, self._steps = z, np.append(np.diff(z), np.float32(0)).astype(np.float32)
        self._along = _two_layers(code.project_codes(code.depth_code(z)[:, None], (2,)))
        self._kept = np.empty((0, len(self._weights.w_2)), dtype=np.float32)
        self._warm_up()

    def prepare(self, queries: Mapping[str, Query]) -> PreparedKyn:
        """Build the constants of all queries (numpy only)."""
        return PreparedKyn(self, queries)

    def sets(self, query: Query) -> tuple[_Set, ...]:
        """The sets of points of a query that attend to each other, with their constants."""
        if isinstance(query, LabelQuery):
            return ()
        if isinstance(query, RayQuery):
            return (self._rays(query),)
        count = len(query.points)
        each = query.points_per_call or max(count, 1)
        kept = count <= KEPT_POINTS
        return tuple(
            self._points(query.points, start, min(start + each, count), kept) for start in range(0, count, each)
        )

    def labels(self, query: LabelQuery, maps: loops.Maps) -> UInt8Array:
        return maps.labels[label_pixels(self._constants.code.image_coordinates(query.points), self._map_size)]

    def depth(self, query: RayQuery, rays: _Set, maps: loops.Maps) -> Float32Array:
        shape = query.directions.shape[:2]
        depth = np.empty(shape[0] * shape[1], dtype=np.float32)
        for part, kept, attended in self._attended(rays, maps):
            assert isinstance(part, _Rays)
            given = (maps, part.uv, part.pixel, self._along, self._weights, _chunk(len(part.uv), SAMPLES_PER_RAY))
            loops.rays_depth(*given, kept, attended, self._z, self._steps, depth[part.place])
        return depth.reshape(shape)

    def density(self, count: int, sets: tuple[_Set, ...], maps: loops.Maps) -> Float32Array:
        sigma = np.empty(count, dtype=np.float32)
        for points in sets:
            for part, kept, attended in self._attended(points, maps):
                assert isinstance(part, _Points)
                given = (maps, part.uvz, part.pixel, part.place, self._weights, _chunk(len(part.uvz)))
                loops.points_density(*given, kept, attended, sigma)
        return sigma

    def _rays(self, query: RayQuery) -> _Set:
        uv = self._constants.code.image_coordinates(query.directions.reshape(-1, 3))
        pixel, counted = label_pixels(uv, self._map_size), in_view(uv, np.ones(len(uv)))
        each = PART // SAMPLES_PER_RAY
        places = [slice(start, start + each) for start in range(0, len(uv), each)]
        parts = [_Rays(uv[here], pixel[here], counted[here], here) for here in places]
        return _Set(len(uv) * SAMPLES_PER_RAY, lambda: parts)

    def _points(self, points: Float32Array, start: int, stop: int, kept: bool) -> _Set:
        if not kept:
            return _Set(stop - start, lambda: self._parts(points, start, stop))
        parts = list(self._parts(points, start, stop))
        return _Set(stop - start, lambda: parts)

    def _parts(self, points: Float32Array, start: int, stop: int) -> Iterator[_Points]:
        """points[start:stop], each part sorted by pixels so that the map streams through the cache once."""
        code = self._constants.code
        for low in range(start, stop, PART):
            part = points[low : min(low + PART, stop)]
            uv = code.image_coordinates(part)
            pixel, counted = label_pixels(uv, self._map_size), in_view(uv, part[:, 2])
            order = np.argsort(pixel, kind="stable")
            uvz = np.column_stack([uv, code.depth_code(part[:, 2])])
            place = (order + low).astype(np.int32 if stop < 1 << 31 else np.int64)
            yield _Points(uvz[order], pixel[order], counted[order], place)

    def _attended(self, points: _Set, maps: loops.Maps) -> Iterator[tuple[_Points | _Rays, Float32Array, Float32Array]]:
        """Every part of a set with the last layers that are kept of it, and what attention makes of the whole set."""
        c = self._constants
        labels, units = self._weights.modulation.shape
        sums, counts = np.zeros((labels, units)), np.zeros(labels)
        for part, kept in self._with_rows(points):
            found, numbers = self._sum(part, maps, kept)
            sums += found.sum(axis=0, dtype=np.float64)
            counts += numbers.sum(axis=0)
        attended = np.zeros((self._weights.query.shape[1], units), dtype=np.float32)
        context = c.attended(sums[:, : len(c.w_out)], counts)
        attended[: len(context), : len(context[0])] = context
        for part, kept in self._with_rows(points):
            yield part, kept, attended

    def _with_rows(self, points: _Set) -> Iterator[tuple[_Points | _Rays, Float32Array]]:
        """Every part with its own rows for last layers, whole blocks, fewer or none where too many are needed."""
        wanted = min(-(-points.count // loops.BLOCK) * loops.BLOCK, KEPT_ROWS)
        if len(self._kept) < wanted:
            self._kept = np.empty((wanted, self._kept.shape[1]), dtype=np.float32)
        used = 0
        for part in points.parts():
            count = len(part.pixel) * (SAMPLES_PER_RAY if isinstance(part, _Rays) else 1)
            whole = -(-count // loops.BLOCK) * loops.BLOCK
            yield part, self._kept[used : used + whole]
            used += whole

    def _sum(self, part: _Points | _Rays, maps: loops.Maps, kept: Float32Array) -> tuple[Float32Array, np.ndarray]:
        """First pass over a part: sums (K, L, W) and counts (K, L) of its chunks."""
        given = (part.pixel, part.counted)
        chunk = _chunk(len(part.pixel), SAMPLES_PER_RAY if isinstance(part, _Rays) else 1)
        (labels, units), chunks = self._weights.modulation.shape, -(-len(part.pixel) // chunk)
        sums, counts = np.zeros((chunks, labels, units), np.float32), np.zeros((chunks, labels), np.int64)
        if isinstance(part, _Rays):
            loops.sum_rays(maps, part.uv, *given, self._along, self._weights, chunk, kept, sums, counts)
        else:
            loops.sum_points(maps, part.uvz, *given, self._weights, chunk, kept, sums, counts)
        return sums, counts

    def _warm_up(self) -> None:
        """Compile every loop, or load it from numba's cache."""
        h, w = self._map_size
        ahead = np.array([[0.0, 0.0, 10.0]], dtype=np.float32)
        queries: dict[str, Query] = {"rays": RayQuery(ahead[None] / np.float32(10)), "points": PointQuery(ahead)}
        prepared = self.prepare(queries)
        planes = np.zeros((h, w, 2 * len(self._constants.w_out)), dtype=np.float32)
        for name in queries:
            prepared.decode(name, planes, np.zeros((h, w), dtype=np.uint8))


def _chunk(count: int, samples: int = 1) -> int:
    """Items of a part that one thread takes at a time, whole blocks of points. samples: points of an item."""
    points = max(CHUNK, -(-count * samples // (MOST_CHUNKS * CHUNK)) * CHUNK)
    return points // samples


def _weights(c: KynConstants) -> loops.Weights:
    """The constants as the loops take them: from input to output, units in whole columns of a product."""
    hidden, wide = len(c.w_out), len(c.w_query)
    code = np.column_stack([_two_layers(c.code.w_code.T).T, _two_layers(c.code.bias[None])[0]])
    return loops.Weights(
        code=np.ascontiguousarray(code.T),
        freqs=c.code.freqs,
        **{name: _padded(getattr(c, name).T, (0, 1)) for name in ("w_2", "w_3", "w_4")},
        **{name: _padded(getattr(c, name), (0,)) for name in ("b_2", "b_4", "w_out")},
        modulation=_padded(c.modulation, (1,)),
        query=_padded(c.w_query.T, (0, 1)),
        b_out=np.float32(c.b_out),
        epsilon=np.float32(c.epsilon),
        hidden=hidden,
        heads=c.heads,
        channels=wide // c.heads,
    )


def _two_layers(values: Float32Array) -> Float32Array:
    """(N, 2H) of two layers to (N, 2W)."""
    return np.concatenate([_padded(half, (1,)) for half in np.split(values, 2, axis=1)], axis=1)


def _padded(values: Float32Array, axes: tuple[int, ...]) -> Float32Array:
    """With zeros up to a multiple of ``COLUMN_STEP`` along some axes."""
    room = [(0, -size % COLUMN_STEP if axis in axes else 0) for axis, size in enumerate(values.shape)]
    return np.ascontiguousarray(np.pad(values, room))
