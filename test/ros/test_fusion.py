"""The fused grid over real rclpy: a vehicle that drives towards a wall, with odometry beside its images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import MOUNT, SECOND, Bench, image_of, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header
from tiny_model import wall_depth_m

from kyn_models.rolling_grid import RollingGrid, RollingOptions
from kyn_models.types import VoxelGridSpec
from kyn_ros import convert
from kyn_ros.mount import pose_from_numbers
from kyn_ros.odometry import quaternion_from_pose
from kyn_ros.params import FusionParameters, GridParameters, PerceptionParameters, TopicQos

EDGE = 0.5
SPEC = VoxelGridSpec((0, 50), (-10, 10), (-0.5, 3.0), EDGE)
WALL_M = 24.0
"""How far from the first place the wall stands, along the optical axis."""
SIZE_M = 120.0


def grey_of(depth_m: float) -> int:
    return int(np.argmin([abs(wall_depth_m(grey) - depth_m) for grey in range(256)]))


class Drive:
    """A node with poses, and what it publishes. Every step is 1 m ahead, by 0.2 s, turned by ``yaw`` in all."""

    def __init__(self, bench: Any, yaw: float = 0.0, **parameters: Any) -> None:
        given = {"pose_source": "odom", "tf_timeout_s": 0.3, "fusion.size_m": SIZE_M, **parameters}
        self.bench: Bench = bench(**given)
        self.yaw = yaw
        self._odometry = self.bench.peer.create_publisher(Odometry, "odom", TopicQos().profile(10))
        assert self.bench.ros.spin_until(self._odometry.get_subscription_count)

    def pose(self, step: int) -> np.ndarray:
        start = pose_from_numbers((3.3, -2.1, 0.7, 0, 0, self.yaw))
        return start @ pose_from_numbers((float(step), 0, 0, 0, 0, 0))

    def step(self, step: int, pose: np.ndarray | None = None) -> OccupancyGrid:
        """The vehicle's own grid at a step."""
        stamp = SECOND + step * SECOND // 5
        self.say(stamp, self.pose(step) if pose is None else pose)
        return self.bench.ask(self.grey(step), stamp)

    @staticmethod
    def grey(step: int) -> int:
        return grey_of(WALL_M - step * np.cos(np.radians(5.0)))

    def say(self, stamp_ns: int, pose: np.ndarray) -> None:
        x, y, z, w = quaternion_from_pose(pose)
        place = Pose(
            position=Point(**dict(zip("xyz", pose[:3, 3], strict=True))), orientation=Quaternion(x=x, y=y, z=z, w=w)
        )
        header = Header(stamp=convert.time_message(stamp_ns), frame_id="odom")
        message = Odometry(header=header, child_frame_id="base_link", pose=PoseWithCovariance(pose=place))
        self._odometry.publish(message)


def cells_of(message: OccupancyGrid) -> np.ndarray:
    return np.array(message.data, np.int8).reshape(message.info.height, message.info.width)


def by_hand(grids: list[OccupancyGrid], poses: list[np.ndarray]) -> RollingGrid:
    rolling = RollingGrid(RollingOptions(size_m=SIZE_M), EDGE)
    for grid, pose in zip(grids, poses, strict=True):
        rolling.add(cells_of(grid), SPEC, pose, convert.stamp_ns(grid.header.stamp))
    return rolling


def check(message: OccupancyGrid, rolling: RollingGrid) -> None:
    origin = message.info.origin.position
    assert (round(origin.x, 6), round(origin.y, 6)) == tuple(round(value, 6) for value in rolling.origin_m)
    # Poses lose their last digits on the way through a quaternion.
    assert (cells_of(message) == rolling.cells()).mean() > 0.999


@pytest.mark.parametrize("yaw", [0.0, 2.0])
def test_the_wall_stands_still_while_the_vehicle_drives(bench, yaw: float) -> None:
    drive = Drive(bench, yaw)
    fused = drive.bench.listen(OccupancyGrid, "occupancy_grid_fused")
    grids = [drive.step(step) for step in range(8)]
    assert drive.bench.ros.spin_until(lambda: len(fused) == 8)
    last = fused[-1]
    assert last.header.frame_id == "odom" and last.header.stamp == grids[-1].header.stamp
    assert (last.info.resolution, last.info.width, last.info.height) == (EDGE, 240, 240)
    assert last.info.origin.position.z == pytest.approx(0.7) and last.info.origin.orientation.w == 1.0
    check(last, by_hand(grids, [drive.pose(step) for step in range(8)]))
    # Along the way that the vehicle looked, at every step: free up to the wall, occupied behind it.
    for message in fused[2:]:
        cells, origin = cells_of(message), message.info.origin.position
        for ahead in (8.0, 14.0, WALL_M - 3.0):
            x, y = (drive.pose(0) @ (ahead, 0.0, 0.0, 1.0))[:2]
            assert cells[int((y - origin.y) / EDGE), int((x - origin.x) / EDGE)] == 0, ahead
        x, y = (drive.pose(0) @ (WALL_M + 2.0, 0.0, 0.0, 1.0))[:2]
        assert cells[int((y - origin.y) / EDGE), int((x - origin.x) / EDGE)] == 100


def test_it_learns_from_every_image_also_while_nobody_listens(bench) -> None:
    drive = Drive(bench)
    grids = [drive.step(step) for step in range(5)]
    late: list[OccupancyGrid] = []
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    drive.bench.peer.create_subscription(OccupancyGrid, "occupancy_grid_fused", late.append, qos)
    drive.bench.ros.spin_for(0.3)
    grids.append(drive.step(5))
    assert drive.bench.ros.spin_until(lambda: late)
    check(late[-1], by_hand(grids, [drive.pose(step) for step in range(6)]))


