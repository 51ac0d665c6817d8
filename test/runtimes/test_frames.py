"""Runtimes of depth from posed frames: the same answers everywhere, and chosen by the same rule as all others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("numba", reason="the compiled cost volume needs numba")

from kyn_models import cli, runtimes
from kyn_models.artifact import MONO, MULTIFRAME, NETWORK, SELFTEST, WEIGHTS, Artifact, write_artifact
from kyn_models.npz import npz_bytes
from kyn_models.runtimes.frame_queries import ANSWERS, FramesInput, camera_matrix
from kyn_models.runtimes.frames import choose_frames, read_frames_test
from kyn_models.runtimes.queries import LoadOptions

ROOT = Path(__file__).resolve().parents[2]
EXACT = LoadOptions(precision="float32")
EVERYTHING = frozenset(ANSWERS)
INVERSE = 1e-4
"""Bound of the difference of inverse depths, as of the recorded ones."""
AT_A_BORDER = 0.002
"""Share of pixels that rounding may move to another plane of the pseudo cost."""


def frames_of(artifact: Artifact, count: int = 2) -> FramesInput:
    """Pictures with large and small things in them, taken before, at and after the key frame."""
    rng = np.random.default_rng(8)
    height, width = artifact.camera.height, artifact.camera.width
    pictures = np.kron(rng.integers(0, 200, (3, height // 8, width // 8, 3)), np.ones((1, 8, 8, 1)))
    images = (pictures + rng.integers(0, 55, pictures.shape)).astype(np.uint8)
    poses = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    poses[:, 2, 3] = 0.4, -0.5
    poses[:, 0, 3] = 0.1, 0.05
    return FramesInput(images[0], images[1 : 1 + count], camera_matrix(artifact.camera), poses[:count])


def assert_near(found: np.ndarray | None, expected: np.ndarray | None) -> None:
    assert found is not None and expected is not None and found.dtype == np.float32 and found.shape == expected.shape
    error = np.abs(1 / found - 1 / expected)
    assert (error > INVERSE).mean() <= AT_A_BORDER, error.max()


@pytest.fixture
def own(tiny_frames: Path, tmp_path: Path) -> Artifact:
    """A copy that a test may damage."""
    return Artifact.load(shutil.copytree(tiny_frames, tmp_path / "own"))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_agrees_with_plain_torch(name: str, tiny_frames: Path) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    artifact = Artifact.load(tiny_frames)
    plain, runtime = choose_frames("torch", artifact, pytest.fail), choose_frames(name, artifact, pytest.fail, EXACT)
    assert (runtime.name, runtime.precision, plain.name) == (name, "float32", "torch")
    alone = plain.depth(frames_of(artifact, 0), EVERYTHING)
    for count in (2, 1, 0):
        frames = frames_of(artifact, count)
        expected, found = plain.depth(frames, EVERYTHING), runtime.depth(frames, EVERYTHING)
        assert_near(found.mono_m, expected.mono_m)
        assert_near(found.mono_m, alone.mono_m)
        if count == 0:
            assert found.fused_m is None and found.matched_m is None and expected.fused_m is None
            continue
        assert_near(found.fused_m, expected.fused_m)
        assert expected.fused_m is not None and np.std(1 / expected.fused_m) > 1e-3
        assert found.matched_m is not None and expected.matched_m is not None
        seen = np.isfinite(expected.matched_m)
        assert 0.2 < seen.mean() < 1 and (np.isfinite(found.matched_m) != seen).sum() <= 2
        assert (np.abs(found.matched_m / expected.matched_m - 1)[seen] > 1e-5).mean() < 0.01


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_only_what_is_wanted_is_answered_and_it_is_the_same(name: str, tiny_frames: Path) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    artifact = Artifact.load(tiny_frames)
    runtime, frames = choose_frames(name, artifact, pytest.fail, EXACT), frames_of(artifact)
    whole = runtime.depth(frames, EVERYTHING)
    stages = {"fused": {"sweep", "network"}, "mono": {"network"}, "matched": {"sweep"}}
    for wanted, passed in stages.items():
        answer = runtime.depth(frames, frozenset({wanted}))
        given = {key for key in ANSWERS if getattr(answer, f"{key}_m") is not None}
        assert given == {wanted} and set(answer.stages_ms) == passed
        first, second = (getattr(a, f"{wanted}_m") for a in (answer, whole))
        np.testing.assert_allclose(first, second, rtol=1e-5)
    kept = whole.fused_m.copy()
    runtime.depth(frames._replace(image=255 - frames.image), EVERYTHING)
    assert np.array_equal(whole.fused_m, kept), "an answer was overwritten by the next one"


def test_what_does_not_fit_is_named(tiny_frames: Path) -> None:
    artifact = Artifact.load(tiny_frames)
    runtime, frames = choose_frames("torch", artifact, pytest.fail), frames_of(artifact)
    for words, changed in {
        r"image: got shape \(8, 96, 3\), expected \(64, 96, 3\)": {"image": frames.image[:8]},
        r"neighbours: got shape": {"neighbours": frames.neighbours[:, :8]},
        r"neighbour_from_key: got shape \(1, 4, 4\), expected \(2, 4, 4\)": {
            "neighbour_from_key": frames.neighbour_from_key[:1]
        },
        r"k: got shape": {"k": np.eye(4, dtype=np.float32)},
    }.items():
        with pytest.raises(ValueError, match=words):
            runtime.depth(frames._replace(**changed))
    with pytest.raises(ValueError, match=r"got \['depth'\], expected some of fused, matched, mono"):
        runtime.depth(frames, frozenset({"depth"}))


def test_auto_takes_the_first_that_passes_the_test(own: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the first of a machine without a GPU")
    assert choose_frames("auto", own, pytest.fail).name == "openvino"
    monkeypatch.setitem(sys.modules, "openvino", None)
    for module in ("openvino_frames", "openvino_runtime", "quiet_openvino"):
        monkeypatch.delitem(sys.modules, f"kyn_models.runtimes.{module}")
    assert choose_frames("auto", own, pytest.fail).name == "onnxruntime"
    with pytest.raises(runtimes.RuntimeFailed, match="runtime openvino: not installed .*pip install openvino numba"):
        choose_frames("openvino", own)


def test_a_runtime_that_fails_the_test_is_passed_over_or_an_error(own: Artifact) -> None:
    test = read_frames_test(own)
    write_artifact(own.path, own.manifest, {SELFTEST: npz_bytes(test | {"fused": test["fused"] * 1.1})})
    damaged, said = Artifact.load(own.path), []
    sentence = "self-test failed: 100.0% of its fused depths differ from those stored in .*, expected at most 1 %"
    with pytest.raises(runtimes.RuntimeFailed, match=f"runtime onnxruntime: {sentence}"):
        choose_frames("onnxruntime", damaged)
    with pytest.raises(runtimes.RuntimeFailed, match="no runtime works"):
        choose_frames("auto", damaged, said.append)
    assert said and all("self-test failed" in line for line in said)


def test_an_artifact_that_was_never_exported(own: Artifact) -> None:
    bare = write_artifact(own.path, replace(own.manifest, files={WEIGHTS: own.manifest.files[WEIGHTS]}), {})
    said: list[str] = []
    assert choose_frames("auto", bare, said.append).name == "torch"
    assert all("kyn export" in line for line in said)
    with pytest.raises(runtimes.RuntimeFailed, match=r"has no network.onnx; `kyn export .*` adds it"):
        choose_frames("onnxruntime", bare)
    with pytest.raises(ValueError, match="runtime: got 'x', expected one of auto, "):
        choose_frames("x", bare)


def test_a_robot_needs_no_torch(tiny_frames: Path) -> None:
    pytest.importorskip("openvino", reason="asked here")
    script = (
        "import sys; from kyn_models.artifact import Artifact; from kyn_models.runtimes.frames import choose_frames\n"
        f"choose_frames('openvino', Artifact.load({str(tiny_frames)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_what_export_writes(tiny_frames: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="graphs are read with onnx")
    artifact = Artifact.load(tiny_frames)
    assert set(artifact.manifest.files) == {WEIGHTS, NETWORK, MONO, MULTIFRAME, SELFTEST}
    inputs = {
        NETWORK: ["image", "cost"],
        MONO: ["image"],
        MULTIFRAME: ["image", "neighbours", "k", "neighbour_from_key"],
    }
    for name, expected in inputs.items():
        graph = onnx.load(artifact.path / name, load_external_data=False)
        onnx.checker.check_model(str(artifact.path / name), full_check=True)
        assert [item.name for item in graph.graph.input] == expected
        outside = [item for item in graph.graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
        places = {entry.value for item in outside for entry in item.external_data if entry.key == "location"}
        assert places == {WEIGHTS} and len(outside) > 50
    assert (artifact.path / NETWORK).stat().st_size < 0.3e6


@pytest.mark.long
def test_the_command_exports_and_says_how_near_it_is(own: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    bare = write_artifact(own.path, replace(own.manifest, files={WEIGHTS: own.manifest.files[WEIGHTS]}), {})
    before = {name: (own.path / name).read_bytes() for name in (NETWORK, MONO, MULTIFRAME)}
    assert cli.main(["export", str(bare.path)]) == 0
    out = capsys.readouterr().out
    assert "agrees with torch: largest difference" in out and "1/m in the fused and" in out
    assert {name: (own.path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("name", [MULTIFRAME, NETWORK])
def test_tensorrt_rtx_builds_the_graph(name: str, tiny_frames: Path) -> None:
    """Building ahead of time needs no GPU; running does, and is not claimed."""
    pytest.importorskip("tensorrt_rtx", reason="optional: pip install 'kyn[tensorrt-rtx]'")
    from kyn_models.runtimes.engine_build import Request, build
    from kyn_models.runtimes.tensorrt_library import find_library

    library = find_library(("tensorrt_rtx",))
    plan, _ = build(library.module, Request(library.product, str(tiny_frames / name), {}, 1 << 30), b"", print)
    assert len(plan) > 10_000


def test_the_manifest_says_what_it_is(tiny_frames: Path) -> None:
    content = json.loads((tiny_frames / "artifact.json").read_text())
    assert content["family"] == "dymultidepth" and content["input"] == "RGB uint8, image / 255 - 0.5"
    assert (content["z_near"], content["z_far"]) == (2.0, 50.0)
