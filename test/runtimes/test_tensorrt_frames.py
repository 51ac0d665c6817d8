"""The TensorRT runtime of depth from posed frames, on the stand-ins of ``test_tensorrt``."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")

from test_frames import assert_near, frames_of
from test_tensorrt import Machine
from test_tensorrt import machine as machine

from kyn_models import cli, runtimes
from kyn_models.artifact import Artifact
from kyn_models.runtimes.frame_queries import ANSWERS, FramesInput
from kyn_models.runtimes.frames import choose_frames
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.runtimes.tensorrt_frames import TensorRTFrames, load
from kyn_models.runtimes.torch_frames import TorchFrames

OPTIONS = LoadOptions(device="cuda")
EVERYTHING = frozenset(ANSWERS)


def loaded(machine: Machine, artifact: Artifact) -> TensorRTFrames:
    return load(artifact, replace(OPTIONS, say=machine.said.append))


def test_two_neighbours_one_and_none(machine: Machine, tiny_frames: Path) -> None:
    artifact = Artifact.load(tiny_frames)
    runtime, plain = loaded(machine, artifact), TorchFrames(artifact, "cpu")
    assert (runtime.name, runtime.precision, runtime.library) == ("tensorrt", "float32", "TensorRT 10.3.0.30")
    for count in (2, 1, 0):
        frames = frames_of(artifact, count)
        found, expected = runtime.depth(frames, EVERYTHING), plain.depth(frames, EVERYTHING)
        assert_near(found.mono_m, expected.mono_m)
        assert found.matched_m is None and set(found.stages_ms) == {"engine"}
        if count:
            assert_near(found.fused_m, expected.fused_m)
        else:
            assert found.fused_m is None
    kept = runtime.depth(frames_of(artifact))
    assert kept.mono_m is None and kept.fused_m is not None
    before = kept.fused_m.copy()
    runtime.depth(frames_of(artifact, 1))
    assert np.array_equal(kept.fused_m, before), "an answer was overwritten by the next one"


def test_an_image_is_one_launch_and_only_what_is_wanted_is_copied(machine: Machine, tiny_frames: Path) -> None:
    artifact = Artifact.load(tiny_frames)
    runtime = loaded(machine, artifact)
    for wanted, copies in ((frozenset({"fused"}), 1), (frozenset({"fused", "mono"}), 2)):
        machine.driver.calls.clear()
        runtime.depth(frames_of(artifact), wanted)
        assert machine.driver.calls.count("cuGraphLaunch") == 1
        assert machine.driver.calls.count("cuMemcpyDtoHAsync_v2") == copies
    machine.driver.calls.clear()
    assert runtime.depth(frames_of(artifact), frozenset({"matched"})).stages_ms == {}
    assert "cuGraphLaunch" not in machine.driver.calls


def test_three_neighbours_are_refused(machine: Machine, tiny_frames: Path) -> None:
    artifact = Artifact.load(tiny_frames)
    frames = frames_of(artifact)
    more = FramesInput(
        frames.image,
        np.concatenate([frames.neighbours, frames.neighbours[:1]]),
        frames.k,
        np.concatenate([frames.neighbour_from_key, frames.neighbour_from_key[:1]]),
    )
    with pytest.raises(ValueError, match="frames: neighbours: got 3, expected at most 2 with TensorRT"):
        loaded(machine, artifact).depth(more)


def test_auto_takes_it_after_a_self_test_and_builds_once(machine: Machine, tiny_frames: Path) -> None:
    artifact = Artifact.load(tiny_frames)
    for _ in range(2):
        assert choose_frames("auto", artifact, pytest.fail).name == "tensorrt"
    assert machine.builds == 1
    machine.become(version="10.16.1.11")
    assert choose_frames("tensorrt", artifact).library == "TensorRT 10.16.1.11"
    assert machine.builds == 2


def test_everything_is_freed(machine: Machine, tiny_frames: Path) -> None:
    runtime = loaded(machine, Artifact.load(tiny_frames))
    assert len(machine.driver.memory) >= 6
    del runtime
    gc.collect()
    assert not machine.driver.memory and not machine.driver._graphs and not machine.driver._streams


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("parse", r"the engine builder failed: .*multiframe\.onnx is not understood: In node 0 .* FooBar"),
        ("context", r"TensorRT makes no execution context: it gave no reason"),
        ("execute", r"TensorRT did not run the engine: Cask convolution execution"),
    ],
)
def test_faults_are_one_sentence(machine: Machine, tiny_frames: Path, fault: str, sentence: str) -> None:
    machine.become(fault=fault)
    artifact = Artifact.load(tiny_frames)
    with pytest.raises(runtimes.RuntimeFailed, match=f"runtime tensorrt: {sentence}") as caught:
        choose_frames("tensorrt", artifact)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="precision: got float16, expected float32 with TensorRT for posed frames"):
        load(artifact, replace(OPTIONS, precision="float16"))


def test_without_a_cuda_graph_it_runs_all_the_same(machine: Machine, tiny_frames: Path) -> None:
    artifact = Artifact.load(tiny_frames)
    machine.driver.fail = {"cuStreamEndCapture": 900}
    machine.driver._cuStreamBeginCapture_v2 = lambda stream, mode: None
    runtime = loaded(machine, artifact)
    assert "cannot be recorded as a CUDA graph" in machine.said[-1]
    frames = frames_of(artifact)
    assert_near(runtime.depth(frames).fused_m, TorchFrames(artifact, "cpu").depth(frames).fused_m)


def test_the_command_builds_and_lists_it(
    machine: Machine, tiny_frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["engine", "build", str(tiny_frames)]) == 0
    assert capsys.readouterr().out.endswith("ready in float32 with TensorRT 10.3.0.30, self-test passed\n")
    assert cli.main(["engine", "list"]) == 0
    assert "tensorrt 10.3.0.30  Stand-in GPU  float32  2 neighbours" in capsys.readouterr().out
