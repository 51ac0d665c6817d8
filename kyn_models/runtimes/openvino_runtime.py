"""OpenVINO: the default on CPUs without a GPU. The precision is stated, never left to the library's guess."""

from __future__ import annotations

import numpy as np
import openvino

from kyn_models.artifact import Artifact
from kyn_models.runtimes.onnx_graph import EncoderAndDecoder, encoder_path
from kyn_models.types import Float32Array, UInt8Array


def load(artifact: Artifact, device: str) -> EncoderAndDecoder:
    """Compile the encoder for ``device`` ("cpu") in float32.

    On machines with bfloat16 units OpenVINO would otherwise choose bfloat16 by itself.
    Raises ``RuntimeError`` or ``ValueError`` if the graph cannot be read.
    """
    core = openvino.Core()
    compiled = core.compile_model(
        encoder_path(artifact), device.upper(), {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()
    output = compiled.output(0)

    def encode(image: UInt8Array) -> Float32Array:
        answer = request.infer({0: np.ascontiguousarray(image)}, share_inputs=True, share_outputs=True)
        return answer[output]

    return EncoderAndDecoder("openvino", "float32", artifact, encode)