@pytest.mark.parametrize("image_first", [False, True])
def test_a_bag_played_twice_gives_the_same(bench, image_first: bool) -> None:
    drive = Drive(bench, tf_timeout_s=20.0)
    fused = drive.bench.listen(OccupancyGrid, "occupancy_grid_fused")
    for count in range(10):
        step, stamp = count % 5, SECOND + count % 5 * SECOND // 5
        if image_first:
            drive.bench.send(image_of(drive.grey(step), stamp), info_of(stamp))
            drive.bench.ros.spin_for(0.1)
            drive.say(stamp, drive.pose(step))
            assert drive.bench.ros.spin_until(lambda count=count: len(fused) > count)
        else:
            drive.step(step)
    assert drive.bench.ros.spin_until(lambda: len(fused) == 10)
    counts = values_of(drive.bench.ask_status("fusion"))
    assert (counts["taken in"], counts["reset"]) == ("10", "1")
    for first, second in zip(fused[:5], fused[5:], strict=True):
        assert first == second


def test_a_pose_jump_starts_afresh(bench) -> None:
    drive = Drive(bench)
    fused = drive.bench.listen(OccupancyGrid, "occupancy_grid_fused")
    for step in range(3):
        drive.step(step)
    elsewhere = drive.pose(3) @ pose_from_numbers((-40.0, 25.0, 0, 0, 0, 1.0))
    grid = drive.step(3, elsewhere)
    assert drive.bench.ros.spin_until(lambda: len(fused) == 4)
    check(fused[-1], by_hand([grid], [elsewhere]))


def test_an_image_without_a_pose_is_dropped_and_not_fused(bench) -> None:
    drive = Drive(bench)
    fused = drive.bench.listen(OccupancyGrid, "occupancy_grid_fused")
    grids = [drive.step(0)]
    drive.bench.send(image_of(100, SECOND + SECOND // 10), info_of(SECOND + SECOND // 10))
    drive.bench.ros.spin_for(0.6)
    grids.append(drive.step(1))
    assert drive.bench.ros.spin_until(lambda: len(fused) == 2)
    check(fused[-1], by_hand(grids, [drive.pose(0), drive.pose(1)]))
    assert drive.bench.drops() == {"no pose": 1}


def test_a_fixed_frame_whose_z_is_not_up_is_refused(bench) -> None:
    drive = Drive(bench)
    drive.say(SECOND, pose_from_numbers((0, 0, 0, -np.pi / 2, 0, 0)))
    drive.bench.send(image_of(100, SECOND), info_of(SECOND))
    status = drive.bench.wait_for_status("input", DiagnosticStatus.ERROR)
    assert "tilted by 90 degrees" in status.message and values_of(status)["dropped: pose tilted"] == "1"
    assert not drive.bench.grids
    status = drive.bench.ask_status("fusion")
    assert status.level == DiagnosticStatus.WARN and "tilted by 90 degrees" in status.message
    assert values_of(status)["refused: pose tilted"] == "1"


def test_another_resolution_starts_afresh(bench) -> None:
    drive = Drive(bench)
    fused = drive.bench.listen(OccupancyGrid, "occupancy_grid_fused")
    drive.step(0)
    assert drive.bench.node.set_parameters([Parameter("grid.resolution_m", value=0.25)])[0].successful
    step = 1
    while not (fused and fused[-1].info.resolution == 0.25) and step < 40:
        drive.step(step % 10, drive.pose(step))
        step += 1
        drive.bench.ros.spin_for(0.05)
    assert fused[-1].info.width == 480
    refused = drive.bench.node.set_parameters([Parameter("grid.resolution_m", value=0.05)])[0]
    assert not refused.successful and "fusion.size_m: got 120.0 with cells of 0.05 m" in refused.reason


@pytest.mark.parametrize("parameters", [{}, {"pose_source": "odom", "fusion.enabled": False}])
def test_without_poses_or_fusion_there_is_no_such_topic(bench, parameters: dict[str, Any]) -> None:
    one = bench(**parameters)
    one.ros.spin_for(0.2)
    assert one.peer.count_publishers("occupancy_grid_fused") == 0
    assert one.peer.count_publishers("occupancy_grid") == 1


@pytest.mark.parametrize(
    "grid",
    [
        {"resolution_m": 0.04, "x_m": (0.0, 10.0), "y_m": (-4.0, 4.0), "z_m": (0.0, 2.0)},
        {"free_below": 0.2},
        {"occupied_above": 0.96},
    ],
)
def test_a_grid_that_cannot_be_fused_is_refused_only_where_it_would_be(grid: dict[str, Any]) -> None:
    own = GridParameters(**grid)
    assert PerceptionParameters(grid=own).grid == own
    PerceptionParameters(grid=own, pose_source="odom", fusion=FusionParameters(enabled=False))
    with pytest.raises(ValueError, match=r"^fusion\.(size_m|limits): "):
        PerceptionParameters(grid=own, pose_source="odom")


def test_wrong_parameters_are_said(ros, model) -> None:
    from rclpy.lifecycle import TransitionCallbackReturn

    for name, value, text in (
        ("fusion.hit", 0.4, "fusion.hit: got 0.4, expected 0.5 to 1.0"),
        ("fusion.limits", [0.5, 0.9], "fusion.limits: got (0.5, 0.9), expected [least, greatest]"),
        ("fusion.size_m", 500.0, "fusion.size_m: got 500.0 with cells of 0.2 m, expected 0.4 to 400"),
    ):
        given = {"model": str(model), "camera_pose": MOUNT, "pose_source": "odom", name: value}
        one = Bench(ros, given, activate=False)
        assert one.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert text in one.ask_status("model").message, one.ask_status("model").message
        one.node.finish()
        ros.executor.remove_node(one.node)
