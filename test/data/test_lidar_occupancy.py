"""Occupancy truth: the published masks, hand-made walls, speed, and its size checks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.lidar_occupancy import TILT, EmptySliceError, grid_shape, occupancy_truth, protocol_grid

# A scanner at the world's origin height: its axes (forward, left, up) in camera axes (right, down, forward).
WORLD_FROM_VELO = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def wall(distance: float, width: float = 60.0) -> np.ndarray:
    """(N, 4) points of a wall across the street, inside the slice, and a far ring that closes all other directions."""
    y = np.linspace(-width / 2, width / 2, 4000)
    across = np.stack([np.full_like(y, distance), y, np.full_like(y, -0.3), np.zeros_like(y)], axis=-1)
    angle = np.radians(np.arange(-180, 180, 0.5))
    ring = np.stack([90 * np.cos(angle), 90 * np.sin(angle), np.zeros_like(angle), np.zeros_like(angle)], axis=-1)
    return np.concatenate([across, ring]).astype(np.float32)


def moved(step: float) -> np.ndarray:
    pose = WORLD_FROM_VELO.copy()
    pose[2, 3] = step
    return pose


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_published_masks(shared_data: Path, case: str) -> None:
    with np.load(shared_data.parent / "golden" / "occupancy_metric" / f"{case}.npz") as golden:
        ranges = {name: tuple(golden[name]) for name in ("y_range", "x_range", "z_range")}
        truth = occupancy_truth(
            list(golden["points_velo"]), golden["velo_to_world"], golden["grid_xyz"], ppm=int(golden["ppm"]), **ranges
        )
        assert np.mean(truth.occupied == golden["occupied"]) >= 0.999
        assert np.mean(truth.visible == golden["visible"]) >= 0.999
        np.testing.assert_allclose(protocol_grid(), golden["grid_xyz"], atol=1e-5)


def test_wall_hides_what_is_behind_it_until_a_scan_looks_there() -> None:
    scans, poses = [wall(20.0)] * 6, np.stack([WORLD_FROM_VELO] * 6)
    rows_z = protocol_grid().reshape(*grid_shape(), 3)[:, 0, 2]
    occupied, visible = occupancy_truth(scans, poses, protocol_grid())
    middle = occupied[:, 40]
    assert middle[rows_z > 20.2].all() and not middle[rows_z < 19.8].any()
    np.testing.assert_array_equal(visible, ~occupied)
    # Three scans from behind the wall (one more than the two that the protocol forgives) free the space there.
    poses[3:] = moved(21.0)
    scans[3:] = [wall(25.0)] * 3
    occupied, visible = occupancy_truth(scans, poses, protocol_grid())
    free_behind = (rows_z > 24.5) & (rows_z < 45.0)
    assert not occupied[free_behind, 40].any() and not visible[free_behind, 40].any()
    assert occupied[rows_z > 46.5, 40].all()


def test_two_scans_that_see_a_cell_are_not_enough() -> None:
    scans, poses = [wall(20.0)] * 6, np.stack([WORLD_FROM_VELO] * 6)
    poses[4:] = moved(21.0)
    scans[4:] = [wall(25.0)] * 2
    rows_z = protocol_grid().reshape(*grid_shape(), 3)[:, 0, 2]
    assert occupancy_truth(scans, poses, protocol_grid()).occupied[rows_z > 25, 40].all()


def test_further_columns_of_a_scan_do_not_matter() -> None:
    scan = wall(20.0)
    bright = scan.copy()
    bright[:, 3] = 100.0
    one = occupancy_truth([scan] * 3, np.stack([WORLD_FROM_VELO] * 3), protocol_grid())
    other = occupancy_truth([bright] * 3, np.stack([WORLD_FROM_VELO] * 3), protocol_grid())
    np.testing.assert_array_equal(one.occupied, other.occupied)


def test_wrong_sizes_and_an_empty_slice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"velo_to_world: got shape \(1, 4, 4\), expected \(2, 4, 4\)"):
        occupancy_truth([wall(20)] * 2, WORLD_FROM_VELO[None], protocol_grid())
    with pytest.raises(ValueError, match="grid_xyz"):
        occupancy_truth([wall(20)], WORLD_FROM_VELO[None], protocol_grid()[:-1])
    high = np.array([[10.0, 0, 9, 0]], dtype=np.float32)
    with pytest.raises(EmptySliceError, match="scan 1: got no point in the slice"):
        occupancy_truth([wall(20), high], np.stack([WORLD_FROM_VELO] * 2), protocol_grid())


def test_real_street_and_the_sign_of_the_tilt(shared_data: Path) -> None:
    drive = Kitti360(shared_data / "kitti360")
    camera_from_world = np.linalg.inv(drive.world_from_base(3010) @ drive.base_from_camera())
    scans = [drive.scan(frame) for frame in range(3010, 3034)]
    poses = [camera_from_world @ drive.world_from_velo(frame) for frame in range(3010, 3034)]

    def all_free(tilt: np.ndarray, count: int) -> float:
        truth = occupancy_truth(scans[:count], tilt @ np.stack(poses[:count]), protocol_grid())
        return float(np.mean(~(truth.occupied & ~truth.visible)))

    assert 0.50 <= all_free(TILT, 12) <= 0.65
    assert all_free(np.linalg.inv(TILT), 12) > 0.9
    start = time.perf_counter()
    all_free(TILT, 24)
    assert time.perf_counter() - start < 1.0
