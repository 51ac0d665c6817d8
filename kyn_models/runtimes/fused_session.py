"""A fused engine with everything it needs on the GPU: one context, one stream, constants and outputs in place.

An engine has one size. Fewer rays or points are padded, more are run in several passes over the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.cuda import Cuda, DeviceMemory, Graph
from kyn_models.runtimes.fused_inputs import point_places, ray_places
from kyn_models.runtimes.queries import PointQuery, Query, RayQuery
from kyn_models.types import Float32Array, UInt8Array

WARM_UP_RUNS = 2
INPUTS = ("image", "ray_grid", "ray_code", "point_grid", "point_code")
OUTPUTS = {"ray": "depth", "point": "density"}
PLACES = {"ray": ray_places, "point": point_places}


@dataclass(frozen=True)
class Sizes:
    """What an engine was built for. image: (H, W, 3). hidden: channels. rays, points: in one pass."""

    image: tuple[int, int, int]
    hidden: int
    rays: int
    points: int

    def of(self, kind: str) -> int:
        """Rays or points in one pass."""
        return self.rays if kind == "ray" else self.points


class _Share(NamedTuple):
    """Where the answer of a query lies among all of its kind."""

    kind: str
    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass
class _Pass:
    """One run of the engine. memory: device memory by tensor name. graph: the recorded run, if it can be recorded."""

    memory: dict[str, DeviceMemory]
    graph: Graph | None = None


class FusedSession:
    """Answers ``queries`` for one image after the other. Used from one thread at a time.

    reason: says what the library last complained about. Raises ``RuntimeError`` with one sentence.
    """

    def __init__(
        self,
        cuda: Cuda,
        engine: Any,
        constants: DecoderConstants,
        sizes: Sizes,
        queries: Mapping[str, Query],
        say: Callable[[str], None],
        reason: Callable[[], str],
    ) -> None:
        self._cuda, self._sizes, self._reason = cuda, sizes, reason
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"TensorRT makes no execution context: {reason()}")
        self._stream = cuda.stream()
        self._image = cuda.pinned(sizes.image, np.uint8)
        self._image_memory = cuda.device_memory(self._image.array.nbytes)
        self._shares: dict[str, _Share] = {}
        asked = {
            "ray": self._collect("ray", {n: q.directions for n, q in queries.items() if isinstance(q, RayQuery)}),
            "point": self._collect("point", {n: q.points for n, q in queries.items() if isinstance(q, PointQuery)}),
        }
        self._passes = self._place(constants, asked)
        self._answers = {kind: cuda.pinned((len(self._passes) * sizes.of(kind),), np.float32) for kind in OUTPUTS}
        self._set_shapes()
        self._warm_up(say)

    def run(self, image: UInt8Array, wanted: frozenset[str]) -> dict[str, Float32Array]:
        """Answers by name; nothing else is computed in passes of its own or copied back."""
        self._cuda.activate()
        np.copyto(self._image.array, image)
        self._stream.upload(self._image_memory, self._image.pointer, self._image.array.nbytes)
        for number, one in enumerate(self._passes):
            parts = list(self._parts(number, wanted))
            if not parts:
                continue
            self._enqueue(one)
            for kind, start, stop in parts:
                first = number * self._sizes.of(kind)
                target = self._answers[kind].pointer + 4 * start
                self._stream.download(target, one.memory[OUTPUTS[kind]], 4 * (start - first), 4 * (stop - start))
        self._stream.wait()
        shares = ((name, self._shares[name]) for name in wanted)
        return {
            name: self._answers[share.kind].array[share.start : share.stop].reshape(share.shape).copy()
            for name, share in shares
        }

    def _collect(self, kind: str, named: Mapping[str, Float32Array]) -> Float32Array:
        """All rays or all points in one (M, 3) array; notes where each query's are."""
        start = 0
        for name, values in named.items():
            stop = start + values.size // 3
            self._shares[name] = _Share(kind, start, stop, values.shape[:-1])
            start = stop
        return np.concatenate([np.empty((0, 3), np.float32), *(values.reshape(-1, 3) for values in named.values())])

    def _parts(self, number: int, wanted: frozenset[str]) -> Iterator[tuple[str, int, int]]:
        """Kind, start and stop of what pass ``number`` computes of the wanted answers."""
        for name in sorted(wanted):
            kind, start, stop, _ = self._shares[name]
            first = number * self._sizes.of(kind)
            start, stop = max(start, first), min(stop, first + self._sizes.of(kind))
            if start < stop:
                yield kind, start, stop

    def _place(self, constants: DecoderConstants, asked: Mapping[str, Float32Array]) -> list[_Pass]:
        """Upload all constants, one pass after the other. A pass that has nothing left of a kind shares the first's."""
        count = max(1, *(-(-len(values) // self._sizes.of(kind)) for kind, values in asked.items()))
        passes = [_Pass({"image": self._image_memory}) for _ in range(count)]
        for number, one in enumerate(passes):
            for kind, values in asked.items():
                size = self._sizes.of(kind)
                part = values[number * size : (number + 1) * size]
                if len(part) or number == 0:
                    places = PLACES[kind](constants, part)
                    one.memory[f"{kind}_grid"] = self._uploaded(_padded(places.grid, (size, 2)))
                    one.memory[f"{kind}_code"] = self._uploaded(_padded(places.code, (self._sizes.hidden, size)))
                else:
                    one.memory |= {name: passes[0].memory[name] for name in (f"{kind}_grid", f"{kind}_code")}
                one.memory[OUTPUTS[kind]] = self._cuda.device_memory(4 * size)
        return passes

    def _uploaded(self, values: np.ndarray) -> DeviceMemory:
        memory = self._cuda.device_memory(values.nbytes)
        self._stream.upload(memory, values.ctypes.data, values.nbytes)
        self._stream.wait()
        return memory

    def _set_shapes(self) -> None:
        size = self._sizes
        shapes = {
            "ray_grid": (1, 1, size.rays, 2),
            "ray_code": (1, size.hidden, 1, size.rays),
            "point_grid": (1, 1, size.points, 2),
            "point_code": (1, size.hidden, 1, size.points),
        }
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise RuntimeError(f"TensorRT refuses shape {shape} for {name}: {self._reason()}")

    def _warm_up(self, say: Callable[[str], None]) -> None:
        """Run every pass, then record it, so that an image costs one launch."""
        self._image.array[:] = 0
        self._stream.upload(self._image_memory, self._image.pointer, self._image.array.nbytes)
        for one in self._passes:
            for _ in range(WARM_UP_RUNS):
                self._execute(one)
            self._stream.wait()
        try:
            for one in self._passes:
                one.graph = self._stream.capture(lambda one=one: self._execute(one))  # type: ignore[misc]
        except RuntimeError as error:
            for one in self._passes:
                one.graph = None
            say(f"the engine cannot be recorded as a CUDA graph ({error}); its kernels are launched one by one")
        for one in self._passes:
            self._enqueue(one)
        self._stream.wait()

    def _enqueue(self, one: _Pass) -> None:
        if one.graph is not None:
            one.graph.launch()
        else:
            self._execute(one)

    def _execute(self, one: _Pass) -> None:
        for name, memory in one.memory.items():
            if not self._context.set_tensor_address(name, memory.pointer):
                raise RuntimeError(f"TensorRT refuses the memory of {name}: {self._reason()}")
        if not self._context.execute_async_v3(self._stream.handle):
            raise RuntimeError(f"TensorRT did not run the engine: {self._reason()}")


def _padded(values: Float32Array, shape: tuple[int, int]) -> Float32Array:
    """``values`` in the corner of zeros."""
    padded = np.zeros(shape, np.float32)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded
