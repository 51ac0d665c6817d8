"""One way to open a drive, whichever of the two layouts its folder has."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_drive import DRIVE, write_drive

from kyn_models.data.drives import drive_names, image_frame, is_drive_folder, is_odometry, open_drive
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.kitti_odometry_drive import OdometryDrive


def test_a_drive_of_kitti360(tmp_path: Path) -> None:
    root = write_drive(tmp_path / "kitti360", cameras=("00", "01"))
    assert is_drive_folder(root) and not is_odometry(root) and drive_names(root) == (DRIVE,)
    left, right = open_drive(root), open_drive(root, DRIVE, "right", rate_hz=5.0)
    assert isinstance(left, Kitti360) and (left.camera, right.camera) == ("00", "01")
    assert image_frame(left.camera) == "image_00_optical"
    assert (left.stamp_ns(5), right.stamp_ns(5)) == (600_000_000, 1_200_000_000)


def test_a_sequence_of_kitti_odometry(shared_data: Path) -> None:
    root = shared_data / "kitti_odometry"
    assert is_drive_folder(root) and is_odometry(root) and drive_names(root) == ("07",)
    left, right = open_drive(root), open_drive(root, "07", "right")
    assert isinstance(left, OdometryDrive) and left.frames == (0, 168, 169, 170)
    assert (image_frame(left.camera), image_frame(right.camera)) == ("image_2_optical", "image_3_optical")


def test_another_folder_is_refused_by_name(tmp_path: Path) -> None:
    assert not is_drive_folder(tmp_path)
    either = r"expected a KITTI-360 folder \(with data_2d_raw\) or a KITTI odometry folder \(with sequences\)"
    for path, got in ((tmp_path, "an empty folder"), (tmp_path / "nowhere", "no such folder")):
        for read in (open_drive, drive_names):
            with pytest.raises(FileNotFoundError, match=f"{path}: got {got}, {either}$"):
                read(path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="got other files"):
        open_drive(tmp_path)
    with pytest.raises(FileNotFoundError, match="got a file"):
        open_drive(tmp_path / "notes.txt")
    (tmp_path / "raw" / "2011_09_26" / "2011_09_26_drive_0001_sync").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="got a KITTI raw folder"):
        open_drive(tmp_path / "raw")
    with pytest.raises(FileNotFoundError, match="in the layout kitti_raw, expected .*--layout kitti_raw"):
        Kitti360(tmp_path / "raw")
    (tmp_path / "sequences").mkdir()
    with pytest.raises(FileNotFoundError, match="sequences: got no sequence"):
        drive_names(tmp_path)
    with pytest.raises(FileNotFoundError, match="got no sequence 07"):
        open_drive(tmp_path, "07")
    with pytest.raises(FileNotFoundError, match=f"; {tmp_path} is one$"):
        open_drive(tmp_path / "raw")
    with pytest.raises(FileNotFoundError, match="in the layout kitti_odometry.*have --layout kitti_odometry"):
        Kitti360(tmp_path)
