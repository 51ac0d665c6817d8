"""Occupancy scores: published numbers, trivial answers, stored masks, the rule of the answer's own depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_drive as tiny

from kyn_models import evaluate_occupancy as occupancy
from kyn_models.data.drive_truth import frames_with_scans, truths
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.lidar_occupancy import TILT, OccupancyTruth, grid_shape, near_rows, occupancy_truth, protocol_grid
from kyn_models.data.occupancy_files import OBJECTS, frame_name, read_objects, write_truth
from kyn_models.evaluate_occupancy import BTS, KYN, TRIVIAL, mean_occupancy
from kyn_models.types import Float32Array, Intrinsics, Sample

THREE = replace(KYN, scans=3)


@pytest.fixture
def drive(tmp_path: Path) -> Kitti360:
    return Kitti360(tiny.write_drive(tmp_path / "kitti360", frames=range(5, 13)))


def direct(drive: Kitti360, frame: int, scans: int, z_range: tuple[float, float] = (50.0, 4.0)) -> OccupancyTruth:
    """Truth of one frame from all its scans at once."""
    start = drive.posed_frames.index(frame)
    window = drive.posed_frames[start : start + scans]
    tilted = TILT @ np.linalg.inv(drive.world_from_base(frame) @ drive.base_from_camera())
    poses = np.stack([tilted @ drive.world_from_velo(later) for later in window])
    return occupancy_truth(
        [drive.scan(later) for later in window], poses, protocol_grid(z_range=z_range), z_range=z_range
    )


class Masks:
    """Answers with a mask of 4..50 m: by the nearest cell, so that both grids get the same cells."""

    def __init__(self, masks: dict[str, np.ndarray]) -> None:
        self.masks = masks
        self.asked: list[str] = []

    def density(self, sample: Sample, points_camera: Float32Array) -> Float32Array:
        self.asked.append(sample.name)
        mask = self.masks[sample.name]
        mask = mask[-len(points_camera) // 80 :]
        return np.where(mask.ravel(), np.float32(0.51), np.float32(0.5))


def test_perfect_answer_scores_one_in_both_ranges(drive: Kitti360) -> None:
    masks = {}
    for frame in (5, 6):
        occupied, visible = direct(drive, frame, 3)
        masks[frame_name(drive.drive, frame)] = occupied & ~visible
    rows = occupancy.evaluate_occupancy({"model": Masks(masks), **TRIVIAL}, [(drive, (5, 6))], THREE)
    assert [(row.frame[-2:], row.answer, row.far_m) for row in rows] == [
        (frame, answer, far) for frame in ("05", "06") for answer in ("model", *TRIVIAL) for far in (50.0, 20.0)
    ]
    for far in (50.0, 20.0):
        means = mean_occupancy(rows, "model", far)
        assert means.scene[:2] == (1, 1) and means.far_cut[:2] == (1, 1) and means.nothing == 0
        assert np.isnan(means.near_objects).all()
        free, occupied = (mean_occupancy(rows, answer, far).scene for answer in TRIVIAL)
        assert free.o_acc + occupied.o_acc == pytest.approx(1.0) and 0 < free.o_acc < 1


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_published_scores_from_files_of_the_published_form(
    shared_data: Path, tmp_path: Path, drive: Kitti360, case: str
) -> None:
    name = frame_name(drive.drive, 5)
    with np.load(shared_data.parent / "golden" / "occupancy_metric" / f"{case}.npz") as golden:
        write_truth(tmp_path, name, OccupancyTruth(golden["occupied"], golden["visible"]))
        cv2.imwrite(str(tmp_path / (name + OBJECTS)), golden["object_map"])
        rows = occupancy.evaluate_occupancy(
            {"model": Masks({name: golden["predicted"]})},
            [(drive, (5,))],
            KYN,
            partial(occupancy.stored_truths, tmp_path),
            partial(read_objects, tmp_path),
        )
        means = mean_occupancy(rows, "model")
        np.testing.assert_allclose(means.scene, golden["scene_scores"], atol=1e-6)
        np.testing.assert_allclose(means.far_cut, golden["scene_scores_far_cut"], atol=1e-6)
        np.testing.assert_allclose(means.near_objects, golden["object_scores"], atol=1e-6)
        near = mean_occupancy(rows, "model", 20.0)
        right = golden["predicted"] == (golden["occupied"] & ~golden["visible"])
        assert near.scene.o_acc == pytest.approx(right[300:].mean())


def test_frames_without_a_visible_cell_have_no_score_but_that_of_the_scene(drive: Kitti360) -> None:
    hidden = OccupancyTruth(np.ones((460, 80), bool), np.zeros((460, 80), bool))
    labels = np.full((460, 80), 255, np.uint8)
    labels[200:220, 30:40] = 1
    density = partial(TRIVIAL["all free"].density, drive[0])
    row, _ = occupancy.score_frame("a", "all free", density, hidden, drive[0], KYN, lambda name: labels)
    assert row.scene == (0.0, 0.0, pytest.approx(np.nan, nan_ok=True))
    assert np.isnan(row.far_cut).all() and np.isnan(row.near_objects).all()
    means = mean_occupancy([row], "all free")
    assert means.nothing == 1 and means.no_objects == 1
    seen = OccupancyTruth(hidden.occupied, np.ones((460, 80), bool))
    rows = occupancy.score_frame("b", "all free", density, seen, drive[0], KYN, lambda name: labels)
    # Of two frames one has a score near its object, and the object is beyond 20 m.
    assert mean_occupancy([row, *rows], "all free").no_objects == 1
    assert mean_occupancy(rows, "all free", 20.0).no_objects == 1


def test_stored_masks_give_exactly_the_numbers_of_computing(drive: Kitti360, tmp_path: Path) -> None:
    for frame, truth, _, _ in truths(drive, (5, 7, 9), 3):
        assert truth is not None
        write_truth(tmp_path, frame_name(drive.drive, frame), truth)
    frames: list[tuple[Kitti360, Sequence[int]]] = [(drive, (5, 7, 9))]
    computed = occupancy.evaluate_occupancy(TRIVIAL, frames, THREE)
    stored = occupancy.evaluate_occupancy(TRIVIAL, frames, THREE, partial(occupancy.stored_truths, tmp_path))
    assert str(computed) == str(stored) and len(stored) == 12


def test_images_of_other_frames_reach_the_model(drive: Kitti360) -> None:
    masks = {frame_name(drive.drive, frame): np.zeros((460, 80), bool) for frame in range(5, 9)}
    model = Masks(masks)
    frames = (5, 6, 7, 8)
    occupancy.evaluate_occupancy({"model": model}, [(drive, frames)], THREE, shown=lambda _, frame: (frame - 3) % 4 + 5)
    assert [name[-1] for name in model.asked[::2]] == ["7", "8", "5", "6"]


def test_frames_need_scans_that_follow(drive: Kitti360) -> None:
    assert frames_with_scans(drive, 3) == (5, 6, 7, 8, 9)
    drive.scan_path(9).unlink()
    assert frames_with_scans(drive, 3) == (5,)


def test_frame_without_a_slice_is_nan_and_counted_but_a_broken_scan_is_an_error(drive: Kitti360) -> None:
    high = tiny.scan()
    high[:, 2] = 5.0
    high.tofile(drive.scan_path(7))
    rows = occupancy.evaluate_occupancy(TRIVIAL, [(drive, (5, 8))], THREE)
    means = mean_occupancy(rows, "all free")
    assert means.nothing == 1 and np.isfinite(means.scene.o_acc)
    drive.scan_path(7).write_bytes(b"12345")
    with pytest.raises(ValueError, match="truncated"):
        occupancy.evaluate_occupancy(TRIVIAL, [(drive, (5,))], THREE)
    skipped: list[tuple[str, str]] = []
    rows = occupancy.evaluate_occupancy(
        TRIVIAL, [(drive, (5, 8))], THREE, skip=lambda name, reason: skipped.append((name, reason))
    )
    assert {row.frame[-2:] for row in rows} == {"08"} and [name[-2:] for name, _ in skipped] == ["05"]
    assert "0000000007.bin" in skipped[0][1]


def test_grid_is_tilted_back_into_the_camera() -> None:
    points = occupancy.camera_grid()
    np.testing.assert_allclose(points @ TILT[:3, :3].T, protocol_grid(), atol=1e-4)
    # Cameras that look down see a horizontal slice rise towards the horizon: its far end is higher (y down).
    assert points[0, 1] < points[-1, 1] - 3.0


def test_all_free_on_the_shared_frames(shared_data: Path) -> None:
    drive = Kitti360(shared_data / "kitti360")
    frames = frames_with_scans(drive, 12)
    assert frames == tuple(range(3010, 3022))
    rows = occupancy.evaluate_occupancy(TRIVIAL, [(drive, frames[::4])], replace(KYN, scans=12))
    means = mean_occupancy(rows, "all free")
    assert means.nothing == 0 and 0.50 <= means.scene.o_acc <= 0.65 and 0.50 <= means.far_cut.o_acc <= 0.65
    assert means.scene.ie_rec == 1.0


# The rule of Behind the Scenes: what lies before the answer's own depth is visible.

CAMERA = Intrinsics(320.0, 320.0, 319.5, 95.5, 640, 192)
STEPS = (np.arange(64) + 0.5) / 64
DISTANCES = 1 / ((1 - STEPS) / 3 + STEPS / 80)


def test_own_depth_of_a_wall_ends_at_the_first_sample_in_it() -> None:
    def wall(points: Float32Array) -> Float32Array:
        """Solid from 10 m on where x > 0, nothing elsewhere."""
        return np.where((points[:, 0] > 0) & (points[:, 2] >= 10), np.float32(1e4), np.float32(0))

    z = np.linspace(4, 20, 161, dtype=np.float32)
    for slope, expected in ((0.3, None), (-0.3, 80.0)):
        points = np.stack([slope * z, 0.05 * z, z], axis=-1)
        before = occupancy.before_own_depth(wall, points, CAMERA)
        if expected:
            assert before.all()
            continue
        # All points lie on one ray, whose pixel is the nearest to it: u = 2 * 320 * 0.3 / 640 + 2 * 319.5 / 640 - 1.
        u = 2 * 320 * slope / 640 + 2 * 319.5 / 640 - 1
        v = 2 * 320 * 0.05 / 192 + 2 * 95.5 / 192 - 1
        pixel_u, pixel_v = round((u + 1) / 2 * 639) / 639 * 2 - 1, round((v + 1) / 2 * 191) / 191 * 2 - 1
        ray = np.array([(pixel_u - (2 * 319.5 / 640 - 1)) / 1.0, (pixel_v - (2 * 95.5 / 192 - 1)) * 192 / 640, 1.0])
        along = DISTANCES / np.linalg.norm(ray)
        depth = along[along >= 10][0]
        assert 10 <= depth < 11
        np.testing.assert_array_equal(before, z <= depth)


def test_own_depth_in_fog_is_the_expected_distance() -> None:
    ray = np.array([[0.0, 0.0, 1.0]], dtype=np.float32)
    found = occupancy.rendered_distance(lambda points: np.full(len(points), np.float32(0.05)), ray)
    left, expected = 1.0, 0.0
    for index in range(63):
        alpha = 1 - np.exp(-0.05 * (DISTANCES[index + 1] - DISTANCES[index]))
        expected, left = expected + left * alpha * DISTANCES[index], left * (1 - alpha)
    assert found[0] == pytest.approx(expected + left * DISTANCES[63], rel=1e-5)


def test_own_depth_is_rendered_within_the_models_own_range(drive: Kitti360) -> None:
    ray = np.array([[0.0, 0.0, 1.0]], dtype=np.float32)
    asked: list[Float32Array] = []

    class Free:
        def density(self, sample: Sample, points_camera: Float32Array) -> Float32Array:
            asked.append(np.linalg.norm(points_camera, axis=1))
            return np.zeros(len(points_camera), dtype=np.float32)

    found = occupancy.rendered_distance(lambda points: np.zeros(len(points), np.float32), ray, (2.0, 10.0))
    assert found[0] == pytest.approx(1 / (0.5 / 64 / 2 + 63.5 / 64 / 10))
    models = {"model": Free()}
    occupancy.evaluate_occupancy(models, [(drive, (5,))], BTS, reach={"model": (2.0, 10.0)})
    assert asked[1].min() < 2.02 and 9 < asked[1].max() < 10
    occupancy.evaluate_occupancy(models, [(drive, (5,))], BTS)
    assert asked[3].min() > 3 and asked[3].max() > 50


def test_points_outside_the_image_take_the_pixel_at_its_border() -> None:
    def left_wall(points: Float32Array) -> Float32Array:
        return np.where(points[:, 0] < -0.9 * points[:, 2], np.float32(1e4), np.float32(0))

    points = np.array([[-8.0, 0, 4], [-2.0, 0, 4], [8.0, 0, 4]], dtype=np.float32)  # left of the image, in it, right
    np.testing.assert_array_equal(occupancy.before_own_depth(left_wall, points, CAMERA), [False, True, True])


def test_cells_before_the_own_depth_are_neither_occupied_nor_unseen(drive: Kitti360) -> None:
    (frame_truth,) = truths(drive, (5,), BTS.scans, BTS.ranges[0])
    assert frame_truth.truth is not None and frame_truth.truth.occupied.shape == (160, 80)
    occupied, visible = frame_truth.truth
    rows = occupancy.evaluate_occupancy(TRIVIAL, [(drive, (5,))], BTS)
    free, full = (mean_occupancy(rows, answer, 20.0, BTS) for answer in TRIVIAL)
    # Who calls all free sees to the end: nothing is left that could be occupied. Who calls all occupied sees nothing.
    assert free.scene.o_acc == 1.0 and np.isnan(free.scene.ie_acc) and np.isnan(free.scene.ie_rec)
    assert full.scene.o_acc == pytest.approx((occupied & ~visible).mean()) and full.nothing == 0
    assert grid_shape(z_range=BTS.ranges[0]) == (160, 80)


# 4..20 m: rows of the 4..50 m masks for one paper, a computation of its own for the other.


def test_the_near_part_of_the_masks_is_their_last_rows() -> None:
    rows = np.arange(460)[:, None] + np.zeros(80)
    near = near_rows(OccupancyTruth(rows % 7 == 0, rows % 5 == 0))
    np.testing.assert_array_equal(near.occupied, (rows % 7 == 0)[300:])
    np.testing.assert_array_equal(near.visible, (rows % 5 == 0)[300:])
    far, close = (protocol_grid(z_range=z_range).reshape(-1, 80, 3) for z_range in KYN.ranges)
    gap = np.abs(far[300:, :, 2] - close[:, :, 2]).max()
    assert 0.06 < gap < 0.07


def test_a_computation_over_20_m_counts_points_that_one_over_50_m_does_not(tmp_path: Path) -> None:
    high = np.array([[4.0, y, 3.5, 0] for y in np.linspace(-3, 3, 601)])  # above the slice, 4 m before a scanner
    ring = [[30 * np.cos(a), 30 * np.sin(a), -0.3, 0] for a in np.radians(np.arange(-179.5, 180, 0.5))]
    wall = np.array([[8.0, y, -0.3, 0] for y in np.linspace(-12, 12, 600)])
    first = np.concatenate([wall, ring]).astype(np.float32)
    later = np.concatenate([high, ring]).astype(np.float32)
    ahead = np.array([[0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 30.0], [0, 0, 0, 1.0]])  # at 30 m, looking back
    here = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    scans, poses = [first] + [later] * 3, np.stack([here] + [ahead] * 3)
    whole = near_rows(occupancy_truth(scans, poses, protocol_grid()))
    own = occupancy_truth(scans, poses, protocol_grid(z_range=(20.0, 4.0)), z_range=(20.0, 4.0))
    # At 15 m behind the wall: freed by the later scans, unless the points above (26 m away) count as a surface.
    assert not whole.occupied[50, 40] and own.occupied[50, 40]


def test_real_masks_of_both_kinds_differ_in_few_cells(shared_data: Path) -> None:
    drive = Kitti360(shared_data / "kitti360")
    whole, own = near_rows(direct(drive, 3010, 12)), direct(drive, 3010, 12, (20.0, 4.0))
    assert 0 < np.mean(whole.occupied != own.occupied) < 0.05
