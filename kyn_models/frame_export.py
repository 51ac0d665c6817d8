"""From an artifact of multi-frame depth with weights to one that robots run: graphs and a self-test. torch."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from kyn_models.artifact import MONO, MULTIFRAME, NETWORK, SELFTEST, WEIGHTS, Artifact, trial_artifact, write_artifact
from kyn_models.graphs import frame_graph
from kyn_models.models.loading import load_model
from kyn_models.npz import npz_bytes
from kyn_models.runtimes.frame_queries import FramesInput, camera_matrix
from kyn_models.runtimes.frames import MODULES, TESTED, depth_errors
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.runtimes.torch_frames import TorchFrames

SEED = 20231
CHECKED_RUNTIMES = ("openvino", "onnxruntime")
NEIGHBOURS = 2
"""Of the graph that takes images and poses."""
SHIFT_PX = 6
"""Between the pictures of the self-test: neighbours to the left and right of a wall."""
SHARE = 0.002
"""Pixels whose two nearest planes are so near to each other that rounding decides between them."""


class FrameAgreement(NamedTuple):
    """How far a runtime is from torch on the self-test, in 1 / metres: the largest error that 99.8 % of pixels have."""

    runtime: str
    fused: float
    mono: float

    def __str__(self) -> str:
        return f"{self.fused:.2g} 1/m in the fused and {self.mono:.2g} 1/m in the mono depth"


def export_frames(artifact: Artifact) -> tuple[Artifact, list[FrameAgreement]]:
    """Add the graphs and a self-test to the artifact and check them against torch at once.

    Returns the artifact and one agreement per runtime that is installed. Raises ``ValueError`` if a runtime differs on
    more than 0.2 % of pixels by more than 1e-4 1/m in inverse depth (nothing is written then), ``ImportError`` if
    neither OpenVINO nor ONNX Runtime is installed.
    """
    test = _selftest(artifact)
    files = {**_graphs(artifact), SELFTEST: npz_bytes(test)}
    gc.collect()  # the exporter leaves cycles that hold the weights
    with trial_artifact(artifact, files) as trial:
        agreements = _agreements(trial, test)
    return write_artifact(artifact.path, artifact.manifest, files), agreements


def _graphs(artifact: Artifact) -> dict[str, bytes]:
    model: Any = load_model(artifact)
    modules, weights = model.exportable(), artifact.file(WEIGHTS)
    height, width = artifact.camera.height, artifact.camera.width
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    cost = torch.zeros(1, model.config.depth_steps, height, width)
    poses = torch.eye(4).repeat(NEIGHBOURS, 1, 1)
    frames = {
        "image": image,
        "neighbours": image.repeat(NEIGHBOURS, 1, 1, 1),
        "k": torch.from_numpy(camera_matrix(artifact.camera)),
        "neighbour_from_key": poses,
    }
    return {
        NETWORK: frame_graph(modules.network, {"image": image, "cost": cost}, ("fused", "mono"), weights),
        MONO: frame_graph(modules.mono, {"image": image}, ("mono",), weights),
        MULTIFRAME: frame_graph(modules.whole, frames, ("fused", "mono"), weights),
    }


def _selftest(artifact: Artifact) -> dict[str, np.ndarray]:
    """A seeded picture on a wall, seen from three places side by side, and the depths that plain torch gives."""
    rng = np.random.default_rng(SEED)
    camera, k = artifact.camera, camera_matrix(artifact.camera)
    coarse = rng.integers(0, 256, (camera.height // 16, camera.width // 16 + 1, 3)).astype(np.uint8)
    size = (camera.width + 2 * SHIFT_PX, camera.height)
    wall = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    left, image, right = (wall[:, start : start + camera.width] for start in (0, SHIFT_PX, 2 * SHIFT_PX))
    poses = np.tile(np.eye(4, dtype=np.float32), (NEIGHBOURS, 1, 1))
    # The wall stands where the middle plane of the sweep is.
    depth_m = 2 / (1 / artifact.manifest.z_near + 1 / artifact.manifest.z_far)
    poses[:, 0, 3] = np.array([1, -1]) * SHIFT_PX * depth_m / k[0, 0]
    frames = FramesInput(np.ascontiguousarray(image), np.stack([left, right]), k, poses)
    answer = TorchFrames(artifact, "cpu").depth(frames, TESTED)
    assert answer.fused_m is not None and answer.mono_m is not None
    return {**frames._asdict(), "fused": answer.fused_m, "mono": answer.mono_m}


def _agreements(artifact: Artifact, test: Mapping[str, np.ndarray]) -> list[FrameAgreement]:
    found = []
    for name in CHECKED_RUNTIMES:
        try:
            module = importlib.import_module(MODULES[name])
        except ImportError:
            continue
        # No name keeps a runtime while the next one is loaded.
        errors = depth_errors(module.load(artifact, LoadOptions(precision="float32")), dict(test))
        found.append(_agreement(name, errors, test))
    if not found:
        raise ImportError(
            f"export: needs one of {', '.join(CHECKED_RUNTIMES)} to check what it writes; pip install 'kyn[openvino]'"
        )
    return found


def _agreement(name: str, errors: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> FrameAgreement:
    # |1 / a - 1 / b| = |a - b| / (a b), and a is nearly b.
    worst = {key: float(np.quantile(error / test[key] ** 2, 1 - SHARE)) for key, error in errors.items()}
    agreement = FrameAgreement(name, worst["fused"], worst["mono"])
    if not max(worst.values()) <= 1e-4:
        raise ValueError(
            f"export: {name} differs from torch by {agreement}; expected rounding only, nothing was written"
        )
    return agreement
