"""What the ONNX runtimes share: an encoder session, and the compiled decoder behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from kyn_models.artifact import DECODER, ENCODER, Artifact
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.decoder import CompiledDecoder
from kyn_models.runtimes.queries import Query, Step, StepOutput
from kyn_models.types import Float32Array, UInt8Array

Encode = Callable[[UInt8Array], Float32Array]
"""From the (1, H, W, 3) uint8 image to the (1, h, w, hidden) float32 pre-activation map."""


class EncoderAndDecoder:
    """A runtime made of an encoder session and the compiled CPU decoder, both warm once it is made."""

    def __init__(self, name: str, precision: str, library: str, artifact: Artifact, encode: Encode) -> None:
        self.name = name
        self.precision = precision
        self.library = library
        self._encode = encode
        image_shape = (1, artifact.camera.height, artifact.camera.width, 3)
        features = encode(np.zeros(image_shape, dtype=np.uint8))
        self._decoder = CompiledDecoder(DecoderConstants.load(artifact.file(DECODER)), features.shape[1:3])

    def prepare(self, queries: Mapping[str, Query]) -> Step:
        """Build the constants of all queries; encoder and loops are warm already."""
        encode, decoder = self._encode, self._decoder.prepare(queries)

        def step(image: UInt8Array, wanted: frozenset[str]) -> StepOutput:
            start = time.perf_counter()
            features = encode(image[None])[0]
            stages = {"encode": (time.perf_counter() - start) * 1e3}
            arrays = {}
            for name in sorted(wanted):
                start = time.perf_counter()
                arrays[name] = decoder.decode(name, features)
                stages[name] = (time.perf_counter() - start) * 1e3
            return StepOutput(arrays, stages)

        return step


def encoder_path(artifact: Artifact) -> str:
    """Path of the encoder graph. Raises ``FileNotFoundError`` if the artifact was never exported."""
    return str(artifact.file(ENCODER))
