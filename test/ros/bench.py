"""A perception node in this process, a camera in front of it and listeners behind it."""

from __future__ import annotations

import struct
import time
import zlib
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.types import Intrinsics
from kyn_ros import convert
from kyn_ros.params import TopicQos
from kyn_ros.perception_node import PerceptionNode

CAMERA = KITTI360_CAMERA.resized(352, 94)
FRAME = "camera_optical"
SECOND = 1_000_000_000
MOUNT = [0.0, 0.0, 1.55, -np.pi / 2 - np.radians(5.0), 0.0, -np.pi / 2]
"""Like the training mount: 1.55 m high, 5 degrees down, looking ahead."""
HUGE_PNG = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 70_000, 20_000, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    )
)
"""Its header says more pixels than OpenCV takes: that raises, where other bytes that are no picture give None."""
SMALL_GRID = {
    "grid.resolution_m": 0.5,
    "grid.z_m": [-0.5, 3.0],
    "depth_rays": [12, 40],
    "runtime": "onnxruntime",
    "input_timeout_s": 30.0,
}


def image_of(grey: int, stamp_ns: int, camera: Intrinsics = CAMERA) -> Image:
    """A picture of one grey value."""
    header = Header(stamp=convert.time_message(stamp_ns), frame_id=FRAME)
    return convert.image_message(header, np.full((camera.height, camera.width, 3), grey, np.uint8))


def info_of(stamp_ns: int, camera: Intrinsics = CAMERA) -> CameraInfo:
    header = Header(stamp=convert.time_message(stamp_ns), frame_id=FRAME)
    return convert.camera_info_message(header, camera)


class Bench:
    """node: under test. grids: OccupancyGrid messages received. diagnostics: newest status by its last name."""

    def __init__(self, ros: Any, parameters: dict[str, Any], activate: bool = True) -> None:
        self.ros = ros
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = ros.add(PerceptionNode(context=ros.context, parameter_overrides=overrides))
        self.peer = ros.node("peer")
        self.grids: list[OccupancyGrid] = []
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.peer.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.peer.create_subscription(OccupancyGrid, "occupancy_grid", self.grids.append, 10)
        compressed = parameters.get("image_transport") == "compressed"
        image_type, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self._image = self.peer.create_publisher(image_type, topic, TopicQos().profile(5))
        self._info = self.peer.create_publisher(CameraInfo, "camera_info", TopicQos().profile(10))
        if activate:
            assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            self.wait_for_subscriptions()

    def wait_for_subscriptions(self) -> None:
        assert self.ros.spin_until(lambda: self._image.get_subscription_count() and self._info.get_subscription_count())
        self.ros.spin_for(0.1)

    def listen(self, message: type, topic: str) -> list[Any]:
        """Messages of a topic, from now on."""
        received: list[Any] = []
        subscription = self.peer.create_subscription(message, topic, received.append, TopicQos().profile(10))
        assert self.ros.spin_until(lambda: self.peer.count_publishers(subscription.topic_name))
        self.ros.spin_for(0.2)
        return received

    def send(self, image: Any | None = None, info: CameraInfo | None = None) -> None:
        """Publish what a driver would."""
        if info is not None:
            self._info.publish(info)
        if image is not None:
            self._image.publish(image)

    def ask(self, grey: int, stamp_ns: int, timeout_s: float = 10.0) -> OccupancyGrid:
        """The grid of one picture."""
        count = len(self.grids)
        self.send(image_of(grey, stamp_ns), info_of(stamp_ns))
        assert self.ros.spin_until(lambda: len(self.grids) > count, timeout_s), "no grid came"
        return self.grids[-1]

    def status(self, name: str) -> DiagnosticStatus | None:
        return self.diagnostics.get(name)

    def wait_for_status(self, name: str, level: bytes, text: str = "", timeout_s: float = 5.0) -> DiagnosticStatus:
        """The first status from now on with this level and text."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            status = self.ask_status(name)
            if status.level == level and text in status.message:
                return status
        raise AssertionError(f"no such status, the last is {self.status(name)}")

    def ask_status(self, name: str) -> DiagnosticStatus:
        """A status of now, without waiting for the timer."""
        self.ros.spin_for(0.05)
        self.diagnostics.clear()
        self.node._publish_diagnostics()
        assert self.ros.spin_until(lambda: name in self.diagnostics), f"diagnostics never name {name}"
        return self.diagnostics[name]

    def drops(self) -> dict[str, int]:
        """Dropped images by reason."""
        self.ros.spin_for(0.1)
        values = values_of(self.ask_status("input"))
        return {key[len("dropped: ") :]: int(value) for key, value in values.items() if key.startswith("dropped: ")}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name.split(": ")[-1]] = status


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}
