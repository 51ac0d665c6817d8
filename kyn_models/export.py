"""From an artifact with weights to one that robots run: ONNX, decoder constants and a self-test. torch."""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from torch import Tensor, nn

from kyn_models.artifact import DECODER, ENCODER, ENGINES, SELFTEST, WEIGHTS, Artifact, write_artifact
from kyn_models.fused import Fused
from kyn_models.graphs import encoder_graph, engine_graph
from kyn_models.models.loading import load_model
from kyn_models.runtimes import RUNTIMES
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.queries import LoadOptions, PointQuery, Query, RayQuery, Runtime
from kyn_models.runtimes.torch_runtime import PlainTorch
from kyn_models.types import UInt8Array

SEED = 20231
SELFTEST_RAYS = (16, 40)
SELFTEST_POINTS = 2000
CHECKED_RUNTIMES = ("openvino", "onnxruntime")
SKY_SHARE = 0.002
"""Rays whose transmittance is so near to 1/2 that rounding decides between sky and surface."""


class Exportable(Protocol):
    """What export asks of a model; see ``Bts.exportable``."""

    def exportable(self) -> tuple[nn.Module, dict[str, Tensor]]: ...


class Agreement(NamedTuple):
    """How far a runtime is from torch on the self-test. density: largest error. depth_m: largest, of finite depths."""

    runtime: str
    density: float
    depth_m: float


def export(path: str | Path) -> tuple[Artifact, list[Agreement]]:
    """Add ONNX, decoder and self-test to the artifact at ``path`` and check them against torch at once.

    Returns the artifact and one agreement per runtime that is installed. Raises ``ValueError`` if the model cannot be
    exported or a runtime differs by more than 1e-4 + 1e-3 sigma in density or 1e-3 m + 1e-3 in depth (the files are
    not written then), ``ImportError`` if neither OpenVINO nor ONNX Runtime is installed.
    """
    artifact = Artifact.load(path)
    model: Any = load_model(artifact)
    network, constants = model.exportable()
    arrays = {name: value.numpy() for name, value in constants.items()} | {"k_norm": artifact.camera.k_norm}
    test = _selftest(artifact)
    weights = artifact.file(WEIGHTS)
    image_shape = (1, artifact.camera.height, artifact.camera.width, 3)
    decoder = DecoderConstants.from_arrays(arrays)
    files = {
        ENCODER: encoder_graph(network, image_shape, weights),
        **{
            name: engine_graph(Fused(network, decoder, half=precision == "float16").eval(), image_shape, weights)
            for precision, name in ENGINES.items()
        },
        DECODER: _npz(arrays),
        SELFTEST: _npz(test),
    }
    with tempfile.TemporaryDirectory(prefix="kyn_export_") as scratch:
        trial = write_artifact(scratch, artifact.manifest, {WEIGHTS: weights.read_bytes(), **files})
        agreements = _agreements(trial, test)
    return write_artifact(artifact.path, artifact.manifest, files), agreements


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
    queries: dict[str, Query] = {"depth": RayQuery(directions), "density": PointQuery(points)}
    answer = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    return {"image": image, "directions": directions, "points": points, **answer}


def _agreements(artifact: Artifact, test: Mapping[str, np.ndarray]) -> list[Agreement]:
    found = []
    for name in CHECKED_RUNTIMES:
        try:
            module = importlib.import_module(RUNTIMES[name][0])
        except ImportError:
            continue
        found.append(_agreement(name, module.load(artifact, LoadOptions(precision="float32")), test))
    if not found:
        raise ImportError(
            f"export: needs one of {', '.join(CHECKED_RUNTIMES)} to check what it writes; pip install 'kyn[openvino]'"
        )
    return found


def _agreement(name: str, runtime: Runtime, test: Mapping[str, np.ndarray]) -> Agreement:
    queries: dict[str, Query] = {"depth": RayQuery(test["directions"]), "density": PointQuery(test["points"])}
    answer = runtime.prepare(queries)(test["image"], frozenset(queries)).arrays
    density = np.abs(answer["density"] - test["density"])
    finite = np.isfinite(test["depth"]) & np.isfinite(answer["depth"])
    depth = np.abs(answer["depth"][finite] - test["depth"][finite])
    agreement = Agreement(name, float(density.max()), float(depth.max(initial=0.0)))
    sky = np.mean(np.isfinite(test["depth"]) != np.isfinite(answer["depth"]))
    if (
        not (density <= 1e-4 + 1e-3 * test["density"]).all()
        or not (depth <= 1e-3 + 1e-3 * test["depth"][finite]).all()
        or sky > SKY_SHARE
    ):
        raise ValueError(
            f"export: {name} differs from torch by {agreement.density:.2g} in density, {agreement.depth_m:.2g} m in "
            f"depth and on {sky:.1%} of rays in what is sky; expected rounding only, nothing was written"
        )
    return agreement


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    return stream.getvalue()
