"""The commands that need no robot, with a model that has classes: what is written has their colours."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_drive import DRIVE, write_drive

from kyn_models.cli import main
from kyn_models.palette import class_colour

NAMES = ("ground", "road", "person", "rider", "car", "truck")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("data") / "drive")


@pytest.fixture(scope="module")
def photo(data: Path) -> Path:
    """A frame of the drive, enlarged."""
    image = cv2.imread(str(data / f"data_2d_raw/{DRIVE}/image_00/data_rect/0000000005.png"))
    path = data / "photo.png"
    cv2.imwrite(str(path), cv2.resize(image, (640, 240), interpolation=cv2.INTER_CUBIC))
    return path


def swatches(file: Path) -> set[str]:
    """The classes whose plain colour covers more than half of a legend's square."""
    picture = cv2.imread(str(file))[..., ::-1]
    return {name for name in NAMES if (picture == class_colour(name)).all(axis=-1).sum() > 100}


def vertex_colours(file: Path) -> np.ndarray:
    """(N, 3) RGB of a mesh's vertices."""
    head, body = file.read_bytes().split(b"end_header\n", 1)
    count = int(head.split(b"element vertex ")[1].split()[0])
    vertex = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
    return np.frombuffer(body[: count * vertex.itemsize], vertex)["rgb"]


def hues(colours: np.ndarray) -> np.ndarray:
    """The shade of a face scales all three numbers alike."""
    return colours / np.maximum(colours.max(axis=-1, keepdims=True), 1)


def assert_mesh_has(file: Path, classes: set[str]) -> None:
    found = hues(vertex_colours(file).astype(float))
    known = hues(np.array([class_colour(name) for name in NAMES], float))
    distance = np.abs(found[:, None] - known).max(axis=-1)
    assert len(found) and distance.min(axis=1).max() < 0.03
    assert {NAMES[number] for number in np.unique(distance.argmin(axis=1))} & classes


def test_image(photo: Path, tiny_kyn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["image", str(photo), "--model", str(tiny_kyn), "--out", str(out), "--fov", "90"]) == 0
    said = capsys.readouterr().out
    assert "(kyn) on " in said and "labels.png" in said
    classes = swatches(out / "overview.png")
    assert classes and swatches(out / "birds_eye.png") <= classes and swatches(out / "labels.png")
    assert_mesh_has(out / "voxels.ply", classes)


def test_voxels(data: Path, tiny_kyn: Path, tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text(f"{DRIVE} 0000000006 l\n")
    words = ["--data", str(data), "--split", str(tmp_path / "split.txt"), "--model", str(tiny_kyn)]
    assert main(["voxels", *words, "--resolution", "0.4", "--out", str(tmp_path / "out")]) == 0
    name = tmp_path / "out" / f"{DRIVE}_0000000006"
    classes = swatches(name.with_suffix(".png"))
    assert classes
    assert_mesh_has(name.with_suffix(".ply"), classes)


def test_video(data: Path, tiny_kyn: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="av is not installed")
    out = tmp_path / "sequence.mp4"
    words = ["--data", str(data), "--model", str(tiny_kyn), "--stop", "6", "--out", str(out)]
    assert main(["video", "sequence", *words]) == 0
    with av.open(str(out)) as video:
        pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    assert len(pictures) == 2
    # Compression changes colours a little; saturated ones can only be of classes, depth stands on the left.
    right = pictures[0][:, 640:]
    strong = [np.abs(right - class_colour(name)).max(axis=-1) < 24 for name in ("rider", "car", "person")]
    assert np.sum(strong) > 100


def test_doctor(tiny_kyn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--model", str(tiny_kyn)])
    said = capsys.readouterr().out
    assert "(kyn), every file has its hash" in said and "runs the model in float32" in said
