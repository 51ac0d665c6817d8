"""``kyn image``: a photo to files, and what it says when the photo or the camera is wrong."""

import dataclasses
import errno
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from kyn_models import ply, views
from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.cli import main
from kyn_models.cli.image import RESULTS
from kyn_models.image_file import read_rgb
from kyn_models.palette import class_colour
from kyn_models.predictor import Predictor


def calibration(photo, **numbers) -> str:
    """A camera file beside the photo."""
    file = photo.with_name("camera.yaml")
    file.write_text(yaml.safe_dump(numbers))
    return str(file)


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "street.jpg"
    rng = np.random.default_rng(0)
    cv2.imwrite(str(file), cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (640, 360)))
    return file


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, which is not the photo's."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_photo_becomes_depth_map_view_and_mesh(photo, tiny_artifact, here, capsys):
    assert main(["image", str(photo), "--model", str(tiny_artifact)]) == 0
    assert {file.name for file in photo.parent.iterdir()} == {photo.name, "here"}
    out = here / "street_kyn"
    assert set(RESULTS) == {f.name for f in out.iterdir()}
    depth = np.load(out / "depth_m.npy")
    assert depth.shape == (192, 640) and depth.dtype == np.float32
    # A photo of 70 degrees is narrower than the training camera: what lies beside it is not invented.
    assert np.isnan(depth[:, 0]).all() and not np.isnan(depth[100, 320])
    said = capsys.readouterr().out
    assert "assume a horizontal field of view of 70 degrees" in said and "grey is outside the photo" in said
    assert "in place of earlier results" not in said
    assert main(["image", str(photo), "--model", str(tiny_artifact)]) == 0
    assert "wrote to street_kyn, in place of earlier results:" in capsys.readouterr().out


def test_a_full_disk_leaves_no_half_of_the_results(photo, tiny_artifact, here, capsys, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    command = ["image", str(photo), "--model", str(tiny_artifact), "--out", "new/results"]
    with monkeypatch.context() as patch:
        patch.setattr(ply, "write_whole", full)
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error == f"kyn image: {Path('new/results/voxels.ply')}: no space left on device\n"
        assert not (here / "new" / "results").exists()
    assert main(command) == 0
    before = {file.name: file.stat().st_ino for file in (here / "new" / "results").iterdir()}
    assert set(before) == set(RESULTS)
    monkeypatch.setattr(ply, "write_whole", full)
    assert main(command) == 2
    assert {file.name: file.stat().st_ino for file in (here / "new" / "results").iterdir()} == before


def test_the_precision_reaches_the_predictor(photo, tiny_artifact, monkeypatch, capsys):
    def refused(artifact, options):
        raise ValueError(f"asked for {options.precision}")

    monkeypatch.setattr("kyn_models.cli.image.make_predictor", refused)
    assert main(["image", str(photo), "--model", str(tiny_artifact), "--precision", "float16"]) == 2
    assert "asked for float16" in capsys.readouterr().err


def test_the_camera_of_kitti360_and_a_calibration_of_it_say_the_same(tmp_path, tiny_artifact, capsys):
    photo = tmp_path / "0000.png"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (192, 640, 3), np.uint8))
    k = KITTI360_CAMERA.resized(640, 192)
    calibration = tmp_path / "camera.yaml"
    calibration.write_text(yaml.safe_dump(dataclasses.asdict(k)))
    for name, options in (("a", ["--kitti360"]), ("b", ["--camera-info", str(calibration)]), ("c", [])):
        out = tmp_path / name
        assert main(["image", str(photo), *options, "--out", str(out), "--model", str(tiny_artifact)]) == 0
        assert ("assume a horizontal field of view" in capsys.readouterr().out) == (name == "c")
    depths = [np.load(tmp_path / name / "depth_m.npy") for name in "abc"]
    np.testing.assert_array_equal(depths[0], depths[1])
    assert not np.isnan(depths[0]).any() and np.isnan(depths[2]).any()


def test_a_model_with_classes_also_colours_the_photo(photo, tiny_artifact, here, monkeypatch, capsys):
    predict = Predictor.predict

    def with_labels(self, *args, **kwargs):
        prediction = predict(self, *args, **kwargs)
        return dataclasses.replace(
            prediction, labels=np.ones_like(prediction.volume), label_names=("road", "vegetation")
        )

    monkeypatch.setattr(Predictor, "predict", with_labels)
    assert main(["image", str(photo), "--fov", "70", "--model", str(tiny_artifact)]) == 0
    out = here / "street_kyn"
    assert {file.name for file in out.iterdir()} == {*RESULTS, "labels.png"}
    assert "labels.png" in capsys.readouterr().out
    green = class_colour("vegetation")[::-1]
    assert (cv2.imread(str(out / "labels.png")) == green).all(-1).sum() > 100


