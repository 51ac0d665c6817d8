"""A KITTI odometry sequence as a drive, from the real frames and from folders with faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kyn_models.data.kitti_odometry_drive import OdometryDrive, sequences_of


@pytest.fixture
def folder(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of the real sequence without its images of the right camera."""
    return Path(
        shutil.copytree(
            shared_data / "kitti_odometry",
            tmp_path / "odometry",
            ignore=shutil.ignore_patterns("image_3", "image_depth_annotated", "README.md"),
            copy_function=shutil.copyfile,
        )
    )


def test_every_image_is_a_frame_whose_world_is_the_road_at_the_start(shared_data: Path) -> None:
    drive = OdometryDrive(shared_data / "kitti_odometry")
    assert (drive.drive, drive.frames, drive.length) == ("07", (0, 168, 169, 170), 1101)
    assert drive.frames_without_pose == () and drive.posed_frames[-1] == 1100
    np.testing.assert_allclose(drive.world_from_base(0), np.eye(4), atol=1e-6)
    step = np.linalg.inv(drive.world_from_base(168)) @ drive.world_from_base(169)
    assert 0.7 < step[0, 3] < 0.85 and abs(step[1, 3]) < 0.05 and abs(step[2, 3]) < 0.05
    assert drive.stamp_ns(0) > 0
    assert drive.stamp_ns(169) - drive.stamp_ns(168) == pytest.approx(0.1037e9, rel=0.01)
    left, right = drive.posed_frame(169), drive.posed_frame(169, "3")
    baseline = np.linalg.inv(left.world_from_camera) @ right.world_from_camera
    np.testing.assert_allclose(baseline[:3, 3], (0.537, 0, 0), atol=0.005)
    assert 1.6 < drive.base_from_camera()[2, 3] < 1.7


def test_poses_from_images_are_those_of_the_left_colour_camera(shared_data: Path) -> None:
    """Where the car turns, a camera beside camera 0 moves by (R - I) times its place: that tells which one it is."""
    drives = [OdometryDrive(shared_data / "kitti_odometry", poses=poses) for poses in ("kitti", "dvso")]
    mount = drives[0].base_from_camera()
    worlds = [np.stack([drive.world_from_base(frame) @ mount for frame in drive.posed_frames]) for drive in drives]
    gap = 5
    truth, seen = (np.linalg.inv(world[:-gap]) @ world[gap:] for world in worlds)
    # Both as poses of camera 2: what is left over of its distance to camera 0 is small.
    columns = np.concatenate([truth[:, :3, :3] - np.eye(3), truth[:, :3, 3:]], axis=2).reshape(-1, 4)
    left_over, scale = np.linalg.lstsq(columns, seen[:, :3, 3].reshape(-1), rcond=None)[0][[0, 3]]
    assert abs(left_over) < 0.01 and scale == pytest.approx(1.0, abs=0.01)


def test_stamps_are_assumed_where_there_are_none(folder: Path) -> None:
    (folder / "sequences" / "07" / "times.txt").unlink()
    drive = OdometryDrive(folder, "07", rate_hz=5.0)
    assert drive.stamps_assumed and drive.stamp_ns(2) == 600_000_000


def test_images_beyond_the_poses_are_counted(folder: Path) -> None:
    path = folder / "poses" / "07.txt"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:170]))
    drive = OdometryDrive(folder)
    assert drive.frames == (0, 168, 169) and drive.frames_without_pose == (170,)
    with pytest.raises(ValueError, match=r"07\.txt: got 170 poses, expected one for frame 170"):
        drive.world_from_base(170)


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("poses/07.txt", None, r"poses/07\.txt: missing"),
        ("poses/07.txt", "1 2 3\n", r"got 3 numbers a line, expected 12"),
        ("poses/07.txt", "", r"is empty"),
        ("poses/07.txt", "a b\n", r"no numbers"),
        ("poses/07.txt", "nan " * 12 + "\n", r"expected 12 finite ones"),
        ("sequences/07/times.txt", "1\n1\n", r"column of rising numbers"),
        ("sequences/07/calib.txt", "P2: 1 2\n", r"calib\.txt: got no entry 'Tr'"),
    ],
)
def test_faults_are_named(folder: Path, path: str, text: str | None, sentence: str) -> None:
    (folder / path).unlink() if text is None else (folder / path).write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=sentence):
        OdometryDrive(folder)


def test_wrong_requests_are_named(folder: Path, tmp_path: Path) -> None:
    assert sequences_of(folder) == ("07",)
    with pytest.raises(FileNotFoundError, match="got no sequence 08"):
        OdometryDrive(folder, "08")
    with pytest.raises(ValueError, match="camera: got '0'"):
        OdometryDrive(folder, camera="0")
    with pytest.raises(FileNotFoundError, match="image_3: missing or empty"):
        OdometryDrive(folder, camera="3")
    with pytest.raises(ValueError, match="poses: got 'slam'"):
        OdometryDrive(folder, poses="slam")  # type: ignore[arg-type]
    shutil.copytree(folder / "sequences" / "07", folder / "sequences" / "08")
    with pytest.raises(ValueError, match="expected one of 07, 08"):
        OdometryDrive(folder)
