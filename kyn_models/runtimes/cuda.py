"""The little of CUDA that an engine needs, from the driver's own library: no other package has to be installed.

Every call's status is checked; memory and streams are freed with their Python objects.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from kyn_models.runtimes.queries import NoDevice

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76
NON_BLOCKING = 1
THIS_THREAD = 1
"""Capture mode in which what other threads do with the GPU does not disturb."""


class CudaError(RuntimeError):
    """A call of the CUDA driver failed."""


load_library = ctypes.CDLL


def open_driver() -> Any:
    """The driver's library, started. Raises ``NoDevice`` without a driver or GPU, ``CudaError`` if it does not work."""
    try:
        library = load_library(LIBRARY)
    except OSError as error:
        raise NoDevice(f"no NVIDIA GPU found here, the driver is missing ({error}); use another runtime") from error
    status, count = int(library.cuInit(ctypes.c_uint(0))), ctypes.c_int()
    if status != NO_DEVICE:
        _check(library, "cuInit", status)
        _check(library, "cuDeviceGetCount", int(library.cuDeviceGetCount(ctypes.byref(count))))
    if count.value < 1:
        raise NoDevice("no NVIDIA GPU found here, the driver sees none; use another runtime")
    return library


class Cuda:
    """The first visible GPU, through its primary context, which TensorRT uses too.

    name: of the GPU. capability: compute capability such as "8.7". driver_cuda: CUDA version of the driver.
    driver: from ``open_driver``. Raises ``CudaError``.
    """

    def __init__(self, driver: Any) -> None:
        self._library = driver
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        self.name = name.value.decode(errors="replace")
        self.capability = f"{self._attribute(COMPUTE_MAJOR, device)}.{self._attribute(COMPUTE_MINOR, device)}"
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.driver_cuda = (version.value // 1000, version.value % 1000 // 10)
        # Kept until the process ends: other libraries share it.
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.activate()

    def activate(self) -> None:
        """Make the GPU current in this thread; every thread must, before it calls anything else."""
        self._call("cuCtxSetCurrent", self._context)

    def device_memory(self, nbytes: int) -> DeviceMemory:
        """Uninitialised memory on the GPU. Raises ``CudaError`` that names the size."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(nbytes), about=f"{nbytes / 1e6:.0f} MB")
        return DeviceMemory(self, pointer.value, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: type) -> Pinned:
        """Uninitialised memory of the host that the GPU copies from and to directly."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        pointer = ctypes.c_void_p()
        arguments = (ctypes.byref(pointer), ctypes.c_size_t(nbytes), ctypes.c_uint(0))
        self._call("cuMemHostAlloc", *arguments, about=f"{nbytes / 1e6:.0f} MB")
        assert pointer.value is not None
        return Pinned(self, pointer.value, shape, dtype)

    def stream(self) -> Stream:
        """A new stream."""
        return Stream(self)

    def release(self, call: str, handle: Any) -> None:
        """Free something when its object goes; a failure cannot be mended then."""
        self._library.cuCtxSetCurrent(self._context)
        getattr(self._library, call)(handle)

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value

    def _call(self, name: str, *arguments: Any, about: str = "") -> None:
        _check(self._library, name, int(getattr(self._library, name)(*arguments)), about)


def _check(library: Any, name: str, status: int, about: str = "") -> None:
    if status != 0:
        text = ctypes.c_char_p()
        library.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        reason = text.value.decode(errors="replace") if text.value else "unknown error"
        raise CudaError(f"CUDA: {name}{f' of {about}' if about else ''} failed with {status} ({reason})")


class DeviceMemory:
    """Memory on the GPU. pointer: its address there."""

    def __init__(self, cuda: Cuda, pointer: int, nbytes: int) -> None:
        self.pointer, self.nbytes = pointer, nbytes
        weakref.finalize(self, cuda.release, "cuMemFree_v2", ctypes.c_uint64(pointer)).atexit = False


class Pinned:
    """Page-locked memory of the host. array: a view of it, valid while this object lives."""

    def __init__(self, cuda: Cuda, pointer: int, shape: tuple[int, ...], dtype: type) -> None:
        self.pointer = pointer
        raw = (ctypes.c_uint8 * (math.prod(shape) * np.dtype(dtype).itemsize)).from_address(pointer)
        self.array: np.ndarray = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
        weakref.finalize(self, cuda.release, "cuMemFreeHost", ctypes.c_void_p(pointer)).atexit = False


class Stream:
    """A queue of work on the GPU. handle: as TensorRT takes it."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        stream = ctypes.c_void_p()
        cuda._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(NON_BLOCKING))
        self._stream = stream
        self.handle = int(stream.value or 0)
        weakref.finalize(self, cuda.release, "cuStreamDestroy_v2", stream).atexit = False

    def upload(self, target: DeviceMemory, source: int, nbytes: int) -> None:
        """Copy from the host at address ``source`` to the start of ``target``; returns at once for pinned memory."""
        arguments = (ctypes.c_uint64(target.pointer), ctypes.c_void_p(source), ctypes.c_size_t(nbytes))
        self._cuda._call("cuMemcpyHtoDAsync_v2", *arguments, self._stream)

    def download(self, target: int, source: DeviceMemory, start: int, nbytes: int) -> None:
        """Copy ``nbytes`` from byte ``start`` of ``source`` to the host's address ``target``."""
        pointer = ctypes.c_uint64(source.pointer + start)
        self._cuda._call(
            "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(target), pointer, ctypes.c_size_t(nbytes), self._stream
        )

    def wait(self) -> None:
        """Until everything queued is done. Raises ``CudaError`` for faults of that work too."""
        self._cuda._call("cuStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` queues here, to be launched as a whole later. Raises ``CudaError``, and as ``work``."""
        self._cuda._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(THIS_THREAD))
        recorded = ctypes.c_void_p()
        failure: BaseException | None = None
        try:
            work()
        except RuntimeError as error:
            failure = error
        try:
            # Also after a failure: a stream that still captures takes no other work.
            self._cuda._call("cuStreamEndCapture", self._stream, ctypes.byref(recorded))
        except CudaError as error:
            failure = failure or error
        try:
            if failure is not None:
                raise failure
            return Graph(self._cuda, self._stream, recorded)
        finally:
            if recorded.value:
                self._cuda.release("cuGraphDestroy", recorded)


class Graph:
    """Recorded work of a stream."""

    def __init__(self, cuda: Cuda, stream: ctypes.c_void_p, recorded: ctypes.c_void_p) -> None:
        self._cuda, self._stream = cuda, stream
        executable = ctypes.c_void_p()
        cuda._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), recorded, ctypes.c_uint64(0))
        self._executable = executable
        weakref.finalize(self, cuda.release, "cuGraphExecDestroy", executable).atexit = False

    def launch(self) -> None:
        """Queue all of it."""
        self._cuda._call("cuGraphLaunch", self._executable, self._stream)
