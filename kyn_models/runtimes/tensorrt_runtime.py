"""TensorRT 10.3 to 11 and TensorRT-RTX: the whole model as one engine on an NVIDIA GPU.

The engine is built on the machine that runs it, in a process of its own, and kept in a private cache. It holds image
network, sampling and compositing for a fixed number of rays and points, so that neither a new camera nor a slightly
larger grid needs another one. Every prepared step has its own context, stream and memory: ``prepare`` in one thread
does not touch a step that runs in another. Two calls of ``prepare`` wait for each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from kyn_models.artifact import DECODER, ENGINES, Artifact
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.cuda import Cuda, open_driver
from kyn_models.runtimes.fused_inputs import Kind, kinds
from kyn_models.runtimes.fused_session import FusedSession
from kyn_models.runtimes.kyn_constants import KynConstants
from kyn_models.runtimes.queries import LoadOptions, Query, Step, StepOutput
from kyn_models.runtimes.tensorrt_engine import LoadedEngine, load_engine
from kyn_models.runtimes.tensorrt_library import find_library
from kyn_models.types import UInt8Array

RAYS, POINTS = 30720, 458752
"""Sizes where nothing is known: 96 x 320 rays, and the default grid of 400,000 cells, rounded up."""

WORKSPACES = {"bts": 2 << 30, "kyn": 4 << 30}
"""Most scratch memory of an engine in bytes, so that no tactic takes what the rest of a robot needs. ``kyn`` keeps the
last layer of all samples of all rays: 1 GB of the default sizes."""
POINTS_STEP = 1 << 16
RECIPE = 1
"""Counted up when engines are built in another way from the same graph."""


def load(artifact: Artifact, options: LoadOptions) -> TensorRT:
    """The model as an engine, from the cache or built now; progress goes to ``options.say``.

    Raises ``NoDevice``, ``ImportError`` without the library, ``FileNotFoundError`` for an artifact without the graph,
    ``RuntimeError`` for a library of a wrong version, an engine that cannot be built, or a GPU that fails,
    ``ValueError`` for a precision it lacks or a damaged file.
    """
    precision = "float16" if options.precision == "auto" else options.precision
    if precision not in ENGINES:
        raise ValueError(f"precision: got {precision}, expected {' or '.join(ENGINES)} with TensorRT")
    driver = open_driver()
    library = find_library()
    cuda = Cuda(driver)
    graph = artifact.file(ENGINES[precision])
    asked = kinds_for(artifact, options)
    facts = {
        "precision": precision,
        "rays": asked["ray"].size,
        "points": asked["point"].size,
        "recipe": RECIPE,
    }
    workspace = WORKSPACES[artifact.manifest.family]
    loaded = load_engine(artifact, graph, shapes_of(asked), workspace, facts, library, cuda, options.say)
    _check_tensors(loaded.engine, asked)
    image_shape = (artifact.camera.height, artifact.camera.width, 3)
    return TensorRT(library.title, precision, cuda, loaded, image_shape, asked, options.say)


def kinds_for(artifact: Artifact, options: LoadOptions) -> dict[str, Kind]:
    """What the engine is asked: points rounded up, so that small changes of the grid need no new one.

    Raises ``ValueError`` for a damaged ``decoder.npz``.
    """
    points = -(-(options.points or POINTS) // POINTS_STEP) * POINTS_STEP
    file, map_size = artifact.file(DECODER), (artifact.camera.height, artifact.camera.width)
    family = KynConstants if artifact.manifest.family == "kyn" else DecoderConstants
    return kinds(family.load(file), map_size, options.rays or RAYS, points)


def shapes_of(asked: Mapping[str, Kind]) -> dict[str, tuple[int, ...]]:
    """Shape of every input whose size the graph leaves open."""
    return {name: shape for kind in asked.values() for name, shape in kind.inputs.items()}


def _check_tensors(engine: Any, asked: Mapping[str, Kind]) -> None:
    """An engine of another graph would read memory that is not its own."""
    found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    expected = {"image"}
    for kind in asked.values():
        expected |= {*kind.inputs, kind.output, *((kind.sums.others, kind.sums.own) if kind.sums else ())}
    if found != expected:
        raise RuntimeError(f"the engine has tensors {sorted(found)}, expected {sorted(expected)}; run `kyn export`")


class TensorRT:
    """A runtime that asks one engine for everything."""

    name = "tensorrt"

    def __init__(
        self,
        library: str,
        precision: str,
        cuda: Cuda,
        loaded: LoadedEngine,
        image_shape: tuple[int, int, int],
        asked: Mapping[str, Kind],
        say: Callable[[str], None],
    ) -> None:
        self.library, self.precision = library, precision
        self._cuda, self._loaded, self._image_shape, self._asked = cuda, loaded, image_shape, asked
        self._say = say
        self._preparing = threading.Lock()

    def prepare(self, queries: Mapping[str, Query]) -> Step:
        """Put the constants of all queries on the GPU, run everything, and record it."""
        engine, last = self._loaded.engine, self._loaded.last
        with self._preparing:
            self._cuda.activate()
            session = FusedSession(
                self._cuda, engine, self._image_shape, self._asked, queries, self._say, lambda: str(last)
            )

        def step(image: UInt8Array, wanted: frozenset[str]) -> StepOutput:
            start = time.perf_counter()
            arrays = session.run(image, wanted)
            return StepOutput(arrays, {"engine": (time.perf_counter() - start) * 1e3})

        return step
