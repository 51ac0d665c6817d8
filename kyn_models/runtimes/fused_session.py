"""A fused engine with everything it needs on the GPU: one context, one stream, constants and outputs in place.

An engine has one size. Fewer rays or points are padded, more are run in several passes over the same image. Where they
attend to each other, the passes of a set run twice: first each for itself, then knowing what the others have found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kyn_models.runtimes.cuda import Cuda, DeviceMemory, Graph
from kyn_models.runtimes.fused_inputs import Kind, Sums
from kyn_models.runtimes.fused_passes import Asked, Share, collect
from kyn_models.runtimes.queries import Query
from kyn_models.types import UInt8Array

WARM_UP_RUNS = 2


@dataclass
class _Pass:
    """One run of the engine. memory: device memory by tensor name. graph: the recorded run, if it can be recorded."""

    memory: dict[str, DeviceMemory]
    graph: Graph | None = None


class FusedSession:
    """Answers ``queries`` for one image after the other. Used from one thread at a time.

    image_shape: (H, W, 3). kinds: what the engine answers, by name. reason: says what the library last complained
    about. Raises ``RuntimeError`` with one sentence.
    """

    def __init__(
        self,
        cuda: Cuda,
        engine: Any,
        image_shape: tuple[int, int, int],
        kinds: Mapping[str, Kind],
        queries: Mapping[str, Query],
        say: Callable[[str], None],
        reason: Callable[[], str],
    ) -> None:
        self._cuda, self._kinds, self._reason = cuda, kinds, reason
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"TensorRT makes no execution context: {reason()}")
        self._stream = cuda.stream()
        self._image = cuda.pinned(image_shape, np.uint8)
        self._image_memory = cuda.device_memory(self._image.array.nbytes)
        self._shares: dict[str, Share] = {}
        self._asked: dict[str, Asked] = {}
        for name, kind in kinds.items():
            self._asked[name], shares = collect(name, kind.size, kind.sums is not None, queries)
            self._shares |= shares
        self._passes = self._place()
        count = len(self._passes)
        self._answers = {name: cuda.pinned((count * kind.size,), kind.dtypes[0]) for name, kind in kinds.items()}
        self._sums = {
            name: cuda.pinned((count, *kind.sums.shape), np.float32)
            for name, kind in kinds.items()
            if kind.sums is not None
        }
        self._set_shapes()
        self._warm_up(say)

    def run(self, image: UInt8Array, wanted: frozenset[str]) -> dict[str, np.ndarray]:
        """Answers by name; nothing else is computed in passes of its own or copied back."""
        self._cuda.activate()
        np.copyto(self._image.array, image)
        self._stream.upload(self._image_memory, self._image.pointer, self._image.array.nbytes)
        for kind in self._sums:
            shares = [self._shares[name] for name in wanted if self._shares[name].kind == kind]
            for numbers in self._asked[kind].sets_of_several_passes(shares):
                self._tell_each_other(kind, numbers)
        for number, one in enumerate(self._passes):
            parts = list(self._parts(number, wanted))
            if not parts:
                continue
            self._enqueue(one)
            for kind, start, stop in parts:
                first = self._asked[kind].chunks[number].start
                target = self._answers[kind].pointer + 4 * start
                output = one.memory[self._kinds[kind].output]
                self._stream.download(target, output, 4 * (start - first), 4 * (stop - start))
        self._stream.wait()
        return {name: self._answer(self._shares[name]) for name in wanted}

    def _answer(self, share: Share) -> np.ndarray:
        values = self._answers[share.kind].array[share.start : share.stop]
        return values.reshape(share.shape).astype(self._kinds[share.kind].dtypes[1])

    def _parts(self, number: int, wanted: frozenset[str]) -> Iterator[tuple[str, int, int]]:
        """Kind, start and stop of what pass ``number`` computes of the wanted answers."""
        for name in sorted(wanted):
            share = self._shares[name]
            for start, stop in self._asked[share.kind].parts(number, share):
                yield share.kind, start, stop

    def _tell_each_other(self, kind: str, numbers: list[int]) -> None:
        """Run the passes of a set each for itself, then give each what the others say of their places."""
        sums, pinned = self._kinds[kind].sums, self._sums[kind]
        assert sums is not None
        nbytes = pinned.array[0].nbytes
        pinned.array[numbers] = 0
        for number in numbers:
            memory = self._passes[number].memory
            self._stream.upload(memory[sums.others], pinned.pointer + number * nbytes, nbytes)
            self._enqueue(self._passes[number])
            self._stream.download(pinned.pointer + number * nbytes, memory[sums.own], 0, nbytes)
        self._stream.wait()
        own = pinned.array[numbers].astype(np.float64)
        pinned.array[numbers] = own.sum(axis=0) - own
        for number in numbers:
            others = self._passes[number].memory[sums.others]
            self._stream.upload(others, pinned.pointer + number * nbytes, nbytes)

    def _place(self) -> list[_Pass]:
        """Upload all constants, one pass after the other. A pass that has nothing left of a kind shares the first's."""
        count = max(1, *(len(asked.chunks) for asked in self._asked.values()))
        passes = [_Pass({"image": self._image_memory}) for _ in range(count)]
        for number, one in enumerate(passes):
            for name, kind in self._kinds.items():
                chunks = self._asked[name].chunks
                if number < len(chunks) or number == 0:
                    here = slice(*chunks[number][:2]) if chunks else slice(0, 0)
                    placed = kind.place(self._asked[name].values[here])
                    one.memory |= {tensor: self._uploaded(values) for tensor, values in placed.items()}
                else:
                    one.memory |= {tensor: passes[0].memory[tensor] for tensor in kind.inputs}
                one.memory[kind.output] = self._cuda.device_memory(4 * kind.size)
                if kind.sums is not None:
                    one.memory |= self._memory_of_sums(kind.sums)
        return passes

    def _memory_of_sums(self, sums: Sums) -> dict[str, DeviceMemory]:
        nothing = np.zeros(sums.shape, np.float32)
        return {sums.others: self._uploaded(nothing), sums.own: self._cuda.device_memory(nothing.nbytes)}

    def _uploaded(self, values: np.ndarray) -> DeviceMemory:
        memory = self._cuda.device_memory(values.nbytes)
        self._stream.upload(memory, values.ctypes.data, values.nbytes)
        self._stream.wait()
        return memory

    def _set_shapes(self) -> None:
        for kind in self._kinds.values():
            for name, shape in kind.inputs.items():
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
