"""The fused torch runtime: against the plain one on the CPU, its Triton kernels in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is the torch runtime")

from artifacts import TINY, seed_by_name, seeded_bts, write_seeded_artifact

from kyn_models import runtimes
from kyn_models.artifact import KITTI360_CAMERA, Artifact, default_artifact
from kyn_models.models.bts import Bts
from kyn_models.networks.monodepth2 import make_encoder
from kyn_models.runtimes import cuda_device, torch_decoder, torch_loops, torch_runtime
from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.runtimes.queries import LoadOptions, NoDevice, PointQuery, Query, RayQuery
from kyn_models.runtimes.torch_decoder import TorchDecoder
from kyn_models.runtimes.torch_fused import FusedTorch, fold_batch_norm
from kyn_models.runtimes.torch_runtime import PlainTorch

ROOT = Path(__file__).resolve().parents[2]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
without_gpu = pytest.mark.skipif(cuda_device.gpu_count() > 0, reason="this machine has a GPU")


def questions(artifact: Artifact) -> tuple[np.ndarray, dict[str, Query]]:
    """A smooth picture, rays, and points inside and outside the view."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (artifact.camera.height // 16, artifact.camera.width // 16, 3))
    image = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)
    points = rng.uniform([-30, -2, 3], [30, 3, 78], (5000, 3)).astype(np.float32)
    return image, {"depth": RayQuery(artifact.camera.rays(12, 40)), "density": PointQuery(points)}


def assert_close(answer: dict, expected: dict, factor: float = 1.0) -> None:
    error = np.abs(answer["density"] - expected["density"])
    assert (error <= factor * (1e-4 + 1e-3 * expected["density"])).all(), error.max()
    finite = np.isfinite(expected["depth"])
    np.testing.assert_array_equal(np.isfinite(answer["depth"]), finite)
    error = np.abs(answer["depth"][finite] - expected["depth"][finite])
    assert (error <= factor * (1e-3 + 1e-3 * expected["depth"][finite])).all(), error.max()


@pytest.mark.parametrize("which", ["tiny", "shipped"])
def test_agrees_with_plain_torch(which: str, tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact if which == "tiny" else default_artifact())
    image, queries = questions(artifact)
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    assert plain["density"].std() > 0.01 and np.isfinite(plain["depth"]).any()
    for precision, factor in (("float32", 1), ("float16", 20), ("bfloat16", 200)):
        runtime = FusedTorch(artifact, "cpu", precision)
        assert runtime.precision == precision and runtime.library == f"torch {torch.__version__}"
        step = runtime.prepare(queries)
        step(255 - image, frozenset(queries))
        answer = step(image, frozenset(queries))
        assert answer.stages_ms.keys() == {"encode", "depth", "density"}
        assert_close(answer.arrays, plain, factor)
        assert all(value.dtype == np.float32 for value in answer.arrays.values())
        if precision != "float32":
            assert np.abs(answer.arrays["density"] - plain["density"]).max() > 2e-5, "nothing was rounded"


