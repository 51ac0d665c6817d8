"""Depth becomes occupancy: exact scenes whose truth is known, and what noise, edges and slopes may not do to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from kyn_models import occupancy
from kyn_models.artifact import KITTI360_CAMERA, forward_mount
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.kitti_odometry import KittiOdometry
from kyn_models.depth_ground import ground_of
from kyn_models.depth_occupancy import DepthCells, depth_to_occupancy
from kyn_models.evaluate import kitti360_depth_sample
from kyn_models.occupancy import GridOptions
from kyn_models.types import UNKNOWN, Prediction, VoxelGridSpec

SPEC, OPTIONS = VoxelGridSpec(), GridOptions()
CAMERA = KITTI360_CAMERA.resized(640, 192)
MOUNT = forward_mount(1.6, 4.0)
REACH = (3.0, 80.0)
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
CAR: Box = ((14.9, 19.0), (-1.0, 0.9), (0.0, 1.5))
SIZE_X = SPEC.shape[2]


def depth_of(boxes: tuple[Box, ...] = (), mount: np.ndarray = MOUNT, road_slope: float = 0.0) -> np.ndarray:
    """(192, 640) float32 exact depth of a road z = slope * x and axis-parallel boxes; +Inf sky."""
    v, u = np.meshgrid(
        (np.arange(192) - CAMERA.cy) / CAMERA.fy, (np.arange(640) - CAMERA.cx) / CAMERA.fx, indexing="ij"
    )
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ mount[:3, :3].T
    origin = mount[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        falling = rays[..., 2] - road_slope * rays[..., 0]
        depth = np.where(falling < 0, (road_slope * origin[0] - origin[2]) / falling, np.inf)
        for box in boxes:
            sides = (np.array(box) - origin[:, None]) / rays[..., None]
            enter, leave = sides.min(axis=-1).max(axis=-1), sides.max(axis=-1).min(axis=-1)
            depth = np.where((enter < leave) & (enter > 0), np.minimum(depth, enter), depth)
    return depth.astype(np.float32)


@pytest.fixture(scope="module")
def view() -> DepthCells:
    return DepthCells.of(SPEC, MOUNT, CAMERA, REACH)


def grid_of(depth: np.ndarray, view: DepthCells) -> np.ndarray:
    """(ny, nx) int8."""
    return depth_to_occupancy(depth, view, OPTIONS).grid


def column(x: float, y: float) -> tuple[int, int]:
    """Index of the grid cell that holds a place."""
    return int((y - SPEC.y_m[0]) / 0.2), int(x / 0.2)


def smooth_noise(depth: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Depth that is wrong by patches of 16 pixels."""
    noise = np.random.default_rng(seed).standard_normal((depth.shape[0] // 16, depth.shape[1] // 16))
    noise = cv2.resize(noise, depth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (depth * (1 + sigma * noise / noise.std())).astype(np.float32)


def test_free_before_the_surface_occupied_at_it_unknown_behind(view: DepthCells) -> None:
    grid = grid_of(depth_of((CAR,)), view)
    ahead = grid[column(0, 0)[0]]
    assert (ahead[column(6, 0)[1] : column(14, 0)[1]] == 0).all()
    assert ahead[column(14.9, 0)[1]] == 100
    assert not (ahead[column(14.2, 0)[1] :] == 0).any(), "nothing behind the car's rear is free"
    assert (ahead[column(22, 0)[1] :] == -1).all()
    assert (grid[column(0, 4)[0], column(12, 0)[1] : column(45, 0)[1]] == 0).all(), "beside the car the road goes on"
    assert (grid == 100).sum() < 40, "its rear, and its side as far as it is seen"


def test_a_far_wall_along_the_road_has_no_gaps(view: DepthCells) -> None:
    """Between its pixels lie more than two cells."""
    grid = grid_of(depth_of((((5.0, 60.0), (5.1, 8.0), (0.0, 4.0)),)), view)
    there = grid[column(0, 5.1)[0] : column(0, 5.5)[0] + 1, column(10, 0)[1] : column(48, 0)[1]]
    assert (there == 100).any(axis=0).all() and not (there == 0).any(axis=0).any()
    assert not (grid[column(0, 5.5)[0] :, column(10, 0)[1] :] == 0).any()


def test_a_thin_pole_is_an_obstacle(view: DepthCells) -> None:
    """6 cm wide, 12 m and 30 m away: one pixel and less."""
    poles = (((12.0, 12.06), (0.98, 1.04), (0.0, 4.0)), ((30.0, 30.1), (-3.1, -3.0), (0.0, 4.0)))
    grid = grid_of(depth_of(poles), view)
    assert grid[column(12.03, 1.01)] == 100 and grid[column(30.05, -3.05)] == 100
    assert grid[column(11, 1.01)] == 0 and grid[column(12.03, 2.5)] == 0
    assert grid[column(14, 1.2)] == -1, "what it hides is unknown"


@pytest.mark.parametrize("scale", [0.93, 1.0, 1.07])
def test_the_road_is_free_and_no_obstacle_though_depth_is_wrong(view: DepthCells, scale: float) -> None:
    noisy = smooth_noise(depth_of() * np.float32(scale), 0.03)
    volume, grid = depth_to_occupancy(noisy, view, OPTIONS)
    assert len(occupancy.obstacle_cells(volume, SPEC, OPTIONS)[0]) == 0
    assert (grid[column(0, -3)[0] : column(0, 3)[0], column(7, 0)[1] : column(40, 0)[1]] == 0).mean() > 0.99


@pytest.mark.parametrize("slope", [-0.02, 0.02])
def test_a_road_that_rises_or_falls_is_free_and_a_car_on_it_is_found(view: DepthCells, slope: float) -> None:
    """At 0.02 the road is 0.7 m above z = 0 at 35 m, in the band of obstacles."""
    x, lift = 35.0, 35.0 * slope
    car: Box = ((x, x + 4), (-1.0, 0.9), (lift, lift + 1.7))
    depth = depth_of((car,), road_slope=slope)
    plane = ground_of(np.where(np.isfinite(depth), depth, 0), view.rays, view.origin).plane
    assert (np.abs(plane - (0.0, slope, 0.0)) < (0.03, 0.002, 0.002)).all()
    grid = grid_of(depth, view)
    end = 44.0 if slope > 0 else 39.0  # at -0.8 m the volume says nothing about 0.3 m above the road
    assert (grid[column(0, 3)[0], column(6, 0)[1] : column(end, 0)[1]] == 0).all()
    assert not (grid[column(0, 3)[0]] == 100).any()
    assert (grid[column(0, 0)[0], column(x - 0.3, 0)[1] : column(x + 0.3, 0)[1] + 1] == 100).any()


@pytest.mark.parametrize("slope", [-0.08, -0.05, 0.05, 0.08])
@pytest.mark.parametrize("height", [0.6, 1.0])
def test_on_a_slope_no_column_of_an_obstacle_is_free(view: DepthCells, slope: float, height: float) -> None:
    for x in (6.0, 12.0, 25.0):
        low, high = sorted((slope * x, slope * (x + 2)))
        grid = grid_of(depth_of((((x, x + 2), (-1.0, 1.0), (low - 1, high + height)),), road_slope=slope), view)
        there = grid[column(0, -0.9)[0] : column(0, 0.9)[0], column(x + 0.1, 0)[1] : column(x + 2, 0)[1]]
        assert not (there == 0).any(), x


@pytest.mark.parametrize("pitch_deg", [0.0, 4.0])
def test_a_platform_across_the_view_is_not_taken_for_the_road(pitch_deg: float) -> None:
    """With a level camera it begins where the road comes into view."""
    mount = forward_mount(1.6, pitch_deg)
    seen = DepthCells.of(SPEC, mount, CAMERA, REACH)
    for x, height in ((6.0, 0.4), (9.0, 0.4), (6.0, 0.5), (9.0, 0.6), (6.0, 0.8)):
        grid = grid_of(depth_of((((x, 80.0), (-40.0, 40.0), (-1.0, height)),), mount), seen)
        assert not (grid[:, column(x + 0.1, 0)[1] :] == 0).any()
        assert (grid[column(0, 0)[0], column(x - 0.2, 0)[1] : column(x + 0.2, 0)[1] + 1] == 100).any()


def test_without_ground_in_view_the_plane_is_the_road_of_the_mount(view: DepthCells) -> None:
    np.testing.assert_array_equal(ground_of(np.zeros((192, 640), np.float32), view.rays, view.origin).plane, 0)
    wall = depth_of((((5.0, 6.0), (-20.0, 20.0), (-1.0, 20.0)),))
    assert abs(ground_of(wall, view.rays, view.origin).plane @ (1.0, 5.0, 0.0)) < 0.15


def test_sky_is_free_and_invalid_is_unknown(view: DepthCells) -> None:
    sky = depth_to_occupancy(np.full((192, 640), np.inf, np.float32), view, OPTIONS).volume
    assert set(np.unique(sky)) == {0, UNKNOWN}
    inside = np.isin(np.arange(sky.size), view.index).reshape(sky.shape)
    assert (sky[~inside] == UNKNOWN).all() and (sky[inside] == 0).mean() > 0.9
    assert (depth_to_occupancy(np.full((192, 640), np.nan, np.float32), view, OPTIONS).volume == UNKNOWN).all()
    depth = depth_of((CAR,))
    depth[:, 300:340] = np.nan
    half = depth_to_occupancy(depth, view, OPTIONS).volume
    pixel = view.lookup % depth.size % 640
    assert (half.reshape(-1)[view.index[(pixel >= 300) & (pixel < 340)]] != 0).all()


def test_nothing_below_the_field_of_view_is_free(view: DepthCells) -> None:
    """Every corner of every cell of a free column is in the image."""
    grid = grid_of(depth_of(), view)
    layers = occupancy.band_layers(SPEC, OPTIONS)
    _, y, x = SPEC.axes()
    rows, columns = np.nonzero(grid == 0)
    assert len(rows) > 1000
    bottom = SPEC.z_m[0] + layers.start * 0.2
    for dx in (-0.1, 0.1):
        for dy in (-0.1, 0.1):
            corner = np.stack([x[columns] + dx, y[rows] + dy, np.full(len(rows), bottom)], axis=-1)
            point = (corner - MOUNT[:3, 3]) @ MOUNT[:3, :3]
            u, v = point[:, 0] / point[:, 2] * CAMERA.fx + CAMERA.cx, point[:, 1] / point[:, 2] * CAMERA.fy + CAMERA.cy
            assert (u >= -0.5).all() and (u <= 639.5).all() and (v <= 191.5).all()
    assert (grid[:, : column(3, 0)[1]] == -1).all(), "nearer than the model can say"


def test_what_floats_between_an_edge_and_its_background_is_no_obstacle(view: DepthCells) -> None:
    """A network's edges are blurred over a few pixels."""
    sharp = depth_of((CAR, ((40.0, 41.0), (-30.0, 30.0), (0.0, 8.0))))
    blurred = (1 / np.maximum(cv2.GaussianBlur(1 / sharp, (0, 0), 1.2), 1e-9)).astype(np.float32)
    between = (slice(None), slice(column(22, 0)[1], column(36, 0)[1]))
    assert not (grid_of(sharp, view)[between] == 100).any()
    assert (grid_of(blurred, view)[between] == 100).sum() < 60
    assert grid_of(blurred, view)[column(14.9, 0)] == 100


def test_bytes_of_rays_do_not_depend_on_each_other(view: DepthCells) -> None:
    """The same depth in the left half gives the same cells there, whatever is at the right."""
    depth = depth_of((CAR,))
    other = depth.copy()
    other[60:100, 500:] = 9.0
    seen = view.lookup % depth.size % 640 < 400
    first, second = (
        depth_to_occupancy(item, view, OPTIONS).volume.reshape(-1)[view.index[seen]] for item in (depth, other)
    )
    np.testing.assert_array_equal(first, second)


def test_points_of_such_predictions(view: DepthCells) -> None:
    depth = depth_of((CAR,))
    volume = depth_to_occupancy(depth, view, OPTIONS).volume
    image = np.zeros((192, 640, 3), np.uint8)
    prediction = Prediction(0, image, CAMERA, SPEC, MOUNT, depth_m=depth, volume=volume)
    obstacles, _ = occupancy.obstacle_cells(volume, SPEC, OPTIONS)
    assert obstacles[:, 0].min() > 14.5 and (np.abs(obstacles[:, 1]) < 1.2).all()
    ends = occupancy.clearing_points(prediction, OPTIONS, 40.0)
    assert len(ends) > 100 and not ((ends[:, 0] > 15.2) & (np.abs(ends[:, 1]) < 0.8) & (ends[:, 2] < 1.2)).any()
    surface, _ = occupancy.surface_points(prediction)
    assert surface[:, 2].min() > -0.05


def test_a_depth_map_of_another_size(view: DepthCells) -> None:
    with pytest.raises(ValueError, match=r"depth_m: got shape \(96, 320\), expected \(192, 640\)"):
        depth_to_occupancy(np.ones((96, 320), np.float32), view, OPTIONS)


def test_a_synthetic_street() -> None:
    """missed: share of free columns that hold something; found: of occupied columns those with something within
    0.3 m. The noise is of one standard deviation."""
    pytest.importorskip("numba", reason="streets are rendered by compiled loops")
    from kyn_models.data.streets import Streets, StreetsOptions

    streets = Streets(StreetsOptions(streets=1, frames_per_street=1, first_seed=700_001, mount_strength=0))
    spec = replace(SPEC, x_m=(0.0, 40.0))
    pose, mount, scene = streets.world_from_base(0), streets.base_from_camera(0, "00"), streets.scene(0)
    depth = scene.render(CAMERA, pose @ mount, smooth=False).depth_m
    layers = occupancy.band_layers(spec, OPTIONS)
    centres = spec.centres()[layers.start : layers.stop].reshape(-1, 3)
    there = np.zeros(spec.shape[1:], bool)
    for corner in np.stack(np.meshgrid(*[(-0.07, 0.07)] * 3), axis=-1).reshape(-1, 3):
        points = (centres + corner) @ pose[:3, :3].T + pose[:3, 3]
        there |= scene.occupied(points).reshape(len(layers), *there.shape).any(axis=0)
    near = cv2.dilate(there.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    view = DepthCells.of(spec, mount, CAMERA, REACH)
    for noise, missed, found in ((0.0, 0.002, 0.95), (0.05, 0.01, 0.6)):
        grid = depth_to_occupancy(smooth_noise(depth, noise) if noise else depth, view, OPTIONS).grid
        assert (grid == 0).mean() > 0.15 and (grid == 100).sum() > 100
        assert there[grid == 0].mean() <= missed
        assert near[grid == 100].mean() >= found


def test_the_ground_of_real_roads(shared_data: Path) -> None:
    """Lidar of KITTI odometry, where the road rises 0.5 m within 25 m, and of KITTI-360."""
    odometry, drive = KittiOdometry(shared_data / "kitti_odometry"), Kitti360(shared_data / "kitti360")
    samples = [odometry[0], odometry[len(odometry) - 1], kitti360_depth_sample(drive, drive.frames[0])]
    highest = 0.0
    for sample in samples:
        assert sample.depth_m is not None
        camera, mount = sample.observation.key.intrinsics, sample.observation.base_from_camera
        depth = np.nan_to_num(sample.depth_m, nan=0.0)
        seen = DepthCells.of(replace(SPEC, resolution_m=0.4), mount, camera, REACH)
        plane = ground_of(depth, seen.rays, seen.origin).plane
        points = seen.origin[:, None] + seen.rays.astype(np.float64) * depth.ravel()
        lane = (depth.ravel() > 0) & (np.abs(points[1]) < 3) & (points[0] < 40) & (np.abs(points[2]) < 1)
        x, y, z = points[:, lane]
        over = z - (plane[0] + plane[1] * x + plane[2] * y)
        for near in (4, 10, 20, 30):
            here = (x > near) & (x < near + 10)
            assert abs(np.median(over[here])) < 0.1, f"{sample.name}, from {near} m"
            highest = max(highest, float(np.median(z[here])))
    assert highest > 0.4, "of no use on a flat road"