def test_the_overview_is_titled_with_the_photos_name(photo, tiny_artifact, here, monkeypatch):
    titles = []
    monkeypatch.setattr(
        views, "frame_picture", lambda prediction, title, seen: titles.append(title) or np.zeros((2, 2, 3), np.uint8)
    )
    assert main(["image", str(photo), "--fov", "70", "--model", str(tiny_artifact)]) == 0
    assert titles == ["street.jpg"]


@pytest.mark.parametrize("name", RESULTS)
def test_the_photo_itself_is_never_written_over(photo, tiny_artifact, tmp_path, capsys, name):
    out = tmp_path / "out"
    out.mkdir()
    own = shutil.copy(photo, out / name)
    assert main(["image", str(own), "--out", str(out), "--model", str(tiny_artifact)]) == 2
    assert f"the result {name} would be written over the photo" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == [name] and (out / name).read_bytes() == photo.read_bytes()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda p: ["none.jpg"], "no such file"),
        (lambda p: [str(p.parent)], "is a folder, expected a photo"),
        (lambda p: [str(p), "--fov", "0"], "expected 5 to 150"),
        (lambda p: [str(p), "--fov", "nan"], "--fov: got nan"),
        (lambda p: [str(p), "--kitti360"], "--kitti360: got a photo of 640x360"),
        (lambda p: [str(p), "--camera-info", "none.yaml"], "none.yaml: no such file"),
        (lambda p: [str(p), "--camera-info", calibration(p, fx=300.0, fy=300.0)], "missing key cx"),
        (lambda p: [str(p), "--camera-info", calibration(p, fx=0, fy=1, cx=1, cy=1, width=640, height=360)], "fx=0"),
        (lambda p: [str(p), "--camera-info", calibration(p, fx=1, fy=1, cx=1, cy=1, width=9, height=9)], "9x9"),
        (lambda p: [str(p), "--camera-info", calibration(p, f=1)], "unknown key f"),
        (lambda p: [str(p), "--camera-info", calibration(p, model_type="MEI")], "calibration of a fisheye camera"),
        (lambda p: [str(p), "--height", "0"], "--height: got 0.0, expected 0.1 to 50"),
        (lambda p: [str(p), "--height", "-1"], "--height: got -1.0"),
        (lambda p: [str(p), "--height", "nan"], "--height: got nan"),
        (lambda p: [str(p), "--pitch", "95"], "--pitch: got 95.0, expected -80"),
        (lambda p: [str(p), "--pitch", "nan"], "--pitch: got nan"),
        (lambda p: [str(p), "--model", "nowhere"], "nowhere"),
    ],
)
def test_user_errors_are_one_sentence(photo, tiny_artifact, capsys, change, words):
    arguments = change(photo)
    if "--model" not in arguments:
        arguments += ["--model", str(tiny_artifact)]
    assert main(["image", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_file_that_is_no_image(tmp_path, tiny_artifact, capsys):
    for content in (b"", b"not a picture"):
        file = tmp_path / "x.png"
        file.write_bytes(content)
        assert main(["image", str(file), "--model", str(tiny_artifact)]) == 2
        assert ("is not a readable image" if content else "is empty") in capsys.readouterr().err


@pytest.mark.parametrize(
    "extension, change, words",
    [
        (".png", lambda whole: whole[:20], "is truncated"),
        (".png", lambda whole: whole[: len(whole) // 2], "is truncated"),
        (".jpg", lambda whole: whole[: len(whole) // 2], "is truncated"),
        (".png", lambda whole: whole[:5000] + bytes(10) + whole[5010:], "is damaged"),
    ],
)
def test_a_damaged_photo_is_one_sentence_and_no_words_of_the_decoder(tmp_path, photo, capfd, extension, change, words):
    file = tmp_path / f"x{extension}"
    file.write_bytes(change(cv2.imencode(extension, cv2.imread(str(photo)))[1].tobytes()))
    assert main(["image", str(file), "--model", "nowhere"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_a_photo_with_a_thumbnail_and_a_tail_is_whole(tmp_path, photo):
    """Cameras put a small JPEG before the image and more after it."""
    whole = photo.read_bytes()
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    segment = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    file = tmp_path / "x.jpg"
    file.write_bytes(whole[:2] + segment + whole[2:] + b"tail")
    np.testing.assert_array_equal(read_rgb(file, "a photo"), read_rgb(photo, "a photo"))
    file.write_bytes((whole[:2] + segment + whole[2:])[:-500])
    with pytest.raises(ValueError, match="is truncated"):
        read_rgb(file, "a photo")
