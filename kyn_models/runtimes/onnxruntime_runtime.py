"""ONNX Runtime on the CPU: the portable choice, also on ARM."""

from __future__ import annotations

import numpy as np
import onnxruntime

from kyn_models.artifact import ENCODER, Artifact
from kyn_models.runtimes.onnx_graph import EncoderAndDecoder
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.types import UInt8Array


def load(artifact: Artifact, options: LoadOptions) -> EncoderAndDecoder:
    """Open the encoder with the provider of the device ("cpu") in float32.

    Raises ``RuntimeError`` if the graph cannot be read or the provider asked for is not the one that runs,
    ``ValueError`` for another precision.
    """
    session = opened(artifact, ENCODER, options)
    name = session.get_inputs()[0].name

    def encode(image: UInt8Array) -> list[np.ndarray]:
        return session.run(None, {name: np.ascontiguousarray(image)})

    return EncoderAndDecoder("onnxruntime", "float32", f"ONNX Runtime {onnxruntime.__version__}", artifact, encode)


def opened(artifact: Artifact, name: str, options: LoadOptions) -> onnxruntime.InferenceSession:
    """A graph of the artifact. Raises ``FileNotFoundError`` if the artifact was never exported, else as ``load``."""
    if options.precision not in ("auto", "float32"):
        raise ValueError(f"precision: got {options.precision}, expected float32; openvino and GPU runtimes have others")
    provider = f"{options.device.upper()}ExecutionProvider"
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    path = str(artifact.file(name))
    try:
        session = onnxruntime.InferenceSession(path, session_options, providers=[provider])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no public base
        spoken = "the encoder" if name == ENCODER else name
        raise RuntimeError(f"{artifact.path}: cannot open {spoken} ({str(error).splitlines()[0]})") from error
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"got {session.get_providers()[0]}, expected {provider}")
    return session
