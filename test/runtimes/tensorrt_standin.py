"""A small stand-in for the Python interface of TensorRT: engines are descriptions, which ONNX Runtime computes.

Tests copy it as a package called ``tensorrt`` or ``tensorrt_rtx``; the environment says which version it plays and what
goes wrong. Members that a version lacks are missing here too. Device addresses are those of this process's memory.
"""

import ctypes
import json
import os
import signal
import time

__version__ = os.environ.get("STANDIN_VERSION", "10.3.0.30")
FAULT = os.environ.get("STANDIN_FAULT", "")
MAJOR = int(__version__.split(".")[0])
OLD = MAJOR == 10 and __version__.split(".")[1] == "3"


class Logger:
    WARNING = 2

    def __init__(self, level):
        self.level = level


class NetworkDefinitionCreationFlag:
    if MAJOR < 11:
        EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1


class BuilderFlag:
    if FAULT != "no TF32":
        TF32 = 7


class MemoryPoolType:
    WORKSPACE = 0


if not OLD:

    class IProgressMonitor:
        def __init__(self):
            self.ready = True


class Network:
    def __init__(self, flags):
        assert flags == (2 if MAJOR < 11 else 0), "10.x must be asked for strong types, 11.x knows nothing else"
        self.graph = None


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.num_errors = network, 1

    def parse_from_file(self, path):
        self.network.graph = path
        return FAULT != "unknown operator"

    def get_error(self, number):
        return "In node 0 (importFallbackPluginImporter): UNSUPPORTED_NODE: operator FooBar"


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, best, high):
        assert low == best == high, "engines have one static shape"
        self.shapes[name] = list(low)


class Blob(bytes):
    def serialize(self):
        return self


class Config:
    def __init__(self):
        self.cleared, self.limits = [], {}
        if not OLD:
            self.progress_monitor = None

    def add_optimization_profile(self, profile):
        self.profile = profile

    def clear_flag(self, flag):
        self.cleared.append(flag)

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool] = size

    def create_timing_cache(self, content):
        return Blob(content + b"timed ")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.cache = cache

    def get_timing_cache(self):
        return self.cache


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        with open(os.environ["STANDIN_LOG"], "a") as log:
            log.write(f"{__version__} {config.cleared} {config.limits}\n")
        if FAULT == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if FAULT == "slow":
            time.sleep(1.0)
        if not OLD:
            config.progress_monitor.phase_start("Building Engine", "", 10)
            assert config.progress_monitor.step_complete("Building Engine", 1)
            config.progress_monitor.phase_finish("Building Engine")
        if FAULT == "build":
            return None
        return json.dumps({"graph": network.graph, "shapes": config.profile.shapes, "by": __version__}).encode()


class Runtime:
    refusals = 1 if FAULT == "refuse once" else 10**6 if FAULT == "refuse" else 0

    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        if Runtime.refusals > 0:
            Runtime.refusals -= 1
            return None
        return Engine(json.loads(bytes(plan)))


class Engine:
    def __init__(self, description):
        assert description["by"] == __version__
        self.description = description

    def create_execution_context(self):
        return None if FAULT == "no context" else Context(self.description)


TYPES = {"tensor(uint8)": ("uint8", 1), "tensor(float)": ("float32", 4)}


class Context:
    def __init__(self, description):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(description["graph"], providers=["CPUExecutionProvider"])
        self.built, self.shapes, self.addresses = description["shapes"], {}, {}

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = list(shape)
        return list(shape) == self.built[name]

    def execute_async_v3(self, stream):
        import numpy as np

        assert stream == 77
        if FAULT == "execute":
            return False
        feed = {}
        for tensor in self.session.get_inputs():
            dtype, size = TYPES[tensor.type]
            shape = self.shapes.get(tensor.name, tensor.shape)
            memory = (ctypes.c_ubyte * (size * int(np.prod(shape)))).from_address(self.addresses[tensor.name])
            feed[tensor.name] = np.frombuffer(memory, dtype).reshape(shape).copy()
        answers = self.session.run(None, feed)
        if FAULT == "wrong":
            answers = [answer * 3 for answer in answers]
        for tensor, answer in zip(self.session.get_outputs(), answers, strict=True):
            content = np.ascontiguousarray(answer, "float32")
            ctypes.memmove(self.addresses[tensor.name], content.ctypes.data, content.nbytes)
        return True
