"""KITTI-360 reader: the calibration chain against hand-made numbers and real frames, and what is missing by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models.data.kitti360 import Kitti360, drives_of, open_split
from kyn_models.types import Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_drive(tmp_path / "kitti360", cameras=("00", "01"))


def test_sample_is_the_observation_a_robot_would_give(folder: Path) -> None:
    drive = Kitti360(folder)
    sample = drive[1]
    assert isinstance(sample, Sample)
    assert (len(drive), drive.frames, drive.drive) == (4, (5, 6, 7, 8), tiny.DRIVE)
    assert sample.name == f"{tiny.DRIVE}_0000000006"
    key = sample.observation.key
    np.testing.assert_array_equal(key.image, tiny.image(6))
    assert (key.intrinsics.fx, key.intrinsics.cx, key.intrinsics.width) == (tiny.FOCAL, tiny.WIDTH / 2, tiny.WIDTH)


def test_a_folder_inside_the_data_set_is_told_where_that_is(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"expected a drive .*; {folder} is one"):
        Kitti360(folder / "data_2d_raw")


def test_mount_and_pose_follow_the_chain(folder: Path) -> None:
    drive = Kitti360(folder, camera="01")
    expected = np.array([[0, 0, 1, 1.0], [-1, 0, 0, -tiny.RIGHT_M], [0, -1, 0, tiny.CAMERA_HEIGHT_M], [0, 0, 0, 1]])
    np.testing.assert_allclose(drive.base_from_camera(), expected, atol=1e-12)
    velo = np.eye(4)
    velo[:3, 3] = (0.2, 0, tiny.VELO_HEIGHT_M)
    np.testing.assert_allclose(drive.base_from_velo(), velo, atol=1e-12)
    base = np.eye(4)
    base[0, 3] = 6 * tiny.STEP_M
    np.testing.assert_allclose(drive.world_from_base(6), base, atol=1e-9)
    np.testing.assert_allclose(drive[1].observation.key.world_from_camera, base @ expected, atol=1e-9)
    np.testing.assert_allclose(drive.world_from_velo(6), base @ velo, atol=1e-9)


def test_velodyne_wall_projects_where_geometry_says(folder: Path) -> None:
    drive = Kitti360(folder)
    wall = np.array([20.0, -3.0, 1.0, 1.0])  # 3 m right of the scanner, 1 m above it
    x, y, z, _ = drive.camera_from_velo() @ wall
    np.testing.assert_allclose((x, y, z), (3.0, -1.0 - (tiny.VELO_HEIGHT_M - tiny.CAMERA_HEIGHT_M), 19.2), atol=1e-9)


def test_further_views_and_their_missing_ends(folder: Path) -> None:
    drive = Kitti360(folder, views=(("01", 0), ("00", 1)))
    assert drive.frames == (5, 6, 7)
    right, later = drive[0].views
    assert right.world_from_camera is not None and later.world_from_camera is not None
    np.testing.assert_allclose(right.world_from_camera[:3, 3], (6, -tiny.RIGHT_M, tiny.CAMERA_HEIGHT_M), atol=1e-9)
    np.testing.assert_array_equal(later.image, tiny.image(6))


def test_stamps_from_the_file_to_the_nanosecond_else_from_the_rate(folder: Path) -> None:
    assumed = Kitti360(folder, rate_hz=5.0)
    assert assumed.stamps_assumed and assumed.stamp_ns(5) == 1_200_000_000 and assumed.stamp_ns(0) > 0
    tiny.write_timestamps(folder)
    drive = Kitti360(folder)
    assert not drive.stamps_assumed
    assert drive.stamp_ns(6) - drive.stamp_ns(5) == 100_000_000
    assert drive[0].observation.key.stamp_ns == 1369728000 * 10**9 + 500_000_005


def test_stamps_that_do_not_cover_the_frames_or_are_no_dates(folder: Path) -> None:
    tiny.write_timestamps(folder, count=6)
    drive = Kitti360(folder)
    assert drive.stamp_ns(5)
    with pytest.raises(ValueError, match="got 6 lines, expected one for frame 6"):
        drive.stamp_ns(6)
    (folder / "data_2d_raw" / tiny.DRIVE / "image_00" / "timestamps.txt").write_text("2013-05-28 08:00\n")
    with pytest.raises(ValueError, match="timestamps.txt, line 1.*YYYY"):
        Kitti360(folder)


def test_a_blank_stamp_is_that_frames_own_and_moves_no_other(folder: Path) -> None:
    tiny.write_timestamps(folder)
    before = Kitti360(folder).stamp_ns(8)
    path = folder / "data_2d_raw" / tiny.DRIVE / "image_00" / "timestamps.txt"
    lines = path.read_text().splitlines()
    lines[6] = "  "
    path.write_text("\n".join(lines) + "\n\n \n")
    drive = Kitti360(folder)
    assert drive.stamp_ns(8) == before
    with pytest.raises(ValueError, match=r"timestamps\.txt, line 7: is blank, expected the stamp of frame 6"):
        drive.stamp_ns(6)
    with pytest.raises(ValueError, match="got 20 lines, expected one for frame 20"):
        drive.stamp_ns(20)


@pytest.mark.parametrize(
    "name", ["perspective.txt", "calib_cam_to_pose.txt", "calib_cam_to_velo.txt", "data_poses", "data_2d_raw"]
)
def test_missing_piece_is_named(folder: Path, name: str) -> None:
    path = next(path for path in folder.rglob(name))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=name.replace(".", r"\.")):
        Kitti360(folder)


def test_calibration_without_the_entry_or_with_too_few_numbers(folder: Path) -> None:
    path = folder / "calibration" / "perspective.txt"
    text = path.read_text()
    path.write_text(text.replace("R_rect_01", "R_other"))
    with pytest.raises(ValueError, match=r"perspective\.txt: got no entry 'R_rect_01'"):
        Kitti360(folder)
    path.write_text(text.replace(f"S_rect_00: {tiny.WIDTH} {tiny.HEIGHT}", "S_rect_00: 64"))
    with pytest.raises(ValueError, match="got 1 numbers for 'S_rect_00', expected 2"):
        Kitti360(folder)
    (folder / "calibration" / "perspective.txt").write_text(text)
    (folder / "calibration" / "calib_cam_to_velo.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="got 3 numbers, expected 12"):
        Kitti360(folder)


def test_truncated_scan_and_corrupt_image_are_named(folder: Path) -> None:
    drive = Kitti360(folder)
    scan = drive.scan_path(6)
    scan.write_bytes(scan.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"0000000006\.bin.*truncated"):
        drive.scan(6)
    assert drive.scan(5).shape == tiny.scan().shape
    scan.unlink()
    assert not drive.has_scan(6)
    with pytest.raises(FileNotFoundError, match=r"0000000006\.bin"):
        drive.scan(6)
    image = drive.image_path(6)
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"0000000006\.png.*is truncated"):
        drive[1]


def test_image_of_another_size_than_the_calibration(folder: Path) -> None:
    import cv2

    drive = Kitti360(folder)
    cv2.imwrite(str(drive.image_path(5)), np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="got 20x10 pixels, expected 64x24"):
        drive[0]


def test_frame_without_pose_is_known_and_refused(folder: Path) -> None:
    poses = folder / "data_poses" / tiny.DRIVE / "poses.txt"
    poses.write_text("\n".join(poses.read_text().splitlines()[:-1]))
    drive = Kitti360(folder)
    assert drive.frames == (5, 6, 7) and drive.frames_without_pose == (8,)
    with pytest.raises(ValueError, match="no pose for frame 8.*3 frames from 5 to 7"):
        drive.sample(8)
    for line in ("5 1 0 0", "inf 1 0 0 0 0 1 0 0 0 0 1 0", "nan 1 0 0 0 0 1 0 0 0 0 1 0"):
        poses.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"poses\.txt, line 1: got .*expected a frame number"):
            Kitti360(folder)


def test_split_keeps_its_order_and_names_its_faults(folder: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    split.write_text(f"{tiny.DRIVE} 0000000008 l\n{tiny.DRIVE} 0000000006 l\n{tiny.DRIVE} 0000000005 r\n")
    assert Kitti360(folder, split=split).frames == (8, 6)
    assert [(drive.camera, drive.frames) for drive in open_split(folder, split)] == [("00", (8, 6)), ("01", (5,))]
    split.write_text(f"{tiny.DRIVE} 0000000005 l\n{tiny.DRIVE} 0000000099 l\n")
    with pytest.raises(FileNotFoundError, match="line 2: names frame 99"):
        Kitti360(folder, split=split)
    split.write_text(f"{tiny.DRIVE} 5\n")
    with pytest.raises(ValueError, match="line 1.*<drive> <frame> <l|r>"):
        Kitti360(folder, split=split)
    split.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=rf"{split.name}: got a file that is no text"):
        Kitti360(folder, split=split)
    with pytest.raises(FileNotFoundError, match="is a folder, expected a split file"):
        Kitti360(folder, split=folder)
    with pytest.raises(FileNotFoundError, match="none.txt: there is no such file"):
        Kitti360(folder, split=tmp_path / "none.txt")


def test_choice_of_the_drive(folder: Path) -> None:
    tiny.write_drive(folder, drive="2000_01_01_drive_0002_sync")
    assert len(drives_of(folder)) == 2
    with pytest.raises(ValueError, match="drive: got none, expected one of .*0001_sync, .*0002_sync"):
        Kitti360(folder)
    assert Kitti360(folder, "2000_01_01_drive_0002_sync").drive.endswith("0002_sync")
    with pytest.raises(FileNotFoundError, match="no such drive"):
        Kitti360(folder, "other")
    with pytest.raises(ValueError, match="camera: got '02'"):
        Kitti360(folder, tiny.DRIVE, camera="02")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Kitti360(folder / "nowhere")


def test_real_frames_agree_with_the_official_camera_poses(shared_data: Path) -> None:
    drive = Kitti360(shared_data / "kitti360")
    assert drive.frames == tuple(range(3010, 3034))
    table = np.loadtxt(shared_data / "kitti360" / "data_poses" / drive.drive / "cam0_to_world.txt")
    for row in table:
        if int(row[0]) in drive.frames:
            world_from_camera = drive.world_from_base(int(row[0])) @ drive.base_from_camera()
            np.testing.assert_allclose(world_from_camera, row[1:].reshape(4, 4), atol=1e-6)


def test_real_road_is_at_height_zero_of_base_link(shared_data: Path) -> None:
    drive = Kitti360(shared_data / "kitti360")
    mount = drive.base_from_velo()
    for frame in drive.frames[::8]:
        points = drive.scan(frame)[:, :3] @ mount[:3, :3].T + mount[:3, 3]
        for near, far, limit in ((4, 12, 0.06), (12, 25, 0.15)):  # the street itself slopes a little
            lane = (points[:, 0] > near) & (points[:, 0] < far) & (np.abs(points[:, 1]) < 2.5) & (points[:, 2] < 0.6)
            assert abs(np.median(points[lane, 2])) < limit
    assert drive.base_from_camera()[2, 3] == pytest.approx(1.58, abs=1e-6)
