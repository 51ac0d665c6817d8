"""The TensorRT runtime from load to answer, on stand-ins for the library and the driver that compute for real.

What this cannot show is what TensorRT and CUDA do on a GPU; see docs/tensorrt.md.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")

from kyn_models import cli, runtimes
from kyn_models.artifact import ENGINES, Artifact, write_artifact
from kyn_models.runtimes import cuda, engine_process, tensorrt_library, tensorrt_runtime
from kyn_models.runtimes.queries import LoadOptions, NoDevice, PointQuery, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch

STAND_IN = Path(__file__).parent / "stand_in"
OPTIONS = LoadOptions(device="cuda", precision="float32", rays=500, points=3000)


class Machine:
    """A machine with a stand-in GPU and TensorRT. said: all progress of what was loaded with ``options``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self._monkeypatch, self.log = monkeypatch, tmp_path / "builds"
        self.said: list[str] = []
        monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
        monkeypatch.syspath_prepend(str(STAND_IN))
        monkeypatch.setattr(tensorrt_runtime, "POINTS_STEP", 512)
        monkeypatch.setattr(runtimes, "gpu_count", lambda: 1)
        self.driver = self.become()

    def become(self, **what: object):
        """Another library; see the stand-in for what it can be."""
        self._monkeypatch.setenv("KYN_STAND_IN", json.dumps({"log": str(self.log), **what}))
        sys.modules.pop("tensorrt", None)
        library = importlib.import_module("tensorrt")
        self._monkeypatch.setitem(sys.modules, "tensorrt", library)
        self.driver = importlib.import_module("cuda_driver").Driver(library)
        self._monkeypatch.setattr(cuda, "load_library", lambda name: self.driver)
        return self.driver

    @property
    def builds(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def load(self, artifact: Artifact, options: LoadOptions = OPTIONS):
        return tensorrt_runtime.load(artifact, replace(options, say=self.said.append))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


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


def assert_equal_to(plain: dict, answer: dict) -> None:
    for name, values in answer.items():
        assert values.shape == plain[name].shape and values.dtype == np.float32
        np.testing.assert_allclose(values, plain[name], rtol=1e-3, atol=1e-3 if name == "depth" else 1e-4)


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


def test_a_new_grid_of_nearly_the_same_size_needs_no_new_engine(machine: Machine, tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    machine.load(artifact)
    machine.load(artifact, replace(OPTIONS, points=2800))
    assert machine.builds == 1
    machine.load(artifact, replace(OPTIONS, points=3100))
    assert machine.builds == 2


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


def test_an_update_of_the_library_builds_again(machine: Machine, tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    machine.load(artifact)
    machine.become(version="10.16.1.11")
    machine.load(artifact)
    machine.load(artifact)
    assert machine.builds == 2


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


def test_an_older_artifact_says_what_adds_the_graph(machine: Machine, tiny_artifact: Path, tmp_path: Path) -> None:
    own = Artifact.load(shutil.copytree(tiny_artifact, tmp_path / "own"))
    files = {name: digest for name, digest in own.manifest.files.items() if name not in ENGINES.values()}
    older = write_artifact(own.path, replace(own.manifest, files=files), {})
    with pytest.raises(FileNotFoundError, match=r"has no engine_float16\.onnx; `kyn export .*` adds it"):
        machine.load(older, replace(OPTIONS, precision="auto"))


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


def test_progress_is_said(machine: Machine, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.become(slow_s=1.0)
    monkeypatch.setattr(tensorrt_runtime, "build_in_process", lambda *args: engine_process.build_in_process(*args, 0.3))
    machine.load(Artifact.load(tiny_artifact))
    assert machine.said[0].startswith("TensorRT 10.3.0.30 builds an engine for Stand-in GPU; this can take minutes")
    building = [line for line in machine.said if line.startswith("building the engine, ")]
    assert len(building) >= 3 and "Timing graph nodes" in building[-1]
    assert machine.said[-1].startswith("built the engine in ")


def test_the_builder_ends_with_the_process_that_wants_its_engine(machine: Machine, tiny_artifact: Path) -> None:
    machine.become(slow_s=60)
    graph = tiny_artifact / ENGINES["float32"]
    asked = {"product": "tensorrt", "onnx": str(graph), "shapes": {}, "workspace": 1}
    with open(os.memfd_create("plan"), "wb") as plan, open(os.memfd_create("timing"), "wb") as timing:
        files = (plan.fileno(), timing.fileno())
        command = [sys.executable, "-m", "kyn_models.runtimes.engine_build"]
        asked |= {"plan_fd": files[0], "timing_fd": files[1]}
        with subprocess.Popen(
            [*command, json.dumps(asked)], cwd=engine_process.ROOT, stdin=subprocess.PIPE, pass_fds=files
        ) as process:
            while not machine.builds:
                assert process.poll() is None
                time.sleep(0.05)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 3


def test_the_command_builds_lists_and_removes(
    machine: Machine, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["engine", "build", str(tiny_artifact), "--rays", "20", "30", "--points", "900", "--precision", "float32"]
    assert cli.main(build) == 0
    out = capsys.readouterr().out
    assert "builds an engine for Stand-in GPU" in out
    assert out.endswith("ready in float32 with TensorRT 10.3.0.30, self-test passed\n")
    machine.load(Artifact.load(tiny_artifact), replace(OPTIONS, rays=600, points=1000))
    assert machine.builds == 1, "the node finds what the command has built"
    assert cli.main(["engine", "list"]) == 0
    listed, total = capsys.readouterr().out.splitlines()
    assert "tensorrt 10.3.0.30  Stand-in GPU  float32  600 rays, 1024 points" in listed and total.startswith(
        "1 engines"
    )
    assert cli.main(["engine", "clean", "--older-than", "1"]) == 0
    assert capsys.readouterr().out.startswith("removed 0 engines")
    assert cli.main(["engine", "clean", "--all"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 engines")
    assert cli.main(build) == 0 and machine.builds == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["build", "--points", "0"], "kyn engine: --points: got 0, expected a number above 0"),
        (
            ["build"],
            "kyn engine: runtime tensorrt: no NVIDIA GPU found here, the driver sees none; use another runtime",
        ),
        (["clean", "--older-than", "-1"], "kyn engine: --older-than: got -1.0, expected a number of days, 0 or above"),
    ],
)
def test_the_command_says_what_is_wrong(
    machine: Machine, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    machine.driver.devices = 0
    assert cli.main(["engine", *words]) == 2
    assert capsys.readouterr().err == sentence + "\n"
