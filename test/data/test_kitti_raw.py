"""KITTI raw: published lists, stereo partner and neighbours, poses of both sources, cameras of resized images."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_raw import DRIVE, FOCAL, HEIGHT, RIGHT_M, STEP_M, WIDTH, image, write_raw, write_slam

from kyn_models.data.kitti_raw import KittiRaw, KittiRawFolder
from kyn_models.data.kitti_raw_poses import SlamPoses, earth_from_imu
from kyn_models.data.kitti_raw_split import KittiRawSplit
from kyn_models.data.lidar_depth import published_returns

PUBLISHED_VIEWS = (("same", 1), ("other", 0), ("other", 1))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"))


def write_split(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{DRIVE} {line}\n" for line in lines))
    return path


def shifts(sample) -> list[tuple[float, float, float]]:
    """(forward, right, down) metres of every view's camera from the key frame's."""
    key = np.linalg.inv(sample.observation.key.world_from_camera)
    moved = [key @ view.world_from_camera for view in sample.views]
    return [tuple(np.round(pose[[2, 0, 1], 3], 4)) for pose in moved]


@pytest.mark.parametrize("source", ["oxts", "slam"])
def test_views_and_poses_of_both_sources(root: Path, tmp_path: Path, source: str) -> None:
    poses = write_slam(tmp_path / "poses") if source == "slam" else None
    split = write_split(tmp_path / "split.txt", "1 l", "0000000000 r")
    data = KittiRawSplit(root, split, poses, PUBLISHED_VIEWS)
    assert len(data) == 2 and data.missing == ()
    left, right = data[0], data[1]
    assert shifts(left) == [(STEP_M, 0, 0), (0, RIGHT_M, 0), (STEP_M, RIGHT_M, 0)]
    assert shifts(right) == [(STEP_M, 0, 0), (0, -RIGHT_M, 0), (STEP_M, -RIGHT_M, 0)]
    assert left.name.endswith("_drive_0099_sync_0000000001_02") and right.name.endswith("0000000000_03")
    np.testing.assert_array_equal(left.observation.key.image, image(1, "02"))
    np.testing.assert_array_equal(left.views[2].image, image(2, "03"))
    np.testing.assert_array_equal(right.views[1].image, image(0, "02"))
    np.testing.assert_allclose(left.observation.base_from_camera[:3, 3], (0, 0, 1.73), atol=1e-9)


def test_an_offset_beyond_the_drive_gives_its_last_image_as_published(root: Path, tmp_path: Path) -> None:
    split = write_split(tmp_path / "split.txt", "2 l", "0 l")
    data = KittiRawSplit(root, split, write_slam(tmp_path / "poses"), (("same", 1), ("same", -1)))
    assert shifts(data[0]) == [(0, 0, 0), (-STEP_M, 0, 0)]
    assert shifts(data[1]) == [(STEP_M, 0, 0), (0, 0, 0)]


def test_missing_lines_are_counted_by_reason_or_an_error(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(root, folder)
    KittiRawFolder(folder).scan_path(DRIVE, 2).unlink()
    split = write_split(tmp_path / "split.txt", "0 l", "2 l", "7 r")
    (tmp_path / "more.txt").write_text(split.read_text() + "2011_09_28/2011_09_28_drive_0001_sync 5 l\n")
    data = KittiRawSplit(folder, tmp_path / "more.txt")
    assert len(data) == 1 and len(data.missing) == 3
    assert "line 2" in data.missing[0] and "whose scan" in data.missing[0]
    assert "whose image" in data.missing[1] and "image_03" in data.missing[1]
    assert data[0].observation.key.world_from_camera is None
    assert len(KittiRawSplit(folder, split, depth=False)) == 2
    with pytest.raises(FileNotFoundError, match="line 2: names frame 2 .* whose scan"):
        KittiRawSplit(folder, split, strict=True)
    with pytest.raises(FileNotFoundError, match="none of the 1 lines is whole here"):
        KittiRawSplit(folder, write_split(tmp_path / "none.txt", "9 l"))
    poses = write_slam(tmp_path / "poses", count=1)
    short = KittiRawSplit(folder, write_split(tmp_path / "posed.txt", "0 l", "1 l"), poses, (("other", 0),))
    assert len(short) == 1 and short.missing[0].endswith("of whose frames 1 has no pose")
    (poses / f"{DRIVE}.txt").unlink()
    with pytest.raises(FileNotFoundError, match="a drive without poses"):
        KittiRawSplit(folder, write_split(tmp_path / "posed.txt", "0 l"), poses, (("other", 0),))


def test_wrong_pose_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "poses.txt"
    path.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1\n")
    with pytest.raises(ValueError, match=r"poses\.txt, line 2: got .*expected 12 finite numbers"):
        SlamPoses(path)


def test_mercator_metres_are_metres_at_the_first_latitude() -> None:
    scale = np.cos(np.radians(49.0))
    here = earth_from_imu(np.array([49.0, 8.0, 100.0, 0.0, 0.0, 0.0]), scale)
    # 1e-5 degrees: 1.11319 m north, and cos(49 degrees) of that east.
    north = earth_from_imu(np.array([49.00001, 8.0, 100.0, 0, 0, 0]), scale)[:3, 3] - here[:3, 3]
    east = earth_from_imu(np.array([49.0, 8.00001, 101.0, 0, 0, 0]), scale)[:3, 3] - here[:3, 3]
    np.testing.assert_allclose(north, (0, 1.113195, 0), atol=1e-5)
    np.testing.assert_allclose(east, (1.113195 * scale, 0, 1), atol=1e-5)
    # Yaw 90 degrees turns forward to north; pitch takes forward down, roll takes left up.
    turned = earth_from_imu(np.array([49.0, 8.0, 0, 0, 0, np.pi / 2]), scale)[:3, :3]
    np.testing.assert_allclose(turned @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    assert earth_from_imu(np.array([49.0, 8.0, 0, 0, 0.1, 0]), scale)[2, 0] < 0
    assert earth_from_imu(np.array([49.0, 8.0, 0, 0.1, 0, 0]), scale)[2, 1] > 0


def test_resized_images_keep_the_normalised_camera_of_the_source(root: Path, tmp_path: Path) -> None:
    split = write_split(tmp_path / "split.txt", "0 l")
    source = KittiRawFolder(root).intrinsics(DRIVE, "02").normalised()
    # As published: 2 f / size, 2 c / size - 1 of the rectified image before it is resized.
    np.testing.assert_allclose(source[:2], [[2 * FOCAL / WIDTH, 0, 0], [0, 2 * FOCAL / HEIGHT, 0]])
    key = KittiRawSplit(root, split, size=(32, 96), depth=False)[0].observation.key
    assert key.image.shape == (32, 96, 3)
    np.testing.assert_allclose(key.intrinsics.normalised(), source)
    expected = cv2.resize(image(0, "02"), (96, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(key.image, expected)
    with pytest.raises(ValueError, match="size: got .* with depth"):
        KittiRawSplit(root, split, size=(32, 96))
    folder = tmp_path / "prepared"
    shutil.copytree(root, folder)
    path = KittiRawFolder(folder).image_path(DRIVE, 0, "02")
    cv2.imwrite(str(path.with_suffix(".jpg")), expected[..., ::-1])
    path.unlink()
    sample = KittiRawSplit(folder, split)[0]
    assert sample.observation.key.image.shape == (32, 96, 3) and sample.depth_m.shape == (32, 96)
    np.testing.assert_allclose(sample.observation.key.intrinsics.normalised(), source)


def test_depth_of_the_published_evaluation_is_one_pixel_up_and_left(root: Path, tmp_path: Path) -> None:
    data = KittiRawSplit(root, write_split(tmp_path / "split.txt", "0 l", "0 r"))
    truth = data.published_depth(0)
    known = {tuple(place): float(truth[tuple(place)]) for place in np.argwhere(~np.isnan(truth))}
    # (8, -2, -1) is 2 m to the right and 1 m below: column 64 + 16, row 20 + 8, both less 1.
    assert known == {(19, 63): 8.0, (27, 79): 8.0}
    assert float(data[0].depth_m[20, 64]) == float(data[0].depth_m[28, 80]) == 8.0
    # Seen from 0.5 m further right, 4 pixels at 8 m and 2 at 16 m: both returns ahead are seen.
    truth = data.published_depth(1)
    assert truth[19, 59] == 8.0 and truth[19, 61] == 16.0 and truth[27, 75] == 8.0
    assert np.count_nonzero(~np.isnan(truth)) == 3


def test_real_frames(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "kitti_raw"
    drive = "2011_09_26/2011_09_26_drive_0048_sync"
    poses = tmp_path / f"{drive}.txt"
    poses.parent.mkdir(parents=True)
    poses.write_text((root / drive / "orb_slam_poses.txt").read_text())
    split = tmp_path / "split.txt"
    split.write_text(f"{drive} 0000000000 l\n{drive} 1 r\n{drive} 21 l\n")
    data = KittiRawSplit(root, split, tmp_path, PUBLISHED_VIEWS)
    assert len(data) == 2 and len(data.missing) == 1
    (_, _, _), partner, _ = shifts(data[0])
    np.testing.assert_allclose(partner, (0, 0.5327, 0.0), atol=5e-3)
    forward = shifts(data[1])[0]
    assert 0.78 < forward[0] < 0.83 and abs(forward[1]) < 0.02
    # K_norm of the published reader, from P_rect_02 and 1242 x 375.
    k_norm = data[0].observation.key.intrinsics.normalised()
    expected = (2 * 721.5377 / 1242, 2 * 721.5377 / 375, 2 * 609.5593 / 1242 - 1, 2 * 172.854 / 375 - 1)
    np.testing.assert_allclose((k_norm[0, 0], k_norm[1, 1], k_norm[0, 2], k_norm[1, 2]), expected, rtol=1e-9)
    # The two truths are the same returns one pixel apart.
    published, centred = data.published_depth(0), data[0].depth_m
    both = ~np.isnan(published[:-1, :-1]) & ~np.isnan(centred[1:, 1:])
    assert both.sum() > 0.98 * np.count_nonzero(~np.isnan(published)) > 15000
    close = np.abs(published[:-1, :-1] - centred[1:, 1:])[both] < 0.01
    assert close.mean() > 0.99
    assert len(KittiRaw(root)) == 3


def test_nothing_ahead_of_the_scanner_is_all_unknown() -> None:
    behind = np.array([[-5.0, 0, 0, 0], [0.0, 1.0, 0, 0]])
    assert np.isnan(published_returns(behind, np.eye(4)[:3], 4, 3)).all()
