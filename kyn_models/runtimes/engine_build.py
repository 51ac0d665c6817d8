"""Builds one TensorRT engine: a program of its own, so that a crash of the builder leaves its parent alive.

``python -m kyn_models.runtimes.engine_build JSON`` with the fields of ``Request`` and two file descriptors. Lines on
the standard output that begin with ``PROGRESS`` are progress, all others are what the library had to say; the last of
them is the reason of a failure. It ends by itself when its standard input closes: nobody waits for the engine then.

Only what 10.3, 11.x and RTX have in common is used: the graph says where it is float16, no flag does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kyn_models.runtimes.tensorrt_library import LastError, find_library, make_logger

PROGRESS = "progress: "


@dataclass(frozen=True)
class Request:
    """An engine to be built.

    product: module of the library. onnx: path of the fused graph. shapes: of every input whose size the graph leaves
    open. workspace: most scratch memory in bytes.
    """

    product: str
    onnx: str
    shapes: dict[str, tuple[int, ...]]
    workspace: int


class BuildFailed(RuntimeError):
    """The library refused the graph or built nothing."""


def build(trt: Any, request: Request, timing: bytes, report: Callable[[str], None]) -> tuple[bytes, bytes]:
    """The serialised engine and the timing cache (empty where there is none).

    timing: cache of an earlier build, or empty. Raises ``BuildFailed``.
    """
    last = LastError()
    logger = make_logger(trt, last, echo=True)
    builder = trt.Builder(logger)
    flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request.onnx):
        reasons = [" ".join(str(parser.get_error(index)).split()) for index in range(parser.num_errors)]
        raise BuildFailed(f"{request.onnx} is not understood: {reasons[0] if reasons else last}")
    config = builder.create_builder_config()
    cache = _configure(trt, builder, config, request, timing)
    monitor = _monitor(trt, report)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(f"no engine came out of {request.onnx}: {last}")
    return bytes(plan), bytes(config.get_timing_cache().serialize()) if cache is not None else b""


def _configure(trt: Any, builder: Any, config: Any, request: Request, timing: bytes) -> Any:
    """Sizes, memory, float32 without shortcuts, timing cache; returns the cache, which must outlive the build."""
    if request.shapes:
        profile = builder.create_optimization_profile()
        for name, shape in request.shapes.items():
            profile.set_shape(name, tuple(shape), tuple(shape), tuple(shape))
        if config.add_optimization_profile(profile) < 0:
            sizes = ", ".join(f"{name} {shape}" for name, shape in request.shapes.items())
            raise BuildFailed(f"{request.onnx} does not take the sizes {sizes}; `kyn export` writes a new one")
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace)
    # TF32 rounds to 10 bits wherever the graph says float32.
    tf32 = getattr(trt.BuilderFlag, "TF32", None)
    if tf32 is not None:
        config.clear_flag(tf32)
    if request.product == "tensorrt_rtx":
        return None  # it measures nothing ahead of time, and with a timing cache it builds on a GPU only
    cache = config.create_timing_cache(timing)
    if cache is None and timing:
        cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(trt: Any, report: Callable[[str], None]) -> Any:
    """Tells ``report`` which phase the builder is in; None where the library has no such interface."""
    if not hasattr(trt, "IProgressMonitor"):
        return None
    steps: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, count: int) -> None:
            steps[name] = count
            report(name)

        def step_complete(self, name: str, step: int) -> bool:
            if steps.get(name, 0) > 1:
                report(f"{name}, {step + 1} of {steps[name]}")
            return True

        def phase_finish(self, name: str) -> None:
            steps.pop(name, None)

    return Monitor()


class _Report:
    """Prints progress, at most twice a second."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last > 0.5:
            self._last = now
            print(PROGRESS + text, flush=True)


def _end_with_parent() -> None:
    """End this process when its standard input closes. Read unbuffered: at exit nothing may hold the reader's lock."""
    while os.read(0, 1):
        pass
    os._exit(3)


def main(argument: str) -> int:
    """Build what ``argument`` (JSON) asks for; writes the engine and the timing cache to its file descriptors."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asked = json.loads(argument)
    plan_fd, timing_fd = asked.pop("plan_fd"), asked.pop("timing_fd")
    request = Request(**asked)
    try:
        with os.fdopen(timing_fd, "r+b") as stream:
            timing = stream.read()
            plan, measured = build(find_library((request.product,)).module, request, timing, _Report())
            stream.seek(0)
            stream.truncate()
            stream.write(measured)
        with os.fdopen(plan_fd, "wb") as stream:
            stream.write(plan)
    except (BuildFailed, ImportError, RuntimeError, OSError) as error:
        print(" ".join(str(error).split()), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
