"""The vehicle's motion as messages state it: quaternions and twists. Needs no ROS."""

from __future__ import annotations

import cv2
import numpy as np

from kyn_models.data.drives import Drive


def quaternion_from_pose(pose: np.ndarray) -> tuple[float, float, float, float]:
    """x, y, z, w of a (4, 4) pose's rotation."""
    r = pose[:3, :3]
    # Row i of this matrix is 4 q_i q (x, y, z, w): its longest row is the best conditioned one.
    outer = np.array(
        [
            [1 + r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [r[0, 1] + r[1, 0], 1 - r[0, 0] + r[1, 1] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], 1 - r[0, 0] - r[1, 1] + r[2, 2], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], 1 + r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    row = outer[int(np.argmax(np.diag(outer)))]
    x, y, z, w = row / np.linalg.norm(row)
    return float(x), float(y), float(z), float(w)


def rotation_vector(pose: np.ndarray) -> np.ndarray:
    """(3,) axis times angle, in radians, of a (4, 4) pose."""
    return cv2.Rodrigues(np.ascontiguousarray(pose[:3, :3]))[0].ravel()


def twist(drive: Drive, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear and angular velocity, (3,) each: metres and radians per second in base_link.

    Since the frame before; until the next, for the first one. Zero where neither has a pose or the stamps are equal.
    """
    neighbour = next((near for near in (frame - 1, frame + 1) if drive.has_pose(near)), None)
    seconds = 0.0 if neighbour is None else (drive.stamp_ns(frame) - drive.stamp_ns(neighbour)) * 1e-9
    if neighbour is None or seconds == 0.0:
        return np.zeros(3), np.zeros(3)
    step = np.linalg.inv(drive.world_from_base(frame)) @ drive.world_from_base(neighbour)
    return -step[:3, 3] / seconds, -rotation_vector(step) / seconds
