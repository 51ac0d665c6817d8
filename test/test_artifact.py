import json

import pytest

from kyn_models.artifact import Artifact, Manifest, write_artifact


def make(tmp_path):
    return write_artifact(tmp_path / "m", Manifest("bts", {"d_out": 64}), {"weights.safetensors": b"abc"})


def test_round_trip_keeps_earlier_files(tmp_path):
    first = make(tmp_path)
    second = write_artifact(first.path, first.manifest, {"encoder.onnx": b"graph"})
    assert set(second.manifest.files) == {"weights.safetensors", "encoder.onnx"}
    assert second.manifest.config == {"d_out": 64}
    assert second.hash != first.hash
    assert second.file("encoder.onnx").read_bytes() == b"graph"


def test_damage_is_named(tmp_path):
    artifact = make(tmp_path)
    artifact.file("weights.safetensors").write_bytes(b"abd")
    with pytest.raises(ValueError, match=r"weights\.safetensors.*hash"):
        Artifact.load(artifact.path)
    artifact.file("weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        Artifact.load(artifact.path)


def test_missing_pieces_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Artifact.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"artifact\.json"):
        Artifact.load(tmp_path)
    write_artifact(tmp_path / "run" / "artifact", Manifest("bts", {"d_out": 64}), {"weights.safetensors": b"abc"})
    with pytest.raises(FileNotFoundError, match=f"expected a model artifact; {tmp_path}/run/artifact is one"):
        Artifact.load(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="kyn export"):
        make(tmp_path).file("encoder.onnx")


@pytest.mark.parametrize("change, word", [({"format": 9}, "format 9"), ({"famly": "x"}, "famly"), (None, "JSON")])
def test_damaged_manifest(tmp_path, change, word):
    artifact = make(tmp_path)
    file = artifact.path / "artifact.json"
    content = json.loads(file.read_text())
    file.write_text("{" if change is None else json.dumps(content | change))
    with pytest.raises(ValueError, match=word):
        Artifact.load(artifact.path)


def test_a_listed_file_cannot_lie_outside_the_folder(tmp_path):
    artifact = make(tmp_path)
    file = artifact.path / "artifact.json"
    content = json.loads(file.read_text())
    content["files"]["../m/weights.safetensors"] = content["files"]["weights.safetensors"]
    file.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError):
        Artifact.load(artifact.path)
