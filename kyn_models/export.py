"""From an artifact with weights to one that robots run: ONNX, decoder constants and a self-test. torch."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from kyn_models.artifact import DECODER, ENCODER, ENGINES, SELFTEST, WEIGHTS, Artifact, trial_artifact, write_artifact
from kyn_models.frame_export import FrameAgreement, export_frames
from kyn_models.fused import Fused
from kyn_models.fused_kyn import FusedKyn
from kyn_models.graphs import encoder_graph, engine_graph, kyn_engine_graph
from kyn_models.models import FRAME_FAMILIES
from kyn_models.models.kyn_export import KynMaps
from kyn_models.models.loading import load_model
from kyn_models.npz import npz_bytes
from kyn_models.predictor import check_family
from kyn_models.runtimes import RUNTIMES
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.kyn_constants import KynConstants
from kyn_models.runtimes.queries import LoadOptions, Runtime
from kyn_models.runtimes.selftest import compare, selftest_queries
from kyn_models.runtimes.torch_runtime import PlainTorch
from kyn_models.types import UInt8Array

SEED = 20231
SELFTEST_RAYS = (16, 40)
SELFTEST_POINTS = 2000
CHECKED_RUNTIMES = ("openvino", "onnxruntime")
SKY_SHARE = 0.002
"""Rays whose transmittance is so near to 1/2 that rounding decides between sky and surface."""


MAPS = {"bts": ("pre_activation",), "kyn": ("pre_activation", "labels")}
"""Outputs of a family's encoder graph."""
LABEL_SHARE = 0.002
"""Points whose two best labels are so near to each other that rounding decides between them."""


class Agreement(NamedTuple):
    """How far a runtime is from torch on the self-test. density: largest error. depth_m: largest, of finite depths."""

    runtime: str
    density: float
    depth_m: float

    def __str__(self) -> str:
        return f"{self.density:.2g} in density, {self.depth_m:.2g} m in depth"


def export(path: str | Path) -> tuple[Artifact, Sequence[Agreement | FrameAgreement]]:
    """Add ONNX, decoder and self-test to the artifact at ``path`` and check them against torch at once.

    Returns the artifact and one agreement per runtime that is installed. Families that see several frames are exported
    by ``frame_export``. Raises ``ValueError`` if the model cannot be
    exported or a runtime differs by more than 1e-4 + 1e-3 sigma in density or 1e-3 m + 1e-3 in depth (the files are
    not written then), ``ImportError`` if neither OpenVINO nor ONNX Runtime is installed.
    """
    artifact = Artifact.load(path)
    if artifact.manifest.family in FRAME_FAMILIES:
        return export_frames(artifact)
    check_family(artifact)
    # The test first: only one copy of the weights is held at a time.
    test = _selftest(artifact)
    model: Any = load_model(artifact)
    network, constants = model.exportable()
    arrays = {name: value.numpy() for name, value in constants.items()} | {"k_norm": artifact.camera.k_norm}
    weights, family = artifact.file(WEIGHTS), artifact.manifest.family
    image_shape = (1, artifact.camera.height, artifact.camera.width, 3)
    files = {
        ENCODER: encoder_graph(network, image_shape, weights, MAPS[family]),
        **_engines(network, arrays, image_shape, weights),
        DECODER: npz_bytes(arrays),
        SELFTEST: npz_bytes(test),
    }
    del model, network
    gc.collect()  # the exporter leaves cycles that hold the weights, gigabytes of a large model
    with trial_artifact(artifact, files) as trial:
        agreements = _agreements(trial, test)
    return write_artifact(artifact.path, artifact.manifest, files), agreements


def _engines(
    network: Any, arrays: Mapping[str, np.ndarray], image_shape: Sequence[int], weights: Path
) -> dict[str, bytes]:
    """The graphs that TensorRT builds engines from. The network may be in half precision afterwards."""
    graphs = {}
    for precision, name in sorted(ENGINES.items(), reverse=True):  # float32 first
        half = precision == "float16"
        if isinstance(network, KynMaps):
            fused = FusedKyn(network, KynConstants.from_arrays(arrays), half).eval()
            graphs[name] = kyn_engine_graph(fused, image_shape, weights)
        else:
            bts = Fused(network, DecoderConstants.from_arrays(arrays), half).eval()
            graphs[name] = engine_graph(bts, image_shape, weights)
    return graphs


def _selftest(artifact: Artifact) -> dict[str, np.ndarray]:
    """A seeded image, rays and points, and what the plain torch model says about them."""
    rng = np.random.default_rng(SEED)
    camera = artifact.camera
    coarse = rng.integers(0, 256, (camera.height // 16, camera.width // 16, 3)).astype(np.uint8)
    image: UInt8Array = cv2.resize(coarse, (camera.width, camera.height), interpolation=cv2.INTER_CUBIC)
    directions = camera.rays(*SELFTEST_RAYS)
    # A little beyond the image on all sides, where evaluators ask too.
    uv = rng.uniform(-1.1, 1.1, (SELFTEST_POINTS, 2))
    near, far = 1 / artifact.manifest.z_near, 1 / artifact.manifest.z_far
    z = 1 / rng.uniform(far, near, SELFTEST_POINTS)
    rays = np.concatenate([uv, np.ones((SELFTEST_POINTS, 1))], axis=1) @ np.linalg.inv(camera.k_norm).T
    points = (rays * z[:, None]).astype(np.float32)
    queries = selftest_queries(artifact, {"directions": directions, "points": points})
    answer = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    return {"image": image, "directions": directions, "points": points, **answer}


def _agreements(artifact: Artifact, test: Mapping[str, np.ndarray]) -> list[Agreement]:
    found = []
    for name in CHECKED_RUNTIMES:
        try:
            module = importlib.import_module(RUNTIMES[name][0])
        except ImportError:
            continue
        # No name keeps a runtime while the next one is loaded: each may hold gigabytes.
        found.append(_agreement(name, artifact, module.load(artifact, LoadOptions(precision="float32")), test))
    if not found:
        raise ImportError(
            f"export: needs one of {', '.join(CHECKED_RUNTIMES)} to check what it writes; pip install 'kyn[openvino]'"
        )
    return found


def _agreement(name: str, artifact: Artifact, runtime: Runtime, test: Mapping[str, np.ndarray]) -> Agreement:
    queries = selftest_queries(artifact, test)
    differences = compare(runtime.prepare(queries)(test["image"], frozenset(queries)).arrays, test)
    density, depth = differences.density, differences.depth_m
    agreement = Agreement(name, float(density.max(initial=0.0)), float(depth.max(initial=0.0)))
    bound = 1e-4 if artifact.manifest.family == "bts" else 5e-4
    if (
        not (density <= bound + 1e-3 * differences.true_density).all()
        or not (depth <= 1e-3 + 1e-3 * differences.true_depth_m).all()
        or differences.sky > SKY_SHARE
        or differences.labels > LABEL_SHARE
    ):
        labels = f", {differences.labels:.1%} of labels" if artifact.manifest.labels else ""
        raise ValueError(
            f"export: {name} differs from torch by {agreement.density:.2g} in density, {agreement.depth_m:.2g} m in "
            f"depth and on {differences.sky:.1%} of rays in what is sky{labels}; expected rounding only, nothing was "
            "written"
        )
    return agreement
