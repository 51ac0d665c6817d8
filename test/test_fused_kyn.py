"""The graph of a whole ``kyn`` model: exact against plain torch, sets that add up, float32 wherever it must be."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is the torch runtime")
onnx = pytest.importorskip("onnx", reason="graphs are read with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="graphs are run with ONNX Runtime")

from test_fused import behind

from kyn_models.artifact import DECODER, ENGINES, WEIGHTS, Artifact
from kyn_models.runtimes.fused_inputs import KYN_OUTPUTS, Kind, kinds
from kyn_models.runtimes.kyn_constants import KynConstants
from kyn_models.runtimes.queries import LabelQuery, PointQuery, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch

RAYS, POINTS = 320, 1600


@cache
def questions() -> tuple[np.ndarray, dict]:
    """A picture, rays, and points inside and outside the view; fewer than a run of the graph holds."""
    rng = np.random.default_rng(7)
    image = np.kron(rng.integers(0, 256, (4, 10, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 30), np.linspace(-0.4, 0.3, 10))
    points = rng.uniform([-30, -2, 3], [30, 3, 78], (1501, 3)).astype(np.float32)
    directions = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)
    return image, {"depth": RayQuery(directions), "density": PointQuery(points), "labels": LabelQuery(points)}


class Graph:
    """Runs the graph of an artifact with ONNX Runtime."""

    def __init__(self, artifact: Artifact, precision: str) -> None:
        self.constants, path = KynConstants.load(artifact.file(DECODER)), artifact.file(ENGINES[precision])
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.map_size = (artifact.camera.height, artifact.camera.width)

    def kinds(self, rays: int = RAYS, points: int = POINTS) -> dict[str, Kind]:
        return kinds(self.constants, self.map_size, rays, points)

    def run(
        self, image: np.ndarray, rays: np.ndarray, points: np.ndarray, others: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Of the whole size. others: of the points."""
        nothing = np.zeros((len(self.constants.w_out) + 1, len(self.constants.keys)), np.float32)
        inputs = {"image": image[None], "ray_others": nothing, "point_others": nothing if others is None else others}
        for name, kind in self.kinds().items():
            for tensor, values in kind.place(rays if name == "ray" else points).items():
                inputs[tensor] = values.reshape(kind.inputs[tensor])
        found = zip(KYN_OUTPUTS, self.session.run(list(KYN_OUTPUTS), inputs), strict=True)
        return {name: values.reshape(-1) if "sums" not in name else values for name, values in found}


@pytest.mark.parametrize("precision", list(ENGINES))
def test_the_graph_says_what_the_plain_model_says(tiny_kyn: Path, precision: str) -> None:
    artifact, (image, queries) = Artifact.load(tiny_kyn), questions()
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    directions, points = queries["depth"].directions.reshape(-1, 3), queries["density"].points
    answer = Graph(artifact, precision).run(image, directions, points)
    depth, density = answer["depth"][: len(directions)], answer["density"][: len(points)]
    labels = answer["labels"][: len(points)]
    assert plain["density"].std() > 0.01 and len(np.unique(plain["labels"])) > 2
    same = labels == plain["labels"]
    assert np.mean(~same) <= (0 if precision == "float32" else 0.01)
    wide = {"float32": 1.0, "float16": 30.0}[precision]
    expected, expected_depth = plain["density"][same], plain["depth"].reshape(-1)
    assert (np.abs(density[same] - expected) <= wide * (1e-4 + 1e-3 * expected)).all()
    assert np.array_equal(np.isinf(depth), np.isinf(expected_depth)) and np.isfinite(depth).mean() > 0.5
    finite = np.isfinite(depth)
    error = np.abs(depth[finite] - expected_depth[finite])
    assert (error <= wide * (1e-3 + 1e-3 * expected_depth[finite])).all()


def test_two_runs_that_know_of_each_other_are_one_set(tiny_kyn: Path) -> None:
    graph, (image, queries) = Graph(Artifact.load(tiny_kyn), "float32"), questions()
    rays, points = queries["depth"].directions.reshape(-1, 3), queries["density"].points
    halves = (points[:400], points[400:])
    whole = graph.run(image, rays, points)
    first, second = (graph.run(image, rays, half) for half in halves)
    np.testing.assert_allclose(first["point_sums"] + second["point_sums"], whole["point_sums"], rtol=1e-4, atol=1e-4)
    alone = np.concatenate([first["density"][:400], second["density"][:1101]])
    assert np.abs(alone - whole["density"][:1501]).max() > 1e-3
    first = graph.run(image, rays, halves[0], second["point_sums"])
    np.testing.assert_allclose(first["density"][:400], whole["density"][:400], rtol=1e-4)
    assert np.array_equal(first["depth"], whole["depth"]), "rays are a set of their own"


def test_nothing_in_view_is_no_fault(tiny_kyn: Path) -> None:
    graph, (image, queries) = Graph(Artifact.load(tiny_kyn), "float32"), questions()
    nothing = np.empty((0, 3), np.float32)
    aside = queries["density"].points[:300] * np.float32([0.1, 1, 1]) + np.float32([3000, 0, 0])
    answer = graph.run(image, nothing, aside)
    plain = PlainTorch(Artifact.load(tiny_kyn), "cpu").prepare({"density": PointQuery(aside)})
    expected = plain(image, frozenset({"density"})).arrays["density"]
    assert not answer["point_sums"].any() and not answer["ray_sums"].any()
    np.testing.assert_allclose(answer["density"][:300], expected, rtol=1e-3, atol=1e-4)


def test_weights_lie_in_the_weights_file(tiny_kyn: Path) -> None:
    """All that have a size: else those of a large transformer would be stored once more for each graph."""
    for name in ENGINES.values():
        graph = onnx.load(tiny_kyn / name, load_external_data=False).graph
        outside = [item for item in graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
        assert {entry.value for item in outside for entry in item.external_data if entry.key == "location"} == {WEIGHTS}
        inside = [item for item in graph.initializer if item.data_location != onnx.TensorProto.EXTERNAL]
        assert max(int(np.prod(item.dims)) for item in inside) <= 128 * 128
        linear = [item for item in outside if ".blocks." in item.name and len(item.dims) == 2]
        assert len(linear) == 4 * 4, "four blocks of four linear layers"


def test_half_precision_stays_in_the_image_network(tiny_kyn: Path) -> None:
    path = tiny_kyn / ENGINES["float16"]
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    graph, half = model.graph, onnx.TensorProto.FLOAT16
    types = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.input, *graph.output)}
    types |= {item.name: item.data_type for item in graph.initializer}
    assert all(name in types for node in graph.node for name in node.output), "a tensor of unknown type"
    makers = {name: node for node in graph.node for name in node.output}
    is_half = {name for name, dtype in types.items() if dtype == half}
    sampled = {node.input[0] for node in graph.node if node.op_type == "GridSample"}
    (planes,) = sampled
    assert makers[planes].op_type == "Cast" and makers[planes].input[0] in is_half
    (labels,) = {node.output[0] for node in graph.node if node.op_type == "ArgMax"}
    of_network = behind(planes, makers) | behind(labels, makers)
    assert is_half <= of_network, is_half - of_network
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            assert node.output[0] in is_half
        if node.op_type in ("LayerNormalization", "ArgMax", "GridSample", "Exp"):
            assert not is_half & {*node.input, *node.output}, node.op_type
    downstream = {node.op_type for node in graph.node if not set(node.output) & of_network}
    assert {"GridSample", "MatMul", "Softmax", "Where"} <= downstream
    assert not downstream & {"Conv", "Loop", "Scan", "CumSum", "Shape", "NonZero", "ScatterElements"}
