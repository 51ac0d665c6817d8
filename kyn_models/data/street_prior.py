"""What a street looks like before anyone looks at an image: the prior that a model must beat.

Depth and occupancy of many synthetic streets seen with KITTI-360's own camera and mount, without rendering colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.baselines import Prior
from kyn_models.data.lidar_occupancy import TILT, grid_shape, protocol_grid
from kyn_models.data.street_cache import CacheConfig
from kyn_models.data.street_scene import FRAME_S, Scene
from kyn_models.data.street_sensors import BASE_FROM_VELO, base_from_camera
from kyn_models.data.streets import StreetOptions, make_street

CAMERA = KITTI360_CAMERA.resized(320, 96)
COARSE = 4
"""Every so many cells of the metric's grid are asked about; the cells between take the nearest answer."""


def fit(frames: int, config: CacheConfig, progress: Callable[[int], None] = lambda done: None) -> Prior:
    """The prior over ``frames`` frames of the streets that ``config`` describes (its seeds, scans and free_scans)."""
    return Prior.fit(_frames(frames, config, progress), CAMERA)


def _frames(
    count: int, config: CacheConfig, progress: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number in range(count):
        seed, place = config.first_seed + number // config.per_street, number % config.per_street
        if place == 0:
            street = make_street(seed, StreetOptions(drive_m=16.0 * config.per_street))
            places = np.linspace(0, street.frames - 1, config.per_street).astype(int)
        time_s = float(places[place]) * FRAME_S
        scene = street.at(time_s)
        world_from_camera = street.world_from_base(time_s) @ base_from_camera("00")
        scanners = np.stack(
            [
                (street.world_from_base(time_s + ahead * FRAME_S) @ BASE_FROM_VELO)[:3, 3]
                for ahead in range(config.scans)
            ]
        )
        yield _depth(scene, world_from_camera), _occupied(scene, world_from_camera, scanners, config.free_scans)
        progress(number + 1)


def _depth(scene: Scene, world_from_camera: np.ndarray) -> np.ndarray:
    columns = (np.arange(CAMERA.width) - CAMERA.cx) / CAMERA.fx
    rows = (np.arange(CAMERA.height) - CAMERA.cy) / CAMERA.fy
    x, y = np.meshgrid(columns, rows)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    length = np.linalg.norm(rays, axis=1)
    distance = scene.distance(world_from_camera[:3, 3], (rays / length[:, None]) @ world_from_camera[:3, :3].T)
    return (distance / length).astype(np.float32).reshape(CAMERA.height, CAMERA.width)


def _occupied(scene: Scene, world_from_camera: np.ndarray, scanners: np.ndarray, free_scans: int) -> np.ndarray:
    """(rows, columns) bool of the metric's grid: free only where enough scanners see the cell (and not from here)."""
    rows, columns = grid_shape()
    points = (protocol_grid().reshape(rows, columns, 3)[::COARSE, ::COARSE].reshape(-1, 3)) @ TILT[:3, :3]
    world = points @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
    hidden = scene.line_of_sight(scanners, world).sum(axis=0) < free_scans
    coarse = hidden.reshape(len(range(0, rows, COARSE)), len(range(0, columns, COARSE)))
    return coarse.repeat(COARSE, axis=0).repeat(COARSE, axis=1)[:rows, :columns]