def test_passes_the_self_test_in_half_precision(tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    assert 1e-5 < runtimes.self_test(FusedTorch(artifact, "cpu", "float16"), artifact) < 0.1


def test_only_what_is_wanted_is_answered(tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    image, queries = questions(artifact)
    runtime = FusedTorch(artifact, "cpu")
    both = runtime.prepare(queries)(image, frozenset(queries)).arrays
    for name in queries:
        alone = runtime.prepare(queries)(image, frozenset({name})).arrays
        assert alone.keys() == {name}
        np.testing.assert_array_equal(alone[name], both[name])
    empty = runtime.prepare({"none": PointQuery(np.zeros((0, 3), dtype=np.float32))})(image, frozenset({"none"}))
    assert empty.arrays["none"].shape == (0,)


def test_an_artifact_of_weights_alone_is_enough(tmp_path: Path) -> None:
    artifact = write_seeded_artifact(tmp_path / "bare", width=96, height=64)
    image, queries = questions(artifact)
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    assert_close(FusedTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays, plain)


def test_a_point_network_with_blocks_is_refused(tmp_path: Path) -> None:
    artifact = write_seeded_artifact(tmp_path / "blocks", seeded_bts(replace(TINY, blocks=1)), width=96, height=64)
    with pytest.raises(ValueError, match="got a point network with 1 blocks, expected 0; only torch runs it"):
        FusedTorch(artifact, "cpu")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_lite0"])
def test_batch_norm_folds_into_convolutions(name: str) -> None:
    encoder = make_encoder(name).eval()
    seed_by_name(encoder)
    image = torch.from_numpy(np.random.default_rng(1).random((1, 3, 64, 96), dtype=np.float32))
    with torch.inference_mode():
        expected = encoder(image)
        folded = fold_batch_norm(encoder)
        assert not [layer for layer in folded.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        for answer, plain in zip(folded(image), expected, strict=True):
            assert plain.std() > 1e-3
            torch.testing.assert_close(answer, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


def test_batch_norm_without_a_convolution_is_refused() -> None:
    for before in (torch.nn.ReLU(), torch.nn.Conv2d(3, 5, 1)):
        with pytest.raises(ValueError, match="batch normalisation '1' without a convolution before it"):
            fold_batch_norm(torch.nn.Sequential(before, torch.nn.BatchNorm2d(4)).eval())


def test_many_points_are_decoded_in_bounded_memory_with_the_same_numbers(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.load(tiny_artifact)
    image, queries = questions(artifact)
    runtime = FusedTorch(artifact, "cpu")
    whole = runtime.prepare(queries)(image, frozenset(queries)).arrays
    monkeypatch.setattr(torch_decoder, "KEPT_CODE_BYTES", 1000)
    monkeypatch.setattr(torch_decoder, "POINTS_AT_ONCE", 999)
    monkeypatch.setattr(torch_loops, "PART_BYTES", 100_000)
    made: list[int] = []
    original = torch_decoder.TorchDecoder.codes

    def codes(self: torch_decoder.TorchDecoder, uvz: torch.Tensor) -> torch.Tensor:
        made.append(len(uvz))
        return original(self, uvz)

    monkeypatch.setattr(torch_decoder.TorchDecoder, "codes", codes)
    step = runtime.prepare(queries)
    assert not made, "codes of many points were kept"
    parts = step(image, frozenset(queries)).arrays
    assert made == [999] * 5 + [5]
    for name in queries:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-6)


def test_plain_sums_equal_the_compiled_decoder_for_sky_and_surface() -> None:
    pytest.importorskip("numba", reason="the compiled decoder needs numba")
    from kyn_models.runtimes.decoder import CompiledDecoder

    rng, hidden, size = np.random.default_rng(3), 13, (12, 40)
    w_code, bias, w_out, features = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((hidden, 39), hidden, hidden, (*size, hidden))
    )
    freqs = (1.5 * 2.0 ** np.arange(6)).astype(np.float32)
    constants = DecoderConstants(
        0.3 * w_code, bias, freqs, KITTI360_CAMERA.normalised(), 3.0, 80.0, w_out=0.4 * w_out, b_out=-5.0
    )
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 97), np.linspace(-0.3, 0.3, 31))
    points = rng.uniform([-30, -2, 1], [30, 3, 90], (3000, 3)).astype(np.float32)
    queries = {
        "depth": RayQuery(np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)),
        "density": PointQuery(points),
    }
    compiled = CompiledDecoder(constants, size).prepare(queries)
    decoder = TorchDecoder(constants, size, torch.device("cpu"))
    with torch.inference_mode():
        answers = {}
        for name, query in queries.items():
            places = decoder.place(query)
            decoder.answer(query, places, torch.from_numpy(features).view(-1, hidden))
            answers[name] = places.answer.view(places.shape).numpy()
    expected = {name: compiled.decode(name, features) for name in queries}
    assert 0.2 < np.isfinite(expected["depth"]).mean() < 0.8
    assert_close(answers, expected)


