"""The first image reaches a best-effort subscriber, however late the two find each other."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("rosbags", reason="rosbags is not installed")

from bench import SECOND, image_of, info_of
from processes import Process
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image
from tiny_drive import write_drive

from kyn_ros import replay_node
from kyn_ros.convert import stamp_ns
from kyn_ros.listeners import SETTLE_S, wait_for_listeners
from kyn_ros.params import TopicQos
from kyn_ros.replay_node import ReplayNode

FIRST = 6


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive") / "kitti360", frames=range(FIRST, FIRST + 2))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with their CameraInfo, 0.1 s apart."""
    types, path = get_typestore(Stores.ROS2_HUMBLE), tmp_path_factory.mktemp("bag") / "bag"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        images = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=types)
        infos = writer.add_connection("/camera_info", "sensor_msgs/msg/CameraInfo", typestore=types)
        for stamp in (FIRST * SECOND // 10 + SECOND // 10, FIRST * SECOND // 10 + SECOND // 5):
            writer.write(infos, stamp, serialize_message(info_of(stamp)))
            writer.write(images, stamp, serialize_message(image_of(10, stamp)))
    return path


@pytest.mark.parametrize(("kind", "late_s"), [("drive", None), ("drive", 1.5), ("bag", 1.5)])
def test_the_first_image_arrives(ros, request: pytest.FixtureRequest, kind: str, late_s: float | None) -> None:
    """late_s: how long after the player the subscriber starts; None: long before."""
    received: list[Image] = []
    qos = TopicQos("best_effort").profile()

    def listen() -> None:
        node = ros.node("listener")
        node.create_subscription(Image, "image", received.append, qos)
        node.create_subscription(CameraInfo, "camera_info", lambda _: None, qos)

    if late_s is None:
        listen()
        ros.spin_for(0.5)
    with Process("kyn_ros.cli", "play", str(request.getfixturevalue(kind))) as play:
        if late_s is not None:
            play.wait_for_text("camera_pose" if kind == "drive" else "looking for subscribers")
            time.sleep(late_s)
            listen()
        assert ros.spin_until(lambda: len(received) == 2, 12.0), play.text
        assert play.wait(10.0) == 0, play.text
    first = FIRST * SECOND // 10 + SECOND // 10
    assert [stamp_ns(image.header.stamp) for image in received] == [first, first + SECOND // 10]


def replay(ros, capfd: pytest.CaptureFixture[str], **values: Any) -> tuple[int, str]:
    """Exit code and log of a replay in this process."""
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = ReplayNode(context=ros.context, parameter_overrides=overrides)
    executor = SingleThreadedExecutor(context=ros.context)
    executor.add_node(node)
    code = node.run(executor)
    executor.shutdown()
    node.destroy_node()
    return code, capfd.readouterr().err


def test_a_folder_is_replayed_without_anybody_too(ros, drive: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(replay_node, "FOUND_WITHIN_S", 0.3)
    code, said = replay(ros, capfd, data=str(drive))
    assert code == 0 and "2 frames" in said
    assert (
        "got 0 subscribers of /image and 0 of /camera_info after 0.3 s, expected 1 of each; start `kyn node`, or see "
        "what it says; replaying all the same" in said
    )


def test_lockstep_says_again_whom_it_waits_for(ros, drive: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(replay_node, "REMIND_S", 0.4)
    code, text = replay(ros, capfd, data=str(drive), pace="lockstep", wait_s=1.1)
    said = [line for line in text.splitlines() if "got 0 subscribers of /image and 0 of /camera_info" in line]
    assert code == 1 and len(said) == 3, text
    assert "[WARN]" in said[0] and "of 1.1 s, expected 1 of each; start `kyn node`" in said[0]
    assert "[ERROR]" in said[2] and "0 publishers of /occupancy_grid after 1.1 s" in said[2]


class Moments:
    """Subscribers by moment on a clock that only waiting moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, counts: dict[float, tuple[int, int]]) -> None:
        self.now, self._counts = 0.0, counts
        monkeypatch.setattr("kyn_ros.listeners.time.monotonic", lambda: self.now)

    def counts(self) -> tuple[int, int]:
        return self._counts[max(moment for moment in self._counts if moment <= self.now)]

    def spin(self, until_s: float) -> None:
        self.now = until_s

    def wait(self) -> bool:
        return wait_for_listeners(self.counts, lambda found: min(found) >= 1, self.spin, threading.Event())


def test_the_wait_goes_on_until_nobody_comes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments(monkeypatch, {0.0: (0, 0), 2.0: (1, 0), 2.1: (1, 1), 3.0: (2, 2)})
    assert moments.wait() and moments.now == pytest.approx(3.0 + SETTLE_S, abs=0.11)
    late = Moments(monkeypatch, {0.0: (0, 0), 4.9: (1, 1)})
    assert late.wait() and late.now == pytest.approx(4.9 + SETTLE_S, abs=0.11)
    nobody = Moments(monkeypatch, {0.0: (0, 0), 3.0: (1, 0)})
    assert not nobody.wait() and nobody.now == pytest.approx(5.0, abs=0.11)
