"""The TensorRT runtime from load to answer, on stand-ins for the library and the driver that compute for real.

What this cannot show is what TensorRT and CUDA do on a GPU; see docs/tensorrt.md.
"""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")

from stand_in_machine import OPTIONS, Machine, assert_equal_to
from stand_in_machine import machine as machine

from kyn_models import runtimes
from kyn_models.artifact import Artifact
from kyn_models.runtimes import cuda, tensorrt_library, tensorrt_runtime
from kyn_models.runtimes.queries import LoadOptions, NoDevice, PointQuery, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch


@pytest.fixture(scope="module")
def asked(tiny_artifact: Path) -> tuple[np.ndarray, dict, dict]:
    """A picture, more rays and points than one pass of ``OPTIONS`` holds, and what plain torch says."""
    rng = np.random.default_rng(5)
    image = np.kron(rng.integers(0, 256, (12, 40, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 40), np.linspace(-0.3, 0.3, 30))
    queries = {
        "depth": RayQuery(np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)),
        "far": PointQuery(rng.uniform([-30, -2, 30], [30, 3, 78], (2500, 3)).astype(np.float32)),
        "near": PointQuery(rng.uniform([-9, -2, 3], [9, 3, 30], (1700, 3)).astype(np.float32)),
    }
    plain = PlainTorch(Artifact.load(tiny_artifact), "cpu").prepare(queries)(image, frozenset(queries)).arrays
    return image, queries, plain


def test_several_passes_several_queries(machine: Machine, tiny_artifact: Path, asked: tuple) -> None:
    image, queries, plain = asked
    runtime = machine.load(Artifact.load(tiny_artifact))
    assert (runtime.name, runtime.precision, runtime.library) == ("tensorrt", "float32", "TensorRT 10.3.0.30")
    step = runtime.prepare(queries)
    other = step(255 - image, frozenset(queries)).arrays
    assert not np.allclose(other["near"], plain["near"], atol=1e-3)
    answer = step(image, frozenset(queries))
    assert set(answer.stages_ms) == {"engine"} and set(answer.arrays) == set(queries)
    assert_equal_to(plain, answer.arrays)
    assert not np.allclose(other["near"], answer.arrays["near"]), "an answer was overwritten by the next image"


def test_only_what_is_wanted_is_run_and_copied(machine: Machine, tiny_artifact: Path, asked: tuple) -> None:
    image, queries, plain = asked
    step = machine.load(Artifact.load(tiny_artifact)).prepare(queries)
    machine.driver.calls.clear()
    answer = step(image, frozenset({"near"})).arrays  # points 2500 to 4200 lie in both passes of 3072
    assert set(answer) == {"near"}
    assert_equal_to(plain, answer)
    assert machine.driver.calls.count("cuGraphLaunch") == 2
    assert machine.driver.calls.count("cuMemcpyDtoHAsync_v2") == 2
    machine.driver.calls.clear()
    assert_equal_to(plain, step(image, frozenset({"far"})).arrays)
    assert machine.driver.calls.count("cuGraphLaunch") == machine.driver.calls.count("cuMemcpyDtoHAsync_v2") == 1


def test_everything_is_freed(machine: Machine, tiny_artifact: Path, asked: tuple) -> None:
    image, queries, _ = asked
    runtime = machine.load(Artifact.load(tiny_artifact))
    for _ in range(2):
        step = runtime.prepare(queries)
        assert len(machine.driver.memory) > 10
        step(image, frozenset(queries))
        del step
        gc.collect()
        assert not machine.driver.memory and not machine.driver._graphs and not machine.driver._streams


def test_auto_takes_it_after_a_self_test_in_float16(machine: Machine, tiny_artifact: Path) -> None:
    runtime = runtimes.choose("auto", Artifact.load(tiny_artifact), pytest.fail, replace(OPTIONS, precision="auto"))
    assert (runtime.name, runtime.precision) == ("tensorrt", "float16")
    assert machine.builds == 1  # the self-test uses the engine of the work


@pytest.mark.parametrize(
    "what",
    [
        {"version": "10.16.1.11"},
        {"version": "11.4.0.106", "without": ["STRONGLY_TYPED", "TF32"]},
        {"version": "11.1.0.1", "without": ["IProgressMonitor"]},
    ],
    ids=lambda what: what["version"],
)
def test_versions(machine: Machine, tiny_artifact: Path, asked: tuple, what: dict) -> None:
    image, queries, plain = asked
    machine.become(**what)
    runtime = machine.load(Artifact.load(tiny_artifact))
    assert runtime.library == f"TensorRT {what['version']}"
    assert_equal_to(plain, runtime.prepare(queries)(image, frozenset({"depth"})).arrays)


@pytest.mark.parametrize("version", ["10.2.0.19", "9.3.0.1", "12.0.0.1", "unknown"])
def test_other_versions_are_refused(machine: Machine, tiny_artifact: Path, version: str) -> None:
    machine.become(version=version)
    with pytest.raises(RuntimeError, match=rf"tensorrt: got version {version}, expected 10\.3 or later and before 12"):
        machine.load(Artifact.load(tiny_artifact))


