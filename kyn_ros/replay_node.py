"""The replay node: a drive of KITTI-360, or a sequence of KITTI odometry, as live topics.

Publishes ``image``, ``camera_info``, ``odom``, ``lidar/points``, ``/clock`` and the mount of the camera: as its own
read-only parameter ``camera_pose`` and, where ``tf2_msgs`` exists, on ``/tf_static``. The fixed frame of ``odom`` is
that of the drive's poses.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseWithCovariance,
    Quaternion,
    Transform,
    TransformStamped,
    Twist,
    TwistWithCovariance,
    Vector3,
)
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from kyn_models.data.drives import image_frame, open_drive
from kyn_models.types import Float64Array
from kyn_ros import convert, lifecycle, odometry
from kyn_ros.listeners import FOUND_WITHIN_S, wait_for_listeners
from kyn_ros.mount import numbers_from_pose, parameter_text
from kyn_ros.params import TopicQos, declare, read
from kyn_ros.replay_params import ReplayParameters

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # pip has no wheel of tf2_msgs; a ROS 2 installation has it
    TFMessage = None

ODOM_FRAME, BASE_FRAME, LIDAR_FRAME = "odom", "base_link", "velodyne"
CLOCK_PERIOD_S = 0.02
LEAVE_S = 0.5
"""Reliable messages that are still on their way need a writer that lives."""
REMIND_S = 10.0


@dataclass(frozen=True)
class Moment:
    """All messages of one frame."""

    frame: int
    stamp_ns: int
    image: Image
    info: CameraInfo
    odometry: Odometry
    cloud: PointCloud2 | None


class ReplayNode(Node):
    """stop: set when the process is asked to end. Raises ``ValueError`` or ``FileNotFoundError`` for its set-up."""

    def __init__(self, stop: threading.Event | None = None, **options: Any) -> None:
        super().__init__("replay_node", **options)
        self._stop = stop or threading.Event()
        declare(self, ReplayParameters)
        self.parameters = read(self, ReplayParameters)
        if not self.parameters.data:
            raise ValueError("replay_node: data is not set, expected a KITTI-360 or a KITTI odometry folder")
        self.drive = open_drive(
            self.parameters.data, self.parameters.drive or None, self.parameters.camera, self.parameters.rate_hz
        )
        self.frames = self._choose_frames()
        self.broken: list[str] = []
        self.unanswered: list[int] = []
        self._answered: set[int] = set()
        self._camera_frame = image_frame(self.drive.camera)
        reliable = TopicQos().profile(depth=5)
        self._image = self.create_publisher(Image, "image", reliable)
        self._info = self.create_publisher(CameraInfo, "camera_info", reliable)
        self._odometry = self.create_publisher(Odometry, "odom", reliable)
        self._cloud = self.create_publisher(PointCloud2, "lidar/points", reliable)
        self._clock_publisher = self.create_publisher(Clock, "/clock", TopicQos("best_effort").profile())
        self._grids = self.create_subscription(OccupancyGrid, "occupancy_grid", self._on_grid, reliable)
        self._publish_mount()
        if self.drive.stamps_assumed:
            self.get_logger().info(f"no file of stamps: frames are stamped at {self.parameters.rate_hz:g} Hz")

    def run(self, executor: SingleThreadedExecutor) -> int:
        """Replay. Returns the exit code: 1 if a frame was broken, or unanswered in lockstep, else 0."""
        lockstep = self.parameters.pace == "lockstep"
        if not self._wait_for_listeners(executor, lockstep):
            return 0 if self._stop.is_set() else 1
        while True:
            self._replay_once(executor, lockstep)
            if self._stop.is_set() or not self.parameters.loop:
                break
        self._spin(executor, time.monotonic() + LEAVE_S)
        bad = f", {len(self.broken)} broken" if self.broken else ""
        answers = f", {len(self._answered)} answered, {len(self.unanswered)} unanswered" if lockstep else ""
        self.get_logger().info(f"replayed {self.drive.drive}, {len(self.frames)} frames{bad}{answers}")
        return 1 if self.broken or self.unanswered else 0

    def _choose_frames(self) -> tuple[int, ...]:
        first, last = self.parameters.start, self.parameters.stop
        chosen = tuple(f for f in self.drive.frames if f >= first and (last < 0 or f <= last))
        if not chosen:
            raise ValueError(
                f"replay_node: got start {first} and stop {last}, expected a range that holds some of the frames "
                f"{self.drive.frames[0]} to {self.drive.frames[-1]} of {self.drive.drive}"
            )
        return chosen

    def _publish_mount(self) -> None:
        mount = self.drive.base_from_camera()
        numbers = list(numbers_from_pose(mount))
        text = "[x, y, z, roll, pitch, yaw] of the optical frame in base_link, as the calibration says"
        self.declare_parameter("camera_pose", numbers, ParameterDescriptor(description=text, read_only=True))
        self.get_logger().info(f"camera_pose: {parameter_text(numbers)}")
        if TFMessage is None:
            self.get_logger().info("tf2_msgs is not installed: no /tf_static, give camera_pose to the perception node")
            return
        self._tf = self.create_publisher(TFMessage, "/tf_static", TopicQos("reliable", "transient_local").profile())
        poses = {self._camera_frame: mount, LIDAR_FRAME: self.drive.base_from_velo()}
        self._tf.publish(TFMessage(transforms=[_static_transform(name, pose) for name, pose in poses.items()]))

    # -- pace ----------------------------------------------------------------------------------------------------------

    def _wait_for_listeners(self, executor: SingleThreadedExecutor, lockstep: bool) -> bool:
        """True once enough nodes listen to image and camera_info, in lockstep one that publishes grids among them.

        Nobody has to listen where the pace is that of the clock, but those who do are found before the first image.
        """
        wait_s = self.parameters.wait_s if lockstep else FOUND_WITHIN_S
        if lockstep:
            self.get_logger().info("lockstep: waiting for the perception node")
        begin_s = said_s = time.monotonic()

        def enough(counts: Sequence[int]) -> bool:
            return min(counts) >= self.parameters.listeners and (not lockstep or self._answerers() > 0)

        def spin(until_s: float) -> None:
            nonlocal said_s
            if until_s - said_s > REMIND_S:
                said_s = until_s
                self.get_logger().warning(self._missing(lockstep, f"{until_s - begin_s:.0f} of {wait_s:g}"))
            self._spin(executor, until_s)

        if wait_for_listeners(self._subscribers, enough, spin, self._stop, wait_s):
            return True
        if self._stop.is_set():
            return False
        missing = self._missing(lockstep, f"{wait_s:g}")
        if lockstep:
            self.get_logger().error(missing)
        else:
            self.get_logger().info(f"{missing}; replaying all the same")
        return not lockstep

    def _missing(self, lockstep: bool, seconds: str) -> str:
        images, infos = self._subscribers()
        grids = f", and {self._answerers()} publishers of {self._grids.topic_name}" if lockstep else ""
        return (
            f"got {images} subscribers of {self._image.topic_name} and {infos} of {self._info.topic_name}{grids} after "
            f"{seconds} s, expected {self.parameters.listeners} of each; start `kyn node`, or "
            "see what it says"
        )

    def _answerers(self) -> int:
        return self.count_publishers(self._grids.topic_name)

    def _subscribers(self) -> tuple[int, int]:
        return self._image.get_subscription_count(), self._info.get_subscription_count()

    def _replay_once(self, executor: SingleThreadedExecutor, lockstep: bool) -> None:
        self._answered.clear()
        begin_s, begin_ns = time.monotonic(), self.drive.stamp_ns(self.frames[0])
        for frame in self.frames:
            moment = self._moment(frame)
            if moment is None:
                continue
            if not lockstep:
                due = begin_s + (moment.stamp_ns - begin_ns) * 1e-9 / self.parameters.rate
                self._spin_with_clock(executor, due, moment.stamp_ns)
            if self._stop.is_set():
                return
            self._publish(moment)
            if lockstep:
                self._wait_for_answer(executor, moment)

    def _wait_for_answer(self, executor: SingleThreadedExecutor, moment: Moment) -> None:
        deadline = time.monotonic() + self.parameters.answer_timeout_s
        while moment.stamp_ns not in self._answered and time.monotonic() < deadline and not self._stop.is_set():
            executor.spin_once(timeout_sec=0.05)
        if moment.stamp_ns not in self._answered and not self._stop.is_set():
            self.unanswered.append(moment.frame)
            self.get_logger().error(
                f"frame {moment.frame} was not answered within {self.parameters.answer_timeout_s:g} s"
            )

    def _spin(self, executor: SingleThreadedExecutor, until_s: float) -> None:
        while not self._stop.is_set() and (left := until_s - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=min(left, 0.1))

    def _spin_with_clock(self, executor: SingleThreadedExecutor, due_s: float, due_ns: int) -> None:
        """Wait for a moment; meanwhile /clock ticks every 20 ms."""
        while not self._stop.is_set() and (left := due_s - time.monotonic()) > 0:
            self._tick(due_ns - round(left * 1e9 * self.parameters.rate))
            self._spin(executor, min(due_s, time.monotonic() + CLOCK_PERIOD_S))

    # -- messages ------------------------------------------------------------------------------------------------------

    def _on_grid(self, message: OccupancyGrid) -> None:
        self._answered.add(convert.stamp_ns(message.header.stamp))

    def _tick(self, now_ns: int) -> None:
        self._clock_publisher.publish(Clock(clock=convert.time_message(max(0, now_ns))))

    def _publish(self, moment: Moment) -> None:
        self._tick(moment.stamp_ns)
        self._odometry.publish(moment.odometry)
        if moment.cloud is not None:
            self._cloud.publish(moment.cloud)
        self._info.publish(moment.info)
        self._image.publish(moment.image)

    def _moment(self, frame: int) -> Moment | None:
        """The messages of a frame, None (and a line that says why) if it cannot be read."""
        try:
            view = self.drive.posed_frame(frame)
        except (ValueError, OSError) as error:
            self._report_broken(str(error))
            return None
        stamp = convert.time_message(view.stamp_ns)
        camera = Header(stamp=stamp, frame_id=self._camera_frame)
        cloud = None
        if self.parameters.lidar and self.drive.has_scan(frame):
            try:
                cloud = convert.cloud_message(
                    Header(stamp=stamp, frame_id=LIDAR_FRAME), np.ascontiguousarray(self.drive.scan(frame)[:, :3])
                )
            except (ValueError, OSError) as error:
                self._report_broken(str(error))
        return Moment(
            frame,
            view.stamp_ns,
            convert.image_message(camera, view.image),
            convert.camera_info_message(camera, view.intrinsics),
            self._odometry_message(frame, Header(stamp=stamp, frame_id=ODOM_FRAME)),
            cloud,
        )

    def _report_broken(self, sentence: str) -> None:
        self.broken.append(sentence)
        self.get_logger().error(sentence)

    def _odometry_message(self, frame: int, header: Header) -> Odometry:
        pose = self.drive.world_from_base(frame)
        message = Odometry(header=header, child_frame_id=BASE_FRAME)
        message.pose = PoseWithCovariance(pose=_pose_message(pose))
        linear, angular = (Vector3(x=v[0], y=v[1], z=v[2]) for v in odometry.twist(self.drive, frame))
        message.twist = TwistWithCovariance(twist=Twist(linear=linear, angular=angular))
        return message


def _pose_message(pose: Float64Array) -> Pose:
    x, y, z = map(float, pose[:3, 3])
    qx, qy, qz, qw = odometry.quaternion_from_pose(pose)
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def _static_transform(child: str, base_from_child: Float64Array) -> Any:
    pose = _pose_message(base_from_child)
    p = pose.position
    transform = Transform(translation=Vector3(x=p.x, y=p.y, z=p.z), rotation=pose.orientation)
    return TransformStamped(header=Header(frame_id=BASE_FRAME), child_frame_id=child, transform=transform)


def main(argv: Sequence[str] | None = None) -> int:
    """Replay until the end, SIGINT or SIGTERM. ``argv`` without the program's name (default: the process's).

    Exit code 0: all frames replayed (and answered, in lockstep), 1: some were not, 2: the set-up is wrong.
    """
    try:
        stop = lifecycle.start_ros(argv)
        node = ReplayNode(stop)
    except (ValueError, OSError) as error:
        print(f"replay_node: {str(error).removeprefix('replay_node: ')}", file=sys.stderr)
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        code = node.run(executor)
    except ExternalShutdownException:
        code = 1
    lifecycle.end_ros(node, executor, ended=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
