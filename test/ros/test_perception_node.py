"""The perception node over real rclpy: what it says, what it refuses, and that it keeps running."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import CAMERA, FRAME, MOUNT, SECOND, image_of, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_srvs.srv import Trigger
from tiny_model import wall_depth_m

from kyn_models.artifact import Artifact
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import Observation, PosedFrame
from kyn_ros.mount import pose_from_numbers
from kyn_ros.params import GridParameters

CONFIGURED = TransitionCallbackReturn.SUCCESS


def test_grid_is_what_the_predictor_says_offline(bench, model: Path) -> None:
    grid = bench().ask(grey=128, stamp_ns=5 * SECOND + 7)
    assert (grid.header.stamp.sec, grid.header.stamp.nanosec) == (5, 7)
    assert grid.header.frame_id == "base_link"
    assert (grid.info.width, grid.info.height, grid.info.resolution) == (100, 40, 0.5)
    assert (grid.info.origin.position.x, grid.info.origin.position.y) == (0.0, -10.0)
    cells = np.array(grid.data, dtype=np.int8).reshape(40, 100)
    spec = GridParameters(resolution_m=0.5, z_m=(-0.5, 3.0)).spec()
    frame = PosedFrame(np.full((94, 352, 3), 128, np.uint8), CAMERA)
    options = PredictorOptions("onnxruntime", spec, depth_rays=(12, 40))
    offline = make_predictor(Artifact.load(model), options).predict(
        Observation((frame,), pose_from_numbers(MOUNT)), {"grid"}
    )
    np.testing.assert_array_equal(cells, offline.grid)
    assert set(np.unique(cells)) == {-1, 0, 100}
    # Straight ahead: free before the wall, occupied behind it.
    wall = wall_depth_m(128)
    ahead = cells[20]
    assert ahead[int(2 * (wall - 2))] == 0 and ahead[int(2 * (wall + 2))] == 100


def test_all_outputs_carry_the_stamp_and_the_right_frame(bench) -> None:
    one = bench()
    topics = {
        "occupied_voxels": PointCloud2,
        "obstacle_points": PointCloud2,
        "clearing_points": PointCloud2,
        "points": PointCloud2,
        "depth/image_rect": Image,
        "depth/camera_info": CameraInfo,
        "depth/colorized": Image,
    }
    received = {topic: one.listen(message, topic) for topic, message in topics.items()}
    one.ask(grey=128, stamp_ns=3 * SECOND)
    assert one.ros.spin_until(lambda: all(received.values())), {k: len(v) for k, v in received.items()}
    for topic, messages in received.items():
        assert len(messages) == 1 and messages[0].header.stamp.sec == 3, topic
        assert messages[0].header.frame_id == (FRAME if topic.startswith("depth/") else "base_link")
    depth, info = received["depth/image_rect"][0], received["depth/camera_info"][0]
    assert (depth.encoding, depth.width, depth.height) == ("32FC1", info.width, info.height) == ("32FC1", 640, 192)
    metres = np.frombuffer(depth.data, np.float32)
    assert abs(np.nanmedian(metres) - wall_depth_m(128)) < 1.0
    surface = _points(received["points"][0])
    # The surface stands at the wall's depth along the optical axis, wherever the camera is mounted.
    base_from_camera = pose_from_numbers(MOUNT)
    along_axis = (surface - base_from_camera[:3, 3]) @ base_from_camera[:3, 2]
    np.testing.assert_allclose(along_axis, np.nanmedian(metres), atol=0.1)
    obstacles = _points(received["obstacle_points"][0])
    assert len(obstacles) and obstacles[:, 2].min() > 0.3 and obstacles[:, 2].max() < 2.0
    voxels = _points(received["occupied_voxels"][0])
    assert len(voxels) > len(obstacles)
    clearing = _points(received["clearing_points"][0])
    assert len(clearing) and ((clearing - base_from_camera[:3, 3]) @ base_from_camera[:3, 2]).max() < metres.max()


def test_occupancy_volume(bench) -> None:
    message = pytest.importorskip("kyn.msg", reason="the messages of kyn are not built for this Python").OccupancyVolume
    one = bench()
    volumes = one.listen(message, "occupancy_volume")
    grid = one.ask(grey=128, stamp_ns=3 * SECOND)
    assert one.ros.spin_until(lambda: volumes)
    volume = volumes[0]
    assert volume.header == grid.header and not volume.labels and not volume.label_names
    cells = np.frombuffer(volume.data, np.uint8).reshape(volume.size_z, volume.size_y, volume.size_x)
    assert cells.shape == (7, 40, 100) and volume.origin.position.z == -0.5
    # A column of the grid is occupied where a cell of the band is: above 0.65 of 254.
    band = cells[2:5]
    over = ((band > 0.65 * 254) & (band != message.UNKNOWN)).any(axis=0)
    np.testing.assert_array_equal(over, np.array(grid.data).reshape(40, 100) == 100)


def test_a_missing_volume_message_is_said_and_the_rest_works(bench) -> None:
    from kyn_ros.outputs import NO_VOLUME_MESSAGE, OccupancyVolume

    status = bench().wait_for_status("outputs", DiagnosticStatus.OK)
    assert (status.message == NO_VOLUME_MESSAGE) == (OccupancyVolume is None)


def _points(cloud: PointCloud2) -> np.ndarray:
    return np.frombuffer(cloud.data, "<f4").reshape(cloud.width, -1)[:, :3]


def test_without_subscribers_only_the_grid_is_made(bench) -> None:
    one = bench()
    one.ask(grey=100, stamp_ns=SECOND)
    one.ask(grey=100, stamp_ns=2 * SECOND)
    made = values_of(one.wait_for_status("outputs", DiagnosticStatus.OK))["made"]
    assert made == "occupancy_grid"
    stages = values_of(one.wait_for_status("input", DiagnosticStatus.OK, "answered"))
    assert "ms: volume" in stages and "ms: depth" not in stages


def test_grid_waits_for_late_subscribers(bench) -> None:
    one = bench()
    one.ask(grey=100, stamp_ns=9 * SECOND)
    late: list[OccupancyGrid] = []
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    one.peer.create_subscription(OccupancyGrid, "occupancy_grid", late.append, qos)
    assert one.ros.spin_until(lambda: late) and late[0].header.stamp.sec == 9


def test_compressed_images(bench) -> None:
    one = bench(image_transport="compressed")
    for number, suffix in enumerate((".png", ".jpg"), start=1):
        data = cv2.imencode(suffix, np.full((94, 352, 3), 128, np.uint8))[1].tobytes()
        message = CompressedImage(header=image_of(0, number * SECOND).header, format=suffix[1:], data=data)
        one.send(message, info_of(number * SECOND))
        assert one.ros.spin_until(lambda number=number: len(one.grids) == number)
    broken = CompressedImage(header=image_of(0, 3 * SECOND).header, format="jpeg", data=b"\xff\xd8 cut off")
    one.send(broken, info_of(3 * SECOND))
    assert "do not decode" in one.wait_for_status("input", DiagnosticStatus.ERROR).message
    assert len(one.grids) == 2


def test_stamps_going_back_start_afresh(bench) -> None:
    one = bench()
    stamps = [50 * SECOND, 51 * SECOND, 10 * SECOND, 11 * SECOND, 500 * SECOND]
    assert [one.ask(128, stamp).header.stamp.sec for stamp in stamps] == [50, 51, 10, 11, 500]
    assert values_of(one.wait_for_status("input", DiagnosticStatus.OK))["restarts"] == "2"


def test_late_messages_from_before_a_restart_do_no_harm(bench) -> None:
    one = bench()
    one.ask(128, 50 * SECOND)

    def send(image: int | None = None, info: int | None = None) -> None:
        one.send(
            None if image is None else image_of(128, image * SECOND), None if info is None else info_of(info * SECOND)
        )
        one.ros.spin_for(0.2)

    def answered() -> list[int]:
        return [grid.header.stamp.sec for grid in one.grids]

    # The image is first to go back; the camera_info of an image before comes late.
    send(image=51)
    send(image=10)
    send(info=52)
    send(info=10)
    assert one.ros.spin_until(lambda: answered() == [50, 10]), answered()
    # The camera_info is first to go back; an image from before comes late.
    send(info=5)
    send(image=11)
    send(image=5)
    assert one.ros.spin_until(lambda: answered() == [50, 10, 5]), answered()
    assert one.drops() == {"restart": 2}
    assert values_of(one.ask_status("input"))["restarts"] == "2"


def test_a_repeated_stamp_is_not_answered_again(bench) -> None:
    one = bench()
    one.ask(128, SECOND)
    one.send(image_of(10, SECOND), info_of(SECOND))
    assert one.drops() == {"repeated stamp": 1}
    assert len(one.grids) == 1


def test_a_camera_that_stops_is_stale_and_nothing_is_published(bench) -> None:
    one = bench(input_timeout_s=0.5)
    one.ask(128, SECOND)
    status = one.wait_for_status("input", DiagnosticStatus.STALE, "nothing is published")
    assert float(values_of(status)["image_age_s"]) >= 0.5
    one.ros.spin_for(1.0)
    assert len(one.grids) == 1
    one.ask(128, 2 * SECOND)


def test_max_rate(bench) -> None:
    one = bench(max_rate_hz=5)
    for number in range(5):
        one.send(image_of(128, SECOND + number * 100_000_000), info_of(SECOND + number * 100_000_000))
        one.ros.spin_for(0.3)
    one.ros.spin_until(lambda: len(one.grids) >= 3)
    assert [round(g.header.stamp.nanosec / 1e8) for g in one.grids] == [0, 2, 4]
    assert one.drops() == {"max_rate_hz": 2}


def test_reset_service(bench) -> None:
    one = bench()
    one.ask(128, SECOND)
    client = one.peer.create_client(Trigger, "reset")
    assert one.ros.spin_until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    assert one.ros.spin_until(future.done) and future.result().success
    # After a reset the same stamp is new.
    one.ask(128, SECOND)


def test_metric_scale_moves_the_wall(bench) -> None:
    one = bench(metric_scale=2)
    depths = one.listen(Image, "depth/image_rect")
    one.ask(128, SECOND)
    assert one.ros.spin_until(lambda: depths)
    depth = np.nanmedian(np.frombuffer(depths[0].data, np.float32))
    assert abs(depth - 2 * wall_depth_m(128)) < 2.0
    assert values_of(one.wait_for_status("model", DiagnosticStatus.OK))["metric_scale"] == "2"


def test_hood_mask_makes_cells_unknown(bench, tmp_path: Path) -> None:
    mask = np.zeros((94, 352), np.uint8)
    mask[:, :176] = 255
    cv2.imwrite(str(tmp_path / "hood.png"), mask)
    one = bench(hood_mask=str(tmp_path / "hood.png"))
    cells = np.array(one.ask(128, SECOND).data, dtype=np.int8).reshape(40, 100)
    assert (cells[22:] == -1).all() and (cells[:18] >= 0).any()


def test_mount_unlike_the_training_mount_warns(bench) -> None:
    one = bench(camera_pose=[0.0, 0.0, 2.2, *MOUNT[3:]])
    one.ask(128, SECOND)
    status = one.wait_for_status("mount", DiagnosticStatus.WARN, "+0.65 m")
    assert values_of(status)["source"] == "parameter camera_pose"


def test_memory_stays_flat(bench) -> None:
    """Images, camera changes and grid changes leave nothing behind."""
    one = bench()
    wider = dataclasses.replace(CAMERA, fx=CAMERA.fx * 1.5, fy=CAMERA.fy * 1.5)

    def run(first: int, count: int) -> None:
        for number in range(first, first + count):
            one.send(
                image_of(number % 256, number * SECOND), info_of(number * SECOND, wider if number % 20 else CAMERA)
            )
            one.ros.spin_for(0.01)
            if number % 40 == 0:
                new = Parameter("grid.x_m", value=[0.0, 40.0 + number % 3])
                assert one.node.set_parameters([new])[0].successful
        one.ros.spin_for(0.3)
        one.grids.clear()

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    run(1, 100)
    before = resident_bytes()
    run(101, 200)
    assert resident_bytes() - before < 12e6
