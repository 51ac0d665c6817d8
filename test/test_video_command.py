"""``kyn video`` on a tiny drive and on photos: films that are whole, camera paths, and sentences for what is wrong."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import tiny_drive as tiny

av = pytest.importorskip("av")
pytest.importorskip("numba")

import cv2

from kyn_models import camera_paths, film, novel_view, views
from kyn_models.cli import eval as shared
from kyn_models.cli import main
from kyn_models.types import Intrinsics, Observation, PosedFrame


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return tiny.write_drive(tmp_path / "drive")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "VIEW_WIDTH", 64)
    monkeypatch.setattr(film, "CANVAS", (96, 60))
    monkeypatch.setattr(film, "TOP_WIDTH", 70)
    monkeypatch.setattr(film, "SAMPLES", 8)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_sequence_has_a_picture_per_frame(drive, tiny_artifact, tmp_path, capsys):
    out = tmp_path / "s.mp4"
    arguments = ["--data", str(drive), "--out", str(out), "--model", str(tiny_artifact), "--start", "6", "--every", "2"]
    assert main(["video", "sequence", *arguments]) == 0
    pictures = frames_of(out)
    assert len(pictures) == 2 and pictures[0].shape[1] > 640
    assert "2 pictures at 10 per second" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.part*"))


def test_a_damaged_frame_is_left_out_and_named(drive, tiny_artifact, tmp_path, capsys):
    image = next(drive.glob("data_2d_raw/*/image_00/data_rect/*6.png"))
    image.write_bytes(image.read_bytes()[:60])
    out = tmp_path / "s.mp4"
    command = ["video", "sequence", "--data", str(drive), "--out", str(out), "--model", str(tiny_artifact)]
    assert main([*command, "--stop", "7", "--strict"]) == 2 and not out.exists()
    assert image.name in capsys.readouterr().err
    assert main([*command, "--stop", "7"]) == 0 and len(frames_of(out)) == 2
    said = capsys.readouterr().out
    assert "left out: 1 frame that could not be read" in said and image.name in said
    out.unlink()
    assert main([*command, "--start", "6", "--stop", "6"]) == 2 and not out.exists()
    assert "none of the 1 frames could be read" in capsys.readouterr().err


def test_progress_in_a_file_says_the_time_left(capsys, monkeypatch):
    clock = iter([100.0, 104.0, 111.0])
    monkeypatch.setattr(shared.time, "monotonic", lambda: next(clock))
    show = shared.timed_progress(5)
    show(1, "pictures")
    show(2, "pictures")
    assert capsys.readouterr().err == "2/5 pictures, about 16 s left\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_film_leaves_nothing(number, drive, tiny_artifact, tmp_path, monkeypatch):
    def stopped(*_):
        signal.raise_signal(number)

    monkeypatch.setattr(views, "frame_picture", stopped)
    out = tmp_path / "film" / "s.mp4"
    out.parent.mkdir()
    before = signal.getsignal(signal.SIGTERM)
    assert main(["video", "sequence", "--data", str(drive), "--out", str(out), "--model", str(tiny_artifact)]) == 130
    assert not list(out.parent.iterdir()) and signal.getsignal(signal.SIGTERM) == before


def test_flights_and_rise_from_photos(tiny_artifact, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(2):
        picture = np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(photos / f"{index}.png"), picture)
    path = tmp_path / "own.txt"
    path.write_text("# a step to the right\n1 0 0 0  0 1 0 0  0 0 1 0\n\n1 0 0 0.5 0 1 0 0 0 0 1 0 0 0 0 1\n")
    common = ["--images", str(photos), "--frame", "1", "--model", str(tiny_artifact), "--pictures", "3"]
    out = tmp_path / "f.mp4"
    assert main(["video", "flight", *common, "--out", str(out), "--path", "look", str(path)]) == 0
    assert len(frames_of(out)) == 3 + 2
    assert "assume a horizontal field of view of 70 degrees" in capsys.readouterr().out
    assert main(["video", "transition", *common, "--fov", "90", "--out", str(out), "--rate", "5"]) == 0
    pictures = frames_of(out)
    assert len(pictures) == film.rise_pictures(3) and pictures[0].shape == (118, 192, 3)
    assert "no --fov given" not in capsys.readouterr().out
    calibration = tmp_path / "camera.yaml"
    numbers = "{fx: 40, fy: 40, cx: 31.5, cy: 23.5, width: %d, height: 48}"
    calibration.write_text(numbers % 64)
    common = [*common, "--out", str(out), "--path", "look", "--camera-info", str(calibration)]
    assert main(["video", "flight", *common]) == 0
    assert "no --fov given" not in capsys.readouterr().out
    calibration.write_text(numbers % 80)
    assert main(["video", "flight", *common]) == 2
    assert "camera.yaml: got a camera of 80x48 pixels, expected 64x48 as the photo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["sequence", "--data", "{drive}", "--start", "50"], "got 50 to 8, expected a range with frames"),
        (["flight", "--data", "{drive}", "--frame", "4"], "--frame: got 4, expected one of the 4 frames from 5 to 8"),
        (["flight", "--data", "{drive}", "--path", "loop"], "--path: got loop, expected sideways, forward"),
        (["flight", "--data", "{drive}", "--pictures", "1"], "--pictures: got 1, expected at least 2"),
        (["flight", "--data", "{drive}", "--out", "film.gif"], "got film.gif, expected a name that ends in .mp4"),
        (["flight", "--data", "{drive}", "--out", "{drive}/none/film.mp4"], "no such file or directory"),
        (["transition", "--images", "{drive}/nowhere"], "no such folder"),
        (["transition", "--images", "{drive}"], "got no photo"),
        (["sequence", "--data", "{drive}", "--path", "circle"], "--path: got circle, which sequence does not use"),
        (["transition", "--data", "{drive}", "--every", "2"], "--every: got 2, which transition does not use"),
        (["flight", "--data", "{drive}", "--fov", "60"], "--fov: got 60.0, which --data does not use"),
        (["flight", "--images", "{drive}", "--camera", "01"], "--camera: got 01, which --images does not use"),
    ],
)
def test_user_errors_are_one_sentence(drive, tiny_artifact, tmp_path, capsys, arguments, words):
    arguments = [word.format(drive=drive) for word in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "x.mp4")]
    assert main(["video", *arguments, "--model", str(tiny_artifact)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.mp4"))


def test_an_interrupted_film_leaves_the_old_one(tmp_path):
    from kyn_models.video import write_video

    out = tmp_path / "v.mp4"
    pictures = [np.full((32, 64, 3), 40 * k, np.uint8) for k in range(3)]
    assert write_video(out, pictures) == 3
    before = out.read_bytes()

    def broken():
        yield pictures[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(out, broken())
    assert out.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("name", camera_paths.PATHS)
def test_built_in_paths_begin_and_end_at_the_key_camera_and_are_smooth(name):
    poses = camera_paths.PATHS[name](49)
    for pose in poses:
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) > 0
    np.testing.assert_allclose(poses[[0, -1]], np.stack([np.eye(4)] * 2), atol=1e-9)
    steps = np.abs(np.diff(poses, axis=0)).max(axis=(1, 2))
    assert 0.01 < steps.max() < 0.5
    # Nothing leaves the middle of the image by more than the flight's own turn, nor the horizon tilts.
    assert (poses[:, 2, 2] > 0.9).all() and np.abs(poses[:, 1, 0]).max() < 1e-12


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "got no pose"),
        ("1 2 3", "line 1: got 3 numbers, expected 12 or 16"),
        ("\n1 0 0 x 0 1 0 0 0 0 1 0", "line 2: got '1 0 0 x"),
        ("2 0 0 0 0 1 0 0 0 0 1 0", "line 1: got a matrix that is not a rigid transform"),
    ],
)
def test_a_wrong_path_file_is_named_with_its_line(tmp_path, text, words):
    file = tmp_path / "p.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match="p.txt") as caught:
        camera_paths.read_path(file)
    assert words in str(caught.value)


def test_a_path_of_arrays_is_taken_as_stored(tmp_path):
    # The form of Behind the Scenes' simple_movement.npy: poses that leave and come back to the key camera.
    poses = camera_paths.PATHS["circle"](5)
    for name, stored in (("a", poses), ("b", poses[:, :3].astype(np.float32))):
        np.save(tmp_path / f"{name}.npy", stored)
        np.testing.assert_allclose(camera_paths.read_path(tmp_path / f"{name}.npy"), poses, atol=1e-6)


@pytest.mark.parametrize(
    "stored, words",
    [
        (np.zeros((2, 4)), r"float64 of shape \(2, 4\), expected"),
        (np.zeros((0, 4, 4)), "got no pose"),
        (np.stack([np.eye(4), 2 * np.eye(4)]), "pose 1: got a matrix that is not a rigid transform"),
        (np.full((1, 3, 4), "a"), "got <U1 of shape"),
        (None, "damaged or no .npy file"),
    ],
)
def test_a_wrong_path_of_arrays_is_named(tmp_path, stored, words):
    file = tmp_path / "p.npy"
    file.write_bytes(b"1 0 0 0") if stored is None else np.save(file, stored)
    with pytest.raises(ValueError, match=f"p.npy.*{words}"):
        camera_paths.read_path(file)


def test_a_path_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes(b"\x93NUMPY\xff\xfe")
    with pytest.raises(ValueError, match="p.txt: got a file that is no text"):
        camera_paths.read_path(file)


class Street:
    """A road at base z = 0 and a block of 2 m height, 14 to 18 m ahead and 2 to 6 m to the left."""

    def __init__(self, base_from_camera: np.ndarray) -> None:
        self.base_from_camera = base_from_camera

    def __call__(self, points: np.ndarray) -> np.ndarray:
        x, y, z = (points @ self.base_from_camera[:3, :3].T + self.base_from_camera[:3, 3]).T
        block = (x > 14) & (x < 18) & (y > 2) & (y < 6) & (z < 2)
        return np.where(block | (z < 0), np.float32(50), np.float32(0))


def test_the_rise_begins_with_the_depth_map_and_ends_with_a_map_of_the_street(monkeypatch):
    from kyn_models.artifact import forward_mount

    monkeypatch.setattr(film, "CANVAS", (160, 120))
    monkeypatch.setattr(film, "TOP_WIDTH", 120)
    monkeypatch.setattr(film, "SAMPLES", 64)
    camera = Intrinsics(65.0, 65.0, 79.5, 39.5, 160, 80)
    mount = forward_mount(1.6, 5.0)
    observation = Observation((PosedFrame(np.full((80, 160, 3), 200, np.uint8), camera),), mount)
    scene = novel_view.Scene(Street(mount), (film.key_source(observation, camera),), (novel_view.centred(camera),))
    first = film.rise_picture(scene, observation, 0.0)[24:-34, 160:]
    view = novel_view.render(scene, novel_view.pixel_rays(camera), np.eye(4), 200)
    expected = views.colourise_depth(view.depth_m)
    near = np.abs(first[20:100].astype(int) - expected).max(axis=-1) < 25
    assert near.mean() > 0.95
    assert (first[:20] == views.BACKGROUND).all()

    last = film.rise_picture(scene, observation, 1.0)[24:-34, 160:]

    def colour(x: float, y: float) -> np.ndarray:
        """Of the map at metres ahead and to the left: 4 pixels per metre."""
        return last[round((film.TOP_M[1] - x) * 4), round(80 - y * 4)].astype(int)

    for x, y in ((16, 4), (14.7, 2.7), (17.3, 5.3)):
        assert np.abs(colour(x, y) - views.OCCUPIED_COLOUR).max() < 12, (x, y)
    for x, y in ((16, 0), (12.5, 4), (16, 8), (20, 4), (28, -5)):
        assert np.abs(colour(x, y) - views.FREE_COLOUR).max() < 12, (x, y)
    for x, y in ((7, 14), (7, -14)):
        assert np.abs(colour(x, y) - views.UNKNOWN_COLOUR).max() < 12, (x, y)
