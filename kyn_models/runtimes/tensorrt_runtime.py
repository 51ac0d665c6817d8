"""TensorRT and TensorRT-RTX: the whole field as one engine, from image and constants to depth and density.

The engine is built once per machine, model, precision and size, in a process of its own, and kept (``engine_cache``).
It has one static shape: rays and points are filled up to its size, and what does not fit runs in several passes. The
constants of a camera, mount and grid lie on the device; a frame is one copy up, one graph launch per pass, and one copy
down per output that is wanted.

Context, stream and driver are shared by all steps of a runtime, one at a time. Never run on a GPU so far; what is
proved without one: every exported graph is compiled by TensorRT-RTX, and everything here runs against stand-ins.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kyn_models.artifact import DECODER, ENGINES, WEIGHTS, Artifact, sha256
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.cuda_driver import Cuda, CudaError, Device
from kyn_models.runtimes.engine_build import WORKSPACE_SHARE, BuildRequest, build_apart
from kyn_models.runtimes.engine_cache import EngineCache, EngineKey
from kyn_models.runtimes.engine_passes import DevicePass, Passes, Sizes, input_shapes
from kyn_models.runtimes.queries import LoadOptions, Query, Step, StepOutput
from kyn_models.runtimes.tensorrt_library import Library, find_library
from kyn_models.types import UInt8Array

log = logging.getLogger(__name__)

RAYS, POINTS = 96 * 320, 400_000
"""Sizes where nobody said any: those of the node's defaults."""
POINTS_STEP = 1 << 16
"""Points of an engine are a multiple of this, so that a grid that changes a little finds its engine."""
FLAGS = "strongly typed, no TF32"
WARM_UPS = 2


def load(artifact: Artifact, options: LoadOptions) -> TensorRt:
    """Find or build the engine and open it.

    Raises ``ImportError`` without a TensorRT, ``RuntimeError`` for a wrong version, a failed build or a driver that
    refuses, ``ValueError`` for a precision without a graph, ``FileNotFoundError`` for an artifact without graphs.
    """
    library = find_library()
    engine, precision, sizes, cuda = open_engine(artifact, options, library)
    return TensorRt(artifact, library, engine, precision, sizes, cuda)


