"""``kyn image``: a photo to files, and what it says when the photo or the camera is wrong."""

import shutil

import cv2
import numpy as np
import pytest

from kyn_models.cli import main
from kyn_models.cli.image import RESULTS


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "street.jpg"
    rng = np.random.default_rng(0)
    cv2.imwrite(str(file), cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (640, 360)))
    return file


def test_a_photo_becomes_depth_map_view_and_mesh(photo, tiny_artifact, capsys):
    assert main(["image", str(photo), "--model", str(tiny_artifact)]) == 0
    out = photo.with_name("street_kyn")
    assert set(RESULTS) == {f.name for f in out.iterdir()}
    depth = np.load(out / "depth_m.npy")
    assert depth.shape == (192, 640) and depth.dtype == np.float32
    # A photo of 70 degrees is narrower than the training camera: what lies beside it is not invented.
    assert np.isnan(depth[:, 0]).all() and not np.isnan(depth[100, 320])
    assert "assume a horizontal field of view of 70 degrees" in capsys.readouterr().out


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
        (lambda p: [str(p), "--fov", "0"], "expected 5 to 150"),
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
        assert "not an image" in capsys.readouterr().err
