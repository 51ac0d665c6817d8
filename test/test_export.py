"""Export: exact with respect to the torch model, small, the same every time, refused where it cannot be exact."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="export needs torch")
onnx = pytest.importorskip("onnx", reason="export needs onnx")
optimizer = pytest.importorskip("onnxscript.optimizer", reason="export needs onnxscript")
pytest.importorskip("onnxruntime", reason="export is checked with ONNX Runtime here")

from artifacts import TINY, seeded_bts, write_seeded_artifact

from kyn_models import export as exporting
from kyn_models.artifact import ENCODER, SELFTEST, WEIGHTS, Artifact, default_artifact, sha256
from kyn_models.export import export
from kyn_models.models.bts import Bts, BtsConfig
from kyn_models.models.loading import fill, load_model, make_model, weights_file

SIZE_OF_SHIPPED_MODEL = 13e6


def test_the_graph_is_the_model_up_to_the_first_layer(tiny_artifact: Path) -> None:
    import onnxruntime

    model = load_model(Artifact.load(tiny_artifact))
    image = np.random.default_rng(3).integers(0, 256, (1, 192, 640, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(str(tiny_artifact / ENCODER), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": image})
    with torch.inference_mode():
        features = model.encoder(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255)
        expected = torch.einsum("bchw,kc->bhwk", features, model.mlp_coarse.lin_in.weight[:, : TINY.d_out])
    assert answer.shape == (1, 96, 320, TINY.hidden) and answer.dtype == np.float32
    assert expected.std() > 0.1
    np.testing.assert_allclose(answer, expected.numpy(), atol=2e-5)


def test_the_graph_holds_no_weights_of_its_own(tiny_artifact: Path) -> None:
    graph = onnx.load(tiny_artifact / ENCODER, load_external_data=False)
    assert [(item.domain, item.version) for item in graph.opset_import] == [("", 18)]
    outside = [item for item in graph.graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
    places = {entry.value for item in outside for entry in item.external_data if entry.key == "location"}
    assert places == {WEIGHTS} and len(outside) > 200
    assert (tiny_artifact / ENCODER).stat().st_size < 0.3e6
    assert {item.key: item.value for item in graph.metadata_props} == {
        "weights_sha256": sha256(tiny_artifact / WEIGHTS)
    }
    onnx.checker.check_model(str(tiny_artifact / ENCODER), full_check=True)
    assert str(Path(__file__).parents[1]).encode() not in (tiny_artifact / ENCODER).read_bytes()


def test_stored_weights_are_those_of_the_loaded_model(tiny_artifact: Path) -> None:
    """float16 for matrices, rounded once; everything else exactly as it was."""
    original, loaded = seeded_bts().state_dict(), load_model(Artifact.load(tiny_artifact)).state_dict()
    parameters = {name for name, value in seeded_bts().named_parameters() if value.ndim >= 2}
    for name, value in original.items():
        assert loaded[name].dtype == value.dtype
        expected = value.half().float() if name in parameters else value
        assert torch.equal(loaded[name], expected), name
    assert not torch.equal(loaded["mlp_coarse.lin_in.weight"], original["mlp_coarse.lin_in.weight"])


def test_the_same_model_gives_the_same_files(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folding = logging.getLogger("onnxscript.optimizer._constant_folding")
    fold = optimizer.fold_constants

    def remarking(*arguments: Any, **options: Any) -> Any:
        folding.warning("Skipping constant folding for op Split with multiple outputs.")
        return fold(*arguments, **options)

    monkeypatch.setattr(optimizer, "fold_constants", remarking)
    again, _ = export(shutil.copytree(tiny_artifact, tmp_path / "again"))
    assert again.hash == Artifact.load(tiny_artifact).hash
    assert "Skipping" not in caplog.text and folding.isEnabledFor(logging.WARNING)


def test_the_self_test_has_something_to_tell(tiny_artifact: Path) -> None:
    with np.load(tiny_artifact / SELFTEST) as test:
        assert test["image"].dtype == np.uint8 and test["image"].shape == (192, 640, 3)
        assert test["density"].std() > 0.01 and test["depth"][np.isfinite(test["depth"])].std() > 0.1


@pytest.mark.long
def test_the_shipped_size(tmp_path: Path, borrowed_engines: None) -> None:
    config = BtsConfig(encoder="efficientnet_lite0", feature_scale=1, d_out=64, hidden=64)
    write_seeded_artifact(tmp_path / "ship", seeded_bts(config))
    artifact, agreements = export(tmp_path / "ship")
    for folder in (artifact.path, default_artifact()):
        assert sum(file.stat().st_size for file in folder.iterdir()) < SIZE_OF_SHIPPED_MODEL
    assert all(agreement.density < 1e-4 and agreement.depth_m < 1e-3 for agreement in agreements)


def test_a_full_size_float32_model_with_another_image_size(tmp_path: Path, borrowed_engines: None) -> None:
    config = BtsConfig(encoder="resnet18", channels_dec=(8, 8, 8, 16, 16), d_out=8, hidden=8, z_near=2.0, z_far=60.0)
    write_seeded_artifact(tmp_path / "m", seeded_bts(config), half=False, width=320, height=96)
    artifact, agreements = export(tmp_path / "m")
    assert {agreement.runtime for agreement in agreements} >= {"onnxruntime"}
    constants = dict(np.load(artifact.file("decoder.npz")))
    assert (float(constants["z_near"]), float(constants["z_far"])) == (2.0, 60.0)
    np.testing.assert_array_equal(constants["k_norm"], artifact.camera.k_norm)


def test_blocks_are_refused(tmp_path: Path) -> None:
    write_seeded_artifact(tmp_path / "m", seeded_bts(replace(TINY, blocks=2)))
    with pytest.raises(ValueError, match="got a point network with 2 blocks, expected 0"):
        export(tmp_path / "m")
    assert {file.name for file in (tmp_path / "m").iterdir()} == {"artifact.json", WEIGHTS}


def test_a_runtime_that_differs_is_refused_and_nothing_is_written(
    tiny_artifact: Path, borrowed_engines: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = (tiny_artifact / ENCODER).read_bytes()
    monkeypatch.setattr(exporting, "encoder_graph", lambda *_: encoder)
    own = shutil.copytree(tiny_artifact, tmp_path / "own")
    before = {file.name: file.read_bytes() for file in own.iterdir()}
    selftest = exporting._selftest

    def other(artifact: Artifact) -> dict[str, np.ndarray]:
        answers = selftest(artifact)
        return answers | {"density": answers["density"] * 1.01 + 1e-3}

    monkeypatch.setattr(exporting, "_selftest", other)
    with pytest.raises(ValueError, match="differs from torch by .* in density"):
        export(own)
    assert {file.name: file.read_bytes() for file in own.iterdir()} == before


def test_tensorrt_rtx_takes_the_graph(tiny_artifact: Path) -> None:
    """Parsing and building ahead of time need no GPU; running does, and is not claimed."""
    tensorrt = pytest.importorskip("tensorrt_rtx", reason="optional: pip install 'kyn[tensorrt-rtx]'")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(tiny_artifact / ENCODER)), parser.get_error(0)
    assert tuple(network.get_output(0).shape) == (1, 96, 320, TINY.hidden)
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = Bts(TINY)
    weights = dict(model.state_dict())
    weights["extra.weight"] = weights.pop("mlp_coarse.lin_out.bias")
    weights["mlp_coarse.lin_in.weight"] = torch.zeros(3, 4)
    with pytest.raises(ValueError) as caught:
        fill(model, weights, "file.pt")
    message = str(caught.value)
    assert message.startswith("file.pt: weights do not fit the model")
    assert "missing: mlp_coarse.lin_out.bias" in message and "extra: extra.weight" in message
    assert "misshapen: mlp_coarse.lin_in.weight [3, 4] instead of [16, 55]" in message


def test_weights_beyond_float16_are_refused() -> None:
    model = Bts(TINY)
    torch.nn.init.constant_(model.mlp_coarse.lin_in.weight, 1e6)
    assert len(weights_file(model)) > 1e6
    with pytest.raises(ValueError, match=r"mlp_coarse\.lin_in\.weight: .*float16"):
        weights_file(model, half=True)


def test_artifacts_that_are_no_model(tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="here: got family 'nerf', expected one of bts"):
        make_model("nerf", {}, "here")
    with pytest.raises(ValueError, match="here: unknown key d_outs"):
        make_model("bts", {"d_outs": 3}, "here")
    artifact = write_seeded_artifact(tmp_path / "m")
    own = replace(artifact, manifest=replace(artifact.manifest, config={"encoder": "resnet18"}))
    with pytest.raises(ValueError, match="weights do not fit the model, missing: encoder.encoder.encoder.conv1"):
        load_model(own)
    (tmp_path / "m" / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(artifact)
