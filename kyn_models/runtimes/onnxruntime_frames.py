"""Depth from posed frames with ONNX Runtime on the CPU: the portable choice, also on ARM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from kyn_models.artifact import MONO, NETWORK, Artifact
from kyn_models.runtimes.onnxruntime_runtime import opened
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.runtimes.swept_frames import Ask, Networks, SweptFrames


def load(artifact: Artifact, options: LoadOptions) -> SweptFrames:
    """Open both networks with the provider of the device ("cpu") in float32.

    Raises ``RuntimeError`` if a graph cannot be read or the provider asked for is not the one that runs,
    ``ValueError`` for another precision.
    """
    fuse, mono = (opened(artifact, name, options) for name in (NETWORK, MONO))
    networks = Networks(_ask(fuse), _ask(mono), int(fuse.get_inputs()[1].shape[1]))
    return SweptFrames("onnxruntime", "float32", f"ONNX Runtime {onnxruntime.__version__}", artifact, networks)


def _ask(session: onnxruntime.InferenceSession) -> Ask:
    names = [item.name for item in session.get_inputs()]

    def ask(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, dict(zip(names, inputs, strict=True)))
        return found

    return ask