def test_rtx_is_taken_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = ModuleType("tensorrt_rtx")
    rtx.__version__ = "1.7.1.116"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    found = tensorrt_library.find_library()
    assert (found.product, found.title) == ("tensorrt_rtx", "TensorRT-RTX 1.7.1.116")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ImportError):
        tensorrt_library.find_library()


def test_no_gpu(machine: Machine, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.load(tiny_artifact)
    machine.driver.devices = 0
    with pytest.raises(NoDevice, match="no NVIDIA GPU found here"):
        machine.load(artifact)
    assert runtimes.choose("auto", artifact, pytest.fail).name != "tensorrt"

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda, "load_library", missing)
    with pytest.raises(runtimes.RuntimeFailed, match="runtime tensorrt: no NVIDIA GPU found here, the driver is miss"):
        runtimes.choose("tensorrt", artifact)
    assert runtimes.choose("auto", artifact, pytest.fail).name != "tensorrt"


def test_precision_that_it_lacks(tiny_artifact: Path) -> None:
    with pytest.raises(ValueError, match="precision: got bfloat16, expected float32 or float16 with TensorRT"):
        tensorrt_runtime.load(Artifact.load(tiny_artifact), LoadOptions("cuda", "bfloat16"))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("parse", r"the engine builder failed: .*engine_float32\.onnx is not understood: In node 0 .* FooBar"),
        ("none", r"the engine builder failed: no engine came out of .*: no tactic for node 7"),
        ("raise", r"the engine builder failed: .*the library"),
        ("segfault", r"the engine builder was ended by SIGSEGV"),
        ("kill", r"the engine builder was ended by SIGKILL, often for lack of memory"),
        ("context", r"TensorRT makes no execution context: it gave no reason"),
        ("shape", r"TensorRT refuses shape \(1, 1, 500, 2\) for ray_grid"),
        ("execute", r"TensorRT did not run the engine: Cask convolution execution"),
    ],
)
def test_faults_of_the_library_are_one_sentence(
    machine: Machine, tiny_artifact: Path, asked: tuple, fault: str, sentence: str
) -> None:
    machine.become(fault=fault)
    artifact = Artifact.load(tiny_artifact)
    with pytest.raises(RuntimeError, match=sentence) as caught:
        machine.load(artifact).prepare(asked[1])
    assert "\n" not in str(caught.value)
    warnings: list[str] = []
    assert runtimes.choose("auto", artifact, warnings.append).name != "tensorrt"
    assert warnings[0].startswith("runtime tensorrt on cuda: ") and warnings[0].endswith("trying the next one")


def test_faults_of_the_driver_name_the_call(machine: Machine, tiny_artifact: Path, asked: tuple) -> None:
    image, queries, _ = asked
    runtime = machine.load(Artifact.load(tiny_artifact))
    machine.driver.fail = {"cuMemAlloc_v2": 2}
    with pytest.raises(cuda.CudaError, match=r"CUDA: cuMemAlloc_v2 of \d+ MB failed with 2 \(out of memory\)"):
        runtime.prepare(queries)
    machine.driver.fail = {}
    step = runtime.prepare(queries)
    machine.driver.fail = {"cuStreamSynchronize": 700}
    with pytest.raises(cuda.CudaError, match=r"cuStreamSynchronize failed with 700 \(a fault\)"):
        step(image, frozenset(queries))


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_without_a_cuda_graph_it_runs_all_the_same(
    machine: Machine, tiny_artifact: Path, asked: tuple, call: str
) -> None:
    image, queries, plain = asked
    runtime = machine.load(Artifact.load(tiny_artifact))
    machine.driver.fail = {call: 900}
    if call == "cuStreamEndCapture":  # a real stream stops capturing even then
        machine.driver._cuStreamBeginCapture_v2 = lambda stream, mode: None
    step = runtime.prepare(queries)
    assert [line for line in machine.said if "CUDA graph" in line] == [machine.said[-1]]
    assert_equal_to(plain, step(image, frozenset(queries)).arrays)
    assert "cuGraphLaunch" not in machine.driver.calls


def test_prepare_while_a_step_runs(machine: Machine, tiny_artifact: Path, asked: tuple) -> None:
    """Another camera is prepared in its own thread, which has never seen the GPU, while images keep coming."""
    image, queries, plain = asked
    runtime = machine.load(Artifact.load(tiny_artifact))
    step = runtime.prepare(queries)
    steps: dict[str, object] = {}

    def prepare(name: str) -> None:
        steps[name] = runtime.prepare({name: queries[name]})

    threads = [threading.Thread(target=prepare, args=(name,)) for name in ("near", "depth")]
    for thread in threads:
        thread.start()
    rounds = 0
    while any(thread.is_alive() for thread in threads) or rounds < 2:
        assert_equal_to(plain, step(image, frozenset(queries)).arrays)
        rounds += 1
    for name in ("near", "depth"):
        assert_equal_to(plain, steps[name](image, frozenset({name})).arrays)  # type: ignore[operator]
