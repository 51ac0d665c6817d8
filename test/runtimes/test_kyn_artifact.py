"""A complete ``kyn`` artifact: every runtime makes the same grid, no robot needs torch, faults are one sentence."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the artifact is made with torch")
pytest.importorskip("numba", reason="the compiled decoder needs numba")

from kyn_models import runtimes
from kyn_models.artifact import DECODER, ENCODER, KITTI360_CAMERA, SELFTEST, WEIGHTS, Artifact, write_artifact
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import UNKNOWN, Observation, PosedFrame, Prediction, VoxelGridSpec

ROOT = Path(__file__).parents[2]
SPEC = VoxelGridSpec((0, 30), (-8, 8), (-0.4, 2.8), 0.4)
CAMERA = KITTI360_CAMERA.resized(320, 96)


@pytest.fixture
def own(tiny_kyn: Path, tmp_path: Path) -> Artifact:
    """A copy that a test may damage."""
    return Artifact.load(shutil.copytree(tiny_kyn, tmp_path / "own"))


def observation(artifact: Artifact) -> Observation:
    """A smooth picture of many colours."""
    coarse = np.random.default_rng(7).integers(0, 256, (6, 20, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_CUBIC)
    return Observation((PosedFrame(image, CAMERA),), artifact.manifest.camera.base_from_camera())


def answer(artifact: Artifact, runtime: str) -> Prediction:
    predictor = make_predictor(
        artifact, PredictorOptions(runtime, SPEC, depth_rays=(16, 40), precision="float32"), warn=pytest.fail
    )
    assert predictor.runtime_name == runtime
    return predictor.predict(observation(artifact))


@pytest.fixture(scope="module")
def plain(tiny_kyn: Path) -> Prediction:
    """What torch says, without any rewrite."""
    return answer(Artifact.load(tiny_kyn), "torch")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_the_grid_is_that_of_torch(name: str, tiny_kyn: Path, plain: Prediction) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    assert set(np.unique(plain.grid)) == {-1, 0, 100}
    assert len(set(np.unique(plain.labels)) - {UNKNOWN}) >= 2
    np.testing.assert_array_equal(plain.labels == UNKNOWN, plain.volume == UNKNOWN)
    found = answer(Artifact.load(tiny_kyn), name)
    assert found.label_names == plain.label_names == ("ground", "road", "person", "rider", "car", "truck")
    np.testing.assert_array_equal(found.labels == UNKNOWN, plain.labels == UNKNOWN)
    # Where two labels, or a probability and a threshold, are a rounding apart, either is right.
    assert (found.labels != plain.labels).mean() < 0.002
    assert (found.grid != plain.grid).mean() < 0.005
    same = found.labels == plain.labels
    difference = np.abs(found.volume.astype(int) - plain.volume)
    assert difference[same].max() <= 1


PROGRAM = """
import sys
import numpy as np
from kyn_models.artifact import Artifact
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import Observation, PosedFrame, VoxelGridSpec
artifact = Artifact.load(sys.argv[1])
camera = artifact.manifest.camera
spec = VoxelGridSpec((0, 30), (-8, 8), (-0.4, 2.8), 0.4)
predictor = make_predictor(artifact, PredictorOptions(sys.argv[2], spec, depth_rays=(4, 8)))
image = np.zeros((camera.source.height, camera.source.width, 3), np.uint8)
prediction = predictor.predict(Observation((PosedFrame(image, camera.source),), camera.base_from_camera()))
assert prediction.labels is not None and (prediction.labels < 6).any()
print(predictor.runtime_name, sorted({name.split(".")[0] for name in sys.modules} & {"torch", "safetensors", "onnx"}))
"""


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_robot_needs_neither_torch_nor_the_weights_reader(name: str, tiny_kyn: Path) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    command = [sys.executable, "-c", PROGRAM, str(tiny_kyn), name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name, "[]"]


def with_labels(artifact: Artifact, *labels: str) -> Artifact:
    return write_artifact(artifact.path, replace(artifact.manifest, labels=labels), {})


def without_array(artifact: Artifact, file: str, name: str) -> Artifact:
    with np.load(artifact.file(file)) as arrays:
        kept = {key: arrays[key] for key in arrays.files if key != name}
    stream = io.BytesIO()
    np.savez(stream, **kept)
    return write_artifact(artifact.path, artifact.manifest, {file: stream.getvalue()})


def graph_without_labels(artifact: Artifact) -> Artifact:
    onnx = pytest.importorskip("onnx", reason="the graph is changed with onnx")
    graph = onnx.load(artifact.file(ENCODER), load_external_data=False)
    del graph.graph.output[1]
    return write_artifact(artifact.path, artifact.manifest, {ENCODER: graph.SerializeToString()})


def weights_alone(artifact: Artifact) -> Artifact:
    files = {WEIGHTS: artifact.manifest.files[WEIGHTS]}
    return write_artifact(artifact.path, replace(artifact.manifest, files=files), {})


FAULTS: dict[str, tuple[Callable[[Artifact], Artifact], str]] = {
    "too few labels": (lambda a: with_labels(a, "road", "car"), "got 2 labels in artifact.json, expected 6 as "),
    "too many labels": (lambda a: with_labels(a, *"abcdefg"), "got 7 labels in artifact.json, expected 6 as "),
    "no labels": (with_labels, "got 0 labels in artifact.json, expected 6 as "),
    "decoder without keys": (lambda a: without_array(a, DECODER, "keys"), "decoder.npz: got a file that is damaged"),
    "test without labels": (lambda a: without_array(a, SELFTEST, "labels"), "selftest.npz: got a file that is damaged"),
    "graph without labels": (graph_without_labels, "expected pre-activations and labels; `kyn export "),
    "weights alone": (weights_alone, "has no encoder.onnx; `kyn export "),
}


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence(name: str, fault: str, own: Artifact) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    damage, words = FAULTS[fault]
    damaged = damage(own)
    with pytest.raises(runtimes.RuntimeFailed) as refused:
        make_predictor(damaged, PredictorOptions(name, SPEC))
    text = str(refused.value)
    assert words in text and str(damaged.path) in text and "\n" not in text and len(text) < 500, text


def test_torch_says_the_same_of_a_wrong_number_of_labels(own: Artifact) -> None:
    with pytest.raises(runtimes.RuntimeFailed, match="got 2 labels, expected 6 as the model has"):
        make_predictor(with_labels(own, "road", "car"), PredictorOptions("torch", SPEC))
