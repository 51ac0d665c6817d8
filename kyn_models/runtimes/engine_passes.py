"""What an engine of fixed size runs for queries of any size: passes, each with part of the rays and of the points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.cuda_driver import Cuda
from kyn_models.runtimes.queries import PointQuery, Query, RayQuery
from kyn_models.types import Float32Array

CODES_AT_ONCE = 1 << 16


class Sizes(NamedTuple):
    """How many rays and points an engine takes at once."""

    rays: int
    points: int


def input_shapes(sizes: Sizes, hidden: int) -> dict[str, tuple[int, ...]]:
    """The inputs of a fused graph that it leaves open."""
    return {
        "ray_grid": (1, 1, sizes.rays, 2),
        "ray_code": (sizes.rays, hidden),
        "point_grid": (1, 1, sizes.points, 2),
        "point_code": (sizes.points, hidden),
    }


class DevicePass:
    """One run of the engine: its constants on the device, and where its answers go."""

    def __init__(self, cuda: Cuda, constants: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        self._cuda = cuda
        self.inputs = {name: cuda.allocate(array.nbytes) for name, array in constants.items()}
        self.outputs = {"depth": cuda.allocate(4 * sizes.rays), "density": cuda.allocate(4 * sizes.points)}
        self.host = {
            "depth": cuda.host_array((sizes.rays,), np.float32),
            "density": cuda.host_array((sizes.points,), np.float32),
        }
        for name, array in constants.items():
            cuda.upload(self.inputs[name], array)
        cuda.synchronize()

    def release(self) -> None:
        """Give its memory back."""
        for address in (*self.inputs.values(), *self.outputs.values()):
            self._cuda.free(address)
        for array in self.host.values():
            self._cuda.release_host(array)


class Passes:
    """Which part of which query runs in which pass: part of a ray query and of a point query in each.

    Rays and points that an engine has room for and no query fills are zeros, and their answers are never read.
    """

    def __init__(self, queries: Mapping[str, Query], constants: DecoderConstants, sizes: Sizes) -> None:
        self._queries, self._numbers, self._sizes = dict(queries), constants, sizes
        self._rays = list(self._parts(RayQuery, sizes.rays))
        self._points = list(self._parts(PointQuery, sizes.points))

    def _parts(self, kind: type, size: int) -> Iterator[tuple[str, int, int]]:
        for name, query in self._queries.items():
            if isinstance(query, kind):
                total = len(_rows(query))
                for begin in range(0, total, size):
                    yield name, begin, min(begin + size, total)

    def constants(self) -> Iterator[dict[str, np.ndarray]]:
        """What each pass is given beside the image."""
        for number in range(max(len(self._rays), len(self._points))):
            hidden = len(self._numbers.bias)
            arrays = {name: np.zeros(shape, np.float32) for name, shape in input_shapes(self._sizes, hidden).items()}
            if number < len(self._rays):
                name, begin, end = self._rays[number]
                uv = self._numbers.image_coordinates(_rows(self._queries[name])[begin:end])
                arrays["ray_grid"][0, 0, : end - begin] = uv
                arrays["ray_code"][: end - begin] = self._numbers.project_codes(uv, (0, 1)) + self._numbers.bias
            if number < len(self._points):
                name, begin, end = self._points[number]
                self._fill_points(arrays, _rows(self._queries[name])[begin:end])
            yield arrays

    def _fill_points(self, arrays: dict[str, np.ndarray], points: Float32Array) -> None:
        numbers = self._numbers
        for begin in range(0, len(points), CODES_AT_ONCE):
            part = points[begin : begin + CODES_AT_ONCE]
            uvz = np.concatenate([numbers.image_coordinates(part), numbers.depth_code(part[:, 2])[:, None]], axis=1)
            arrays["point_grid"][0, 0, begin : begin + len(part)] = uvz[:, :2]
            arrays["point_code"][begin : begin + len(part)] = numbers.project_codes(uvz, (0, 1, 2)) + numbers.bias

    def outputs(self, number: int, wanted: frozenset[str]) -> list[str]:
        """Which outputs of a pass the wanted queries need."""
        found = []
        if number < len(self._rays) and self._rays[number][0] in wanted:
            found.append("depth")
        if number < len(self._points) and self._points[number][0] in wanted:
            found.append("density")
        return found

    def answers(self, hosts: list[dict[str, np.ndarray]], wanted: frozenset[str]) -> dict[str, Float32Array]:
        """The wanted queries' answers from what all passes gave."""
        arrays = {name: np.empty(len(_rows(self._queries[name])), np.float32) for name in wanted}
        for output, parts in (("depth", self._rays), ("density", self._points)):
            for number, (name, begin, end) in enumerate(parts):
                if name in wanted:
                    arrays[name][begin:end] = hosts[number][output][: end - begin]
        return {name: array.reshape(_shape(self._queries[name])) for name, array in arrays.items()}


def _rows(query: Query) -> Float32Array:
    values = query.directions.reshape(-1, 3) if isinstance(query, RayQuery) else query.points
    return np.ascontiguousarray(values, dtype=np.float32)


def _shape(query: Query) -> tuple[int, ...]:
    return query.directions.shape[:2] if isinstance(query, RayQuery) else (len(query.points),)
