"""Where the camera sits on the vehicle: from a parameter, or from TF where ``tf2_ros`` exists."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from kyn_models.artifact import TrainingCamera
from kyn_models.types import Float64Array
from kyn_ros.convert import InputError
from kyn_ros.odometry import quaternion_from_pose as quaternion_from_pose
from kyn_ros.worker import wait_until

try:
    import tf2_ros
except ImportError:  # pip has no wheel of tf2_ros; a ROS 2 installation has it
    tf2_ros = None

MAX_HEIGHT_OFFSET_M = 0.3
MAX_PITCH_OFFSET_DEG = 3.0


def pose_from_numbers(numbers: Sequence[float]) -> Float64Array:
    """(4, 4) ``base_from_camera`` from x, y, z, roll, pitch, yaw: metres, radians, about fixed axes (REP 103)."""
    x, y, z, roll, pitch, yaw = numbers
    about_x = [[1, 0, 0], [0, math.cos(roll), -math.sin(roll)], [0, math.sin(roll), math.cos(roll)]]
    about_y = [[math.cos(pitch), 0, math.sin(pitch)], [0, 1, 0], [-math.sin(pitch), 0, math.cos(pitch)]]
    about_z = [[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]]
    pose = np.eye(4)
    pose[:3, :3] = np.array(about_z) @ np.array(about_y) @ np.array(about_x)
    pose[:3, 3] = x, y, z
    return pose


def numbers_from_pose(pose: np.ndarray) -> tuple[float, ...]:
    """x, y, z, roll, pitch, yaw of a (4, 4) pose: what the parameter ``camera_pose`` takes."""
    r = pose[:3, :3]
    roll, yaw = math.atan2(r[2, 1], r[2, 2]), math.atan2(r[1, 0], r[0, 0])
    pitch = math.atan2(-r[2, 0], math.hypot(r[0, 0], r[1, 0]))
    return (*map(float, pose[:3, 3]), roll, pitch, yaw)


def parameter_text(numbers: Sequence[float]) -> str:
    """Numbers as the value of a ROS parameter on a command line; ROS refuses lists of ``1.0`` and ``0``."""
    return "[" + ", ".join(f"{number:.9f}" for number in numbers) + "]"


def pose_from_quaternion(
    translation: Sequence[float] | np.ndarray, quaternion: Sequence[float] | np.ndarray
) -> Float64Array:
    """(4, 4) pose of a translation and a quaternion x, y, z, w. Raises ``ValueError`` for a quaternion of length 0."""
    norm = float(np.linalg.norm(quaternion))
    if not norm > 1e-6:
        raise ValueError(f"rotation: got quaternion {tuple(quaternion)}, expected one of length 1")
    x, y, z, w = np.asarray(quaternion, dtype=np.float64) / norm
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = translation
    return pose


class FixedMount:
    """The mount that the parameter ``camera_pose`` states. pose: (4, 4) ``base_from_camera``."""

    source = "parameter camera_pose"

    def __init__(self, numbers: Sequence[float]) -> None:
        self.pose = pose_from_numbers(numbers)

    def lookup(self, camera_frame: str, cancelled: threading.Event) -> Float64Array:
        """(4, 4) ``base_from_camera``; every camera frame has this mount."""
        return self.pose

    def close(self) -> None:
        """Nothing to release."""


class TfMount:
    """The mount from TF: the latest transform from the image's frame to the vehicle's."""

    source = "TF"

    def __init__(self, node: Node, base_frame: str, timeout_s: float) -> None:
        self._base_frame, self._timeout_s = base_frame, timeout_s
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def lookup(self, camera_frame: str, cancelled: threading.Event) -> Float64Array:
        """(4, 4) ``base_from_camera``. Waits up to ``tf_timeout_s``; then raises ``InputError`` (reason ``mount``).

        Raises ``Cancelled`` as soon as ``cancelled`` is set.
        """
        latest = Time()
        if not wait_until(
            lambda: self._buffer.can_transform(self._base_frame, camera_frame, latest, Duration()),
            self._timeout_s,
            cancelled,
        ):
            raise InputError(
                "mount",
                f"mount: TF has no transform from {camera_frame!r} to {self._base_frame!r} "
                f"after {self._timeout_s} s; publish it or set camera_pose",
            )
        transform = self._buffer.lookup_transform(self._base_frame, camera_frame, latest).transform
        t, q = transform.translation, transform.rotation
        return pose_from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()


def make_mount(
    node: Node, camera_pose: Sequence[float] | None, base_frame: str, timeout_s: float
) -> FixedMount | TfMount:
    """The mount that the parameters ask for. Raises ``ValueError`` if there is no way to know it."""
    if camera_pose is not None:
        return FixedMount(camera_pose)
    if tf2_ros is None:
        raise ValueError(
            f"{node.get_name()}: camera_pose is not set and tf2_ros is not installed, expected "
            "[x, y, z, roll, pitch, yaw] of the optical frame (metres, radians) or a ROS 2 installation with TF"
        )
    return TfMount(node, base_frame, timeout_s)


def offset_from_training(base_from_camera: np.ndarray, training: TrainingCamera) -> tuple[float, float]:
    """Height (metres) and pitch (degrees, down is positive) of a mount, minus those that the model was trained with."""
    pitch_deg = math.degrees(math.asin(float(np.clip(-base_from_camera[2, 2], -1, 1))))
    return float(base_from_camera[2, 3]) - training.height_m, pitch_deg - training.pitch_deg
