"""From an artifact with weights to one that robots run: ONNX, decoder constants and a self-test. torch.

The graph holds no weights of its own: its initialisers point into ``weights.safetensors`` (ONNX external data), so they
are stored once and are exactly those of the torch model. Batch normalisation stays in the graph, because weights folded
with it would be other numbers; runtimes fold it when they load.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from kyn_models import fused
from kyn_models.artifact import DECODER, ENCODER, ENGINES, SELFTEST, WEIGHTS, Artifact, sha256, write_artifact
from kyn_models.models.bts import PreActivation
from kyn_models.models.loading import load_model
from kyn_models.runtimes import RUNTIMES
from kyn_models.runtimes.constants import DecoderConstants, sample_depths
from kyn_models.runtimes.queries import LoadOptions, PointQuery, Query, RayQuery, Runtime
from kyn_models.runtimes.torch_runtime import PlainTorch
from kyn_models.types import UInt8Array

OPSET = 18
SEED = 20231
SELFTEST_RAYS = (16, 40)
SELFTEST_POINTS = 2000
CHECKED_RUNTIMES = ("openvino", "onnxruntime")
SKY_SHARE = 0.002
"""Rays whose transmittance is so near to 1/2 that rounding decides between sky and surface."""


class Exportable(Protocol):
    """What export asks of a model; see ``Bts.exportable``."""

    def exportable(self) -> tuple[PreActivation, dict[str, Tensor]]: ...


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
    files = {
        ENCODER: _graph(network, image_shape, weights),
        **_engine_graphs(network, constants, image_shape, weights),
        DECODER: _npz(arrays),
        SELFTEST: _npz(test),
    }
    with tempfile.TemporaryDirectory(prefix="kyn_export_") as scratch:
        trial = write_artifact(scratch, artifact.manifest, {WEIGHTS: weights.read_bytes(), **files})
        agreements = _agreements(trial, test)
    return write_artifact(artifact.path, artifact.manifest, files), agreements


def _graph(network: nn.Module, image_shape: tuple[int, ...], weights: Path) -> bytes:
    """The ONNX file of a network that contains a model's encoder as ``network``, its weights left where they are."""
    image = torch.zeros(image_shape, dtype=torch.uint8)
    return _onnx(network, (image,), ["image"], ["pre_activation"], None, weights)


def _engine_graphs(
    network: PreActivation, constants: dict[str, Tensor], image_shape: tuple[int, ...], weights: Path
) -> dict[str, bytes]:
    """The fused graph of every precision that is shipped, by file name."""
    hidden = len(constants["w_out"])
    along = _along(constants)
    rays, points = torch.export.Dim("rays", min=2), torch.export.Dim("points", min=2)
    numbers = (torch.zeros(1, 1, 6, 2), torch.zeros(6, hidden), torch.zeros(1, 1, 10, 2), torch.zeros(10, hidden))
    inputs = (torch.zeros(image_shape, dtype=torch.uint8), *numbers)
    dynamic = (None, {2: rays}, {0: rays}, {2: points}, {0: points})
    return {
        name: _onnx(
            fused.FusedField(network, constants, along, getattr(torch, precision)).eval(),
            inputs,
            list(fused.INPUTS),
            list(fused.OUTPUTS),
            dynamic,
            weights,
        )
        for precision, name in ENGINES.items()
    }


def _along(constants: dict[str, Tensor]) -> Tensor:
    """(samples, hidden): codes of the depths of a ray."""
    arrays = {name: value.numpy() for name, value in constants.items()}
    numbers = DecoderConstants(**{**arrays, "k_norm": np.eye(3)})
    z = sample_depths(float(numbers.z_near), float(numbers.z_far))
    return torch.from_numpy(numbers.project_codes(numbers.depth_code(z)[:, None], (2,)))


def _onnx(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: tuple | None,
    weights: Path,
) -> bytes:
    import onnxscript.optimizer
    from onnx_ir.passes import common

    with _quiet():
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    assert program is not None
    # Only constants are folded: the exporter's own optimiser would fold batch normalisation into the weights.
    onnxscript.optimizer.fold_constants(program.model)
    common.RemoveUnusedNodesPass()(program.model)
    graph = program.model_proto
    _without_traces(graph)
    _refer_to_weights(graph, weights)
    graph.metadata_props.add(key="weights_sha256", value=sha256(weights))
    return graph.SerializeToString()


def _refer_to_weights(model: Any, weights: Path) -> None:
    """Replace initialisers that lie in the safetensors file by references to them, cast in the graph where needed."""
    from onnx import TensorProto, helper

    places = _tensor_places(weights)
    types = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "I64": TensorProto.INT64}
    casts = []
    for tensor in model.graph.initializer:
        name = "encoder." + tensor.name.rpartition("network.")[2]
        if name not in places:
            continue
        dtype, offset, length = places[name]
        if types[dtype] != tensor.data_type:
            casts.append(helper.make_node("Cast", [tensor.name + ".stored"], [tensor.name], to=tensor.data_type))
            tensor.name += ".stored"
        tensor.data_type = types[dtype]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights.name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def _without_traces(model: Any) -> None:
    """Drop what the exporter notes about the Python code behind each node: most of the file, with local paths."""
    graph = model.graph
    for part in (graph.node, graph.value_info, graph.input, graph.output, [graph, model]):
        for item in part:
            item.doc_string = ""
            del item.metadata_props[:]


def _tensor_places(weights: Path) -> dict[str, tuple[str, int, int]]:
    """Type, offset in the file and length in bytes of every tensor of a safetensors file."""
    with weights.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(header))
    places = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            places[name] = (entry["dtype"], 8 + header + start, end - start)
    return places


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
            f"export: needs one of {', '.join(CHECKED_RUNTIMES)} to check what it writes; pip install openvino numba"
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about libraries that these models do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
