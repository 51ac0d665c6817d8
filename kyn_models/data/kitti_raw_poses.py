"""Poses of KITTI raw drives: text files of a visual SLAM system, or the GPS and inertial unit of the car ("oxts").

<poses>/<date>/<drive>.txt                       line i: 3x4 pose of frame i
<root>/<date>/<drive>/oxts/data/<frame>.txt      30 numbers, the first six latitude, longitude, altitude, angles
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from kyn_models.data.calibration import inverse, require_file, transform
from kyn_models.types import Float64Array

EARTH_RADIUS_M = 6378137.0
OXTS_NUMBERS = 6
"""Latitude and longitude in degrees, altitude in metres, roll, pitch and yaw in radians."""


class DrivePoses(Protocol):
    """Poses of one drive."""

    @property
    def frames(self) -> Sequence[int]:
        """Frame numbers that have one, ascending."""

    def __getitem__(self, frame: int) -> Float64Array:
        """(4, 4). Raises ``KeyError`` for a frame without one."""


class SlamPoses:
    """world_from_camera0 of the rectified first camera, from 3x4 lines as KITTI's odometry benchmark has them.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the line.
    """

    def __init__(self, path: Path) -> None:
        self._poses = []
        lines = require_file(path, "the poses of the drive, one 3x4 line for each frame").read_text().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                values = np.array([float(word) for word in line.split()])
            except ValueError:
                values = np.empty(0)
            if values.size != 12 or not np.isfinite(values).all():
                raise ValueError(f"{path}, line {number}: got {line[:60]!r}, expected 12 finite numbers")
            self._poses.append(transform(values.reshape(3, 4)))
        self.frames: Sequence[int] = range(len(self._poses))

    def __getitem__(self, frame: int) -> Float64Array:
        if not 0 <= frame < len(self._poses):
            raise KeyError(frame)
        return self._poses[frame]


class OxtsPoses:
    """world_from_camera0 from the measurements of the car; the world is the unit's frame at the drive's first frame.

    folder: ``oxts/data`` of the drive. camera0_from_imu: (4, 4). A file is read when its frame is asked for. Positions
    are Mercator coordinates, scaled by the cosine of the first frame's latitude, as the data set's development kit has
    them. Raises ``FileNotFoundError`` or ``ValueError`` naming the file.
    """

    def __init__(self, folder: Path, camera0_from_imu: np.ndarray) -> None:
        self._folder = folder
        self._imu_from_camera0 = inverse(camera0_from_imu)
        self.frames: Sequence[int] = sorted(int(path.stem) for path in folder.glob("*.txt") if path.stem.isdigit())
        if not self.frames:
            raise FileNotFoundError(f"{folder}: missing or empty, expected the measurements of the drive's frames")
        self._known = frozenset(self.frames)
        first = read_oxts(self._path(self.frames[0]))
        self._scale = math.cos(math.radians(first[0]))
        self._first_from_earth = inverse(earth_from_imu(first, self._scale))
        self._pose = lru_cache(maxsize=1024)(self._read)

    def __getitem__(self, frame: int) -> Float64Array:
        if frame not in self._known:
            raise KeyError(frame)
        return self._pose(frame)

    def _path(self, frame: int) -> Path:
        return self._folder / f"{frame:010d}.txt"

    def _read(self, frame: int) -> Float64Array:
        earth = earth_from_imu(read_oxts(self._path(frame)), self._scale)
        return self._first_from_earth @ earth @ self._imu_from_camera0


def read_oxts(path: Path) -> Float64Array:
    """(6,) latitude, longitude (degrees), altitude (m), roll, pitch, yaw (radians) of one measurement."""
    words = require_file(path, "a measurement of the car's GPS and inertial unit").read_text().split()
    try:
        values = np.array([float(word) for word in words[:OXTS_NUMBERS]])
    except ValueError:
        values = np.empty(0)
    if values.size != OXTS_NUMBERS or not np.isfinite(values).all() or abs(values[0]) >= 90:
        raise ValueError(f"{path}: got {' '.join(words)[:60]!r}, expected latitude, longitude, altitude and 3 angles")
    return values


def earth_from_imu(measurement: np.ndarray, scale: float) -> Float64Array:
    """(4, 4) pose in Mercator metres (x east, y north, z up) from the six numbers of ``read_oxts``.

    scale: cosine of the latitude at which a Mercator metre is a metre. The unit's axes are forward, left, up; yaw 0
    looks east.
    """
    latitude, longitude, altitude, roll, pitch, yaw = (float(value) for value in measurement)
    pose = np.eye(4)
    pose[:3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
    pose[0, 3] = scale * EARTH_RADIUS_M * math.radians(longitude)
    pose[1, 3] = scale * EARTH_RADIUS_M * math.log(math.tan(math.radians(90 + latitude) / 2))
    pose[2, 3] = altitude
    return pose


def _turn(axis: int, angle: float) -> Float64Array:
    """(3, 3) rotation about an axis by the right-hand rule."""
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = math.cos(angle)
    turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
    return turn
