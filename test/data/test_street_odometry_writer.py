"""Synthetic drives in the layout of KITTI odometry, read back by the readers of the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kyn_models import cli
from kyn_models.data.kitti_odometry_drive import OdometryDrive
from kyn_models.data.kitti_odometry_frames import KittiOdometryFrames, OdometryFramesOptions
from kyn_models.data.street_odometry_writer import CAMERA, write_kitti_odometry
from kyn_models.data.street_scene import FRAME_S
from kyn_models.data.street_sensors import BASELINE_M, base_from_camera
from kyn_models.data.streets import StreetOptions, make_street

STREET = StreetOptions(drive_m=30.0, step_m=(0.7, 1.2))
FRAMES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "odometry"
    street = make_street(3, STREET)
    assert write_kitti_odometry(street, out, FRAMES, cameras=("00", "01"), size=(306, 92), lidar=True) == ["90"]
    return out


def test_drive_has_the_poses_and_mounts_of_the_street(folder: Path) -> None:
    drive, street = OdometryDrive(folder), make_street(3, STREET)
    assert drive.frames == tuple(range(FRAMES)) and not drive.stamps_assumed
    np.testing.assert_allclose(drive.base_from_camera(), base_from_camera("00"), atol=1e-6)
    for frame in (1, FRAMES - 1):
        truth = np.linalg.inv(street.world_from_base(0.0)) @ street.world_from_base(frame * FRAME_S)
        np.testing.assert_allclose(drive.world_from_base(frame), truth, atol=1e-6)
        assert drive.stamp_ns(frame) == pytest.approx((frame + 1) * 1e8)
    left, right = drive.posed_frame(2), drive.posed_frame(2, "3")
    apart = np.linalg.inv(left.world_from_camera) @ right.world_from_camera
    np.testing.assert_allclose(apart[:3, 3], (BASELINE_M, 0, 0), atol=1e-6)
    scan = drive.scan(0)
    ground = scan[(np.hypot(scan[:, 0], scan[:, 1]) < 10) & (scan[:, 2] < -1.2)]
    assert abs(np.median(ground[:, 2]) + 1.73) < 0.1


def test_neighbours_agree_with_the_depth_where_nothing_moves(folder: Path) -> None:
    """The crop's camera, poses, depth and masks are one geometry: colours agree where the truth says they lie."""
    frames = KittiOdometryFrames(folder, OdometryFramesOptions(poses="kitti", size=(92, 184), margin=1))
    assert len(frames) == FRAMES - 2
    sample = frames[3]
    key, _, after = sample.observation.frames
    assert sample.depth_m is not None and sample.moving is not None
    where = np.isfinite(sample.depth_m) & (sample.depth_m < 30) & ~sample.moving
    row, column = np.nonzero(where)
    rays = np.stack([column, row, np.ones_like(row)]).astype(float)
    points = np.linalg.inv(key.intrinsics.matrix) @ rays * sample.depth_m[where]
    pose = np.linalg.inv(after.world_from_camera) @ key.world_from_camera
    seen = after.intrinsics.matrix @ (pose[:3, :3] @ points + pose[:3, 3:])
    u, v = np.rint(seen[:2] / seen[2]).astype(int)
    inside = (u >= 0) & (u < 184) & (v >= 0) & (v < 92)
    difference = np.abs(after.image[v[inside], u[inside]].astype(float) - key.image[row[inside], column[inside]])
    unmoved = np.abs(after.image[where].astype(float) - key.image[where])
    assert np.median(difference) < 0.6 * np.median(unmoved)


def test_masks_mark_what_moves(tmp_path: Path) -> None:
    for seed in range(8):
        street = make_street(seed, STREET)
        pose = street.world_from_base(0.0) @ base_from_camera("00")
        moving = street.at(0.0).render(CAMERA.resized(306, 92), pose).moving
        if moving[:, 61:245].mean() > 0.01:
            break
    write_kitti_odometry(street, tmp_path / "out", 1, size=(306, 92))
    options = OdometryFramesOptions(poses="kitti", offsets=(), margin=0)
    found = KittiOdometryFrames(tmp_path / "out", options)[0].moving
    assert found is not None and found.shape == (256, 512)
    assert found.mean() == pytest.approx(moving[:, 61:245].mean(), abs=0.005) and found.mean() > 0.005


def test_command_writes_the_layout_and_replaces_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "drive"
    small = ["--frames", "1", "--width", "64", "--height", "20", "--no-lidar"]
    assert cli.main(["synth", str(out), *small]) == 0
    assert cli.main(["synth", str(out), *small, "--layout", "kitti_odometry"]) == 2
    assert cli.main(["synth", str(out), *small, "--layout", "kitti_odometry", "--force"]) == 0
    assert not (out / "data_2d_raw").exists() and (out / "sequences" / "90" / "image_2" / "000000.png").is_file()
    assert cli.main(["synth", str(tmp_path / "x"), *small, "--layout", "kitti_odometry", "--cameras", "01"]) == 2
    assert "expected 00 or 00,01" in capsys.readouterr().err and not (tmp_path / "x").exists()
