"""Perception and replay as processes of their own: end to end, and a clean end by every signal."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import MOUNT, SECOND, image_of, info_of
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import OccupancyGrid, Odometry
from processes import Process, parameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tiny_drive import DRIVE, write_drive

from kyn_models.data.kitti360 import Kitti360
from kyn_ros.convert import stamp_ns
from kyn_ros.mount import numbers_from_pose, parameter_text
from kyn_ros.params import TopicQos

PERCEPTION, REPLAY = "kyn_ros.perception_node", "kyn_ros.replay_node"
SMALL = {
    "runtime": "onnxruntime",
    "camera_pose": parameter_text(MOUNT),
    "grid__resolution_m": 0.5,
    "grid__z_m": "[-0.5, 3.0]",
    "depth_rays": "[12, 40]",
}


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path / "kitti360")


def perception(model: Path, timeout_s: float = 30.0, **more: object) -> Process:
    process = Process(PERCEPTION, *parameters(**{**SMALL, "model": model, **more}))
    # Participants that start at the same moment on one host may take the same port and then miss each other.
    process.wait_for_text("active, waiting for images", timeout_s)
    return process


def listen(ros: Any, message: type, topic: str) -> list[Any]:
    received: list[Any] = []
    ros.nodes[0].create_subscription(message, topic, received.append, TopicQos().profile(20))
    return received


def test_lockstep_answers_every_frame_with_its_stamp(ros, model: Path, drive: Path) -> None:
    ros.node("listener")
    grids, odometry = listen(ros, OccupancyGrid, "occupancy_grid"), listen(ros, Odometry, "odom")
    clouds, infos = listen(ros, PointCloud2, "lidar/points"), listen(ros, CameraInfo, "camera_info")
    images = listen(ros, Image, "image")
    reader = Kitti360(drive)
    pose = parameter_text(numbers_from_pose(reader.base_from_camera()))
    with perception(model, camera_pose=pose):
        assert ros.spin_until(lambda: ros.nodes[0].count_publishers("occupancy_grid"))
        with Process(REPLAY, *parameters(data=drive, pace="lockstep", listeners=2)) as replay:
            assert ros.spin_until(lambda: len(grids) == 4, 20.0), replay.text
            assert replay.wait(10.0) == 0, replay.text
    assert "4 answered, 0 unanswered" in replay.text and "stamped at 10 Hz" in replay.text
    expected = [reader.stamp_ns(frame) for frame in reader.frames]
    ros.spin_for(0.2)
    assert [stamp_ns(message.header.stamp) for message in grids] == expected
    # Lockstep waits for subscribers of image and camera_info; what else there is may have been missed at first.
    assert [stamp_ns(message.header.stamp) for message in infos] == expected and len(images) == 4
    for messages in (odometry, clouds):
        assert messages and [stamp_ns(message.header.stamp) for message in messages] == expected[-len(messages) :]
    last = odometry[-1]
    position = last.pose.pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], reader.world_from_base(8)[:3, 3], atol=1e-9)
    # 1 m per frame at 10 Hz, straight ahead.
    assert last.twist.twist.linear.x == pytest.approx(10.0)
    assert clouds[-1].width == len(reader.scan(8))


def test_an_unanswered_frame_is_named_and_fails(ros, model: Path, drive: Path) -> None:
    # max_rate_hz makes the perception node leave out every second frame.
    replay_parameters = parameters(data=drive, pace="lockstep", stop=7, answer_timeout_s=5.0)
    with perception(model, max_rate_hz=5.0) as node, Process(REPLAY, *replay_parameters) as replay:
        assert replay.wait(40.0) == 1, node.text + replay.text
    assert "2 answered, 1 unanswered" in replay.text and "frame 6 was not answered" in replay.text


def test_lockstep_without_a_perception_node_says_so(drive: Path) -> None:
    with Process(REPLAY, *parameters(data=drive, pace="lockstep", wait_s=0.3)) as replay:
        assert replay.wait(20.0) == 1
    assert "got 0 subscribers of /image" in replay.text and "start `kyn node`" in replay.text


def test_clock_pace_keeps_time_and_ticks(ros, drive: Path) -> None:
    ros.node("listener")
    ticks: list[Clock] = []
    ros.nodes[0].create_subscription(Clock, "/clock", ticks.append, TopicQos("best_effort").profile(50))
    images = listen(ros, Image, "image")
    with Process(REPLAY, *parameters(data=drive, rate=0.5, loop=True)) as replay:
        assert ros.spin_until(lambda: len(images) >= 8, 30.0), replay.text
        replay.signal(signal.SIGTERM)
        assert replay.wait(5.0) == 0, replay.text
    stamps = [stamp_ns(image.header.stamp) for image in images]
    assert min(np.diff(stamps)) < 0, "a loop goes back to the first stamp"
    seconds = [stamp_ns(tick.clock) * 1e-9 for tick in ticks]
    ahead = np.diff(seconds)
    assert len(ticks) > 4 * len(images) and np.median(ahead[ahead >= 0]) < 0.03


def test_a_lifecycle_manager_can_drive_the_node(ros, model: Path) -> None:
    ros.node("manager")
    grids = listen(ros, OccupancyGrid, "occupancy_grid")
    client = ros.nodes[0].create_client(ChangeState, "perception_node/change_state")
    image = ros.nodes[0].create_publisher(Image, "image", TopicQos().profile(5))
    info = ros.nodes[0].create_publisher(CameraInfo, "camera_info", TopicQos().profile(5))
    with Process(PERCEPTION, *parameters(**SMALL, model=model, autostart=False)) as node:
        assert ros.spin_until(client.service_is_ready, 20.0), node.text
        steps = ((Transition.TRANSITION_CONFIGURE, "mount from"), (Transition.TRANSITION_ACTIVATE, "active, waiting"))
        for transition, text in steps:
            # Asked again, because a request is lost where the server has not found the client yet.
            for _ in range(5):
                client.call_async(ChangeState.Request(transition=Transition(id=transition)))
                if ros.spin_until(lambda text=text: text in node.text, 5.0):
                    break
            assert text in node.text
        assert ros.spin_until(lambda: image.get_subscription_count() and info.get_subscription_count())
        assert ros.spin_until(lambda: ros.nodes[0].count_publishers("occupancy_grid"))
        ros.spin_for(0.3)
        info.publish(info_of(SECOND))
        image.publish(image_of(128, SECOND))
        assert ros.spin_until(lambda: grids, 20.0), node.text


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda root: (root / "calibration/calib_cam_to_pose.txt").unlink(), "calib_cam_to_pose.txt"),
        (lambda root: None, "data is not set"),
    ],
)
def test_replay_refuses_a_wrong_set_up_with_one_sentence(drive: Path, break_it: Any, text: str) -> None:
    break_it(drive)
    values = {"data": drive} if text != "data is not set" else {}
    with Process(REPLAY, *parameters(**values, loop=False)) as replay:
        assert replay.wait(20.0) == 2
    lines = [line for line in replay.text.splitlines() if "FASTRTPS_DEFAULT" not in line]
    assert len(lines) == 1 and text in lines[0]


def test_a_corrupt_image_and_a_truncated_scan_are_named_and_the_rest_is_replayed(ros, drive: Path) -> None:
    image = drive / f"data_2d_raw/{DRIVE}/image_00/data_rect/0000000006.png"
    image.write_bytes(image.read_bytes()[:60])
    scan = drive / f"data_3d_raw/{DRIVE}/velodyne_points/data/0000000007.bin"
    scan.write_bytes(scan.read_bytes()[:-3])
    ros.node("listener")
    images, clouds = listen(ros, Image, "image"), listen(ros, PointCloud2, "lidar/points")
    with Process(REPLAY, *parameters(data=drive, loop=True)) as replay:
        assert ros.spin_until(lambda: len(images) >= 6, 20.0), replay.text
        replay.signal(signal.SIGINT)
        assert replay.wait(5.0) == 1
    assert image.name in replay.text and scan.name in replay.text
    reader = Kitti360(drive)
    whole = {reader.stamp_ns(frame) for frame in (5, 7, 8)}
    assert {stamp_ns(message.header.stamp) for message in images} == whole
    assert {stamp_ns(message.header.stamp) for message in clouds} == whole - {reader.stamp_ns(7)}


# -- ends --------------------------------------------------------------------------------------------------------------


def seconds_to_end(process: Process, *signals: signal.Signals) -> float:
    begin = time.monotonic()
    for number in signals:
        process.signal(number)
        time.sleep(0.05)
    assert process.wait(8.0) == 0, process.text
    assert "Traceback" not in process.text and "terminate called" not in process.text, process.text
    return time.monotonic() - begin


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
def test_clean_end_while_waiting(model: Path, signals: tuple[signal.Signals, ...]) -> None:
    with perception(model) as node:
        assert seconds_to_end(node, *signals) < 5.0


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
def test_clean_end_and_diagnostics_during_inference(ros, tmp_path: Path, signals: tuple[signal.Signals, ...]) -> None:
    """A slow model keeps the inference thread busy for longer than the clean-up waits."""
    pytest.importorskip("onnx", reason="the tiny model's encoder is written with onnx")
    from tiny_model import write_tiny_artifact

    model = write_tiny_artifact(tmp_path / "slow", idle=120).path
    ros.node("camera")
    reports: list[DiagnosticArray] = []
    ros.nodes[0].create_subscription(DiagnosticArray, "/diagnostics", reports.append, 10)

    def input_now() -> dict[str, str]:
        """The counts of the newest report."""
        inputs = [status for report in reports[-1:] for status in report.status if status.name.endswith(": input")]
        return {pair.key: pair.value for status in inputs for pair in status.values}

    image = ros.nodes[0].create_publisher(Image, "image", TopicQos().profile(5))
    info = ros.nodes[0].create_publisher(CameraInfo, "camera_info", TopicQos().profile(5))
    depths = listen(ros, Image, "depth/image_rect")
    with perception(model, timeout_s=120.0) as node:
        assert ros.spin_until(lambda: image.get_subscription_count() and info.get_subscription_count(), 30.0)
        ros.spin_for(0.3)
        info.publish(info_of(SECOND))
        image.publish(image_of(128, SECOND))
        assert ros.spin_until(lambda: input_now().get("images") == "1", 5.0), "the image did not arrive"
        reports.clear()
        assert ros.spin_until(lambda: reports, 5.0), "diagnostics stopped during inference"
        counts = input_now()
        names = ("images", "camera_infos", "answered", "dropped")
        assert [counts[name] for name in names] == ["1", "1", "0", "0"], "nothing is at work"
        assert not depths
        assert seconds_to_end(node, *signals) < 5.0


def test_bad_ros_arguments_are_one_sentence() -> None:
    with Process(PERCEPTION, "--ros-args", "-p", "camera_pose:=[1.0, 0]") as node:
        assert node.wait(20.0) == 2
    assert node.text.splitlines()[-1].startswith("perception_node: ROS arguments:")
    assert "Traceback" not in node.text


def test_kyn_node_ends_where_its_set_up_is_refused() -> None:
    with Process("kyn_ros.cli", "node", "-p", "model:=/nowhere", "-p", f"camera_pose:={parameter_text(MOUNT)}") as node:
        assert node.wait(20.0) == 2, node.text
    assert "not configured: /nowhere: no such folder" in node.text and "Traceback" not in node.text


def test_a_refused_set_up_keeps_the_process_and_ends_cleanly() -> None:
    with Process(PERCEPTION, *parameters(model="/nowhere", camera_pose=parameter_text(MOUNT))) as node:
        node.wait_for_text("not configured: /nowhere: no such folder")
        assert seconds_to_end(node, signal.SIGINT) < 5.0
