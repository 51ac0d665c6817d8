"""Commands with a model of posed frames: with neighbours where the data has them, else from one image, or refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_drive import DRIVE, write_drive

pytest.importorskip("torch", reason="the plain model needs torch")

from artifacts import TINY_FRAMES

from kyn_models.cli import main
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.neighbours import kitti360_sample
from kyn_models.evaluate import DepthAnswers
from kyn_models.models.seeded import seeded_frames, write_seeded_frames
from kyn_models.predictor import Predictor
from kyn_models.types import Float32Array, Intrinsics, Observation, Prediction, Sample


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights alone: torch runs it."""
    folder = tmp_path_factory.mktemp("frames") / "tiny"
    return str(write_seeded_frames(folder, seeded_frames(TINY_FRAMES), width=128, height=64).path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 5 to 8."""
    return write_drive(tmp_path_factory.mktemp("kitti360"))


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of which each prediction was made."""
    counts = []
    predict = Predictor.predict

    def counted(self: Predictor, observation: Observation, *options: object) -> Prediction:
        result = predict(self, observation, *options)  # type: ignore[arg-type]
        counts.append(result.frames_used)
        return result

    monkeypatch.setattr(Predictor, "predict", counted)
    return counts


def test_neighbours_of_a_sample_are_those_that_exist(data: Path) -> None:
    drive = Kitti360(data)
    for frame, others in ((5, [6]), (6, [5, 7]), (8, [7])):
        key, *neighbours = kitti360_sample(drive, frame, 3).observation.frames
        assert key.stamp_ns == drive.stamp_ns(frame)
        assert [item.stamp_ns for item in neighbours] == [drive.stamp_ns(other) for other in others]
    assert len(kitti360_sample(drive, 6, 1).observation.frames) == 1


def test_a_photo_is_answered_by_the_mono_branch(
    tmp_path: Path, model: str, answered: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "street.png"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8))
    assert main(["image", str(photo), "--model", model, "--out", str(tmp_path / "out")]) == 0
    assert "one image: the model's mono branch answered" in capsys.readouterr().out and answered == [1]
    assert np.load(tmp_path / "out" / "depth_m.npy").shape == (64, 128)


def test_doctor_finds_a_runtime(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--model", model])
    said = capsys.readouterr().out
    assert "auto takes torch" in said and "runs the model in float32" in said


def test_depth_and_occupancy_are_scored_with_neighbours(
    data: Path, tmp_path: Path, model: str, answered: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "depth", "--data", str(data), "--model", model]) == 0
    said = capsys.readouterr().out
    assert "with the frames before and after where there are some" in said
    assert "0 of 4 frames had no posed neighbours" in said
    assert answered == [2, 3, 3, 2]
    answered.clear()
    assert main(["eval", "occupancy", "--data", str(data), "--model", model, "--scans", "2"]) == 0
    assert "with the frames before and after" in capsys.readouterr().out
    assert answered == [2, 3], "once a frame, however many questions the protocol asks"
    split = tmp_path / "split.txt"
    split.write_text(f"{DRIVE} 6 l\n")
    out = tmp_path / "voxels"
    assert main(["voxels", "--data", str(data), "--split", str(split), "--model", model, "--out", str(out)]) == 0
    assert (out / f"{DRIVE}_0000000006.png").is_file() and answered[-1] == 3


@pytest.mark.parametrize("command", [["video", "flight"], ["video", "transition"], ["eval", "nvs"]])
def test_what_needs_density_is_refused(
    data: Path, tmp_path: Path, model: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "video":
        pytest.importorskip("av", reason="videos are written by PyAV")
        command = [*command, "--out", str(tmp_path / "film.mp4")]
    assert main([*command, "--data", str(data), "--model", model]) == 2
    assert "which says the depth of what is seen and no density behind it" in capsys.readouterr().err


def test_a_video_of_a_drive_uses_neighbours(data: Path, tmp_path: Path, model: str, answered: list[int]) -> None:
    pytest.importorskip("av", reason="videos are written by PyAV")
    film = str(tmp_path / "film.mp4")
    assert main(["video", "sequence", "--data", str(data), "--stop", "6", "--out", film, "--model", model]) == 0
    assert answered == [2, 3]


def test_occupancy_of_a_depth_is_free_before_it_and_occupied_behind() -> None:
    class Wall(DepthAnswers):
        def __init__(self) -> None:
            pass

        def depth(self, sample: Sample) -> tuple[Float32Array, Intrinsics]:
            depth = np.full((4, 6), 10.0, np.float32)
            depth[:, 5], depth[0] = np.nan, np.inf
            return depth, Intrinsics(3.0, 3.0, 2.5, 1.5, 6, 4)

    points = np.array([[0, 0, 9.9], [0, 0, 10.1], [0, -50, 60], [-90, 0, 9], [90, 0, 9]], np.float32)
    sigma = Wall().density(None, points)  # type: ignore[arg-type]
    assert sigma.tolist() == [0, np.inf, 0, 0, np.inf], "before, behind, sky, beside the image, invalid"
