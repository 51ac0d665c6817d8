"""What the ONNX runtimes share: an encoder session, and the compiled decoder of the family behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from kyn_models.artifact import DECODER, ENCODER, MANIFEST, Artifact
from kyn_models.runtimes.queries import Query, Step, StepOutput
from kyn_models.types import UInt8Array

Encode = Callable[[UInt8Array], Sequence[np.ndarray]]
"""From the (1, H, W, 3) uint8 image to the outputs of the encoder graph: the (1, h, w, C) float32 pre-activation map,
and of families with labels their (1, h, w) uint8 map."""


class PreparedDecoder(Protocol):
    """``decode`` answers a query by name from the maps of one image, without their first axis."""

    def decode(self, name: str, *maps: np.ndarray) -> np.ndarray: ...


class Decoder(Protocol):
    """What follows the encoder, compiled and warm. ``prepare`` may be called while another thread decodes."""

    def prepare(self, queries: Mapping[str, Query]) -> PreparedDecoder: ...


class EncoderAndDecoder:
    """A runtime made of an encoder session and the compiled CPU decoder, both warm once it is made."""

    def __init__(self, name: str, precision: str, library: str, artifact: Artifact, encode: Encode) -> None:
        self.name = name
        self.precision = precision
        self.library = library
        self._encode = encode
        image_shape = (1, artifact.camera.height, artifact.camera.width, 3)
        self._decoder = _decoder(artifact, encode(np.zeros(image_shape, dtype=np.uint8)))

    def prepare(self, queries: Mapping[str, Query]) -> Step:
        """Build the constants of all queries; encoder and loops are warm already."""
        encode, decoder = self._encode, self._decoder.prepare(queries)

        def step(image: UInt8Array, wanted: frozenset[str]) -> StepOutput:
            start = time.perf_counter()
            maps = [output[0] for output in encode(image[None])]
            stages = {"encode": (time.perf_counter() - start) * 1e3}
            arrays = {}
            for name in sorted(wanted):
                start = time.perf_counter()
                arrays[name] = decoder.decode(name, *maps)
                stages[name] = (time.perf_counter() - start) * 1e3
            return StepOutput(arrays, stages)

        return step


def _decoder(artifact: Artifact, maps: Sequence[np.ndarray]) -> Decoder:
    """maps: what the encoder graph made of an image. Raises ``ValueError`` for files that do not belong together."""
    # A family's loops take a second to load: only those that are needed.
    path, map_size = artifact.file(DECODER), maps[0].shape[1:3]
    if artifact.manifest.family == "kyn":
        return _decoder_with_labels(artifact, path, maps)
    from kyn_models.runtimes.constants import DecoderConstants
    from kyn_models.runtimes.decoder import CompiledDecoder

    return CompiledDecoder(DecoderConstants.load(path), map_size)


def _decoder_with_labels(artifact: Artifact, path: Path, maps: Sequence[np.ndarray]) -> Decoder:
    from kyn_models.runtimes.kyn_constants import KynConstants
    from kyn_models.runtimes.kyn_decoder import KynDecoder

    if len(maps) != 2:
        raise ValueError(
            f"{artifact.file(ENCODER)}: got a graph of {len(maps)} outputs, expected pre-activations and labels; "
            f"`kyn export {artifact.path}` writes a new one"
        )
    constants, named = KynConstants.load(path), len(artifact.manifest.labels)
    if len(constants.keys) != named:
        raise ValueError(
            f"{artifact.path}: got {named} labels in {MANIFEST}, expected {len(constants.keys)} as {DECODER} has; "
            "copy or import the model again"
        )
    return KynDecoder(constants, maps[0].shape[1:3])
