"""Official checkpoints: read strictly inside the model, and without running what a file asks to run."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need the train extra")

from artifacts import TINY, seeded_bts  # noqa: E402

from kyn_models.artifact import DECODER, ENCODER, ENGINES, SELFTEST, WEIGHTS, Artifact, sha256  # noqa: E402
from kyn_models.checkpoints import Checkpoint, Foreign, official_weights  # noqa: E402
from kyn_models.cli import import_, main  # noqa: E402
from kyn_models.models import bts_official  # noqa: E402
from kyn_models.models.bts import Bts, BtsConfig  # noqa: E402
from kyn_models.models.loading import load_model, make_config  # noqa: E402

PREFIX = "renderer.net."


class Options:
    """A class that the reader does not know, with state, items and a call."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        return Options, (1, 2), {"learning_rate": 0.1}, iter([3, 4]), iter([("a", 1)])

    def append(self, item: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class Attack:
    """Runs a function when it is unpickled in the ordinary way."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@cache
def official() -> dict[str, torch.Tensor]:
    """The weights of a small model by their official names."""
    return dict(seeded_bts().state_dict())


def state() -> OrderedDict[str, Any]:
    return OrderedDict((PREFIX + name, value) for name, value in official().items())


def save(path: Path, legacy: bool = False, **changes: Any) -> Path:
    """A file as the authors' trainer writes it, with training state around the model."""
    if "model" not in changes:
        weights = state()
        weights._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]  # nn.Module.state_dict hangs it on
        weights["renderer.renderer.iter_idx"] = torch.zeros(())
        changes["model"] = weights
    content = {
        "optimizer": {"state": {0: torch.ones(3)}},
        "trainer": Options(),
        "epoch": 25,
    } | changes
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def run_import(checkpoint: Path, out: Path, *options: str) -> int:
    return main(["import", "bts", str(checkpoint), str(out), *options])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_reads_every_weight_and_names_what_it_leaves(tmp_path: Path, legacy: bool) -> None:
    found = official_weights(save(tmp_path / "a.pt", legacy), "model", (PREFIX,))
    expected = official()
    assert list(found.weights) == list(expected)
    for name, value in expected.items():
        assert found.weights[name].dtype == value.dtype and torch.equal(found.weights[name], value), name
    assert found.ignored == ["optimizer", "trainer", "epoch", "renderer.renderer.iter_idx"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_views_parameters_and_types(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(24.0).view(4, 6)
    saved = {
        "transposed": base.T,
        "part": base[1:3, ::2],
        "parameter": torch.nn.Parameter(base.clone()),
        "half": base.half(),
        "counts": torch.tensor(7),
        "empty": torch.empty(0, 3),
    }
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    checkpoint = Checkpoint(tmp_path / "a.pt")
    for name, value in saved.items():
        read = checkpoint.tensor(checkpoint.root[name])
        assert read.dtype == value.dtype and torch.equal(read, value), name


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("function", ["system", "open", "exec", "popen", "eval"])
def test_nothing_in_a_file_is_run(tmp_path: Path, legacy: bool, function: str) -> None:
    witness = tmp_path / "ran"
    program = f"open({str(witness)!r}, 'w')"
    attack = {
        "system": Attack(os.system, f"touch {witness}"),
        "open": Attack(open, str(witness), "w"),
        "exec": Attack(exec, program),
        "eval": Attack(eval, program),
        "popen": Attack(subprocess.call, ["touch", str(witness)]),
    }[function]
    path = save(tmp_path / "a.pt", legacy, model={PREFIX + "weight": torch.ones(2)}, trainer=attack)
    found = official_weights(path, "model", (PREFIX,))
    assert not witness.exists()
    assert list(found.weights) == ["weight"] and "trainer" in found.ignored
    # The file is a real attack: read in the ordinary way it does run.
    torch.load(path, weights_only=False)
    assert witness.exists()


def test_foreign_objects_stay_inert(tmp_path: Path) -> None:
    root = Checkpoint(save(tmp_path / "a.pt")).root
    assert isinstance(root["trainer"], Foreign) and vars(root["trainer"]) == {}
    assert root["epoch"] == 25


def zip_of(path: Path, pickled: bytes, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, content in more.items():
            archive.writestr(f"a/{name.replace('__', '/')}", content)
    return path


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.pt").read_bytes()
    files = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "html": b"<html>not found</html>",
        "pickle": pickle.dumps({"model": 1}),
        "legacy cut": save(tmp_path / "legacy.pt", legacy=True).read_bytes()[:20],
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            Checkpoint(path)
    with pytest.raises(ValueError, match=f"truncated: a zip file of {len(whole) // 2} bytes without its end"):
        Checkpoint(tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="another kind"):
        Checkpoint(zip_of(tmp_path / "script.pt", pickle.dumps({}), **{"constants.pkl": b""}))
    with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
    with pytest.raises(ValueError, match="compressed"):
        Checkpoint(tmp_path / "small.pt")
    with pytest.raises(ValueError, match="big-endian"):
        Checkpoint(zip_of(tmp_path / "big.pt", pickle.dumps({}), byteorder=b"big"))


def test_tensors_beyond_their_storage_are_refused(tmp_path: Path) -> None:
    class Beyond:
        def __reduce__(self) -> Any:
            # Six elements are stored; this asks for the seventh.
            return torch._utils._rebuild_tensor_v2, (torch.zeros(6)._typed_storage(), 1, (6,), (1,), False, None)

    torch.save({"model": Beyond()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="beyond its storage"):
        Checkpoint(tmp_path / "a.pt")
    torch.save({"model": {PREFIX + "weight": torch.zeros(1).expand(9, 9)}}, tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"shape \[9, 9\] with 1 stored values"):
        official_weights(tmp_path / "wide.pt", "model", (PREFIX,))
    # A storage that the file lacks.
    whole = save(tmp_path / "whole.pt")
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "lacking.pt", "w") as target:
        for name in source.namelist():
            if not name.endswith("/data/1"):
                target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match="lacks the content"):
        official_weights(tmp_path / "lacking.pt", "model", (PREFIX,))


def test_import_makes_an_artifact_that_is_the_model(tmp_path: Path, borrowed_engines: None, capsys: Any) -> None:
    assert run_import(save(tmp_path / "a.pt"), tmp_path / "out") == 0
    out = capsys.readouterr().out
    for name in ("optimizer", "trainer", "epoch", "renderer.renderer.iter_idx"):
        assert f"ignored, outside the model: {name}\n" in out
    assert "agrees with torch" in out
    artifact = Artifact.load(tmp_path / "out")
    assert set(artifact.manifest.files) == {WEIGHTS, ENCODER, *ENGINES.values(), DECODER, SELFTEST}
    assert artifact.manifest.family == "bts"
    assert artifact.manifest.provenance == {"imported from": "a.pt", "sha256": sha256(tmp_path / "a.pt")}
    licences = artifact.manifest.licences
    assert licences.weights == "not stated, the authors' code BSD-2-Clause" and "CC BY-NC-SA" in licences.data
    imported, expected = load_model(artifact).state_dict(), official()
    assert all(torch.equal(imported[name], value) for name, value in expected.items())


def test_import_of_weights_alone(tmp_path: Path, capsys: Any) -> None:
    path = save(tmp_path / "a.pt", model={"module." + name: value for name, value in state().items()})
    yaml = tmp_path / "import.yaml"
    yaml.write_text("model: {z_far: 60.0}\ncamera: {height_m: 1.65}\nlicences: {weights: mine}\n")
    assert run_import(path, tmp_path / "out", "--no-export", "--half", "--config", str(yaml)) == 0
    assert "kyn export" in capsys.readouterr().out
    artifact = Artifact.load(tmp_path / "out")
    assert set(artifact.manifest.files) == {WEIGHTS}
    assert artifact.manifest.z_far == 60.0 and artifact.manifest.config["z_far"] == 60.0
    assert artifact.manifest.camera.height_m == 1.65 and artifact.manifest.licences.weights == "mine"
    weight = "mlp_coarse.lin_in.weight"
    assert torch.equal(load_model(artifact).state_dict()[weight], official()[weight].half().float())
    # A wrong word in the file is named, with the file.
    yaml.write_text("model: {z_farr: 60.0}")
    assert run_import(path, tmp_path / "other", "--config", str(yaml)) == 2
    assert "import.yaml: unknown key z_farr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config",
    [
        BtsConfig(),
        TINY,
        replace(TINY, encoder="resnet18", feature_scale=2, blocks=3, hidden=24, d_out=20),
        replace(TINY, encoder="resnet34", feature_scale=0, frequencies=4, frequency_factor=2.0),
    ],
    ids=["published", "tiny", "resnet18", "resnet34"],
)
def test_shapes_tell_the_configuration(config: BtsConfig) -> None:
    model = Bts(config)
    told = make_config("bts", bts_official.config_of(model.state_dict()), "shapes")
    assert replace(told, channels_dec=config.channels_dec) == config
    # Decoders are never narrower than d_out; with that said, the same layers follow.
    again = {name: value.shape for name, value in Bts(told).state_dict().items()}
    assert again == {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize("wrong", [None, torch.zeros(()), torch.zeros(2, 0, 3, 3)], ids=["missing", "scalar", "empty"])
def test_any_wrong_weight_is_named(wrong: torch.Tensor | None) -> None:
    arguments = argparse.Namespace(checkpoint="a.pt", config=None, family="bts")
    for name in [
        "encoder.encoder._bn0.bias",
        *(name for name in official() if not name.startswith("encoder.encoder.")),
    ]:
        weights = {key: value for key, value in official().items() if key != name}
        if wrong is not None:
            weights[name] = wrong
        with pytest.raises(ValueError, match="a.pt: weights do not fit the model"):
            import_.filled_model(arguments, import_.ImportConfig(), weights)


def test_a_point_network_with_blocks_is_for_torch_alone(tmp_path: Path, capsys: Any) -> None:
    weights = {PREFIX + name: value for name, value in seeded_bts(replace(TINY, blocks=1)).state_dict().items()}
    path = save(tmp_path / "a.pt", model=weights)
    assert run_import(path, tmp_path / "out") == 2
    assert "1 blocks, expected 0; only torch runs it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run_import(path, tmp_path / "out", "--no-export") == 0


def test_import_is_strict_inside_the_model(tmp_path: Path, capsys: Any) -> None:
    def without(name: str) -> dict[str, Any]:
        weights = state()
        del weights[PREFIX + name]
        return weights

    bias = "mlp_coarse.lin_out.bias"
    wrong = {
        f"missing: {bias}": without(bias),
        "missing: mlp_coarse.lin_in.weight": without("mlp_coarse.lin_in.weight"),
        "missing: encoder.encoder.encoder.conv1.weight": without("encoder.encoder._conv_stem.weight"),
        "extra: mlp_fine.lin_in.bias": {**state(), f"{PREFIX}mlp_fine.lin_in.bias": torch.zeros(3)},
        f"misshapen: {bias} [2] instead of [1]": {**state(), PREFIX + bias: torch.zeros(2)},
        "code_xyz._freqs differs": {**state(), f"{PREFIX}code_xyz._freqs": torch.ones(1, 12, 1)},
        "misshapen: code_xyz._phases [1, 12, 1] instead of [1, 8, 1]": {
            **state(),
            f"{PREFIX}code_xyz._freqs": torch.ones(1, 8, 1),
        },
        "got no weights named renderer.net.* under 'model'": {"encoder.conv1.weight": torch.zeros(1)},
        "not finite": {**state(), PREFIX + bias: torch.full((1,), torch.nan)},
    }
    for text, weights in wrong.items():
        path = save(tmp_path / "a.pt", model=weights)
        assert run_import(path, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1, error
        assert not (tmp_path / "out").exists()


def test_import_never_writes_over_something(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    assert run_import(save(tmp_path / "a.pt"), tmp_path / "out") == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_published_configuration_takes_the_official_names(golden: Path) -> None:
    """Name for name and shape for shape, without filling 30 million weights."""
    import json

    from kyn_models.models.loading import make_model

    with torch.device("meta"):
        model = make_model("bts", import_.ImportConfig().model, "defaults")
    own = {name: [list(value.shape), str(value.dtype)[6:]] for name, value in model.state_dict().items()}
    assert own == json.loads((golden / "bts" / "state_dict.json").read_text())
    parser = argparse.ArgumentParser()
    import_.add_arguments(parser)
    assert parser.parse_args(["bts", "a.pt", "out"]).config is None


def test_the_configuration_for_kitti_raw_is_read(tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "config" / "import" / "bts_kitti_raw.yaml"
    assert run_import(save(tmp_path / "a.pt"), tmp_path / "out", "--no-export", "--config", str(file)) == 0
    manifest = Artifact.load(tmp_path / "out").manifest
    assert (manifest.camera.source.width, manifest.camera.height_m) == (1242, 1.65)
    assert manifest.licences.data.startswith("KITTI, CC BY-NC-SA")
