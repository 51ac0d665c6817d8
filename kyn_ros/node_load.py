"""A camera of any rate in front of a perception node, and the listener behind it that times the answers.

Two threads: the caller publishes on time, the other one spins. Messages are made beforehand, so that publishing costs
what the middleware costs. Latencies are of this process's steady clock: the call of publish to the grid's callback.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from kyn_models.benchmark.record import memory_mb
from kyn_models.types import Observation
from kyn_ros import convert
from kyn_ros.params import TopicQos

FRAME = "camera_optical"
DRAIN_SECONDS = 1.0
"""After the last image: how long nothing may come before the rest counts as missed."""
SAMPLE_SECONDS = 0.2

OUTPUTS: dict[str, tuple[str, ...]] = {
    "grid": (),
    "default": ("occupancy_volume", "depth/image_rect"),
    "all": (
        *("occupancy_volume", "depth/image_rect", "depth/camera_info", "depth/colorized"),
        *("points", "occupied_voxels", "obstacle_points", "clearing_points"),
    ),
}
"""What is subscribed to beside the grid. default: what Nav2 with RViz shows of kyn's topics."""


def message_type(topic: str) -> type | None:
    """Class of a topic's messages; None where ``kyn.msg`` is not built."""
    if topic == "occupancy_volume":
        try:
            from kyn.msg import OccupancyVolume
        except ImportError:
            return None
        return OccupancyVolume
    images = {"depth/image_rect": Image, "depth/colorized": Image, "depth/camera_info": CameraInfo}
    return images.get(topic, PointCloud2)


@dataclass
class Load:
    """What happened during one rate. sent, received: stamp in ns to seconds of the steady clock.

    stages_ms: medians that the node's diagnostics say of its last images. cpu_percent: of one core, over the time of
    sending; memory_mb: mean and peak resident size of the node.
    """

    rate_hz: float
    sent: dict[int, float] = field(default_factory=dict)
    received: dict[int, float] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    stages_ms: dict[str, float] = field(default_factory=dict)
    cpu_percent: float = float("nan")
    memory_mean_mb: float = float("nan")
    memory_peak_mb: float = float("nan")


class Camera(Node):
    """Publishes images with CameraInfo and listens to the answers.

    observations: of one camera. topics: what is subscribed to beside the grid. ``missing``: those that cannot be.
    """

    def __init__(self, observations: Sequence[Observation], topics: Sequence[str], **options: Any) -> None:
        super().__init__("benchmark_camera", **options)
        self._images = [convert.image_message(Header(frame_id=FRAME), item.key.image) for item in observations]
        self._info = convert.camera_info_message(Header(frame_id=FRAME), observations[0].key.intrinsics)
        self._image_out = self.create_publisher(Image, "image", TopicQos().profile(2))
        self._info_out = self.create_publisher(CameraInfo, "camera_info", TopicQos().profile(10))
        self._load = Load(0.0)
        self.status: dict[str, DiagnosticStatus] = {}
        self.diagnosed = threading.Event()
        self.create_subscription(OccupancyGrid, "occupancy_grid", self._on_grid, TopicQos().profile(10))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.missing = tuple(topic for topic in topics if message_type(topic) is None)
        for topic in topics:
            if topic not in self.missing:
                self._count(topic)

    def _count(self, topic: str) -> None:
        def counted(message: Any) -> None:
            self._load.others[topic] = self._load.others.get(topic, 0) + 1

        self.create_subscription(message_type(topic), topic, counted, TopicQos().profile(10))

    def _on_grid(self, message: OccupancyGrid) -> None:
        now = time.monotonic()
        self._load.received.setdefault(convert.stamp_ns(message.header.stamp), now)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.status.update({status.name.split(": ")[-1]: status for status in message.status})
        self.diagnosed.set()

    def ready(self) -> bool:
        """True once the node listens to images and its grids would arrive."""
        counts = (self._image_out.get_subscription_count(), self._info_out.get_subscription_count())
        return all(counts) and self.count_publishers("occupancy_grid") > 0

    def begin(self, rate_hz: float) -> Load:
        """A new record; what arrives from now on belongs to it."""
        self._load = Load(rate_hz)
        return self._load

    def publish(self, number: int) -> None:
        """The next image, stamped now."""
        image = self._images[number % len(self._images)]
        stamp = self.get_clock().now().to_msg()
        image.header.stamp = self._info.header.stamp = stamp
        self._info_out.publish(self._info)
        self._load.sent[convert.stamp_ns(stamp)] = time.monotonic()
        self._image_out.publish(image)

    def values(self, name: str) -> Mapping[str, str]:
        """The values of the newest status called ``name``."""
        status = self.status.get(name)
        return {} if status is None else {pair.key: pair.value for pair in status.values}


class Graph:
    """A context, a ``Camera`` in it and the thread that spins it; use it in a ``with`` statement."""

    def __init__(self, observations: Sequence[Observation], topics: Sequence[str]) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.camera = Camera(observations, topics, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.camera)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="listener", daemon=True)

    def _spin(self) -> None:
        try:
            while not self._ended.is_set():
                self._executor.spin_once(timeout_sec=0.1)
        except ExternalShutdownException:
            pass

    def __enter__(self) -> Camera:
        self._thread.start()
        return self.camera

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(2.0)
        self._executor.shutdown()
        self.camera.destroy_node()
        self._context.try_shutdown()


class _Meter:
    """CPU time and memory of a process, sampled in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended = pid, threading.Event()
        self._resident = [memory_mb(pid)[0]]
        self._begin = time.monotonic(), cpu_seconds(pid)
        self._thread = threading.Thread(target=self._sample, name="meter", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._resident.append(memory_mb(self._pid)[0])

    def read(self, load: Load) -> None:
        """Write what was measured since the start into ``load``."""
        self._ended.set()
        self._thread.join()
        wall = time.monotonic() - self._begin[0]
        load.cpu_percent = 100 * (cpu_seconds(self._pid) - self._begin[1]) / wall
        load.memory_mean_mb = sum(self._resident) / len(self._resident)
        load.memory_peak_mb = memory_mb(self._pid)[1]


def run_load(camera: Camera, pid: int, rate_hz: float, seconds: float) -> Load:
    """Publish ``rate_hz`` images per second for ``seconds`` and wait for the last answers.

    pid: of the perception node.
    """
    load, meter = camera.begin(rate_hz), _Meter(pid)
    begin = time.monotonic()
    for number in range(max(1, round(rate_hz * seconds))):
        left = begin + number / rate_hz - time.monotonic()
        if left > 0:
            time.sleep(left)
        camera.publish(number)
    meter.read(load)
    _drain(load)
    camera.diagnosed.clear()
    camera.diagnosed.wait(2.0)
    load.stages_ms = {
        key[len("ms: ") :]: float(text) for key, text in camera.values("input").items() if key.startswith("ms: ")
    }
    return load


def _drain(load: Load) -> None:
    last = time.monotonic()
    count = len(load.received)
    while len(load.received) < len(load.sent) and time.monotonic() - last < DRAIN_SECONDS:
        time.sleep(0.01)
        if len(load.received) != count:
            last, count = time.monotonic(), len(load.received)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; NaN where /proc does not say."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            # The command's name, in parentheses, may hold spaces.
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
