"""A TensorRT engine of an artifact's graph, from the cache or built now; for single images and for posed frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kyn_models.artifact import WEIGHTS, Artifact
from kyn_models.runtimes.cuda import Cuda
from kyn_models.runtimes.engine_build import Request
from kyn_models.runtimes.engine_cache import engine_from_cache
from kyn_models.runtimes.engine_process import build_in_process
from kyn_models.runtimes.tensorrt_library import LastError, Library, make_logger


class LoadedEngine(NamedTuple):
    """deserialiser: must outlive its engines in some versions; a tuple lets go of its last fields first. last: what the
    library said last of a fault."""

    deserialiser: Any
    engine: Any
    last: LastError


def load_engine(
    artifact: Artifact,
    graph: Path,
    shapes: Mapping[str, tuple[int, ...]],
    workspace: int,
    facts: Mapping[str, Any],
    library: Library,
    cuda: Cuda,
    say: Callable[[str], None],
) -> LoadedEngine:
    """The engine of ``graph``, a file of the artifact.

    shapes: of every input whose size the graph leaves open. workspace: most scratch memory in bytes. facts: what makes
    an engine another one beside the artifact, the machine and the library. say: receives progress.
    Raises ``RuntimeError`` for a library that does not start or an engine that cannot be built.
    """
    last = LastError()
    try:
        deserialiser = library.module.Runtime(make_logger(library.module, last))
    except (AttributeError, TypeError) as error:
        raise RuntimeError(f"{library.title} does not start: {last} ({error})") from error
    request = Request(library.product, str(graph.resolve()), dict(shapes), workspace)

    def build(timing: bytes) -> Any:
        say(f"{library.title} builds an engine for {cuda.name}; this can take minutes, and is done once")
        return build_in_process(request, timing, say)

    files, camera = artifact.manifest.files, artifact.camera
    known = {
        "product": library.product,
        "version": library.version,
        "graph": files[graph.name],
        "weights": files[WEIGHTS],
        "gpu": cuda.name,
        "capability": cuda.capability,
        "driver_cuda": cuda.driver_cuda[0],
        "image": [camera.height, camera.width, 3],
        "workspace": workspace,
        **facts,
    }
    return LoadedEngine(deserialiser, engine_from_cache(known, deserialiser.deserialize_cuda_engine, build, say), last)
