"""Build one TensorRT engine: a process of its own, so that a crash of the builder leaves its caller alive.

``python -m kyn_models.runtimes.engine_build REQUEST`` reads a JSON file, prints progress and exits with 0, or with 1
and one sentence on stderr. It needs no GPU for TensorRT-RTX, whose engines are compiled to the end where they are
loaded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kyn_models.runtimes.tensorrt_library import open_library

SAY_EVERY_S = 10.0
WORKSPACE_SHARE = 0.5
"""Of the GPU's memory, what the builder may try its kernels with."""


class BuildFailed(RuntimeError):
    """The builder refused the graph, crashed, or was killed; the message says which."""


@dataclass(frozen=True)
class BuildRequest:
    """product: Python module of the library. graph: ONNX file. shapes: input name to its one shape, for all inputs that
    the graph leaves open. plan: where the engine goes. timing_cache: file that is read and written, or "".
    workspace_bytes: 0 leaves the limit to TensorRT.
    """

    product: str
    graph: str
    shapes: dict[str, tuple[int, ...]]
    plan: str
    timing_cache: str = ""
    workspace_bytes: int = 0


def build_apart(request: BuildRequest, say: Callable[[str], None]) -> None:
    """Run the build in a process of its own; ``say`` hears of it at the start and every ten seconds.

    Raises ``BuildFailed``.
    """
    with tempfile.TemporaryDirectory(prefix="kyn_build_") as scratch:
        file = Path(scratch) / "request.json"
        file.write_text(json.dumps(asdict(request)))
        command = [sys.executable, "-m", "kyn_models.runtimes.engine_build", str(file)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}
        said = Path(scratch) / "stderr"
        begin = time.monotonic()
        with said.open("wb") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
            )
            try:
                _follow(process, begin, say)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise BuildFailed(_reason(process.returncode, said.read_text(errors="replace")))
        say(f"the engine is built, {time.monotonic() - begin:.0f} s")


def _follow(process: subprocess.Popen, begin: float, say: Callable[[str], None]) -> None:
    """Pass on progress until the process ends."""
    phase = ["starting"]

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            phase[0] = line.strip() or phase[0]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    say("building the engine; the first time this takes up to some minutes")
    next_s = begin + SAY_EVERY_S
    while process.poll() is None:
        time.sleep(0.05)
        if time.monotonic() > next_s:
            say(f"building the engine ... {time.monotonic() - begin:.0f} s, {phase[0]}")
            next_s += SAY_EVERY_S
    reader.join(5.0)


def _reason(code: int, text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    if code < 0:
        return f"the builder was ended by {signal.Signals(-code).name}: {last}"
    return last if code == 1 else f"the builder ended with exit code {code}: {last}"


def build(request: BuildRequest, say: Callable[[str], None]) -> None:
    """Build here and now, and write the engine. Raises ``BuildFailed``, ``ImportError``, ``OSError``."""
    library = open_library(request.product)
    trt: Any = library.module
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Strong types are what 11.x always does; 10.x must be asked.
    creation = getattr(trt, "NetworkDefinitionCreationFlag", None)
    strong = getattr(creation, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strong is None else 1 << int(strong))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request.graph):
        reasons = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        raise BuildFailed(
            f"{library.title} cannot read {request.graph}: {reasons[0] if reasons else 'no reason given'}"
        )
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shape in request.shapes.items():
        profile.set_shape(name, tuple(shape), tuple(shape), tuple(shape))
    config.add_optimization_profile(profile)
    # TF32 would round float32 products to 10 bits.
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if request.workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if hasattr(config, "progress_monitor") and hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _progress(trt, say)
    # TensorRT-RTX has nothing to time before it sees the GPU.
    cache = _read_timing_cache(config, request.timing_cache) if request.product == "tensorrt" else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(f"{library.title} cannot build {request.graph}, see its messages above")
    Path(request.plan).write_bytes(bytes(plan))
    if cache is not None and request.timing_cache:
        Path(request.timing_cache).write_bytes(bytes(config.get_timing_cache().serialize()))


def _read_timing_cache(config: Any, path: str) -> Any:
    old = Path(path).read_bytes() if path and Path(path).is_file() else b""
    cache = config.create_timing_cache(old)
    # False: what is measured on another device is not used.
    config.set_timing_cache(cache, False)
    return cache


def _progress(trt: Any, say: Callable[[str], None]) -> Any:
    class Progress(trt.IProgressMonitor):
        """Names the phase that the builder is in."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            say(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            """Nothing to say."""

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

    return Progress()


def main(argv: list[str]) -> int:
    """Build what the request file says; the exit code."""
    mapping = json.loads(Path(argv[0]).read_text())
    request = BuildRequest(**mapping)
    try:
        build(request, lambda line: print(line, flush=True))
    except (BuildFailed, ImportError, OSError, RuntimeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
