"""A KITTI odometry sequence as live topics and as a bag: the same as a drive of KITTI-360."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from nav_msgs.msg import OccupancyGrid, Odometry
from processes import Process, parameters
from sensor_msgs.msg import CameraInfo, Image

from kyn_models.data.drives import open_drive
from kyn_ros import cli
from kyn_ros.convert import stamp_ns
from kyn_ros.mount import numbers_from_pose, parameter_text
from kyn_ros.params import TopicQos


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "kitti_odometry"


def test_lockstep_replays_a_sequence_with_its_poses(ros, model: Path, folder: Path) -> None:
    """The sequence has a gap of 17 s: poses, images and the fused grid start afresh, and no frame is lost."""
    listener = ros.node("listener")
    received: dict[str, list[Any]] = {}
    topics = {"occupancy_grid": OccupancyGrid, "occupancy_grid_fused": OccupancyGrid, "odom": Odometry}
    for topic, message in {**topics, "image": Image, "camera_info": CameraInfo}.items():
        received[topic] = []
        listener.create_subscription(message, topic, received[topic].append, TopicQos().profile(20))
    drive = open_drive(folder, "07")
    values = {
        "model": model,
        "runtime": "onnxruntime",
        "camera_pose": parameter_text(numbers_from_pose(drive.base_from_camera())),
        "input_rectified": True,
        "pose_source": "odom",
        "grid__resolution_m": 0.5,
        "grid__z_m": "[-0.5, 3.0]",
        "depth_rays": "[12, 40]",
        "qos__image__reliability": "reliable",
    }
    with Process("kyn_ros.perception_node", *parameters(**values)) as node:
        node.wait_for_text("active, waiting for images", 30.0)
        assert ros.spin_until(lambda: listener.count_publishers("occupancy_grid_fused"))
        with Process("kyn_ros.cli", "play", str(folder), "--drive", "07", "--lockstep", "--start", "168") as play:
            assert ros.spin_until(lambda: len(received["occupancy_grid"]) == 3, 30.0), play.text + node.text
            assert play.wait(10.0) == 0, play.text
        arguments = parameters(data=folder, pace="lockstep", listeners=2, answer_timeout_s=5.0)
        with Process("kyn_ros.replay_node", *arguments) as replay:
            assert ros.spin_until(lambda: len(received["occupancy_grid"]) == 7, 30.0), replay.text + node.text
            assert replay.wait(10.0) == 0, replay.text
    expected = [drive.stamp_ns(frame) for frame in (168, 169, 170, 0, 168, 169, 170)]
    ros.spin_for(0.2)
    for topic in ("occupancy_grid", "occupancy_grid_fused"):
        assert [stamp_ns(message.header.stamp) for message in received[topic]] == expected, topic
    for topic in ("image", "camera_info"):  # of the second replay, which waited for this listener too
        assert [stamp_ns(message.header.stamp) for message in received[topic]][-4:] == expected[-4:], topic
    assert received["image"][0].header.frame_id == "image_2_optical"
    assert (received["image"][0].width, received["camera_info"][0].width) == (1226, 1226)
    last = received["odom"][-1]
    position = last.pose.pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], drive.world_from_base(170)[:3, 3], atol=1e-9)
    assert last.child_frame_id == "base_link" and last.twist.twist.linear.x == pytest.approx(7.5, abs=1.0)
    fused = received["occupancy_grid_fused"]
    # Frame 168 of the second time comes after frame 0 and the gap: as if it were the first.
    assert fused[0].data == fused[4].data and fused[2].data == fused[6].data


def test_a_sequence_as_a_bag(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["bag", str(folder), str(tmp_path / "bag"), "--camera", "right", "--start", "168"]) == 0
    assert "3 frames" in capsys.readouterr().out
    data = next((tmp_path / "bag").glob("*.mcap")).read_bytes()
    reader = make_reader(io.BytesIO(data), decoder_factories=[DecoderFactory()])
    messages = [(channel.topic, message) for _, channel, _, message in reader.iter_decoded_messages()]
    assert Counter(topic for topic, _ in messages) == {
        "/image": 3,
        "/camera_info": 3,
        "/odom": 3,
        "/tf": 3,
        "/tf_static": 1,
    }
    drive = open_drive(folder, "07", "right")
    images = [message for topic, message in messages if topic == "/image"]
    np.testing.assert_array_equal(
        np.frombuffer(images[1].data, np.uint8).reshape(370, 1226, 3), drive.posed_frame(169).image
    )
    (static,) = [message for topic, message in messages if topic == "/tf_static"]
    assert [transform.child_frame_id for transform in static.transforms] == ["image_3_optical", "velodyne"]
    assert cli.main(["bag", str(folder), str(tmp_path / "both"), "--camera", "both"]) == 2
    assert "--camera: got both" in capsys.readouterr().err
