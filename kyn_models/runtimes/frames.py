"""The runtimes of depth from posed frames behind one seam: chosen and tested as those of single images are."""

from __future__ import annotations

import logging

import numpy as np

from kyn_models.artifact import SELFTEST, Artifact
from kyn_models.npz import read_npz
from kyn_models.runtimes import Warn, choose_from, require_few
from kyn_models.runtimes.frame_queries import FramesInput, FramesRuntime
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.types import Float32Array

log = logging.getLogger(__name__)

MODULES = {
    "tensorrt": "kyn_models.runtimes.tensorrt_frames",
    "openvino": "kyn_models.runtimes.openvino_frames",
    "onnxruntime": "kyn_models.runtimes.onnxruntime_frames",
    "torch": "kyn_models.runtimes.torch_frames",
}
"""Name of a runtime to its module, which has ``load(artifact, options) -> FramesRuntime``."""
ASKED = ("image", "neighbours", "k", "neighbour_from_key")
TESTED = frozenset({"fused", "mono"})
BOUND = 1e-2
"""Share of the depth that an answer to the test may be off."""
WIDER = 20.0
"""So much more in half precision."""


def choose_frames(
    name: str,
    artifact: Artifact,
    warn: Warn = log.warning,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> FramesRuntime:
    """The runtime called ``name``, or the first of ``auto`` that works, loaded and self-tested.

    As ``runtimes.choose``: the same order, the same sentences. ``rays`` and ``points`` of the options are not read.
    Raises ``RuntimeFailed`` if none works, ``ValueError`` for an unknown name or precision.
    """
    return choose_from(MODULES, self_test, name, artifact, warn, options)


def self_test(runtime: FramesRuntime, artifact: Artifact) -> None:
    """Run the stored frames and compare with the plain model's stored depths.

    Raises ``RuntimeFailed`` if more than 1 % of the pixels of one of them is off by more than 1 % of the depth (in half
    precision 20 %), ``ValueError`` for a stored test that is damaged.
    """
    test = read_frames_test(artifact)
    errors = depth_errors(runtime, test)
    bound = BOUND * (1.0 if runtime.precision == "float32" else WIDER)
    wrong = {f"{name} depths": float(np.mean(~(error <= bound * test[name]))) for name, error in errors.items()}
    require_few(wrong, artifact)


def read_frames_test(artifact: Artifact) -> dict[str, np.ndarray]:
    """What is asked, by the fields of ``FramesInput``, and ``fused`` and ``mono`` (H, W) metres as torch has them.

    Raises ``ValueError`` for a damaged file.
    """
    return read_npz(artifact.file(SELFTEST), (*ASKED, *sorted(TESTED)), "`kyn export` writes a new one")


def depth_errors(runtime: FramesRuntime, test: dict[str, np.ndarray]) -> dict[str, Float32Array]:
    """Absolute errors in metres of ``fused`` and ``mono``, (H, W) each."""
    answer = runtime.depth(FramesInput(*(test[name] for name in ASKED)), TESTED)
    assert answer.fused_m is not None and answer.mono_m is not None
    return {"fused": np.abs(answer.fused_m - test["fused"]), "mono": np.abs(answer.mono_m - test["mono"])}
