"""Plays a rosbag2 without a ROS 2 installation: raw messages out, at their pace, with /clock."""

from __future__ import annotations

import importlib
import threading
import time
from pathlib import Path
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosbags.interfaces import Connection, QosDurability
from rosbags.rosbag2 import Reader, ReaderError
from rosgraph_msgs.msg import Clock

from kyn_ros.convert import time_message
from kyn_ros.listeners import FOUND_WITHIN_S, wait_for_listeners
from kyn_ros.params import TopicQos

CLOCK_PERIOD_S = 0.02
LEAVE_S = 0.5
"""Reliable messages that are still on their way need a writer that lives."""


class BagPlayer(Node):
    """A bag (folder, ``.mcap`` or ``.db3``) as live topics.

    rate: times real time. loop: start again at the end. stop: set when the process is asked to end.
    Raises ``ValueError`` for something that is not a rosbag2, or one without any topic that can be published.
    """

    def __init__(self, path: Path, rate: float, loop: bool, stop: threading.Event, **options: Any) -> None:
        super().__init__("bag_player", **options)
        self._rate, self._loop, self._stop = rate, loop, stop
        try:
            self._reader = Reader(path)
            self._reader.open()
        except (ReaderError, OSError) as error:
            raise ValueError(f"{path}: cannot be read as a rosbag2 ({error})") from error
        self._clock_publisher = self.create_publisher(Clock, "/clock", TopicQos("best_effort").profile())
        self._topics: dict[int, Publisher] = {}
        for connection in self._reader.connections:
            self._advertise(connection)
        if not self._topics:
            raise ValueError(f"{path}: holds no topic whose message type is installed here")

    def run(self, executor: SingleThreadedExecutor) -> None:
        """Play to the end (with ``loop`` until stopped)."""
        self._wait_for_listeners(executor)
        connections = [c for c in self._reader.connections if c.id in self._topics]
        while not self._stop.is_set():
            begin_s, begin_ns, count = time.monotonic(), self._reader.start_time, 0
            for connection, stamp_ns, raw in self._reader.messages(connections):
                self._wait(executor, begin_s + (stamp_ns - begin_ns) * 1e-9 / self._rate, stamp_ns)
                if self._stop.is_set():
                    return
                self._topics[connection.id].publish(bytes(raw))
                count += 1
            self.get_logger().info(f"played {count} messages in {time.monotonic() - begin_s:.1f} s")
            if not self._loop:
                self._wait(executor, time.monotonic() + LEAVE_S)
                return

    def _wait_for_listeners(self, executor: SingleThreadedExecutor) -> None:
        """Until those who listen to any of the topics are found; nobody has to."""

        def counts() -> list[int]:
            return [publisher.get_subscription_count() for publisher in self._topics.values()]

        self.get_logger().info(f"looking for subscribers of {len(self._topics)} topics, {FOUND_WITHIN_S:g} s at most")
        found = wait_for_listeners(counts, any, lambda until_s: self._wait(executor, until_s), self._stop)
        if not found and not self._stop.is_set():
            self.get_logger().info("nobody listens to any of them; playing all the same")

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()

    def _advertise(self, connection: Connection) -> None:
        if connection.topic == "/clock":
            return  # this player's own clock follows its rate
        message = _message_class(connection.msgtype)
        if message is None:
            self.get_logger().warning(f"{connection.topic}: {connection.msgtype} is not installed here, not played")
            return
        offered = getattr(connection.ext, "offered_qos_profiles", [])
        latched = any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in offered)
        qos = TopicQos("reliable", "transient_local" if latched else "volatile")
        self._topics[connection.id] = self.create_publisher(message, connection.topic, qos.profile(depth=10))

    def _wait(self, executor: SingleThreadedExecutor, due_s: float, due_ns: int | None = None) -> None:
        """Spin until a moment on the steady clock; /clock ticks towards ``due_ns``."""
        while not self._stop.is_set():
            left = due_s - time.monotonic()
            if due_ns is not None:
                now_ns = max(0, due_ns - round(max(0.0, left) * 1e9 * self._rate))
                self._clock_publisher.publish(Clock(clock=time_message(now_ns)))
            if left <= 0:
                return
            executor.spin_once(timeout_sec=min(left, CLOCK_PERIOD_S))


def _message_class(name: str) -> type | None:
    """The class of ``package/msg/Type``, None where its package is not installed."""
    package, _, message = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), message, None)
    except ImportError:
        return None
