"""ONNX Runtime on the CPU: the portable choice, also on ARM."""

from __future__ import annotations

import numpy as np
import onnxruntime

from kyn_models.artifact import Artifact
from kyn_models.runtimes.onnx_graph import EncoderAndDecoder, encoder_path
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.types import UInt8Array


def load(artifact: Artifact, options: LoadOptions) -> EncoderAndDecoder:
    """Open the encoder with the provider of the device ("cpu") in float32.

    Raises ``RuntimeError`` if the graph cannot be read or the provider asked for is not the one that runs,
    ``ValueError`` for another precision.
    """
    if options.precision not in ("auto", "float32"):
        raise ValueError(f"precision: got {options.precision}, expected float32; openvino and GPU runtimes have others")
    provider = f"{options.device.upper()}ExecutionProvider"
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(encoder_path(artifact), session_options, providers=[provider])
    except FileNotFoundError:
        raise
    except Exception as error:  # ONNX Runtime raises classes of its own that share no public base
        raise RuntimeError(f"{artifact.path}: cannot open the encoder ({str(error).splitlines()[0]})") from error
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"got {session.get_providers()[0]}, expected {provider}")
    name = session.get_inputs()[0].name

    def encode(image: UInt8Array) -> list[np.ndarray]:
        return session.run(None, {name: np.ascontiguousarray(image)})

    return EncoderAndDecoder("onnxruntime", "float32", f"ONNX Runtime {onnxruntime.__version__}", artifact, encode)
