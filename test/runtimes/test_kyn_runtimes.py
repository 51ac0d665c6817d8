"""Know Your Neighbors as an artifact: all CPU runtimes say what torch says, labels included, and nothing is copied."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("numba", reason="the compiled decoder needs numba")
onnx = pytest.importorskip("onnx", reason="export needs onnx")
pytest.importorskip("onnxscript", reason="export needs onnxscript")

from artifacts import TINY_KYN, seeded_kyn, write_seeded_artifact

from kyn_models import runtimes
from kyn_models.artifact import DECODER, ENCODER, ENGINES, SELFTEST, WEIGHTS, Artifact, write_artifact
from kyn_models.predictor import Predictor, PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.runtimes import torch_runtime
from kyn_models.runtimes.queries import LabelQuery, LoadOptions, PointQuery, Query, RayQuery
from kyn_models.types import UNKNOWN, Observation, PosedFrame, VoxelGridSpec

SPEC = VoxelGridSpec((0.0, 24.0), (-6.0, 6.0), (-0.5, 3.0), 0.5)


@pytest.fixture(scope="module")
def observation(tiny_kyn: Path) -> Observation:
    """Of the training camera and mount."""
    camera = Artifact.load(tiny_kyn).manifest.camera
    k, rng = camera.source, np.random.default_rng(2)
    coarse = rng.integers(0, 256, (k.height // 40 + 1, k.width // 40 + 1, 3))
    image = np.kron(coarse, np.ones((40, 40, 1)))[: k.height, : k.width].astype(np.uint8)
    return Observation((PosedFrame(image, k, stamp_ns=3),), camera.base_from_camera())


def predictor(path: Path, runtime: str = "onnxruntime", precision: str = "float32") -> Predictor:
    options = PredictorOptions(runtime, SPEC, depth_rays=(8, 20), precision=precision)  # type: ignore[arg-type]
    return make_predictor(Artifact.load(path), options)


def test_an_artifact_has_no_weights_twice(tiny_kyn: Path) -> None:
    artifact = Artifact.load(tiny_kyn)
    assert set(artifact.manifest.files) == {WEIGHTS, ENCODER, *ENGINES.values(), DECODER, SELFTEST}
    assert {file.name for file in tiny_kyn.iterdir()} == {*artifact.manifest.files, "artifact.json"}
    graph = onnx.load(tiny_kyn / ENCODER, load_external_data=False)
    inside = [item for item in graph.graph.initializer if item.data_location != onnx.TensorProto.EXTERNAL]
    linear = [item for item in graph.graph.initializer if "blocks" in item.name and len(item.dims) == 2]
    assert len(linear) == 4 * TINY_KYN.lseg.vit.depth, "what attention and layers multiply by, not turned copies of it"
    assert all(item.data_location == onnx.TensorProto.EXTERNAL for item in linear)
    assert max(len(item.raw_data) for item in inside) < 20e3
    onnx.checker.check_model(str(tiny_kyn / ENCODER), full_check=True)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_agrees_with_plain_torch(name: str, tiny_kyn: Path) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    artifact, rng = Artifact.load(tiny_kyn), np.random.default_rng(5)
    size = (artifact.camera.height // 16, artifact.camera.width // 16, 3)
    image = np.kron(rng.integers(0, 256, size), np.ones((16, 16, 1))).astype(np.uint8)
    points = rng.uniform([-30, -2, 3], [30, 3, 78], (5000, 3)).astype(np.float32)
    queries: dict[str, Query] = {
        "depth": RayQuery(artifact.camera.rays(9, 21)),
        "density": PointQuery(points),
        "in calls": PointQuery(points, points_per_call=1500),
        "labels": LabelQuery(points),
    }
    plain = torch_runtime.PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    runtime = runtimes.choose(name, artifact, pytest.fail, LoadOptions(precision="float32"))
    answer = runtime.prepare(queries)(image, frozenset(queries)).arrays
    assert plain["density"].std() > 0.01 and len(np.unique(plain["labels"])) > 1
    assert np.abs(plain["density"] - plain["in calls"]).max() > 1e-4
    assert answer["labels"].dtype == np.uint8 and np.mean(answer["labels"] != plain["labels"]) <= 0.002
    same = answer["labels"] == plain["labels"]
    for points_answer in ("density", "in calls"):
        np.testing.assert_allclose(answer[points_answer][same], plain[points_answer][same], atol=5e-4, rtol=1e-3)
    np.testing.assert_allclose(answer["depth"], plain["depth"], rtol=1e-3)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_labels_come_with_the_volume(name: str, tiny_kyn: Path, observation: Observation) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    one = predictor(tiny_kyn, name)
    result = one.predict(observation)
    assert result.labels is not None and result.volume is not None
    assert result.labels.shape == SPEC.shape and result.labels.dtype == np.uint8
    assert len(result.label_names) == TINY_KYN.label_count
    assert np.array_equal(result.labels == UNKNOWN, result.volume == UNKNOWN)
    known = result.labels[result.labels != UNKNOWN]
    assert known.max() < TINY_KYN.label_count and len(np.unique(known)) > 1
    alone = one.predict(observation, {"volume"})
    assert np.array_equal(alone.volume, result.volume) and np.array_equal(alone.labels, result.labels)
    grid = one.predict(observation, {"grid"})
    assert grid.labels is None and "labels" not in grid.stages_ms and np.array_equal(grid.grid, result.grid)
    depth = one.predict(observation, {"depth"})
    assert depth.labels is None and np.array_equal(depth.depth_m, result.depth_m)


def test_densities_of_the_published_protocol(tiny_kyn: Path, observation: Observation) -> None:
    one, points = predictor(tiny_kyn), np.random.default_rng(3).uniform([-9, -1, 4], [9, 1, 40], (3000, 3))
    whole, calls = one.density(observation, points), one.density(observation, points, points_per_call=1000)
    assert np.abs(whole - calls).max() > 1e-4
    for start in range(0, 3000, 1000):
        part = one.density(observation, points[start : start + 1000])
        np.testing.assert_allclose(calls[start : start + 1000], part, rtol=1e-4)
    with pytest.raises(ValueError, match="points_per_call: got 0, expected at least 1"):
        one.density(observation, points, points_per_call=0)


def test_the_self_test_knows_labels(tiny_kyn: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(shutil.copytree(tiny_kyn, tmp_path / "own"))
    assert runtimes.choose("onnxruntime", artifact).name == "onnxruntime"
    with np.load(artifact.path / SELFTEST) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["labels"] = (arrays["labels"] + 1) % TINY_KYN.label_count
    np.savez(artifact.path / SELFTEST, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    changed = write_artifact(artifact.path, artifact.manifest, {SELFTEST: (artifact.path / SELFTEST).read_bytes()})
    with pytest.raises(runtimes.RuntimeFailed, match="of its label values differ"):
        runtimes.choose("onnxruntime", changed)


def test_torch_on_a_gpu_is_plain(tiny_kyn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime.torch.cuda, "is_available", lambda: True)
    asked = []
    monkeypatch.setattr(torch_runtime, "PlainTorch", lambda artifact, device: asked.append(device))
    torch_runtime.load(Artifact.load(tiny_kyn), LoadOptions(device="cuda"))
    assert asked == ["cuda"]


def test_half_precision_is_near(tiny_kyn: Path, observation: Observation) -> None:
    """bfloat16 or float16 where the CPU has them, of the image network alone."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    from kyn_models.runtimes.openvino_runtime import core

    able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    halves = [name for name, key in (("float16", "FP16"), ("bfloat16", "BF16")) if key in able]
    exact = predictor(tiny_kyn).predict(observation)
    for precision in halves:
        found = predictor(tiny_kyn, "openvino", precision).predict(observation)
        assert found.volume is not None and exact.volume is not None
        same = (found.labels == exact.labels) & (exact.volume != UNKNOWN)
        assert same.mean() > 0.9 * (exact.volume != UNKNOWN).mean()
        assert np.abs(found.volume[same].astype(int) - exact.volume[same]).max() <= 8


EXPORTED = """
import json, re, sys
from pathlib import Path
from kyn_models.export import export
agreements = export(sys.argv[1])[1]
peak_kb = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"peak": peak_kb * 1024, "density": [agreement.density for agreement in agreements]}))
"""


@pytest.mark.huge
def test_the_published_size(tmp_path: Path) -> None:
    """Export in minutes and below 6 GB, in a process of its own; weights on disk once. Needs 4 GB of disk."""
    from kyn_models.models.kyn import KynConfig

    path = tmp_path / "kyn"
    write_seeded_artifact(path, seeded_kyn(KynConfig()), half=False)
    answer = subprocess.run([sys.executable, "-c", EXPORTED, str(path)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["density"] and max(found["density"]) < 5e-4
    assert sum(file.stat().st_size for file in path.iterdir() if file.name != WEIGHTS) < 8e6
    assert found["peak"] < 6e9
