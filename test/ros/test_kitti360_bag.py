"""KITTI-360 bags, read back by readers that know nothing of the writer: mcap (definitions of the file) and sqlite3."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_drive as tiny
import yaml
from mcap.reader import make_reader
from mcap_ros2._dynamic import generate_dynamic
from mcap_ros2.decoder import DecoderFactory
from rosbags.typesys import Stores, get_typestore

from kyn_models.data.kitti360 import Kitti360
from kyn_ros import bag_command, cli
from kyn_ros.kitti360_bag import BagOptions, in_bytes, write_bag


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tiny.write_drive(tmp_path / "kitti360", cameras=("00", "01"))
    tiny.write_timestamps(root)
    return root


def read_mcap(path: Path) -> list[tuple[str, int, Any]]:
    """(topic, log time, decoded message) in the order of a player."""
    data = next(path.glob("*.mcap")).read_bytes()
    reader = make_reader(io.BytesIO(data), decoder_factories=[DecoderFactory()])
    return [(channel.topic, raw.log_time, message) for _, channel, raw, message in reader.iter_decoded_messages()]


def read_sqlite(path: Path) -> list[tuple[str, int, Any]]:
    """The same from sqlite3, decoded with the definitions that lie in the file."""
    with sqlite3.connect(next(path.glob("*.db3"))) as database:
        types = dict(database.execute("SELECT topic_type, encoded_message_definition FROM message_definitions"))
        decoders = {name: generate_dynamic(name, text)[name] for name, text in types.items()}
        rows = database.execute(
            "SELECT name, type, timestamp, data FROM messages JOIN topics ON topic_id = topics.id "
            "ORDER BY timestamp, messages.id"
        )
        return [(name, stamp, decoders[kind](data)) for name, kind, stamp, data in rows]


def stamp_ns(header: Any) -> int:
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def matrix(transform: Any) -> np.ndarray:
    """(4, 4) of a geometry_msgs/Transform."""
    q, t = transform.rotation, transform.translation
    x, y, z, w = q.x, q.y, q.z, q.w
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = t.x, t.y, t.z
    return pose


def test_every_frame_is_there_in_order_with_its_stamp(folder: Path, tmp_path: Path) -> None:
    drive = Kitti360(folder)
    summary = write_bag(drive, tmp_path / "bag")
    messages = read_mcap(tmp_path / "bag")
    expected = {"/image": 4, "/camera_info": 4, "/odom": 4, "/tf": 4, "/lidar/points": 4, "/tf_static": 1}
    assert Counter(topic for topic, _, _ in messages) == summary.messages == expected
    times = [time for _, time, _ in messages]
    assert times == sorted(times) and messages[0][0] == "/tf_static"
    assert sorted(set(times)) == [drive.stamp_ns(frame) for frame in drive.frames]
    for topic, time, message in messages:
        header = message.transforms[0].header if topic.startswith("/tf") else message.header
        assert stamp_ns(header) == time


def test_contents_are_the_data_set(folder: Path, tmp_path: Path) -> None:
    drive = Kitti360(folder)
    write_bag(drive, tmp_path / "bag")
    by_topic: dict[str, list[Any]] = {}
    for topic, _, message in read_mcap(tmp_path / "bag"):
        by_topic.setdefault(topic, []).append(message)
    image, info, cloud = (by_topic[topic][1] for topic in ("/image", "/camera_info", "/lidar/points"))
    pixels = np.frombuffer(bytes(image.data), np.uint8).reshape(image.height, image.step // 3, 3)
    np.testing.assert_array_equal(pixels, tiny.image(6))
    assert (image.encoding, image.header.frame_id) == ("rgb8", "image_00_optical")
    assert list(info.k) == [32, 0, 32, 0, 32, 12, 0, 0, 1] and info.p[3] == 0 and set(info.d) == {0.0}
    assert (info.width, info.height, info.header.frame_id) == (64, 24, "image_00_optical")
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
        ("intensity", 12, 7),
    ]
    points = np.frombuffer(bytes(cloud.data), "<f4").reshape(cloud.width, 4)
    np.testing.assert_array_equal(points, tiny.scan())
    assert cloud.point_step == 16 and cloud.row_step == 16 * cloud.width and cloud.header.frame_id == "velodyne"


def test_transforms_and_odometry_are_the_calibration_and_the_poses(folder: Path, tmp_path: Path) -> None:
    drive = Kitti360(folder)
    write_bag(drive, tmp_path / "bag")
    messages = read_mcap(tmp_path / "bag")
    static = {t.child_frame_id: t for topic, _, m in messages if topic == "/tf_static" for t in m.transforms}
    assert {t.header.frame_id for t in static.values()} == {"base_link"}
    np.testing.assert_allclose(matrix(static["image_00_optical"].transform), drive.base_from_camera(), atol=1e-9)
    np.testing.assert_allclose(matrix(static["velodyne"].transform), drive.base_from_velo(), atol=1e-9)
    moving = [m.transforms[0] for topic, _, m in messages if topic == "/tf"]
    odometry = [m for topic, _, m in messages if topic == "/odom"]
    for frame, transform, odom in zip(drive.frames, moving, odometry, strict=True):
        assert (transform.header.frame_id, transform.child_frame_id) == ("odom", "base_link")
        assert (odom.header.frame_id, odom.child_frame_id) == ("odom", "base_link")
        np.testing.assert_allclose(matrix(transform.transform), drive.world_from_base(frame), atol=1e-9)
        assert odom.pose.pose.position.x == pytest.approx(frame * tiny.STEP_M)
        assert odom.twist.twist.linear.x == pytest.approx(tiny.STEP_M / 0.1, rel=1e-6)
        assert odom.twist.twist.linear.y == pytest.approx(0) and odom.twist.twist.angular.z == pytest.approx(0)


def test_turning_car_has_the_right_twist(folder: Path, tmp_path: Path) -> None:
    path = folder / "data_poses" / tiny.DRIVE / "poses.txt"
    lines = []
    for frame in range(5, 9):
        yaw = 0.02 * frame  # 0.2 rad/s to the left
        c, s = np.cos(yaw), np.sin(yaw)
        pose = np.array([[c, s, 0, 3.0], [s, -c, 0, 4.0], [0, 0, -1, 0.93]])
        lines.append(f"{frame} " + " ".join(f"{value:.12f}" for value in pose.ravel()))
    path.write_text("\n".join(lines))
    write_bag(Kitti360(folder), tmp_path / "bag")
    for topic, _, message in read_mcap(tmp_path / "bag"):
        if topic == "/odom":
            assert message.twist.twist.angular.z == pytest.approx(0.2, rel=1e-6)
            assert message.twist.twist.linear.x == pytest.approx(0, abs=1e-9)


def test_sqlite_with_compressed_images_is_lossless(folder: Path, tmp_path: Path) -> None:
    write_bag(Kitti360(folder), tmp_path / "bag", BagOptions(storage="sqlite3", compressed=True))
    messages = read_sqlite(tmp_path / "bag")
    assert Counter(topic for topic, _, _ in messages)["/image/compressed"] == 4
    assert "/image" not in {topic for topic, _, _ in messages}
    image = next(message for topic, _, message in messages if topic == "/image/compressed")
    decoded = cv2.imdecode(np.frombuffer(bytes(image.data), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], tiny.image(5))
    assert image.format == "bgr8; png compressed bgr8"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_metadata_suits_all_distributions_and_latches_tf_static(folder: Path, tmp_path: Path, storage: Any) -> None:
    write_bag(Kitti360(folder), tmp_path / "bag", BagOptions(storage=storage))
    info = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert info["version"] == 8 and info["storage_identifier"] == storage and info["message_count"] == 21
    assert info["duration"]["nanoseconds"] == 300_000_000
    assert (tmp_path / "bag" / info["relative_file_paths"][0]).is_file()
    kilted = get_typestore(Stores.ROS2_KILTED)
    for entry in info["topics_with_message_count"]:
        topic = entry["topic_metadata"]
        (qos,) = yaml.safe_load(topic["offered_qos_profiles"])  # a string up to version 8: Humble reads no other
        assert (qos["reliability"], qos["history"]) == (1, 1)
        assert qos["durability"] == (1 if topic["name"] == "/tf_static" else 2)
        assert topic["type_description_hash"] == kilted.hash_rihs01(topic["type"])


def test_both_cameras_as_a_stereo_pair(folder: Path, tmp_path: Path) -> None:
    drive = Kitti360(folder, views=(("01", 0),))
    write_bag(drive, tmp_path / "bag", BagOptions(cameras=("00", "01"), lidar=False, start=6, stop=7))
    messages = read_mcap(tmp_path / "bag")
    counts = Counter(topic for topic, _, _ in messages)
    assert counts["/left/image"] == counts["/right/image"] == 2 and "/lidar/points" not in counts
    offsets = {topic: message.p[3] for topic, _, message in messages if topic.endswith("camera_info")}
    assert offsets == {"/left/camera_info": 0.0, "/right/camera_info": pytest.approx(-tiny.FOCAL * tiny.RIGHT_M)}
    frames = {message.header.frame_id for topic, _, message in messages if topic.endswith("/image")}
    static = next(message for topic, _, message in messages if topic == "/tf_static")
    assert frames < {transform.child_frame_id for transform in static.transforms}


def test_real_frame_equals_its_png(shared_data: Path, tmp_path: Path) -> None:
    drive = Kitti360(shared_data / "kitti360")
    write_bag(drive, tmp_path / "bag", BagOptions(start=3011, stop=3012))
    images = [message for topic, _, message in read_mcap(tmp_path / "bag") if topic == "/image"]
    stored = cv2.imread(str(drive.image_path(3012)))[..., ::-1]
    np.testing.assert_array_equal(np.frombuffer(bytes(images[1].data), np.uint8).reshape(376, 1408, 3), stored)
    assert len(images) == 2 and stamp_ns(images[1].header) == drive.stamp_ns(3012)


def test_broken_files_are_left_out_and_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive = Kitti360(folder)
    drive.image_path(6).write_bytes(b"no image")
    drive.scan_path(7).write_bytes(b"no scan")
    drive.scan_path(8).unlink()
    assert cli.main(["bag", str(folder), str(tmp_path / "bag")]) == 1
    shown = capsys.readouterr()
    assert (
        "0000000006.png" in shown.err
        and "0000000007.bin" in shown.err
        and "no scan in the data set for 1 frame\n" in shown.out
    )
    counts = Counter(topic for topic, _, _ in read_mcap(tmp_path / "bag"))
    assert (counts["/image"], counts["/odom"], counts["/lidar/points"]) == (3, 3, 1)


def test_interrupted_bag_is_complete_up_to_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(done: int, total: int, frame: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(bag_command, "_progress", lambda: interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["bag", str(folder), str(tmp_path / "bag")]) == 130
    assert "stopped on request" in capsys.readouterr().out and signal.getsignal(signal.SIGINT) is before
    assert Counter(topic for topic, _, _ in read_mcap(tmp_path / "bag"))["/image"] == 2
    assert write_bag(Kitti360(folder), tmp_path / "none", stop=lambda: True).stopped
    assert not (tmp_path / "none").exists()


def test_nothing_is_left_behind_when_it_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive, out = Kitti360(folder), tmp_path / "bag"
    for frame in drive.frames:
        shutil.copy(drive.scan_path(frame), drive.image_path(frame))
    with pytest.raises(ValueError, match="no readable frame of 4.*0000000005.png"):
        write_bag(drive, out)
    assert not out.exists()

    def full(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(Kitti360, "posed_frame", full)
    with pytest.raises(OSError, match="disk is full"):
        write_bag(drive, out)
    assert not out.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"needs about 0 MB for 4 frames, 0 MB are free; use --compressed"):
        write_bag(drive, out)
    monkeypatch.setattr("kyn_ros.kitti360_bag.os.access", lambda *_: False)
    with pytest.raises(PermissionError, match=f"{out}: {tmp_path} cannot be written to by this user"):
        write_bag(drive, out)
    assert (in_bytes(93_000_000), in_bytes(1_440_000_000)) == ("93 MB", "1.4 GB")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{folder}", "{folder}"], "exists already"),
        (["{folder}", "{tmp}/bag", "--start", "99"], "expected a range that holds some of the frames 5 to 8"),
        (["{tmp}/nowhere", "{tmp}/bag"], "no such folder"),
        (["{folder}", "{tmp}/bag", "--drive", "other"], "no such drive"),
        (["{folder}", "{tmp}/bag", "--rate-hz", "0"], "--rate-hz: got 0,"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert cli.main(["bag", *(text.format(folder=folder, tmp=tmp_path) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_no_ros_is_needed() -> None:
    code = "import sys, kyn_ros.bag_command; print([name for name in ('rclpy', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
