"""Truth of many frames from one pass over a drive: the same masks as frame by frame, whatever is left out for speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models.data import lidar_occupancy
from kyn_models.data.drive_truth import truths, window
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.lidar_occupancy import TILT, EmptySliceError, occupancy_truth, protocol_grid


def alone(drive: Kitti360, frame: int, scans: int) -> lidar_occupancy.OccupancyTruth:
    """Truth of one frame, from all scans of its window at once."""
    frames = window(drive, frame, scans)
    tilted = TILT @ np.linalg.inv(drive.world_from_base(frame) @ drive.base_from_camera())
    poses = np.stack([tilted @ drive.world_from_velo(later) for later in frames])
    return occupancy_truth([drive.scan(later) for later in frames], poses, protocol_grid())


def test_one_pass_gives_the_masks_of_each_frame_alone(shared_data: Path) -> None:
    drive = Kitti360(shared_data / "kitti360")
    found = list(truths(drive, (3018, 3010, 3012, 3012, 3022), 12))
    assert [truth.frame for truth in found] == [3010, 3012, 3018, 3022]
    for frame, truth, scans, problem in found:
        assert truth is not None and problem is None and scans == 12
        reference = alone(drive, frame, 12)
        np.testing.assert_array_equal(truth.occupied, reference.occupied)
        np.testing.assert_array_equal(truth.visible, reference.visible)


def test_scans_too_far_away_to_see_anything_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Kitti360(tiny.write_drive(tmp_path, frames=range(0, 100)))
    angle, height = np.meshgrid(np.radians(np.arange(-180, 180, 0.5)), np.arange(-1.5, 8, 0.2))
    # A corridor that moves along: what lies beyond its walls stays hidden.
    side = np.clip(30 * np.sin(angle), -3.5, 3.5)
    tube = np.stack([30 * np.cos(angle), side, height, height], axis=-1).reshape(-1, 4)
    for frame in drive.posed_frames:
        np.concatenate([tiny.scan(), tube]).astype(np.float32).tofile(drive.scan_path(frame))
    looked: list[int] = []
    surface = lidar_occupancy.SortedScan.surface

    def counted(scan: lidar_occupancy.SortedScan, counts: np.ndarray) -> np.ndarray | None:
        looked.append(1)
        return surface(scan, counts)

    monkeypatch.setattr(lidar_occupancy.SortedScan, "surface", counted)
    (quick,) = truths(drive, (3,), 97)
    assert 80 < len(looked) < 85  # scanners at most 50.2 m (the grid's reach) and 31 m (their own) away
    monkeypatch.setattr(lidar_occupancy, "_SLACK_M", np.inf)
    (whole,) = truths(drive, (3,), 97)
    assert quick.truth is not None and whole.truth is not None and len(looked) > 97 + 80 - 1
    np.testing.assert_array_equal(quick.truth.occupied, whole.truth.occupied)
    assert 0.05 < quick.truth.occupied.mean() < 0.5


def test_drive_end_gives_fewer_scans(tmp_path: Path) -> None:
    drive = Kitti360(tiny.write_drive(tmp_path, frames=range(5, 13)))
    assert window(drive, 10, 5) == (10, 11, 12)
    assert [(truth.frame, truth.scans) for truth in truths(drive, (12, 10, 5), 5)] == [(5, 5), (10, 3), (12, 1)]
    with pytest.raises(ValueError, match="no pose for frame 4"):
        list(truths(drive, (4,), 5))
    with pytest.raises(ValueError, match="scans: got 0"):
        list(truths(drive, (5,), 0))


def test_a_bad_scan_takes_only_the_frames_whose_window_holds_it(tmp_path: Path) -> None:
    drive = Kitti360(tiny.write_drive(tmp_path, frames=range(5, 15)))
    drive.scan_path(7).unlink()
    drive.scan_path(12).write_bytes(b"x" * 100)
    high = tiny.scan()
    high[:, 2] = 5.0
    high.tofile(drive.scan_path(9))
    found = {truth.frame: truth for truth in truths(drive, range(5, 15), 2)}
    assert [frame for frame, truth in found.items() if truth.truth is not None] == [5, 10, 13, 14]
    assert isinstance(found[6].problem, FileNotFoundError) and "0000000007.bin" in str(found[7].problem)
    assert isinstance(found[8].problem, EmptySliceError) and isinstance(found[9].problem, EmptySliceError)
    with_gaps = {truth.frame: truth for truth in truths(drive, range(5, 9), 2, gaps=True)}
    assert [(frame, truth.scans, truth.truth is None) for frame, truth in with_gaps.items()] == [
        (5, 2, False), (6, 1, False), (7, 1, True), (8, 2, True)
    ]  # fmt: skip
    assert isinstance(with_gaps[7].problem, FileNotFoundError), "its own scan says what is visible"
    assert "truncated" in str(found[11].problem) and "truncated" in str(found[12].problem)


def test_points_that_are_no_numbers_are_left_out() -> None:
    scan = tiny.scan()
    dirty = np.concatenate([np.full((3, 4), np.nan, np.float32), scan, np.full((2, 4), np.inf, np.float32)])
    clean, other = lidar_occupancy.SortedScan.of(scan), lidar_occupancy.SortedScan.of(dirty)
    np.testing.assert_array_equal(clean.xyz, other.xyz)
    assert other.farthest == pytest.approx(np.linalg.norm(scan[:, :3], axis=1).max())
