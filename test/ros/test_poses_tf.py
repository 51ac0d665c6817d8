"""Poses from TF. pip has no wheel of ``tf2_ros``: a stand-in with its behaviour takes its place, over real rclpy."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.time import Time
from std_msgs.msg import Header

from kyn_ros import convert, mount, params, poses
from kyn_ros.convert import InputError
from kyn_ros.mount import pose_from_numbers
from kyn_ros.odometry import quaternion_from_pose
from kyn_ros.params import PerceptionParameters
from kyn_ros.pose_buffer import PoseLate

MS = 1_000_000
NEVER = threading.Event()


class TransformException(Exception):
    """As in tf2_ros: there is no such transform."""


class StandInBuffer:
    """What TF does with the transforms between two frames: interpolates at any distance, and never extrapolates."""

    def __init__(self) -> None:
        self.known: dict[int, TransformStamped] = {}
        self.asked = lambda: None

    def lookup_transform(self, target: str, source: str, time: Time) -> TransformStamped:
        self.asked()
        stamps, at = sorted(self.known), time.nanoseconds
        if not stamps:
            raise TransformException(f"no transform from {source} to {target}")
        if at == 0:
            return self.known[stamps[-1]]
        if not stamps[0] <= at <= stamps[-1]:
            raise TransformException("extrapolation")
        x = np.interp(at, stamps, [self.known[stamp].transform.translation.x for stamp in stamps])
        after = self.known[min(stamp for stamp in stamps if stamp >= at)]
        answer = TransformStamped(header=Header(stamp=convert.time_message(at), frame_id=target), child_frame_id=source)
        answer.transform.rotation = after.transform.rotation
        answer.transform.translation.x = float(x)
        return answer

    def take(self, message: TransformStamped) -> None:
        self.known[convert.stamp_ns(message.header.stamp)] = message

    def clear(self) -> None:
        self.known.clear()


class StandInListener:
    def __init__(self, buffer: StandInBuffer, node: Any) -> None:
        node.create_subscription(TransformStamped, "/tf", buffer.take, 100)

    def unregister(self) -> None:
        """Nothing to end: the node goes with the test."""


def make(ros: Any, **given: Any) -> Any:
    overrides = {"pose_source": "tf", "tf_timeout_s": 0.2} | {k.replace("__", "."): v for k, v in given.items()}
    parameters = [Parameter(name, value=value) for name, value in overrides.items()]
    node = ros.add(Node("source", context=ros.context, parameter_overrides=parameters))
    params.declare(node, PerceptionParameters)
    return poses.make_pose_source(node, params.read(node, PerceptionParameters))


class Tf:
    """A source of poses, and whoever broadcasts to it."""

    def __init__(self, ros: Any, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
        module = SimpleNamespace(
            Buffer=StandInBuffer, TransformListener=StandInListener, TransformException=TransformException
        )
        monkeypatch.setattr(poses, "tf2_ros", module)
        monkeypatch.setattr(poses, "TFMessage", TransformStamped)
        self.ros, self.source = ros, make(ros, **given)
        self.publisher = ros.node("wheels").create_publisher(TransformStamped, "/tf", 50)
        assert ros.spin_until(lambda: self.publisher.get_subscription_count() == 2)

    def send(self, *stamps_ms: int, w: float = 1.0) -> None:
        """The vehicle drives along x with 10 m/s."""
        for stamp_ms in stamps_ms:
            message = TransformStamped(header=Header(stamp=convert.time_message(stamp_ms * MS), frame_id="odom"))
            message.transform.translation.x = stamp_ms * 1e-2
            message.transform.rotation.w = w
            self.publisher.publish(message)
            self.ros.spin_for(0.05)

    def x(self, stamp_ms: int) -> float:
        return float(self.source.lookup(stamp_ms * MS, NEVER)[0, 3])

    def status(self) -> tuple[bytes, str]:
        status = self.source.status("poses")
        return status.level, status.message


@pytest.fixture
def tf(ros, monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda **given: Tf(ros, monkeypatch, **given)


def test_poses_come_from_transforms(tf) -> None:
    one = tf()
    assert one.status() == (DiagnosticStatus.STALE, "TF has not had a transform from 'base_link' to 'odom' yet")
    one.send(1000, 1100)
    assert one.x(1050) == pytest.approx(10.5) and one.status() == (DiagnosticStatus.OK, "TF has poses")
    located = one.source.locate(1100 * MS, NEVER)
    assert located.frame_id == "odom"
    with pytest.raises(PoseLate, match=r"TF has no transform from 'base_link' to 'odom' at its stamp 1\.200 s"):
        one.x(1200)
    with pytest.raises(InputError, match="at its stamp 0") as told:
        one.x(900)
    assert not isinstance(told.value, PoseLate), "no later transform can bring it"
    assert one.status()[0] == DiagnosticStatus.WARN


def test_transforms_that_stop_are_stale(tf) -> None:
    one = tf(input_timeout_s=0.1)
    one.send(1000)
    one.ros.spin_for(0.2)
    level, message = one.status()
    assert level == DiagnosticStatus.STALE and "TF last got a transform from 'base_link' to 'odom'" in message


def test_a_gap_in_tf_is_not_bridged(tf) -> None:
    one = tf()
    one.send(1000, 1100, 1900, 2000)
    with pytest.raises(InputError, match=r"0\.80 s apart, expected at most poses\.gap_s = 0\.5 s"):
        one.x(1500)
    assert [one.x(stamp) for stamp in (1050, 1900, 1950)] == pytest.approx([10.5, 19.0, 19.5])


def test_a_transform_that_is_no_pose_is_refused(tf) -> None:
    one = tf()
    one.send(1000, 1100, w=math.nan)
    with pytest.raises(InputError, match="tf: got position .* expected finite numbers"):
        one.x(1050)


def test_tf_that_is_cleared_while_it_is_asked(tf) -> None:
    one = tf()
    one.send(1000, 1100)
    calls = iter(range(100))
    one.source._buffer.asked = lambda: one.source.images_restarted(back=True) if next(calls) == 1 else None
    with pytest.raises(InputError, match="of the time before a restart") as told:
        one.x(1050)
    assert told.value.reason == "restart"
    one.send(100, 200)
    assert one.x(150) == pytest.approx(1.5) and one.source.locate(150 * MS, NEVER).epoch == 1


def test_the_vehicles_own_frame_is_no_fixed_frame(tf) -> None:
    with pytest.raises(ValueError, match="poses.fixed_frame: got 'base_link', which is grid.frame_id"):
        tf(poses__fixed_frame="base_link")


def test_tf_is_refused_where_it_is_not_installed(ros) -> None:
    if mount.tf2_ros is not None:
        pytest.skip("tf2_ros is installed: poses come from TF")
    with pytest.raises(ValueError, match="pose_source is tf and tf2_ros is not installed, expected odom or pose"):
        make(ros)


def test_poses_from_tf(ros) -> None:
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is part of a ROS 2 installation")
    source = make(ros)
    broadcaster = tf2_ros.TransformBroadcaster(ros.node("wheels"))
    for stamp_ms, x in ((1000, 1.0), (1100, 2.0)):
        transform = TransformStamped(child_frame_id="base_link")
        transform.header = Header(stamp=convert.time_message(stamp_ms * MS), frame_id="odom")
        transform.transform.translation.x = x
        _, _, transform.transform.rotation.z, transform.transform.rotation.w = quaternion_from_pose(
            pose_from_numbers((0, 0, 0, 0, 0, 0.1))
        )
        broadcaster.sendTransform(transform)
        ros.spin_for(0.3)
    np.testing.assert_allclose(source.lookup(1050 * MS, NEVER)[0, 3], 1.5)
    with pytest.raises(InputError, match="TF has no transform from 'base_link' to 'odom'"):
        source.lookup(1200 * MS, NEVER)
