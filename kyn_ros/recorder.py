"""Keeps what a graph publishes: raw messages into a rosbag2 (MCAP), and when each of them arrived.

Messages are written as they come over the wire, neither decoded nor encoded again.
"""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from kyn_ros import kitti360_bag
from kyn_ros.environment import shared_file
from kyn_ros.mount import quaternion_from_pose

METADATA_VERSION = 8
"""rosbag2 metadata that Humble (with MCAP installed) to Kilted read."""


def typestore() -> Typestore:
    """All message types that kyn publishes, ``kyn/msg/OccupancyVolume`` included."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    text = shared_file("msg/OccupancyVolume.msg").read_text()
    store.register(get_types_from_msg(text, "kyn/msg/OccupancyVolume"))
    return store


def header_stamp_ns(raw: bytes) -> int:
    """Stamp of a serialised message that begins with a std_msgs/Header (little-endian CDR)."""
    seconds, nanoseconds = struct.unpack_from("<iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


class Recorder(Node):
    """Subscribes to ``topics`` (name to message class) and writes all they carry into the bag ``path``.

    arrivals: topic -> stamp in ns -> monotonic seconds of arrival, for the topics whose messages have a header.
    """

    def __init__(self, path: Path, topics: Mapping[str, Any], **node_options: Any) -> None:
        super().__init__("recorder", **node_options)
        self.arrivals: dict[str, dict[int, float]] = defaultdict(dict)
        self.messages: dict[str, int] = dict.fromkeys(topics, 0)
        self._writer = Writer(path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        types = typestore()
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=20,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.VOLATILE,
        )
        for topic, message in topics.items():
            name = f"{message.__module__.split('.')[0]}/msg/{message.__name__}"
            connection = self._writer.add_connection(topic, name, typestore=types)
            stamped = "header" in message.get_fields_and_field_types()

            def keep(raw: bytes, topic: str = topic, connection: Any = connection, stamped: bool = stamped) -> None:
                self._keep(topic, connection, raw, stamped)

            self.create_subscription(message, topic, keep, qos, raw=True)

    def keep_mount(self, frame_id: str, base_from_camera: np.ndarray, stamp_ns: int) -> None:
        """Write ``/tf_static`` with the camera's mount, which no pip wheel has a message class for."""
        types = typestore()
        made = types.types
        stamp = made["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        x, y, z, w = quaternion_from_pose(base_from_camera)
        transform = made["geometry_msgs/msg/Transform"](
            translation=made["geometry_msgs/msg/Vector3"](*(float(value) for value in base_from_camera[:3, 3])),
            rotation=made["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w),
        )
        stamped = made["geometry_msgs/msg/TransformStamped"](
            header=made["std_msgs/msg/Header"](stamp=stamp, frame_id="base_link"),
            child_frame_id=frame_id,
            transform=transform,
        )
        name = "tf2_msgs/msg/TFMessage"
        connection = self._writer.add_connection(
            "/tf_static", name, typestore=types, offered_qos_profiles=[kitti360_bag.qos(latched=True)]
        )
        self._writer.write(connection, stamp_ns, types.serialize_cdr(made[name](transforms=[stamped]), name))

    def _keep(self, topic: str, connection: Any, raw: bytes, stamped: bool) -> None:
        now = time.monotonic()
        stamp = header_stamp_ns(raw) if stamped else self.get_clock().now().nanoseconds
        self.messages[topic] += 1
        if stamped:
            self.arrivals[topic][stamp] = now
        self._writer.write(connection, stamp, raw)

    def close(self) -> None:
        """Finish the bag; the node cannot record afterwards."""
        self._writer.close()
