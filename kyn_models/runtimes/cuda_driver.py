"""The few calls of the CUDA driver that an engine needs: memory, copies, a stream, a graph. ctypes, no other library.

Every status is checked; an error names the call. All calls of one ``Cuda`` are made by one thread at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kyn_models.runtimes.cuda_device import DRIVER

COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
NON_BLOCKING = 1
CAPTURE_THREAD_LOCAL = 1


class CudaError(RuntimeError):
    """A call of the CUDA driver failed."""


class Device(NamedTuple):
    """name; compute capability such as "9.0"; the highest CUDA version of its driver, such as (13, 0); memory."""

    name: str
    compute_capability: str
    driver_cuda: tuple[int, int]
    memory_bytes: int


class Cuda:
    """The first GPU that this process sees, with its primary context and one stream.

    Raises ``CudaError`` if the driver refuses, ``OSError`` if there is none.
    """

    def __init__(self) -> None:
        self._driver = ctypes.CDLL(DRIVER)
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), NON_BLOCKING)
        self.stream = int(stream.value or 0)
        self._pinned: list[Any] = []

    def enter(self) -> None:
        """Make the context current in the calling thread; each thread must, before anything else."""
        self._call("cuCtxSetCurrent", self._context)

    def device(self) -> Device:
        """What GPU this is."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        version, memory = ctypes.c_int(), ctypes.c_size_t()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), self._device)
        capability = f"{self._attribute(COMPUTE_CAPABILITY_MAJOR)}.{self._attribute(COMPUTE_CAPABILITY_MINOR)}"
        driver = (version.value // 1000, version.value % 1000 // 10)
        return Device(name.value.decode(errors="replace"), capability, driver, memory.value)

    def allocate(self, size_bytes: int) -> int:
        """Address of new device memory."""
        address = ctypes.c_void_p()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size_bytes)))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", ctypes.c_void_p(address))

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array in page-locked memory, which the GPU reads and writes by itself; it lives as long as this object."""
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        memory = (ctypes.c_ubyte * size).from_address(int(address.value or 0))
        self._pinned.append(memory)
        return np.frombuffer(memory, dtype=dtype, count=int(np.prod(shape))).reshape(shape)

    def release_host(self, array: np.ndarray) -> None:
        """Give the memory of a ``host_array`` back; the array must not be used any more."""
        address = array.__array_interface__["data"][0]
        self._pinned = [memory for memory in self._pinned if ctypes.addressof(memory) != address]
        self._call("cuMemFreeHost", ctypes.c_void_p(address))

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device, in the order of the stream."""
        source = ctypes.c_void_p(array.__array_interface__["data"][0])
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_void_p(address), source, self._size(array), self._stream())

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy from the device into a contiguous array, in the order of the stream."""
        target = ctypes.c_void_p(array.__array_interface__["data"][0])
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_void_p(address), self._size(array), self._stream())

    def synchronize(self) -> None:
        """Wait for everything in the stream."""
        self._call("cuStreamSynchronize", self._stream())

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A graph of what ``work`` puts into the stream; calling it does that again, in one launch.

        Raises ``CudaError`` if something in it cannot be captured; the stream is usable all the same.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream(), CAPTURE_THREAD_LOCAL)
        try:
            work()
        finally:
            self._call("cuStreamEndCapture", self._stream(), ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)
        return lambda: self._call("cuGraphLaunch", executable, self._stream())

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _stream(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.stream)

    @staticmethod
    def _size(array: np.ndarray) -> ctypes.c_size_t:
        return ctypes.c_size_t(array.nbytes)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            said = text.value.decode(errors="replace") if text.value else "unknown error"
            raise CudaError(f"CUDA driver: {name} failed: {said} ({status})")
