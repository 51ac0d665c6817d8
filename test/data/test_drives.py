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
    with pytest.raises(FileNotFoundError, match="data_2d_raw: missing or empty, expected a drive"):
        open_drive(tmp_path)
    (tmp_path / "sequences").mkdir()
    with pytest.raises(FileNotFoundError, match="sequences: got no sequence"):
        drive_names(tmp_path)
    with pytest.raises(FileNotFoundError, match="got no sequence 07"):
        open_drive(tmp_path, "07")
