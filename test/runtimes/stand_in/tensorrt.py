"""A small stand-in for the Python API of TensorRT: only the members that kyn uses, with their names and results.

An "engine" is JSON that names the graph; running it runs the graph with ONNX Runtime on the addresses it was given.
What the stand-in is like is said by KYN_STAND_IN, JSON with:

    version   "10.3.0.30" or "11.4.0.106"
    without   members that this version lacks, such as ["STRONGLY_TYPED", "TF32", "IProgressMonitor"]
    fault     of the builder: parse, none, segfault, kill, raise; of the engine: execute, context, shape, capture
    slow_s    how long a build takes
    log       a file that gets one line per build
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import signal
import time
from pathlib import Path

import numpy as np

_SET = json.loads(os.environ.get("KYN_STAND_IN", "{}"))
__version__ = _SET.get("version", "10.3.0.30")
_WITHOUT = set(_SET.get("without", ()))
_FAULT = _SET.get("fault", "")
_PLAN = b"stand-in engine "
_DTYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}


def enqueue(stream: int, work) -> None:
    """What a stream does with work; the stand-in for CUDA puts its own queue here."""
    work()


class ILogger:
    Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


BuilderFlag = enum.IntEnum("BuilderFlag", [name for name in ("DEBUG", "TF32") if name not in _WITHOUT], start=0)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    if __version__.startswith("10."):
        EXPLICIT_BATCH = 0
    if "STRONGLY_TYPED" not in _WITHOUT:
        STRONGLY_TYPED = 1


if "IProgressMonitor" not in _WITHOUT:

    class IProgressMonitor:
        pass


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"measured "


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict = {}

    def set_shape(self, name, low, best, high) -> None:
        assert low == best == high
        self.shapes[name] = list(best)


class _Config:
    __slots__ = (
        "cache",
        "flags",
        "limits",
        "profile",
        *(("progress_monitor",) if "IProgressMonitor" not in _WITHOUT else ()),
    )

    def __init__(self) -> None:
        self.flags, self.limits, self.profile, self.cache = {"TF32"} - _WITHOUT, {}, None, None

    def add_optimization_profile(self, profile) -> int:
        self.profile = profile
        return 0

    def set_memory_pool_limit(self, pool, limit) -> None:
        self.limits[pool.name] = limit

    def clear_flag(self, flag) -> None:
        self.flags.discard(flag.name)

    def create_timing_cache(self, content):
        return None if content.startswith(b"foreign") else _TimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.onnx = flags, ""


class Builder:
    def __init__(self, logger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> _Network:
        # 10.x types strongly only where it is told to, 11.x knows nothing else.
        expected = 0 if "STRONGLY_TYPED" in _WITHOUT else 1 << 1
        assert flags == expected, f"flags {flags}, expected {expected}"
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network, config):
        assert not config.flags, "float32 must not be rounded to TF32"
        if "log" in _SET:
            with open(_SET["log"], "a") as stream:
                stream.write(f"{os.getpid()} {config.cache.content.decode() if config.cache else ''}\n")
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Timing graph nodes", None, 3)
            assert all(monitor.step_complete("Timing graph nodes", step) for step in range(3))
            monitor.phase_finish("Timing graph nodes")
        time.sleep(_SET.get("slow_s", 0))
        if _FAULT == "segfault":
            ctypes.string_at(0)
        if _FAULT == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if _FAULT == "raise":
            raise ValueError("a fault of\nthe library")
        if _FAULT == "none":
            self._logger.log(ILogger.Severity.ERROR, "no tactic for node 7")
            return None
        facts = {
            "onnx": network.onnx,
            "shapes": config.profile.shapes if config.profile else {},
            "version": __version__,
            "limits": config.limits,
        }
        return memoryview(_PLAN + json.dumps(facts).encode())


class OnnxParser:
    num_errors = 1

    def __init__(self, network, logger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.onnx = path
        return _FAULT != "parse" and Path(path).is_file()

    def get_error(self, index: int) -> str:
        return "In node 0 (importer): INVALID_NODE:\nunsupported operator FooBar"


class Runtime:
    def __init__(self, logger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes):
        if not plan.startswith(_PLAN) or json.loads(plan[len(_PLAN) :])["version"] != __version__:
            self._logger.log(ILogger.Severity.ERROR, "Serialization assertion failed")
            return None
        return _Engine(json.loads(plan[len(_PLAN) :]), self._logger)


class _Engine:
    def __init__(self, facts: dict, logger) -> None:
        import onnxruntime

        self.facts, self.logger = facts, logger
        self.session = onnxruntime.InferenceSession(facts["onnx"], providers=["CPUExecutionProvider"])
        self.names = [item.name for item in (*self.session.get_inputs(), *self.session.get_outputs())]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def create_execution_context(self):
        return None if _FAULT == "context" else _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, list[int]] = {}

    def set_input_shape(self, name, shape) -> bool:
        self._shapes[name] = list(shape)
        return _FAULT != "shape" and list(shape) == self._engine.facts["shapes"][name]

    def set_tensor_address(self, name, address) -> bool:
        self._addresses[name] = address
        return name in self._engine.names

    def execute_async_v3(self, stream) -> bool:
        if _FAULT == "execute" or set(self._addresses) != set(self._engine.names):
            self._engine.logger.log(ILogger.Severity.ERROR, "Cask convolution execution")
            return False
        addresses = dict(self._addresses)
        enqueue(stream, lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        session = self._engine.session
        inputs = {}
        for item in session.get_inputs():
            shape = self._shapes.get(item.name, item.shape)
            inputs[item.name] = _array(addresses[item.name], shape, _DTYPES[item.type]).copy()
        names = [item.name for item in session.get_outputs()]
        for name, value in zip(names, session.run(names, inputs), strict=True):
            _array(addresses[name], value.shape, value.dtype)[...] = value


def _array(address: int, shape, dtype) -> np.ndarray:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_uint8 * count).from_address(address)
    return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
