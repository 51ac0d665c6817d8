"""The graph of a whole model: exact against plain torch, float32 wherever it must be, and TensorRT compiles it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is the torch runtime")
onnx = pytest.importorskip("onnx", reason="graphs are read with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run with ONNX Runtime")

from kyn_models.artifact import DECODER, ENGINES, WEIGHTS, Artifact, default_artifact
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.fused_inputs import point_places, ray_places
from kyn_models.runtimes.queries import PointQuery, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch


@pytest.fixture(params=["tiny", "shipped"])
def artifact(request: pytest.FixtureRequest) -> Artifact:
    return Artifact.load(request.getfixturevalue("tiny_artifact") if request.param == "tiny" else default_artifact())


def questions() -> tuple[np.ndarray, dict]:
    """A smooth picture, rays, and points inside and outside the view."""
    rng = np.random.default_rng(7)
    image = np.kron(rng.integers(0, 256, (12, 40, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 60), np.linspace(-0.4, 0.3, 20))
    directions = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)
    points = rng.uniform([-30, -2, 3], [30, 3, 78], (5000, 3)).astype(np.float32)
    return image, {"depth": RayQuery(directions), "density": PointQuery(points)}


def answers_of_graph(path: Path, artifact: Artifact, image: np.ndarray, queries: dict) -> dict[str, np.ndarray]:
    constants = DecoderConstants.load(artifact.file(DECODER))
    rays = ray_places(constants, queries["depth"].directions)
    points = point_places(constants, queries["density"].points)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {
        "image": image[None],
        "ray_grid": rays.grid[None, None],
        "ray_code": rays.code[None, :, None],
        "point_grid": points.grid[None, None],
        "point_code": points.code[None, :, None],
    }
    depth, density = session.run(["depth", "density"], inputs)
    return {"depth": depth.reshape(queries["depth"].directions.shape[:2]), "density": density.reshape(-1)}


@pytest.mark.parametrize("precision", list(ENGINES))
def test_the_graph_says_what_the_plain_model_says(artifact: Artifact, precision: str) -> None:
    image, queries = questions()
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    answer = answers_of_graph(artifact.file(ENGINES[precision]), artifact, image, queries)
    assert plain["density"].std() > 0.01 and np.isfinite(plain["depth"]).mean() > 0.2
    # ONNX Runtime computes float16 convolutions in float32: of float16 this sees the rounded weights and image.
    wide = {"float32": 1.0, "float16": 30.0}[precision]
    density_error = np.abs(answer["density"] - plain["density"])
    sky = np.isinf(plain["depth"])
    assert np.mean(sky != np.isinf(answer["depth"])) <= (0.002 if precision == "float32" else 0.01)
    both = np.isfinite(plain["depth"]) & np.isfinite(answer["depth"])
    depth_error = np.abs(answer["depth"][both] - plain["depth"][both])
    assert (density_error <= wide * (1e-4 + 1e-3 * plain["density"])).all()
    assert (depth_error <= wide * (1e-3 + 1e-3 * plain["depth"][both])).all()


def test_sky_is_infinite_and_a_wall_is_not(tiny_artifact: Path) -> None:
    """The rule of depth at both ends, which a picture need not contain."""
    from kyn_models.fused import Fused

    artifact = Artifact.load(tiny_artifact)
    from kyn_models.models.loading import load_model

    network, _ = load_model(artifact).exportable()
    fused = Fused(network, DecoderConstants.load(artifact.file(DECODER)), half=False)
    sigma = torch.zeros(1, 1, 63, 3)
    sigma[0, 0, 20, 1] = 1e4
    sigma[0, 0, :, 2] = 1e4
    depth = fused.depth(sigma).reshape(-1)
    from kyn_models.runtimes.constants import sample_depths

    z = sample_depths(artifact.manifest.z_near, artifact.manifest.z_far)
    np.testing.assert_allclose(depth.numpy(), [np.inf, z[20], z[0]], rtol=1e-6)


def test_weights_lie_in_the_weights_file(artifact: Artifact) -> None:
    for precision, name in ENGINES.items():
        graph = onnx.load(artifact.path / name, load_external_data=False).graph
        outside = [item for item in graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
        assert {entry.value for item in outside for entry in item.external_data if entry.key == "location"} == {WEIGHTS}
        assert len([item for item in outside if len(item.dims) == 4]) >= 56
        assert (artifact.path / name).stat().st_size < 0.5e6
        if precision == "float16":  # stored as they are used: no conversion when the engine is built
            assert not any(item.name.endswith(".stored") for item in outside)


def test_nothing_but_convolutions_is_float16(artifact: Artifact) -> None:
    """Between the two casts around the encoder lies all of float16; what samples, codes and composites is float32."""
    model = onnx.shape_inference.infer_shapes(onnx.load(artifact.path / ENGINES["float16"]), strict_mode=True)
    graph, half = model.graph, onnx.TensorProto.FLOAT16
    types = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.input, *graph.output)}
    types |= {item.name: item.data_type for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    is_half = {name for name, dtype in types.items() if dtype == half}
    assert all(name in types for node in graph.node for name in node.output), "a tensor of unknown type"
    assert {item.name for item in graph.input} == {"image", "ray_grid", "ray_code", "point_grid", "point_code"}
    assert not is_half & {item.name for item in (*graph.input, *graph.output)}
    (last,) = {node.input[0] for node in graph.node if node.op_type == "GridSample"}
    assert makers[last].op_type == "Cast" and makers[last].input[0] in is_half
    of_encoder = behind(last, makers)
    assert is_half <= of_encoder, is_half - of_encoder
    float_in_encoder = {name for name in of_encoder - is_half if types[name] == onnx.TensorProto.FLOAT}
    (first,) = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.output[0] in is_half}
    scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}  # float32 by the standard
    assert float_in_encoder - {last} - scales <= behind(first, makers)
    downstream = [node for node in graph.node if not set(node.output) & of_encoder]
    kinds = {node.op_type for node in downstream}
    assert {"GridSample", "ReduceSum", "MatMul", "Exp", "Log", "Where"} <= kinds and "Conv" not in kinds
    assert not kinds & {"Loop", "Scan", "CumSum", "Shape", "NonZero", "Transpose"}


def behind(name: str, makers: dict) -> set[str]:
    """All tensors that ``name`` is computed from, and itself."""
    found, todo = set(), [name]
    while todo:
        name = todo.pop()
        if name and name not in found:
            found.add(name)
            todo += makers[name].input if name in makers else []
    return found
