"""OpenVINO: the default on CPUs without a GPU. The precision is stated, never left to the library's guess."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from kyn_models.artifact import ENCODER, Artifact
from kyn_models.runtimes.onnx_graph import EncoderAndDecoder
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.runtimes.quiet_openvino import openvino
from kyn_models.types import UInt8Array

HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
CAPABILITIES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}
CPU_INFO = Path("/proc/cpuinfo")


@cache
def core() -> openvino.Core:
    """The one of this process, kept to its end.

    OpenVINO 2026.4's CPU plugin gives the thread that creates it a stack for signals and unmaps that stack with itself.
    A plugin freed in another thread leaves the first one without: the next SIGTERM there is a segmentation fault.
    """
    return openvino.Core()


def load(artifact: Artifact, options: LoadOptions) -> EncoderAndDecoder:
    """Compile the encoder for the device ("cpu").

    Raises ``RuntimeError`` or ``ValueError`` if the graph cannot be read or the CPU lacks the precision asked for.
    """
    precision = options.precision if options.precision != "auto" else fastest_precision()
    model = compiled(artifact, ENCODER, options.device, precision)
    request = model.create_infer_request()

    def encode(image: UInt8Array) -> list[np.ndarray]:
        answer = request.infer({0: np.ascontiguousarray(image)}, share_inputs=True, share_outputs=True)
        return [answer[output] for output in model.outputs]

    library = f"OpenVINO {openvino.__version__.split('-')[0]}"
    return EncoderAndDecoder("openvino", precision, library, artifact, encode)


def compiled(artifact: Artifact, name: str, device: str, precision: str) -> openvino.CompiledModel:
    """A graph of the artifact for the device ("cpu") in float32, float16 or bfloat16.

    Raises ``FileNotFoundError`` if the artifact was never exported, else as ``load``.
    """
    device = device.upper()
    able = core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES[precision] not in able:
        known = [name for name, capability in CAPABILITIES.items() if capability in able]
        raise ValueError(f"precision: got {precision}, which this CPU lacks, expected {' or '.join(known)}")
    hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    path = str(artifact.file(name))
    try:
        return core().compile_model(path, device, hints)
    except RuntimeError as error:
        raise RuntimeError(f"{artifact.path}: cannot compile {_spoken(name)} ({_cause(error)})") from error


def _spoken(name: str) -> str:
    return "the encoder" if name == ENCODER else name


def _cause(error: RuntimeError) -> str:
    """What OpenVINO says after the places in its source: the operators it does not know, else its last line."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "No conversion rule" in line), lines[-1] if lines else "no reason given")


def fastest_precision(cpu_info: Path = CPU_INFO) -> str:
    """The precision of ``auto``: half where the CPU has matrix units (AMX), else float32.

    Measured with ResNet-50 on 2 cores: with AMX float16 takes a quarter of the time of float32 and bfloat16 a fifth, at
    seven times the error; without AMX both take 1.8 times as long as float32, although the CPU has the instructions.
    """
    try:
        flags = set(cpu_info.read_text(errors="replace").partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return "float32"
    if "amx_tile" not in flags:
        return "float32"
    return "float16" if "avx512_fp16" in flags else "bfloat16"
