"""All runtimes give the same answers, and the choice between them follows its rule."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference is the torch runtime")
pytest.importorskip("numba", reason="the compiled decoder needs numba")

from kyn_models import runtimes
from kyn_models.artifact import ENCODER, SELFTEST, Artifact, default_artifact, write_artifact
from kyn_models.export import SKY_SHARE
from kyn_models.runtimes.queries import LoadOptions, NoDevice, PointQuery, RayQuery
from kyn_models.runtimes.torch_runtime import PlainTorch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tiny_artifact: Path, tmp_path: Path) -> Artifact:
    """A copy that a test may damage."""
    return Artifact.load(shutil.copytree(tiny_artifact, tmp_path / "own"))


def silent(message: str) -> None:
    pytest.fail(f"unexpected warning: {message}")


@pytest.fixture(scope="module")
def questions(tiny_artifact: Path) -> tuple[np.ndarray, dict]:
    """A smooth picture, rays, and points inside and outside the view."""
    rng = np.random.default_rng(5)
    image = np.kron(rng.integers(0, 256, (12, 40, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 40), np.linspace(-0.3, 0.3, 12))
    directions = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)
    points = rng.uniform([-30, -2, 3], [30, 3, 78], (5000, 3)).astype(np.float32)
    return image, {"depth": RayQuery(directions), "density": PointQuery(points)}


@pytest.mark.parametrize("model", ["random weights", "shipped"])
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_agrees_with_plain_torch(
    name: str, model: str, tiny_artifact: Path, questions: tuple[np.ndarray, dict]
) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    image, queries = questions
    artifact = Artifact.load(tiny_artifact if model == "random weights" else default_artifact())
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    runtime = runtimes.choose(name, artifact, silent, LoadOptions(precision="float32"))
    answer = runtime.prepare(queries)(image, frozenset(queries)).arrays
    assert plain["density"].std() > 0.01 and np.isfinite(plain["depth"]).mean() > 0.5
    assert (np.abs(answer["density"] - plain["density"]) <= 1e-4 + 1e-3 * plain["density"]).all()
    # Where the transmittance is 1/2 to within rounding, sky or surface is a matter of rounding.
    differ = np.isfinite(answer["depth"]) != np.isfinite(plain["depth"])
    assert differ.mean() <= SKY_SHARE
    np.testing.assert_allclose(answer["depth"][~differ], plain["depth"][~differ], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_the_shipped_model_runs(name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    artifact = Artifact.load(default_artifact())
    assert sum(file.stat().st_size for file in artifact.path.iterdir()) < 25e6
    runtime = runtimes.choose(name, artifact, silent, LoadOptions(precision="float32"))
    assert runtimes.self_test(runtime, artifact) < 1e-3


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_an_answer_does_not_depend_on_what_else_is_asked(
    name: str, tiny_artifact: Path, questions: tuple[np.ndarray, dict]
) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    image, queries = questions
    runtime = runtimes.choose(name, Artifact.load(tiny_artifact), silent)
    both = runtime.prepare(queries)(image, frozenset(queries)).arrays
    for query in queries:
        alone = runtime.prepare({query: queries[query]})(image, frozenset({query})).arrays
        assert set(alone) == {query}
        np.testing.assert_array_equal(alone[query], both[query])


def test_an_answer_does_not_depend_on_the_image_before(tiny_artifact: Path, questions: tuple[np.ndarray, dict]) -> None:
    image, queries = questions
    step = runtimes.choose("auto", Artifact.load(tiny_artifact), silent).prepare(queries)
    first = {name: array.copy() for name, array in step(image, frozenset(queries)).arrays.items()}
    other = step(255 - image, frozenset(queries)).arrays
    assert not np.allclose(other["density"], first["density"], atol=1e-3)
    again = step(image, frozenset(queries)).arrays
    for name in queries:
        np.testing.assert_array_equal(again[name], first[name])


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_of_convolutions_stays_near_float32(
    precision: str, tiny_artifact: Path, questions: tuple[np.ndarray, dict]
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    from kyn_models.runtimes.openvino_runtime import CAPABILITIES, core

    image, queries = questions
    artifact, options = Artifact.load(tiny_artifact), LoadOptions(precision=precision)
    if CAPABILITIES[precision] not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(runtimes.RuntimeFailed, match=f"got {precision}, which this CPU lacks, expected float32"):
            runtimes.choose("openvino", artifact, silent, options)
        return
    runtime = runtimes.choose("openvino", artifact, silent, options)
    assert runtime.precision == precision and runtime.library.startswith("OpenVINO 20")
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    answer = runtime.prepare(queries)(image, frozenset(queries)).arrays
    error = np.abs(answer["density"] - plain["density"])
    assert error.max() > 0, "it is float32"
    assert np.quantile(error, 0.99) < 0.1 * plain["density"].std()
    assert np.quantile(np.abs(answer["depth"] / plain["depth"] - 1), 0.99) < 0.05


@pytest.mark.parametrize(
    "flags, precision",
    [
        ("fpu avx512f avx512_fp16 avx512_bf16", "float32"),
        ("fpu amx_tile amx_bf16 avx512_fp16", "float16"),
        ("fpu amx_tile amx_bf16", "bfloat16"),
    ],
)
def test_half_precision_is_the_default_where_it_is_faster(flags: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    from kyn_models.runtimes.openvino_runtime import fastest_precision

    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\nbugs : amx_tile\n")
    assert fastest_precision(tmp_path / "cpuinfo") == precision
    assert fastest_precision(tmp_path / "none") == "float32"


def test_signals_reach_a_process_whose_model_was_freed_in_another_thread(tiny_artifact: Path) -> None:
    """As a node frees it whose model changes beside the thread that began; OpenVINO took the signals' stack along."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    program = f"""
