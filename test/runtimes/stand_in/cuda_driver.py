"""A stand-in for the CUDA driver's library: device memory is host memory, and a stream works only when waited for.

So an answer that is read too early, a copy beyond an allocation, a thread that never made the GPU current, and memory
that is never freed all show. ``fail`` maps the name of a call to the status it returns.
"""

# ruff: noqa: N802 - the names of the driver

from __future__ import annotations

import ctypes
import threading


class Driver:
    """Use as the library that ``ctypes.CDLL`` returns. tensorrt: the stand-in module whose work it queues."""

    def __init__(self, tensorrt, devices: int = 1) -> None:
        tensorrt.enqueue = self._enqueue
        self.devices, self.fail, self.calls = devices, {}, []
        self.memory: dict[int, ctypes.Array] = {}
        self._streams: dict[int, list] = {}
        self._capturing: dict[int, list] = {}
        self._graphs: dict[int, list] = {}
        self._next = 1000
        self._current = threading.local()

    def __getattr__(self, name: str):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments) -> int:
            self.calls.append(name)
            if name in self.fail:
                return self.fail[name]
            needs_context = name[2:5] in ("Mem", "Str", "Gra")
            if needs_context and not getattr(self._current, "context", None):
                return 201
            return getattr(self, "_" + name)(*arguments) or 0

        return call

    def _handle(self, place) -> int:
        self._next += 8
        place._obj.value = self._next
        return self._next

    def _enqueue(self, stream: int, work) -> None:
        (self._capturing.get(stream) if stream in self._capturing else self._streams[stream]).append(work)

    def _cuInit(self, flags) -> int:
        return 0 if self.devices else 100

    def _cuDeviceGetCount(self, count) -> None:
        count._obj.value = self.devices

    def _cuDeviceGet(self, device, number) -> None:
        device._obj.value = number.value

    def _cuDeviceGetName(self, name, length, device) -> None:
        name.value = b"Stand-in GPU"

    def _cuDeviceGetAttribute(self, value, number, device) -> None:
        value._obj.value = {75: 8, 76: 7}[number.value]

    def _cuDriverGetVersion(self, version) -> None:
        version._obj.value = 12060

    def _cuDevicePrimaryCtxRetain(self, context, device) -> None:
        context._obj.value = 7

    def _cuCtxSetCurrent(self, context) -> None:
        self._current.context = context.value

    def _cuGetErrorString(self, status, text) -> None:
        text._obj.value = {2: b"out of memory", 201: b"invalid device context"}.get(status.value, b"a fault")

    def _cuMemAlloc_v2(self, place, size) -> None:
        buffer = (ctypes.c_uint8 * size.value)()
        ctypes.memset(buffer, 0xFF, size.value)
        place._obj.value = ctypes.addressof(buffer)
        self.memory[ctypes.addressof(buffer)] = buffer

    def _cuMemHostAlloc(self, place, size, flags) -> None:
        self._cuMemAlloc_v2(place, size)

    def _cuMemFree_v2(self, pointer) -> int:
        return 0 if self.memory.pop(pointer.value, None) is not None else 1

    def _cuMemFreeHost(self, pointer) -> int:
        return self._cuMemFree_v2(pointer)

    def _inside(self, address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + len(held) for start, held in self.memory.items())

    def _cuMemcpyHtoDAsync_v2(self, target, source, size, stream) -> int:
        if not self._inside(target.value, size.value):
            return 1
        to, origin, count = target.value, source.value, size.value
        self._enqueue(stream.value, lambda: ctypes.memmove(to, origin, count))
        return 0

    def _cuMemcpyDtoHAsync_v2(self, target, source, size, stream) -> int:
        if not self._inside(source.value, size.value) or not self._inside(target.value, size.value):
            return 1
        to, origin, count = target.value, source.value, size.value
        self._enqueue(stream.value, lambda: ctypes.memmove(to, origin, count))
        return 0

    def _cuStreamCreate(self, stream, flags) -> None:
        self._streams[self._handle(stream)] = []

    def _cuStreamDestroy_v2(self, stream) -> None:
        del self._streams[stream.value]

    def _cuStreamSynchronize(self, stream) -> int:
        if stream.value in self._capturing:
            return 900
        work, self._streams[stream.value] = self._streams[stream.value], []
        for one in work:
            one()
        return 0

    def _cuStreamBeginCapture_v2(self, stream, mode) -> None:
        self._capturing[stream.value] = []

    def _cuStreamEndCapture(self, stream, graph) -> None:
        self._graphs[self._handle(graph)] = self._capturing.pop(stream.value)

    def _cuGraphInstantiateWithFlags(self, executable, graph, flags) -> None:
        self._graphs[self._handle(executable)] = self._graphs[graph.value]

    def _cuGraphLaunch(self, executable, stream) -> None:
        self._streams[stream.value].extend(self._graphs[executable.value])

    def _cuGraphDestroy(self, graph) -> None:
        del self._graphs[graph.value]

    def _cuGraphExecDestroy(self, executable) -> None:
        del self._graphs[executable.value]
