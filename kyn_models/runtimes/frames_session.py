"""An engine of fixed shapes with its memory on the GPU: inputs copied in, one recorded launch, outputs copied back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kyn_models.runtimes.cuda import Cuda, Graph

WARM_UP_RUNS = 2


class FramesSession:
    """Answers one set of inputs after the other. Used from one thread at a time.

    tensors: shape and type of every input and output by name. reason: says what the library last complained about.
    Raises ``RuntimeError`` with one sentence.
    """

    def __init__(
        self,
        cuda: Cuda,
        engine: Any,
        tensors: Mapping[str, tuple[tuple[int, ...], type]],
        outputs: tuple[str, ...],
        say: Callable[[str], None],
        reason: Callable[[], str],
    ) -> None:
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if found != set(tensors):
            # It would read memory that is not its own.
            raise RuntimeError(f"the engine has tensors {sorted(found)}, expected {sorted(tensors)}; run `kyn export`")
        self._cuda, self._reason = cuda, reason
        cuda.activate()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"TensorRT makes no execution context: {reason()}")
        self._stream = cuda.stream()
        self._host = {name: cuda.pinned(shape, dtype) for name, (shape, dtype) in tensors.items()}
        self._memory = {name: cuda.device_memory(host.array.nbytes) for name, host in self._host.items()}
        self._inputs = tuple(name for name in tensors if name not in outputs)
        self._graph: Graph | None = None
        self._warm_up(say)

    def run(self, inputs: Mapping[str, np.ndarray], wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The wanted outputs, as copies of their own."""
        self._cuda.activate()
        for name in self._inputs:
            np.copyto(self._host[name].array, inputs[name])
        self._upload()
        self._enqueue()
        for name in wanted:
            host = self._host[name]
            self._stream.download(host.pointer, self._memory[name], 0, host.array.nbytes)
        self._stream.wait()
        return {name: self._host[name].array.copy() for name in wanted}

    def _upload(self) -> None:
        for name in self._inputs:
            host = self._host[name]
            self._stream.upload(self._memory[name], host.pointer, host.array.nbytes)

    def _warm_up(self, say: Callable[[str], None]) -> None:
        """Run the engine, then record it, so that an image costs one launch."""
        for name in self._inputs:
            self._host[name].array[...] = 0
        self._upload()
        for _ in range(WARM_UP_RUNS):
            self._execute()
        self._stream.wait()
        try:
            self._graph = self._stream.capture(self._execute)
        except RuntimeError as error:
            say(f"the engine cannot be recorded as a CUDA graph ({error}); its kernels are launched one by one")
        self._enqueue()
        self._stream.wait()

    def _enqueue(self) -> None:
        if self._graph is not None:
            self._graph.launch()
        else:
            self._execute()

    def _execute(self) -> None:
        for name, memory in self._memory.items():
            if not self._context.set_tensor_address(name, memory.pointer):
                raise RuntimeError(f"TensorRT refuses the memory of {name}: {self._reason()}")
        if not self._context.execute_async_v3(self._stream.handle):
            raise RuntimeError(f"TensorRT did not run the engine: {self._reason()}")
