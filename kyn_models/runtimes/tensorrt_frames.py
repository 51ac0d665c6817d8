"""Depth from posed frames with TensorRT 10.3 to 11 and TensorRT-RTX: cost volume and networks as one engine.

Built and cached as engines of single images are; see ``tensorrt_runtime``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from kyn_models.artifact import MULTIFRAME, Artifact
from kyn_models.runtimes.cuda import Cuda, open_driver
from kyn_models.runtimes.frame_queries import FUSED, FramesAnswer, FramesInput, check_frames
from kyn_models.runtimes.frames_session import FramesSession
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.runtimes.tensorrt_engine import LoadedEngine, load_engine
from kyn_models.runtimes.tensorrt_library import find_library

NEIGHBOURS = 2
"""Of the engine, whose sizes are fixed."""
WORKSPACE = 4 << 30
"""Most scratch memory in bytes: colours, windows and costs of 32 planes of 256x512 pixels, in float32."""
RECIPE = 1
"""Counted up when engines are built in another way from the same graph."""
OUTPUTS = ("fused", "mono")


def load(artifact: Artifact, options: LoadOptions) -> TensorRTFrames:
    """The model as an engine in float32, from the cache or built now; progress goes to ``options.say``.

    Raises ``NoDevice``, ``ImportError`` without the library, ``FileNotFoundError`` for an artifact without the graph,
    ``RuntimeError`` for a library of a wrong version, an engine that cannot be built, or a GPU that fails,
    ``ValueError`` for a precision it lacks.
    """
    if options.precision not in ("auto", "float32"):
        raise ValueError(f"precision: got {options.precision}, expected float32 with TensorRT for posed frames")
    driver = open_driver()
    library = find_library()
    cuda = Cuda(driver)
    graph = artifact.file(MULTIFRAME)
    facts = {"precision": "float32", "neighbours": NEIGHBOURS, "recipe": RECIPE}
    loaded = load_engine(artifact, graph, {}, WORKSPACE, facts, library, cuda, options.say)
    shapes = (artifact.camera.height, artifact.camera.width)
    session = FramesSession(cuda, loaded.engine, _tensors(*shapes), OUTPUTS, options.say, lambda: str(loaded.last))
    return TensorRTFrames(library.title, shapes, session.run, loaded)


def _tensors(height: int, width: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of every input and output of the graph."""
    return {
        "image": ((1, height, width, 3), np.uint8),
        "neighbours": ((NEIGHBOURS, height, width, 3), np.uint8),
        "k": ((3, 3), np.float32),
        "neighbour_from_key": ((NEIGHBOURS, 4, 4), np.float32),
        **dict.fromkeys(OUTPUTS, ((height, width), np.float32)),
    }


class TensorRTFrames:
    """A ``FramesRuntime`` that asks one engine for everything; the depth that matches best never leaves it."""

    name = "tensorrt"
    precision = "float32"

    def __init__(
        self,
        library: str,
        image_shape: tuple[int, int],
        run: Callable[[Mapping[str, np.ndarray], tuple[str, ...]], dict[str, np.ndarray]],
        kept: LoadedEngine,
    ) -> None:
        self.library = library
        self._image_shape, self._run, self._kept = image_shape, run, kept

    def depth(self, frames: FramesInput, wanted: frozenset[str] = FUSED) -> FramesAnswer:
        check_frames(frames, self._image_shape, wanted)
        start = time.perf_counter()
        count = len(frames.neighbours)
        if count > NEIGHBOURS:
            raise ValueError(f"frames: neighbours: got {count}, expected at most {NEIGHBOURS} with TensorRT")
        names = tuple(name for name in OUTPUTS if name in wanted and (count or name == "mono"))
        if not names:
            return FramesAnswer(None, None, None, {})
        found = self._run(_filled(frames), names)
        stages = {"engine": (time.perf_counter() - start) * 1e3}
        return FramesAnswer(found.get("fused"), found.get("mono"), None, stages)


def _filled(frames: FramesInput) -> dict[str, np.ndarray]:
    """The inputs of the graph. One neighbour is given twice, which leaves the mean over neighbours as it is; without
    any the key frame stands there, and the depth of the image alone does not see it."""
    neighbours, poses = frames.neighbours, frames.neighbour_from_key
    if len(neighbours) == 0:
        neighbours, poses = frames.image[None], np.eye(4, dtype=np.float32)[None]
    chosen = np.arange(NEIGHBOURS) % len(neighbours)
    return {
        "image": frames.image[None],
        "neighbours": neighbours[chosen],
        "k": frames.k,
        "neighbour_from_key": poses[chosen],
    }
