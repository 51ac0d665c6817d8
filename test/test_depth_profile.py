"""Ramps, steps and a sky that is said to be near: no wall, and never free where there is something."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from kyn_models import occupancy
from kyn_models.artifact import KITTI360_CAMERA, forward_mount
from kyn_models.depth_occupancy import DepthCells, depth_to_occupancy
from kyn_models.depth_profile import hanging, profile_of
from kyn_models.occupancy import GridOptions
from kyn_models.types import VoxelGridSpec

SPEC, OPTIONS = VoxelGridSpec(), GridOptions()
CAMERA = KITTI360_CAMERA.resized(640, 192)
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
Knots = Sequence[tuple[float, float]]
LEVEL: Knots = ((-50.0, 0.0), (300.0, 0.0))


def ramp(slope: float, begins_m: float = 8.0) -> Knots:
    """Level, then rising or falling."""
    return ((-50.0, 0.0), (begins_m, 0.0), (200.0, slope * (200.0 - begins_m)))


def platform(height: float, begins_m: float) -> Knots:
    """A step over the whole width."""
    return ((-50.0, 0.0), (begins_m, 0.0), (begins_m, height), (300.0, height))


class Scene:
    """A road whose height over x is linear between knots, with boxes, and what the grid says. pitch_deg: of the camera,
    down."""

    def __init__(self, knots: Knots, *boxes: Box, pitch_deg: float = 4.0, sky_m: float = np.inf, noise: float = 0.0):
        mount = forward_mount(1.6, pitch_deg)
        self.view = DepthCells.of(SPEC, mount, CAMERA, (3.0, 80.0))
        self.rays = self.view.rays.reshape(3, 192, 640).astype(np.float64)
        self.depth = self._depth(knots, boxes)
        self.depth = np.where(np.isinf(self.depth), np.float32(sky_m), self.depth)
        self.depth[self.depth > 80] = np.inf
        if noise:
            # Wrong by patches of 16 pixels.
            patches = np.random.default_rng(0).standard_normal((12, 40))
            patches = cv2.resize(patches, (640, 192), interpolation=cv2.INTER_CUBIC)
            self.depth = (self.depth * (1 + noise * patches / patches.std())).astype(np.float32)
        self.volume, self.grid = depth_to_occupancy(self.depth, self.view, OPTIONS)

    def _depth(self, knots: Knots, boxes: Sequence[Box]) -> np.ndarray:
        (ox, _, oz), (rx, _, rz) = self.view.origin, self.rays
        depth = np.full(rx.shape, np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            for (x0, z0), (x1, z1) in zip(knots, knots[1:], strict=False):
                if x0 == x1:
                    away = (x0 - ox) / rx
                    inside = (oz + away * rz >= z0) & (oz + away * rz <= z1)
                else:
                    slope = (z1 - z0) / (x1 - x0)
                    away = (z0 + slope * (ox - x0) - oz) / (rz - slope * rx)
                    inside = (ox + away * rx >= x0) & (ox + away * rx < x1)
                depth = np.where((away > 0) & inside, np.minimum(depth, away), depth)
            for box in boxes:
                sides = (np.array(box)[:, :, None, None] - self.view.origin[:, None, None, None]) / self.rays[:, None]
                enter, leave = sides.min(axis=1).max(axis=0), sides.max(axis=1).min(axis=0)
                depth = np.where((enter < leave) & (enter > 0), np.minimum(depth, enter), depth)
        return depth.astype(np.float32)

    def cells(self, x: tuple[float, float], y: tuple[float, float] = (-3.0, 3.0)) -> np.ndarray:
        """(ny, nx) int8 of the grid between places."""
        rows, columns = (
            slice(int((low - first) / 0.2 + 0.5), int((high - first) / 0.2 + 0.5))
            for (low, high), first in ((y, SPEC.y_m[0]), (x, SPEC.x_m[0]))
        )
        return self.grid[rows, columns]

    def obstacles(self) -> int:
        """Columns of the grid and points of the obstacle cloud."""
        return int((self.grid == 100).sum()) + len(occupancy.obstacle_cells(self.volume, SPEC, OPTIONS)[0])


PITCHES = pytest.mark.parametrize("pitch_deg", [0.0, 4.0])


@PITCHES
def test_a_level_road_with_kerbs_is_free(pitch_deg: float) -> None:
    kerbs: list[Box] = [((5.0, 80.0), (3.0, 20.0), (-1.0, 0.12)), ((5.0, 80.0), (-20.0, -3.0), (-1.0, 0.15))]
    for scene in (Scene(LEVEL, pitch_deg=pitch_deg), Scene(LEVEL, *kerbs, pitch_deg=pitch_deg)):
        assert scene.obstacles() == 0 and (scene.cells((7.0, 40.0), (-5.0, 5.0)) == 0).mean() > 0.98


@PITCHES
@pytest.mark.parametrize("slope", [0.05, 0.08, 0.12, 0.15])
def test_a_ramp_is_no_wall_and_nothing_on_it_is_free(pitch_deg: float, slope: float) -> None:
    scene = Scene(ramp(slope), pitch_deg=pitch_deg)
    assert scene.obstacles() == 0
    # What is clearly above the road at the wheels is unknown.
    assert not (scene.cells((8.0 + 0.5 / slope, 50.0)) == 0).any()
    for height in (0.6, 1.5):
        low, high = slope * 4, slope * 6 + height
        box: Box = ((12.0, 14.0), (-1.0, 1.0), (low - 1, high))
        found = Scene(ramp(slope), box, pitch_deg=pitch_deg).cells((12.0, 14.0), (-0.8, 0.8))
        assert (found == 100).any(axis=1).mean() > 0.8 and not (found == 0).any()


@pytest.mark.parametrize("slope", [0.05, 0.08, 0.12])
def test_a_ramp_of_noisy_depth_is_mostly_no_wall(slope: float) -> None:
    scene = Scene(ramp(slope), noise=0.03)
    assert (scene.cells((10.0, 40.0)) == 100).mean() < 0.05
    assert not (scene.cells((8.0 + 0.8 / slope, 50.0)) == 0).any()


@PITCHES
@pytest.mark.parametrize("slope", [-0.05, -0.08])
def test_a_ramp_down_is_no_obstacle(pitch_deg: float, slope: float) -> None:
    scene = Scene(ramp(slope), pitch_deg=pitch_deg)
    assert scene.obstacles() == 0
    low = slope * 12
    box: Box = ((20.0, 22.0), (-1.0, 1.0), (low - 2, low + 1.6))
    assert not (Scene(ramp(slope), box, pitch_deg=pitch_deg).cells((20.2, 22.0), (-0.8, 0.8)) == 0).any()


@PITCHES
@pytest.mark.parametrize("begins_m", [6.0, 9.0, 14.0, 20.0, 30.0, 40.0])
def test_a_platform_is_never_free(pitch_deg: float, begins_m: float) -> None:
    """Some of it looks like a road that rises a little; its face does not."""
    for height in (0.4, 0.6):
        scene = Scene(platform(height, begins_m), pitch_deg=pitch_deg)
        assert not (scene.cells((begins_m + 0.2, 50.0)) == 0).any(), height


@PITCHES
def test_a_platform_on_one_side_leaves_the_other_free(pitch_deg: float) -> None:
    scene = Scene(LEVEL, ((14.0, 80.0), (-12.0, -0.5), (-1.0, 0.4)), pitch_deg=pitch_deg)
    assert not (scene.cells((14.2, 40.0), (-8.0, -1.0)) == 0).any()
    assert (scene.cells((15.0, 40.0), (0.5, 5.0)) == 0).mean() > 0.98
    narrow = Scene(LEVEL, ((14.0, 14.4), (-0.2, 0.2), (-1.0, 0.4)), pitch_deg=pitch_deg)
    found = narrow.cells((13.6, 14.6), (-0.2, 0.2))
    assert (found == 100).any() and not (narrow.cells((14.0, 14.4), (-0.2, 0.2)) == 0).any()


@PITCHES
@pytest.mark.parametrize("sky_m", [10.0, 25.0, 45.0])
def test_a_near_sky_is_no_obstacle_and_a_facade_is_one(pitch_deg: float, sky_m: float) -> None:
    scene = Scene(LEVEL, pitch_deg=pitch_deg, sky_m=sky_m)
    assert scene.obstacles() == 0
    wall: Box = ((20.0, 30.0), (-8.0, 8.0), (-1.0, 6.0))
    truck: Box = ((12.0, 20.0), (-1.2, 1.2), (0.4, 3.5))
    for box in (wall, truck):
        alone, with_sky = (Scene(LEVEL, box, pitch_deg=pitch_deg, sky_m=m).cells((12.0, 20.4)) for m in (np.inf, sky_m))
        assert (alone == 100).sum() > 10 and (with_sky[alone == 100] == 100).all()


def test_a_sky_that_comes_nearer_towards_the_horizon_is_no_obstacle() -> None:
    scene = Scene(LEVEL)
    sky, rows = np.isinf(scene.depth), np.arange(192)[:, None]
    depth = np.where(sky, 85 - 0.5 * rows, scene.depth).astype(np.float32)
    depth[depth > 80] = np.inf
    depth[:12] = np.nan  # beside the image of another camera
    volume, grid = depth_to_occupancy(depth, scene.view, OPTIONS)
    assert depth[sky & np.isfinite(depth)].min() < 50 and not (grid == 100).any()
    assert len(occupancy.obstacle_cells(volume, SPEC, OPTIONS)[0]) == 0


def test_what_hangs_higher_than_the_camera_is_unknown_and_what_stands_free_is_an_obstacle() -> None:
    bridge = Scene(LEVEL, ((12.0, 14.0), (-20.0, 20.0), (1.7, 9.0)))
    assert (bridge.cells((12.2, 14.0)) == -1).all()
    beam = Scene(LEVEL, ((12.0, 12.4), (-20.0, 20.0), (1.2, 1.5)))
    assert (beam.cells((12.0, 12.4)) == 100).any(axis=1).all()
    # Below the upper border of the image there is something farther away: it stands free.
    sign = Scene(LEVEL, ((12.0, 12.2), (-1.0, 1.0), (1.65, 2.4)))
    assert (sign.cells((12.0, 12.2), (-0.8, 0.8)) == 100).all()


def test_the_profile_ends_at_a_face_and_goes_on_over_a_ramp() -> None:
    for knots, ends in ((LEVEL, np.inf), (ramp(0.15), np.inf), (platform(0.4, 14.0), 14.0), (ramp(0.5), 8.0)):
        scene = Scene(knots)
        profile = profile_of(scene.depth, scene.view.rays, scene.view.origin)
        assert np.isinf(profile.ends_m).all() if ends == np.inf else np.abs(profile.ends_m - ends).max() < 1.3, knots
    unseen = np.zeros((192, 640), np.float32)
    profile = profile_of(unseen, scene.view.rays, scene.view.origin)
    assert (
        not profile.ramp.any()
        and np.isinf(profile.ends_m).all()
        and not hanging(unseen, scene.view.rays, scene.view.origin).any()
    )