import gc, os, signal, threading
from kyn_models import runtimes
from kyn_models.artifact import Artifact
loaded = [runtimes.choose("openvino", Artifact.load({str(tiny_artifact)!r}), print)]
thread = threading.Thread(target=lambda: (loaded.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("asked to end"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (found.returncode, found.stdout) == (0, "asked to end\n"), found.stderr


def test_a_precision_that_a_runtime_lacks_is_one_sentence(tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    for name in ("onnxruntime", "torch"):
        pytest.importorskip(name, reason=f"{name} is not installed")
        with pytest.raises(runtimes.RuntimeFailed, match=f"runtime {name}: precision: got bfloat16, expected float32"):
            runtimes.choose(name, artifact, silent, LoadOptions(precision="bfloat16"))
    with pytest.raises(ValueError, match="precision: got 'int8', expected one of auto, float32"):
        runtimes.choose("auto", artifact, silent, LoadOptions(precision="int8"))  # type: ignore[arg-type]


def test_unknown_name(tiny_artifact: Path) -> None:
    with pytest.raises(ValueError, match="runtime: got 'tensorflow', expected one of auto, tensorrt, openvino"):
        runtimes.choose("tensorflow", Artifact.load(tiny_artifact))


def with_file(artifact: Artifact, name: str, content: bytes) -> Artifact:
    """The artifact with another content of one file, and the hash of that content."""
    return write_artifact(artifact.path, artifact.manifest, {name: content})


def test_a_truncated_graph_is_an_error_when_named_and_passed_over_by_auto(own: Artifact) -> None:
    damaged = with_file(own, ENCODER, own.file(ENCODER).read_bytes()[:5000])
    for name in ("openvino", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
        with pytest.raises(runtimes.RuntimeFailed, match=f"runtime {name}: "):
            runtimes.choose(name, damaged)
    warnings: list[str] = []
    assert runtimes.choose("auto", damaged, warnings.append).name == "torch"
    assert [warning.split()[1] for warning in warnings] == ["openvino", "onnxruntime"]
    assert all("trying the next one" in warning and "\n" not in warning for warning in warnings)


def test_an_operator_that_a_runtime_does_not_know(own: Artifact) -> None:
    onnx = pytest.importorskip("onnx", reason="the graph is changed with onnx")
    graph = onnx.load(own.file(ENCODER), load_external_data=False)
    next(node for node in graph.graph.node if node.op_type == "Conv").op_type = "Unheard"
    damaged = with_file(own, ENCODER, graph.SerializeToString())
    for name in ("openvino", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
        with pytest.raises(
            runtimes.RuntimeFailed, match=rf"runtime {name}: .*cannot (compile|open) the encoder \(.*Unheard"
        ):
            runtimes.choose(name, damaged)
    warnings: list[str] = []
    assert runtimes.choose("auto", damaged, warnings.append).name == "torch"
    assert len(warnings) == 2 and all("\n" not in warning for warning in warnings)


def test_another_models_graph_fails_the_self_test(own: Artifact) -> None:
    """Hashes fit and everything loads, but the answers are not those of the model."""
    decoder = dict(np.load(own.file("decoder.npz")))
    np.savez(own.path / "other.npz", **(decoder | {"w_out": decoder["w_out"] * 3}))
    damaged = with_file(own, "decoder.npz", (own.path / "other.npz").read_bytes())
    pytest.importorskip("openvino", reason="openvino is not installed")
    with pytest.raises(runtimes.RuntimeFailed, match="self-test failed.*export the model again"):
        runtimes.choose("openvino", damaged)
    warnings: list[str] = []
    assert runtimes.choose("auto", damaged, warnings.append).name == "torch"
    assert "self-test failed" in warnings[0]


def test_nothing_works(own: Artifact) -> None:
    stored = dict(np.load(own.file(SELFTEST)))
    np.savez(own.path / "other.npz", **(stored | {"density": stored["density"] + 1}))
    damaged = with_file(own, SELFTEST, (own.path / "other.npz").read_bytes())
    warnings: list[str] = []
    with pytest.raises(runtimes.RuntimeFailed, match="no runtime works: .*openvino.*torch on cpu: self-test failed"):
        runtimes.choose("auto", damaged, warnings.append)


def test_without_export_only_torch_runs(own: Artifact) -> None:
    files = {name: digest for name, digest in own.manifest.files.items() if name == "weights.safetensors"}
    bare = write_artifact(own.path, replace(own.manifest, files=files), {})
    pytest.importorskip("openvino", reason="openvino is not installed")
    with pytest.raises(runtimes.RuntimeFailed, match=r"has no encoder\.onnx.*kyn export"):
        runtimes.choose("openvino", bare)
    assert runtimes.choose("torch", bare).name == "torch"


def test_auto_takes_only_torch_where_there_is_no_self_test(own: Artifact) -> None:
    files = {name: digest for name, digest in own.manifest.files.items() if name != SELFTEST}
    untested = write_artifact(own.path, replace(own.manifest, files=files), {})
    for name in ("openvino", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
        assert runtimes.choose(name, untested, silent).name == name
    warnings: list[str] = []
    assert runtimes.choose("auto", untested, warnings.append).name == "torch"
    assert [warning.split()[1] for warning in warnings] == ["openvino", "onnxruntime"]
    assert all("has no selftest.npz; `kyn export" in warning for warning in warnings)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no zip at all"])
def test_damaged_arrays_are_one_sentence_and_passed_over_by_auto(own: Artifact, content: bytes) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    decoder = with_file(own, "decoder.npz", content)
    with pytest.raises(runtimes.RuntimeFailed, match=r"runtime openvino: .*decoder\.npz.*damaged.*kyn export"):
        runtimes.choose("openvino", decoder)
    warnings: list[str] = []
    assert runtimes.choose("auto", decoder, warnings.append).name == "torch"
    assert warnings and all("decoder.npz" in warning for warning in warnings)
    selftest = with_file(decoder, SELFTEST, content)
    with pytest.raises(runtimes.RuntimeFailed, match=r"no runtime works: .*torch on cpu: .*selftest\.npz.*kyn export"):
        runtimes.choose("auto", selftest, warnings.append)


def test_a_gpu_that_is_not_there(tiny_artifact: Path) -> None:
    import torch

    from kyn_models.runtimes import torch_runtime

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(NoDevice, match="torch finds no CUDA device here"):
        torch_runtime.load(Artifact.load(tiny_artifact), LoadOptions("cuda"))
