"""The TensorRT runtime without a GPU: the whole path against stand-ins, and real compilation by TensorRT-RTX."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")

from kyn_models import cli, runtimes
from kyn_models.artifact import ENGINES, SELFTEST, Artifact, default_artifact, write_artifact
from kyn_models.cli import engine
from kyn_models.runtimes import cuda_driver, engine_build, tensorrt_library, tensorrt_runtime
from kyn_models.runtimes.cuda_device import gpu_count
from kyn_models.runtimes.cuda_driver import CudaError, Device
from kyn_models.runtimes.queries import LoadOptions, NoDevice, PointQuery, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch

STANDIN = Path(__file__).with_name("tensorrt_standin.py")


class HostCuda:
    """Device memory that is this process's, for the stand-in to compute on. capturing: whether graphs can be."""

    capturing = True
    allocated: dict[int, ctypes.Array] = {}
    name = "Stand-in GPU"

    def __init__(self) -> None:
        self.stream = 77
        self.thread: int | None = None
        self.allocated = type(self).allocated

    def enter(self) -> None:
        self.thread = threading.get_ident()

    def device(self) -> Device:
        return Device(self.name, "8.7", (12, 6), 8 << 30)

    def allocate(self, size: int) -> int:
        memory = (ctypes.c_ubyte * size)()
        self.allocated[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def free(self, address: int) -> None:
        del self.allocated[address]

    def host_array(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.zeros(shape, dtype)

    def release_host(self, array: np.ndarray) -> None:
        array[...] = 0

    def upload(self, address: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous and array.nbytes <= len(self.allocated[address])
        assert self.thread == threading.get_ident(), "the context is current in one thread at a time"
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        assert array.flags.c_contiguous and array.nbytes == len(self.allocated[address])
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def synchronize(self) -> None:
        """Everything was done at once."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        if not self.capturing:
            raise CudaError("CUDA driver: cuStreamEndCapture failed: operation not permitted (800)")
        work()
        return work


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a TensorRT that is not one: ``standin(version, fault, product)``."""
    monkeypatch.setenv("KYN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "builds"))
    monkeypatch.setattr(runtimes, "gpu_count", lambda: 1)
    monkeypatch.setattr(tensorrt_runtime, "Cuda", HostCuda)
    monkeypatch.setattr(HostCuda, "allocated", {})
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def install(version: str = "10.3.0.30", fault: str = "", product: str = "tensorrt") -> None:
        shutil.rmtree(tmp_path / "modules", ignore_errors=True)
        for name in tensorrt_library.PRODUCTS:
            monkeypatch.delitem(sys.modules, name, raising=False)
            folder = tmp_path / "modules" / name
            folder.mkdir(parents=True)
            absent = f'raise ImportError("No module named {name}")\n'
            (folder / "__init__.py").write_text(STANDIN.read_text() if name == product else absent)
        monkeypatch.setenv("STANDIN_VERSION", version)
        monkeypatch.setenv("STANDIN_FAULT", fault)

    install()
    return install


@pytest.fixture
def builds(tmp_path: Path) -> Callable[[], list[str]]:
    """What the builder was asked for, a line per build."""
    log = tmp_path / "builds"
    return lambda: log.read_text().splitlines() if log.is_file() else []


@pytest.fixture
def artifact(tiny_artifact: Path) -> Artifact:
    return Artifact.load(tiny_artifact)


def silent(sentence: str) -> None:
    pytest.fail(f"unexpected warning: {sentence}")


def questions() -> tuple[np.ndarray, dict]:
    rng = np.random.default_rng(5)
    image = np.kron(rng.integers(0, 256, (12, 40, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 40), np.linspace(-0.3, 0.3, 12))
    directions = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)
    points = rng.uniform([-30, -2, 3], [30, 3, 78], (3000, 3)).astype(np.float32)
    return image, {"depth": RayQuery(directions), "density": PointQuery(points)}


SIZES = LoadOptions(rays=700, points=4000)
"""Of an engine that holds the self-test's 640 rays and the questions' 480 at once."""


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("rays", [700, 200])
def test_answers_are_those_of_plain_torch(
    precision: str, rays: int, artifact: Artifact, standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled up to the engine's size, and in several passes."""
    monkeypatch.setattr(tensorrt_runtime, "POINTS_STEP", 1 << 10)
    options = LoadOptions(precision=precision, rays=rays, points=1 << 10)  # type: ignore[arg-type]
    runtime = runtimes.choose("tensorrt", artifact, silent, options)
    assert (runtime.name, runtime.precision, runtime.library) == ("tensorrt", precision, "TensorRT 10.3.0.30")
    image, queries = questions()
    step = runtime.prepare(queries)
    answer = step(image, frozenset(queries))
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    error = np.abs(answer.arrays["density"] - plain["density"])
    if precision == "float32":
        assert (error <= 1e-4 + 1e-3 * plain["density"]).all()
        np.testing.assert_allclose(answer.arrays["depth"], plain["depth"], rtol=1e-3, atol=1e-3)
    else:
        assert 0 < np.quantile(error, 0.99) < 0.02 * plain["density"].std()
        np.testing.assert_allclose(answer.arrays["depth"], plain["depth"], rtol=5e-3, atol=1e-2)
    assert set(answer.stages_ms) == {"model"}
    for name in queries:
        alone = step(image, frozenset({name})).arrays
        assert set(alone) == {name}
        np.testing.assert_array_equal(alone[name], answer.arrays[name])
    other = step(255 - image, frozenset(queries)).arrays
    assert not np.allclose(other["density"], answer.arrays["density"], atol=1e-3)


@pytest.mark.parametrize("version", ["10.3.0.30", "10.16.1.4", "11.4.0.106"])
def test_versions_of_tensorrt(version: str, artifact: Artifact, standin, builds) -> None:
    standin(version)
    said: list[str] = []
    options = LoadOptions(rays=700, points=4000, say=said.append)
    runtime = runtimes.choose("tensorrt", artifact, silent, options)
    assert runtime.library == f"TensorRT {version}" and runtime.precision == "float16"
    assert builds() == [f"{version} [7] {{0: {4 << 30}}}"], "TF32 is off, the workspace is half of the memory"
    assert said[0].startswith("building the engine") and said[-1].startswith("the engine is built")
    timing = next((Path(os.environ["KYN_CACHE_DIR"]) / "engines").glob("*/timing.cache"))
    assert timing.read_bytes() == b"timed "


def test_tensorrt_rtx_has_no_timing_cache(artifact: Artifact, standin, builds) -> None:
    standin("1.7.1.116", product="tensorrt_rtx")
    runtime = runtimes.choose("tensorrt", artifact, silent, SIZES)
    assert runtime.library == "TensorRT-RTX 1.7.1.116" and len(builds()) == 1
    assert not list((Path(os.environ["KYN_CACHE_DIR"]) / "engines").glob("*/timing.cache"))


def test_a_version_without_tf32_builds_too(artifact: Artifact, standin, builds) -> None:
    standin(fault="no TF32")
    runtimes.choose("tensorrt", artifact, silent, SIZES)
    assert builds()[0].startswith("10.3.0.30 [] ")


@pytest.mark.parametrize(
    ("product", "version", "sentence"),
    [
        ("tensorrt", "10.2.0.19", "got TensorRT 10.2.0.19, expected 10.3 or later and before 12.0"),
        ("tensorrt", "12.0.0.1", "got TensorRT 12.0.0.1, expected 10.3 or later and before 12.0"),
        ("tensorrt_rtx", "1.1.0.26", "got TensorRT-RTX 1.1.0.26, expected 1.4 or later and before 2.0"),
    ],
)
def test_a_wrong_version_is_one_sentence_and_passed_over(
    product: str, version: str, sentence: str, artifact: Artifact, standin
) -> None:
    standin(version, product=product)
    with pytest.raises(runtimes.RuntimeFailed, match=f"runtime tensorrt: {sentence}"):
        runtimes.choose("tensorrt", artifact, silent, SIZES)
    said: list[str] = []
    other = runtimes.choose("auto", artifact, said.append, SIZES)
    assert other.name != "tensorrt" and sentence in said[0] and "trying the next one" in said[0]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("unknown operator", r"cannot read .*engine_float16.onnx: In node 0 .*FooBar"),
        ("build", r"cannot build .*engine_float16.onnx, see its messages above"),
        ("crash", "the builder was ended by SIGSEGV"),
        ("refuse", "does not take the engine that it built on Stand-in GPU"),
        ("no context", "cannot create an execution context"),
        ("execute", "execute_async_v3 failed"),
        ("wrong", "self-test failed"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_the_next_runtime(
    fault: str, sentence: str, artifact: Artifact, standin
) -> None:
    pytest.importorskip("openvino", reason="the next runtime is openvino")
    standin(fault=fault)
    with pytest.raises(runtimes.RuntimeFailed, match=sentence) as caught:
        runtimes.choose("tensorrt", artifact, silent, SIZES)
    assert "\n" not in str(caught.value)
    said: list[str] = []
    # torch on the GPU that is not there fails too, and says so.
    assert runtimes.choose("auto", artifact, said.append, SIZES).name == "openvino"
    assert said[0].startswith("runtime tensorrt on cuda: ") and said[0].endswith("trying the next one")


def test_an_engine_that_is_refused_once_is_built_again(
    artifact: Artifact, standin, builds, caplog: pytest.LogCaptureFixture
) -> None:
    standin(fault="refuse once")
    assert runtimes.choose("tensorrt", artifact, silent, SIZES).name == "tensorrt"
    assert len(builds()) == 2 and "does not take the cached engine; it is built again" in caplog.text


def test_engines_are_kept_by_everything_that_decides(
    artifact: Artifact, standin, builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(**changes: object) -> None:
        runtimes.choose("tensorrt", artifact, silent, LoadOptions(**{"rays": 700, "points": 4000, **changes}))  # type: ignore[arg-type]

    load()
    load()
    load(points=60_000)
    assert len(builds()) == 1, "a grid that changes a little finds its engine"
    for number, changes in enumerate(({"rays": 800}, {"points": 70_000}, {"precision": "float32"}), start=2):
        load(**changes)
        assert len(builds()) == number
    monkeypatch.setattr(HostCuda, "name", "Another GPU")
    load()
    assert len(builds()) == 5
    standin("10.16.1.4")
    load()
    assert len(builds()) == 6
    standin()
    load()
    assert len(builds()) == 6


def test_without_a_graph_capture_it_launches_piece_by_piece(
    artifact: Artifact, standin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(HostCuda, "capturing", False)
    runtime = runtimes.choose("tensorrt", artifact, silent, SIZES)
    image, queries = questions()
    runtime.prepare(queries)(image, frozenset(queries))
    assert caplog.text.count("no CUDA graph can be captured") == 1


def test_the_memory_of_old_constants_is_given_back(artifact: Artifact, standin) -> None:
    runtime = runtimes.choose("tensorrt", artifact, silent, SIZES)
    image, queries = questions()
    kept = len(HostCuda.allocated)
    for _ in range(3):
        step = runtime.prepare(queries)
        step(image, frozenset(queries))
        assert len(HostCuda.allocated) > kept
        del step
    assert len(HostCuda.allocated) == kept


def test_another_thread_may_prepare_while_one_asks(artifact: Artifact, standin) -> None:
    runtime = runtimes.choose("tensorrt", artifact, silent, SIZES)
    image, queries = questions()
    step = runtime.prepare(queries)
    expected = step(image, frozenset(queries)).arrays
    failures: list[BaseException] = []

    def prepare() -> None:
        try:
            for _ in range(3):
                runtime.prepare(queries)(255 - image, frozenset(queries))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=prepare)
    thread.start()
    for _ in range(5):
        answer = step(image, frozenset(queries)).arrays
        for name in queries:
            np.testing.assert_array_equal(answer[name], expected[name])
    thread.join()
    assert not failures


def test_an_artifact_without_graphs_says_what_adds_them(tiny_artifact: Path, tmp_path: Path, standin) -> None:
    old = Artifact.load(shutil.copytree(tiny_artifact, tmp_path / "old"))
    files = {name: digest for name, digest in old.manifest.files.items() if name not in ENGINES.values()}
    old = write_artifact(old.path, replace(old.manifest, files=files), {})
    with pytest.raises(runtimes.RuntimeFailed, match=r"has no engine_float16\.onnx; `kyn export"):
        runtimes.choose("tensorrt", old, silent, SIZES)
    with pytest.raises(runtimes.RuntimeFailed, match="got bfloat16, expected float32 or float16 for TensorRT"):
        runtimes.choose("tensorrt", old, silent, LoadOptions(precision="bfloat16"))


def test_no_gpu_is_one_sentence() -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    artifact = Artifact.load(default_artifact())
    with pytest.raises(runtimes.RuntimeFailed, match="runtime tensorrt: no NVIDIA GPU found here"):
        runtimes.choose("tensorrt", artifact, silent)
    with pytest.raises(OSError, match="libcuda"):
        cuda_driver.Cuda()
    assert issubclass(NoDevice, RuntimeError)


def test_a_failed_driver_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def __getattr__(self, name: str) -> Callable[..., int]:
            return lambda *arguments: 2 if name == "cuMemAlloc_v2" else 0

        def cuGetErrorString(self, status: int, text) -> int:  # noqa: N802 - the driver's name
            text._obj.value = b"out of memory"
            return 0

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: Driver())
    cuda = cuda_driver.Cuda()
    with pytest.raises(CudaError, match=r"CUDA driver: cuMemAlloc_v2 failed: out of memory \(2\)"):
        cuda.allocate(10)
    assert cuda.device().driver_cuda == (0, 0)


def test_the_stored_self_test_decides(tiny_artifact: Path, tmp_path: Path, standin) -> None:
    own = Artifact.load(shutil.copytree(tiny_artifact, tmp_path / "own"))
    stored = dict(np.load(own.file(SELFTEST)))
    np.savez(own.path / "other.npz", **(stored | {"depth": stored["depth"] * 2}))
    damaged = write_artifact(own.path, own.manifest, {SELFTEST: (own.path / "other.npz").read_bytes()})
    with pytest.raises(runtimes.RuntimeFailed, match="self-test failed: .* of its depth values differ"):
        runtimes.choose("tensorrt", damaged, silent, SIZES)


def test_the_engine_command_builds_what_the_runtime_finds(
    tiny_artifact: Path, standin, builds, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "gpu_count", lambda: 1)
    assert cli.main(["engine", "build", str(tiny_artifact), "--rays", "20", "35", "--points", "4000"]) == 0
    text = capsys.readouterr().out
    assert "TensorRT 10.3.0.30" in text and "the engine is there: float16, 700 rays, 65536 points, for Stand-in" in text
    runtimes.choose("tensorrt", Artifact.load(tiny_artifact), silent, SIZES)
    assert len(builds()) == 1
    standin(fault="unknown operator")
    assert cli.main(["engine", "build", str(tiny_artifact), "--precision", "float32"]) == 2
    assert "FooBar" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["random weights", "shipped"])
def test_only_the_image_network_is_half_precision(model: str, tiny_artifact: Path) -> None:
    """No geometry, code or grid, and nothing that is computed from them, is float16 or ever comes from it."""
    onnx = pytest.importorskip("onnx", reason="the graph is read with onnx")
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    artifact = Artifact.load(tiny_artifact if model == "random weights" else default_artifact())
    graph = onnx.shape_inference.infer_shapes(onnx.load(artifact.file(ENGINES["float16"])), strict_mode=True).graph
    types = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.output, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {types[item.name] for item in (*graph.input, *graph.output)} == {single, onnx.TensorProto.UINT8}
    sampled = [node for node in graph.node if node.op_type == "GridSample"]
    assert len(sampled) == 2 and {types[name] for node in sampled for name in node.input} == {single}
    after = {item.name for item in graph.input if item.name != "image"} | {node.output[0] for node in sampled}
    for node in graph.node:
        if after & set(node.input):
            after |= set(node.output)
            used = {types[name] for name in (*node.input, *node.output) if name}
            assert half not in used, f"{node.op_type} {node.name} computes in float16"
    assert {item.name for item in graph.output} <= after
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions and {types[node.output[0]] for node in convolutions} == {half}


@pytest.mark.parametrize("precision", list(ENGINES))
@pytest.mark.parametrize("model", ["random weights", "shipped"])
def test_tensorrt_rtx_compiles_every_exported_graph(
    model: str, precision: str, tiny_artifact: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="optional: pip install tensorrt-rtx")
    artifact = Artifact.load(tiny_artifact if model == "random weights" else default_artifact())
    sizes = tensorrt_runtime.Sizes(96 * 320, 400_000)
    hidden = int(np.load(artifact.file("decoder.npz"))["bias"].size)
    request = engine_build.BuildRequest(
        product="tensorrt_rtx",
        graph=str(artifact.file(ENGINES[precision])),
        shapes=tensorrt_runtime.input_shapes(sizes, hidden),
        plan=str(tmp_path / "plan"),
    )
    said: list[str] = []
    engine_build.build_apart(request, said.append)
    assert (tmp_path / "plan").stat().st_size > 100_000 and "the engine is built" in said[-1]


def test_what_tensorrt_rtx_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="optional: pip install tensorrt-rtx")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    request = engine_build.BuildRequest("tensorrt_rtx", str(tmp_path / "broken.onnx"), {}, str(tmp_path / "plan"))
    with pytest.raises(engine_build.BuildFailed, match=r"TensorRT-RTX .* cannot read .*broken\.onnx"):
        engine_build.build_apart(request, lambda _: None)