def test_another_thread_may_prepare_while_one_steps(tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    image, queries = questions(artifact)
    runtime = FusedTorch(artifact, "cpu")
    step = runtime.prepare(queries)
    expected = {name: value.copy() for name, value in step(image, frozenset(queries)).arrays.items()}
    others: list[dict] = []

    def prepare() -> None:
        for _ in range(3):
            others.append(runtime.prepare(queries)(image, frozenset(queries)).arrays)

    thread = threading.Thread(target=prepare)
    thread.start()
    while thread.is_alive():
        answer = step(image, frozenset(queries)).arrays
        for name in queries:
            np.testing.assert_array_equal(answer[name], expected[name])
    thread.join()
    assert len(others) == 3
    for other, name in ((other, name) for other in others for name in queries):
        np.testing.assert_array_equal(other[name], expected[name])


AUTO_CHOICE = """
import sys
from kyn_models.artifact import Artifact
from kyn_models.runtimes import choose
print(choose("auto", Artifact.load(sys.argv[1])).name, "torch" in sys.modules)
"""


@without_gpu
def test_auto_does_not_import_torch_where_there_is_no_gpu(tiny_artifact: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    command = [sys.executable, "-c", AUTO_CHOICE, str(tiny_artifact)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["openvino", "False"]


@without_gpu
def test_a_named_runtime_goes_on_to_the_cpu_where_there_is_no_gpu(tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    assert type(runtimes.choose("torch", artifact)) is PlainTorch
    with pytest.raises(runtimes.RuntimeFailed, match="runtime torch: precision: got float16, expected float32 on the"):
        runtimes.choose("torch", artifact, options=LoadOptions(precision="float16"))


def test_a_named_runtime_that_fails_on_its_gpu_is_an_error(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(artifact: Artifact, options: LoadOptions) -> PlainTorch:
        if options.device == "cuda":
            raise failure
        return PlainTorch(artifact, options.device)

    monkeypatch.setattr(runtimes, "gpu_count", lambda: 1)
    monkeypatch.setattr(torch_runtime, "load", load)
    failure: Exception = RuntimeError("CUDA out of memory")
    with pytest.raises(runtimes.RuntimeFailed, match="runtime torch: CUDA out of memory"):
        runtimes.choose("torch", Artifact.load(tiny_artifact))
    failure = NoDevice("torch was built without CUDA")
    assert runtimes.choose("torch", Artifact.load(tiny_artifact)).name == "torch"


@on_gpu
@pytest.mark.parametrize("which", ["tiny", "shipped"])
def test_a_gpu_agrees_with_plain_torch_on_the_cpu(which: str, tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact if which == "tiny" else default_artifact())
    image, queries = questions(artifact)
    plain = PlainTorch(artifact, "cpu").prepare(queries)(image, frozenset(queries)).arrays
    for precision, factor in (("float32", 1), ("float16", 20)):
        runtime = FusedTorch(artifact, "cuda", precision)
        step = runtime.prepare(queries)
        first = {name: value.copy() for name, value in step(image, frozenset(queries)).arrays.items()}
        assert_close(first, plain, factor)
        step(255 - image, frozenset(queries))
        again = step(image, frozenset({"depth"}))
        assert again.stages_ms.keys() == {"encode", "depth"}
        np.testing.assert_array_equal(again.arrays["depth"], first["depth"])


@on_gpu
def test_graphs_and_plain_launches_give_the_same_numbers(tiny_artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifact = Artifact.load(tiny_artifact)
    image, queries = questions(artifact)
    runtime = FusedTorch(artifact, "cuda")
    recorded = runtime.prepare(queries)(image, frozenset(queries)).arrays
    assert runtime._graphs and not [record for record in caplog.records if record.name.startswith("kyn_models")]
    runtime._graphs = False
    launched = runtime.prepare(queries)(image, frozenset(queries)).arrays
    for name in queries:
        np.testing.assert_allclose(launched[name], recorded[name], rtol=1e-6)


def test_a_gpu_runs_models_with_blocks_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which class is chosen; the device itself is that of the test above."""
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("PlainTorch", "FusedTorch"):
        monkeypatch.setattr(torch_runtime, name, lambda *arguments, name=name: chosen.append(name))
    for blocks in (0, 1):
        model: Bts = seeded_bts(replace(TINY, blocks=blocks))
        artifact = write_seeded_artifact(tmp_path / str(blocks), model, width=96, height=64)
        torch_runtime.load(artifact, LoadOptions("cuda"))
    assert chosen == ["FusedTorch", "PlainTorch"]
