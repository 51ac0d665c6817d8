"""Poses of the vehicle: interpolated to a stamp, and refused where there is none. Over real rclpy."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from kyn_ros import convert, params, poses
from kyn_ros.convert import InputError
from kyn_ros.mount import numbers_from_pose
from kyn_ros.params import PerceptionParameters
from kyn_ros.pose_buffer import KEPT_NS, PoseBuffer, slerp
from kyn_ros.worker import Cancelled

MS = 1_000_000
LEVEL = (0.0, 0.0, 0.0, 1.0)
NEVER = threading.Event()


def about_z(angle: float) -> tuple[float, float, float, float]:
    return 0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)


# -- the buffer --------------------------------------------------------------------------------------------------------


def buffer_of(*stamps_ms: int, speed_mps: float = 10.0) -> PoseBuffer:
    """A vehicle that drives along x and turns left with 1 rad/s."""
    buffer = PoseBuffer(gap_s=0.5, max_speed_mps=60.0)
    for stamp in stamps_ms:
        assert not buffer.add(stamp * MS, (speed_mps * stamp * 1e-3, 2.0, 0.0), about_z(stamp * 1e-3))
    return buffer


def test_positions_are_mixed_and_rotations_turned() -> None:
    buffer = buffer_of(100, 200, 300)
    for stamp_ms in (100, 150, 225, 300):
        found = buffer.wait(stamp_ms * MS, 0.0, NEVER)
        x, y, _, _, _, yaw = numbers_from_pose(found.odom_from_base)
        np.testing.assert_allclose((x, y, yaw), (stamp_ms * 1e-2, 2.0, stamp_ms * 1e-3), atol=1e-9)


def test_slerp_goes_the_short_way_and_stays_of_length_one() -> None:
    a, b = np.array(about_z(3.0)), np.array(about_z(-3.0))
    for sign in (1, -1):
        middle = slerp(a, sign * b, 0.5)
        np.testing.assert_allclose(abs(middle @ about_z(math.pi)), 1.0, atol=1e-12)
    np.testing.assert_allclose(slerp(a, a, 0.3), a, atol=1e-12)


def test_nothing_is_extrapolated_beyond_the_slack() -> None:
    buffer = buffer_of(100, 200)
    assert buffer.wait(201 * MS, 0.0, NEVER) is not None
    assert buffer.wait(202 * MS, 0.0, NEVER) is None
    with pytest.raises(InputError, match="0.002 s before the first pose"):
        buffer.wait(98 * MS, 5.0, NEVER)


def test_a_gap_is_not_bridged() -> None:
    buffer = buffer_of(100, 200, 800)
    with pytest.raises(InputError, match=r"0\.60 s apart, expected at most poses\.gap_s = 0\.5 s"):
        buffer.wait(300 * MS, 5.0, NEVER)
    assert buffer.wait(800 * MS, 0.0, NEVER) is not None


def test_a_jump_starts_a_new_epoch() -> None:
    buffer = buffer_of(100, 200)
    before = buffer.wait(200 * MS, 0.0, NEVER).epoch
    assert buffer.add(220 * MS, (2.0 + 60 * 0.02 + 0.2, 2.0, 0.0), about_z(0.22)) == "pose jump"
    assert buffer.wait(220 * MS, 0.0, NEVER).epoch == before + 1
    with pytest.raises(InputError, match="before the first pose"):
        buffer.wait(200 * MS, 0.0, NEVER)
    assert buffer.add(240 * MS, (3.4, 2.0, 0.0), about_z(1.5)) == "pose jump", "a turn may jump too"


def test_stamps_that_go_back() -> None:
    buffer = buffer_of(1000, 1100)
    assert buffer.add(1100 * MS, (99.0, 2.0, 0.0), LEVEL) == "repeated stamp"
    assert buffer.add(1050 * MS, (10.5, 2.0, 0.0), LEVEL) == "out of order"
    assert not buffer.add(1200 * MS, (12.0, 2.0, 0.0), about_z(1.2))
    np.testing.assert_allclose(buffer.wait(1100 * MS, 0.0, NEVER).odom_from_base[0, 3], 11.0)
    assert buffer.add(100 * MS, (1.0, 2.0, 0.0), LEVEL) == "restart"
    assert buffer.wait(1100 * MS, 0.0, NEVER) is None


def test_images_that_go_back_first_wait_for_poses_to_follow() -> None:
    for last_ms in (2000, 30_000):
        buffer = buffer_of(*range(1000, last_ms, 100), speed_mps=1.0)
        buffer.images_restarted(back=True)
        assert buffer.wait(1100 * MS, 0.0, NEVER) is None, "the pose of the run before"
        # One that was still under way is of the time before, too.
        assert not buffer.add(last_ms * MS, (last_ms * 1e-3, 2.0, 0.0), about_z(last_ms * 1e-3))
        assert buffer.wait(1100 * MS, 0.0, NEVER) is None
        assert buffer.add(1100 * MS, (7.0, 0.0, 0.0), LEVEL) == "restart"
        assert buffer.wait(1100 * MS, 0.0, NEVER).odom_from_base[0, 3] == 7.0


def test_images_that_go_back_after_the_poses_have_them_already() -> None:
    buffer = buffer_of(1000, 1100, 1200)
    assert buffer.add(100 * MS, (1.0, 2.0, 0.0), LEVEL) == "restart"
    buffer.images_restarted(back=True)
    assert buffer.wait(100 * MS, 0.0, NEVER) is not None
    # That was one loop: with the next one the poses have to go back again.
    buffer.images_restarted(back=True)
    assert buffer.wait(100 * MS, 0.0, NEVER) is None


def test_images_that_jump_ahead_keep_the_poses() -> None:
    buffer = buffer_of(*range(1000, 8000, 100), speed_mps=1.0)
    buffer.images_restarted(back=False)
    assert buffer.wait(7500 * MS, 0.0, NEVER) is not None


def test_a_camera_whose_clock_alone_was_set_back_has_poses_again() -> None:
    buffer = PoseBuffer(gap_s=0.5, max_speed_mps=60.0, patience_s=0.05)
    for stamp in (1000, 1100, 1200):
        buffer.add(stamp * MS, (0.0, 0.0, 0.0), LEVEL)
    buffer.images_restarted(back=True)
    time.sleep(0.06)
    assert buffer.wait(1150 * MS, 0.0, NEVER) is None, "nothing shows yet whose time it is"
    buffer.add(1300 * MS, (0.0, 0.0, 0.0), LEVEL)
    assert buffer.wait(1150 * MS, 0.0, NEVER) is not None


def test_an_image_of_the_time_before_waits_no_longer() -> None:
    buffer = buffer_of(1000, 1100)
    threading.Timer(0.1, lambda: buffer.images_restarted(back=True)).start()
    begin = time.monotonic()
    with pytest.raises(InputError, match="of the time before a restart") as told:
        buffer.wait(1200 * MS, 10.0, NEVER)
    assert told.value.reason == "restart" and time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("position", "quaternion", "text"),
    [
        ((math.nan, 0, 0), LEVEL, "finite"),
        ((0, 0, 0), (0, 0, 0, math.inf), "finite"),
        ((0, 0, 0), (0, 0, 0, 0), "length 0, expected 1"),
        ((0, 0, 0), (0, 0, 0, 0.9), "length 0.9, expected 1"),
    ],
)
def test_numbers_that_are_no_pose(position: Any, quaternion: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        buffer_of().add(1, position, quaternion)


def test_memory_is_bounded() -> None:
    buffer = buffer_of(*range(0, 12_000, 10))
    assert buffer.age_ns(11_990 * MS) == 0
    with pytest.raises(InputError):
        buffer.wait(11_990 * MS - KEPT_NS - 20 * MS, 0.0, NEVER)
    assert len(buffer._stamps) <= KEPT_NS // (10 * MS) + 1


def test_waiting_ends_with_the_pose_the_time_or_the_work() -> None:
    buffer = buffer_of(100)
    timer = threading.Timer(0.1, lambda: buffer.add(200 * MS, (2.0, 2.0, 0.0), about_z(0.2)))
    timer.start()
    begin = time.monotonic()
    assert buffer.wait(150 * MS, 10.0, NEVER) is not None and time.monotonic() - begin < 5
    assert buffer.wait(999 * MS, 0.05, NEVER) is None
    over = threading.Event()
    over.set()
    with pytest.raises(Cancelled):
        buffer.wait(999 * MS, 10.0, over)


# -- over rclpy --------------------------------------------------------------------------------------------------------


class Source:
    """A pose source in a node, and whoever publishes to it."""

    def __init__(self, ros: Any, kind: str, **given: Any) -> None:
        self.ros, self.kind = ros, kind
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in given.items()]
        from rclpy.node import Node

        node = ros.add(Node("source", context=ros.context, parameter_overrides=overrides))
        params.declare(node, PerceptionParameters)
        node.set_parameters([Parameter("pose_source", value=kind)])
        made = poses.make_pose_source(node, params.read(node, PerceptionParameters))
        assert made is not None
        self.poses = made
        self.peer = ros.node("wheels")
        self.publisher = self.peer.create_publisher({"odom": Odometry, "pose": PoseStamped}[kind], kind, 50)
        assert ros.spin_until(self.publisher.get_subscription_count)

    def send(self, stamp_ms: int, x: float, child: str = "base_link", frame: str = "odom", w: float = 1.0) -> None:
        header = Header(stamp=convert.time_message(stamp_ms * MS), frame_id=frame)
        pose = Pose(position=Point(x=x), orientation=Quaternion(w=w))
        if self.kind == "pose":
            self.publisher.publish(PoseStamped(header=header, pose=pose))
        else:
            message = Odometry(header=header, child_frame_id=child)
            message.pose.pose = pose
            self.publisher.publish(message)
        self.ros.spin_for(0.05)

    def values(self) -> dict[str, str]:
        return {pair.key: pair.value for pair in self.poses.status("poses").values}

    def x(self, stamp_ms: int) -> float:
        return float(self.poses.locate(stamp_ms * MS, NEVER, timeout_s=0.0).odom_from_base[0, 3])


@pytest.mark.parametrize("kind", ["odom", "pose"])
def test_poses_of_a_topic(ros, kind: str) -> None:
    one = Source(ros, kind)
    assert one.poses.status("poses").level == DiagnosticStatus.STALE and one.poses.frame_id == ""
    one.send(1000, 10.0)
    one.send(1100, 11.0)
    np.testing.assert_allclose(one.x(1025), 10.25)
    assert one.poses.frame_id == "odom" and one.values()["poses"] == "2"
    assert one.poses.status("poses").level == DiagnosticStatus.OK
    late = r"no pose for its stamp on /\w+ after 0 s \(the newest is from 0\.100 s before its stamp\), .* 1\.200 s; see"
    with pytest.raises(InputError, match=late) as told:
        one.x(1200)
    assert told.value.reason == "no pose"
    one.poses.reset()
    with pytest.raises(InputError, match="no pose for its stamp"):
        one.x(1025)


def test_poses_of_another_frame_are_refused_by_name(ros) -> None:
    one = Source(ros, "odom")
    one.send(1000, 1.0, child="base_footprint")
    status = one.poses.status("poses")
    assert status.level == DiagnosticStatus.ERROR
    assert (
        "got poses of 'base_footprint' (child_frame_id), expected those of grid.frame_id 'base_link'; publish those, "
        "or set grid.frame_id" in status.message
    )
    with pytest.raises(InputError, match=r"no pose for its stamp on /odom .*refused: .*base_footprint.* 1\.000 s; see"):
        one.x(1000)
    one.send(1100, 1.0)
    assert one.poses.status("poses").level == DiagnosticStatus.OK and one.values()["odd: child_frame_id"] == "1"


@pytest.mark.parametrize(("x", "w"), [(math.nan, 1.0), (1.0, 0.0), (1.0, 0.5), (1.0, math.nan)])
def test_a_message_that_is_no_pose_is_refused(ros, x: float, w: float) -> None:
    one = Source(ros, "odom")
    one.send(1000, 1.0)
    one.send(1100, x, w=w)
    one.send(1200, 3.0)
    # What lies between comes from its neighbours.
    np.testing.assert_allclose(one.x(1100), 2.0)
    assert one.values()["odd: not a pose"] == "1"


def test_a_message_that_is_no_pose_leaves_the_history_whatever_it_names(ros) -> None:
    one = Source(ros, "odom")
    one.send(1000, 1.0)
    one.send(1100, 2.0)
    one.send(1200, math.nan, frame="map")
    found = one.poses.locate(1050 * MS, NEVER, timeout_s=0.0)
    assert found.odom_from_base[0, 3] == pytest.approx(1.5) and found.frame_id == one.poses.frame_id == "odom"
    assert "odd: other fixed frame" not in one.values()


@pytest.mark.parametrize("kind", ["odom", "pose"])
@pytest.mark.parametrize("frame", ["", "base_link"])
def test_poses_in_no_frame_that_stands_still_are_refused(ros, kind: str, frame: str) -> None:
    one = Source(ros, kind)
    one.send(1000, 1.0, frame=frame)
    status = one.poses.status("poses")
    assert status.level == DiagnosticStatus.ERROR and f"got poses in the frame {frame!r}" in status.message
    with pytest.raises(InputError, match="expected the name of a frame that stands still"):
        one.x(1000)
    assert one.values()["odd: frame_id"] == "1" and one.poses.frame_id == ""


def test_another_fixed_frame_is_a_new_epoch(ros) -> None:
    one = Source(ros, "odom")
    one.send(1000, 1.0)
    first = one.poses.locate(1000 * MS, NEVER)
    one.send(1100, 1.1, frame="map")
    second = one.poses.locate(1100 * MS, NEVER)
    assert second.epoch > first.epoch and (first.frame_id, second.frame_id) == ("odom", "map")
    assert one.values()["odd: other fixed frame"] == "1"


def test_two_publishers_are_named_and_no_pose_is_taken_from_them(ros) -> None:
    one = Source(ros, "odom")
    one.send(1000, 1.0)
    other = ros.node("visual_odometry")
    second = other.create_publisher(Odometry, "odom", 5)
    assert ros.spin_until(lambda: one.poses._node.count_publishers("/odom") == 2)
    with pytest.raises(
        InputError, match=r"got 2 publishers on /odom \(/visual_odometry, /wheels\), expected one"
    ) as told:
        one.x(1000)
    assert told.value.reason == "two pose publishers"
    assert one.poses.status("poses").level == DiagnosticStatus.ERROR
    other.destroy_publisher(second)
    assert ros.spin_until(lambda: one.poses._node.count_publishers("/odom") == 1)
    assert one.x(1000) == 1.0
