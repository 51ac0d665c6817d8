"""``kyn play`` and ``kyn node``: what people without a ROS 2 installation use."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("rosbags", reason="rosbags is not installed")

from bench import MOUNT, SECOND, image_of, info_of
from nav_msgs.msg import OccupancyGrid
from processes import Process
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String
from tiny_drive import write_drive

from kyn_ros import cli
from kyn_ros.convert import stamp_ns
from kyn_ros.params import TopicQos

START = 1_700_000_000 * SECOND
FOREVER = QosTime(0x7FFFFFFF, 0xFFFFFFFF)


def latched() -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL,
        FOREVER,
        FOREVER,
        QosLiveliness.AUTOMATIC,
        FOREVER,
        False,
    )


@pytest.fixture(params=[StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Six images at 10 Hz with their CameraInfo, a latched text, and TF (not installed under pip)."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(tmp_path / "bag", version=9, storage_plugin=request.param) as writer:
        text = writer.add_connection(
            "/map_name", "std_msgs/msg/String", typestore=types, offered_qos_profiles=[latched()]
        )
        transforms = writer.add_connection("/tf_static", "tf2_msgs/msg/TFMessage", typestore=types)
        images = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=types)
        infos = writer.add_connection("/camera_info", "sensor_msgs/msg/CameraInfo", typestore=types)
        writer.write(text, START, serialize_message(String(data="here")))
        tf = types.types["tf2_msgs/msg/TFMessage"](transforms=[])
        writer.write(transforms, START, types.serialize_cdr(tf, "tf2_msgs/msg/TFMessage"))
        for number in range(6):
            stamp = START + number * SECOND // 10
            writer.write(infos, stamp, serialize_message(info_of(stamp)))
            writer.write(images, stamp, serialize_message(image_of(10 * number, stamp)))
    return tmp_path / "bag"


def test_what_is_no_bag_or_a_damaged_one_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert cli.main(["play", str(folder)]) == 2
    said = [capsys.readouterr().err]
    assert "got an empty folder, expected a rosbag2" in said[0] and "data_2d_raw" in said[0]
    (folder / "a.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(100))
    assert cli.main(["play", str(folder)]) == 2
    said.append(capsys.readouterr().err)
    assert "without metadata.yaml, expected a rosbag2" in said[1] and f"; play {folder / 'a.mcap'} itself" in said[1]
    with Process("kyn_ros.cli", "play", str(folder / "a.mcap")) as play:
        assert play.wait(30.0) == 2
        said.append(play.text)
    assert "cannot be read as a rosbag2" in said[2] and "`mcap recover`" in said[2]
    assert all(text.count("\n") == 1 for text in said)


def test_a_bag_is_played_with_its_pace_clock_and_latched_topics(ros, bag: Path) -> None:
    node = ros.node("listener")
    images: list[Image] = []
    ticks: list[Clock] = []
    texts: list[String] = []
    node.create_subscription(Image, "/image", images.append, TopicQos().profile(20))
    node.create_subscription(Clock, "/clock", ticks.append, TopicQos("best_effort").profile(50))
    with Process("kyn_ros.cli", "play", str(bag), "--rate", "0.5", "--loop") as play:
        assert ros.spin_until(lambda: len(images) >= 8, 30.0), play.text
        late = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(String, "/map_name", texts.append, late)
        assert ros.spin_until(lambda: texts, 5.0) and texts[0].data == "here"
        play.signal(signal.SIGINT)
        assert play.wait(5.0) == 0, play.text
    assert "tf2_msgs/msg/TFMessage is not installed here, not played" in play.text or "tf_static" not in play.text
    stamps = [stamp_ns(image.header.stamp) for image in images]
    assert set(stamps) == {START + number * SECOND // 10 for number in range(6)}
    assert min(np.diff(stamps)) < 0, "a loop begins again"
    for image in images:
        assert image.data[0] == 10 * round((stamp_ns(image.header.stamp) - START) / (SECOND / 10))
    seconds = [(stamp_ns(tick.clock) - START) / SECOND for tick in ticks]
    assert min(seconds) >= 0 and max(seconds) <= 0.51 and len(ticks) > 5 * len(images)


def test_the_bag_ends(bag: Path) -> None:
    with Process("kyn_ros.cli", "play", str(bag), "--rate", "5") as play:
        assert play.wait(20.0) == 0
    assert "played 13 messages" in play.text or "played 14 messages" in play.text, play.text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/nowhere"], "/nowhere: there is no such file or folder"),
        (["{folder}"], "got an empty folder, expected a rosbag2"),
        (["{folder}", "--rate", "0"], "--rate: got 0.0"),
        (["{folder}", "--lockstep"], "has no data_2d_raw"),
    ],
)
def test_play_says_what_is_wrong(tmp_path: Path, arguments: list[str], text: str) -> None:
    given = [word.format(folder=tmp_path) for word in arguments]
    with Process("kyn_ros.cli", "play", *given) as play:
        assert play.wait(20.0) == 2
    assert text in play.text and "Traceback" not in play.text


def test_node_answers_a_played_folder(ros, model: Path, tmp_path: Path) -> None:
    drive = write_drive(tmp_path / "kitti360", frames=range(5, 7))
    grids: list[OccupancyGrid] = []
    listener = ros.node("listener")
    listener.create_subscription(OccupancyGrid, "/front/occupancy_grid", grids.append, TopicQos().profile(10))
    pose = [str(number) for number in MOUNT]
    command = ["node", "--model", str(model), "--runtime", "onnxruntime", "--camera-pose", *pose, "-r", "__ns:=/front"]
    remap = [word for topic in ("image", "camera_info") for word in ("-r", f"{topic}:=/{topic}")]
    with Process("kyn_ros.cli", *command, *remap, "-p", "grid.resolution_m:=0.4", "-p", "depth_rays:=[12, 40]") as node:
        node.wait_for_text("active, waiting for images on /image")
        assert ros.spin_until(lambda: listener.count_publishers("/front/occupancy_grid"))
        with Process("kyn_ros.cli", "play", str(drive), "--start", "6", "--rate", "0.5", "--loop") as play:
            assert ros.spin_until(lambda: grids, 30.0), node.text + play.text
        # Frame 6 of a drive without timestamps.txt.
        assert stamp_ns(grids[0].header.stamp) == 7 * SECOND // 10
        node.signal(signal.SIGTERM)
        assert node.wait(6.0) == 0, node.text


def test_node_answers_a_played_bag(ros, model: Path, bag: Path) -> None:
    grids: list[OccupancyGrid] = []
    ros.node("listener").create_subscription(OccupancyGrid, "/occupancy_grid", grids.append, TopicQos().profile(10))
    pose = [str(number) for number in MOUNT]
    small = ["--model", str(model), "--runtime", "onnxruntime", "-p", "grid.resolution_m:=0.4"]
    with Process("kyn_ros.cli", "node", "--camera-pose", *pose, "-p", "use_sim_time:=true", *small) as node:
        node.wait_for_text("active, waiting for images on /image")
        with Process("kyn_ros.cli", "play", str(bag), "--loop") as play:
            assert ros.spin_until(lambda: grids, 30.0), node.text + play.text
    assert START <= stamp_ns(grids[0].header.stamp) < START + SECOND


def test_node_says_what_is_wrong(tmp_path: Path) -> None:
    for arguments, text in ((["-p", "model"], ":="), (["--params-file", str(tmp_path / "no.yaml")], "no such file")):
        with Process("kyn_ros.cli", "node", *arguments) as node:
            assert node.wait(20.0) == 2
        assert text in node.text and "Traceback" not in node.text