def open_engine(artifact: Artifact, options: LoadOptions, library: Library) -> tuple[Any, str, Sizes, Cuda]:
    """The engine (from the cache, or built), its precision and sizes, and the GPU it is for. Raises as ``load``."""
    precision = "float16" if options.precision == "auto" else options.precision
    if precision not in ENGINES:
        raise ValueError(f"precision: got {precision}, expected {' or '.join(ENGINES)} for TensorRT")
    graph = artifact.file(ENGINES[precision])
    hidden = len(DecoderConstants.load(artifact.file(DECODER)).bias)
    sizes = Sizes(options.rays or RAYS, -(-(options.points or POINTS) // POINTS_STEP) * POINTS_STEP)
    cuda = Cuda()
    device = cuda.device()
    shapes = input_shapes(sizes, hidden)
    key = engine_key(library, graph, artifact.file(WEIGHTS), device, precision, shapes)
    cache = EngineCache(log.warning, options.say)
    workspace = int(device.memory_bytes * WORKSPACE_SHARE)

    def build(plan: Path, timing: Path) -> None:
        build_apart(BuildRequest(library.product, str(graph), shapes, str(plan), str(timing), workspace), options.say)

    trt = library.module
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(cache.get(key, build))
    if engine is None:
        log.warning("%s does not take the cached engine; it is built again", library.title)
        cache.forget(key)
        engine = runtime.deserialize_cuda_engine(cache.get(key, build))
    if engine is None:
        raise RuntimeError(f"{library.title} does not take the engine that it built on {device.name}; see its messages")
    return _Engine(engine, runtime), precision, sizes, cuda


class _Engine(NamedTuple):
    """An engine and the runtime that must outlive it."""

    engine: Any
    runtime: Any


def engine_key(
    library: Library, graph: Path, weights: Path, device: Device, precision: str, shapes: Mapping[str, tuple[int, ...]]
) -> EngineKey:
    """What the engine of these files on this GPU is called."""
    return EngineKey(
        product=library.product,
        version=library.version,
        graph=hashlib.sha256((sha256(graph) + sha256(weights)).encode()).hexdigest(),
        gpu=device.name,
        compute_capability=device.compute_capability,
        driver_cuda_major=device.driver_cuda[0],
        precision=precision,
        shapes=" ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items())),
        flags=FLAGS,
    )


class TensorRt:
    """A loaded engine. Steps and ``prepare`` of all threads take turns: context, stream and image are one each.

    The lock may be taken again by its holder: a step that goes may go in the middle of another's.
    """

    name = "tensorrt"

    def __init__(
        self, artifact: Artifact, library: Library, engine: _Engine, precision: str, sizes: Sizes, cuda: Cuda
    ) -> None:
        self.precision, self.library = precision, library.title
        self._constants = DecoderConstants.load(artifact.file(DECODER))
        self._engine, self.sizes, self.cuda = engine, sizes, cuda
        self._context = engine.engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(f"{library.title} cannot create an execution context (out of GPU memory?)")
        camera = artifact.camera
        self.image = cuda.host_array((1, camera.height, camera.width, 3), np.uint8)
        self.image_address = cuda.allocate(self.image.nbytes)
        self.lock = threading.RLock()
        self._graphs = True

    def prepare(self, queries: Mapping[str, Query]) -> Step:
        """Put the constants of all queries on the device, run every pass and capture it; from any thread."""
        return _EngineStep(self, Passes(queries, self._constants, self.sizes))

    def launcher(self, one: DevicePass) -> Callable[[], None]:
        """Runs the engine once with the constants and answers of a pass; warm, and one graph where that can be."""

        def launch() -> None:
            context = self._context
            for name, address in {"image": self.image_address, **one.inputs, **one.outputs}.items():
                if not context.set_tensor_address(name, address):
                    raise RuntimeError(f"{self.library}: set_tensor_address({name}) failed; see its messages")
            for name, shape in input_shapes(self.sizes, len(self._constants.bias)).items():
                if not context.set_input_shape(name, shape):
                    raise RuntimeError(f"{self.library}: set_input_shape({name}) failed; see its messages")
            if not context.execute_async_v3(self.cuda.stream):
                raise RuntimeError(f"{self.library}: execute_async_v3 failed; see its messages")

        for _ in range(WARM_UPS):
            launch()
            self.cuda.synchronize()
        if self._graphs:
            try:
                return self.cuda.capture(launch)
            except RuntimeError as error:
                self._graphs = False
                log.warning("runtime tensorrt: no CUDA graph can be captured (%s); launching piece by piece", error)
        return launch


class _EngineStep:
    """What ``prepare`` gives: the constants of some queries on the device, which go with it."""

    def __init__(self, runtime: TensorRt, work: Passes) -> None:
        self._runtime, self._work = runtime, work
        self._passes: list[DevicePass] = []
        self._launches: list[Callable[[], None]] = []
        for constants in work.constants():
            with runtime.lock:
                runtime.cuda.enter()
                self._passes.append(DevicePass(runtime.cuda, constants, runtime.sizes))
                self._launches.append(runtime.launcher(self._passes[-1]))

    def __call__(self, image: UInt8Array, wanted: frozenset[str]) -> StepOutput:
        begin = time.perf_counter()
        runtime, cuda = self._runtime, self._runtime.cuda
        with runtime.lock:
            cuda.enter()
            np.copyto(runtime.image[0], image)
            cuda.upload(runtime.image_address, runtime.image)
            for number, (one, launch) in enumerate(zip(self._passes, self._launches, strict=True)):
                outputs = self._work.outputs(number, wanted)
                if outputs:
                    launch()
                for output in outputs:
                    cuda.download(one.host[output], one.outputs[output])
            cuda.synchronize()
            arrays = self._work.answers([one.host for one in self._passes], wanted)
        return StepOutput(arrays, {"model": (time.perf_counter() - begin) * 1e3})

    def __del__(self) -> None:
        # Not while a step is at work: this may be called wherever the last reference goes.
        with contextlib.suppress(CudaError), self._runtime.lock:
            self._runtime.cuda.enter()
            for one in self._passes:
                one.release()
