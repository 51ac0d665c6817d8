"""Two publishers on the image topic, over real rclpy: images of one are answered, the other may take its place."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import CAMERA, FRAME, SECOND, Bench, image_of, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from posed_drive import MS
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from kyn_models.types import Intrinsics
from kyn_ros import publishers
from kyn_ros.params import TopicQos
from kyn_ros.publishers import KEPT_PUBLISHERS, SILENT_S, Publishers, Verdict, gid_of

REAR = dataclasses.replace(CAMERA, fx=2 * CAMERA.fx, fy=2 * CAMERA.fy)


class SecondCamera:
    """A driver of its own on the topics of the first one, which names the same frame."""

    def __init__(self, one: Bench, name: str = "second_camera", context: Context | None = None) -> None:
        self._one, self.node = one, Node(name, context=context) if context else one.ros.node(name)
        self._image = self.node.create_publisher(Image, "image", TopicQos().profile(5))
        self._info = self.node.create_publisher(CameraInfo, "camera_info", TopicQos().profile(10))
        assert one.ros.spin_until(
            lambda: one.node.count_publishers("/image") == one.node.count_publishers("/camera_info") == 2
        )
        one.wait_for_subscriptions()
        assert one.ros.spin_until(lambda: self._image.get_subscription_count() and self._info.get_subscription_count())

    def send(self, stamp_ms: int, camera: Intrinsics = CAMERA, frame: str = FRAME) -> None:
        image, info = image_of(128, stamp_ms * MS, camera), info_of(stamp_ms * MS, camera)
        image.header.frame_id = info.header.frame_id = frame
        self._info.publish(info)
        self._image.publish(image)
        self._one.ros.spin_for(0.1)

    def send_info(self, stamp_ms: int) -> None:
        self._info.publish(info_of(stamp_ms * MS, REAR))
        self._one.ros.spin_for(0.1)

    def leave(self) -> None:
        self.node.destroy_publisher(self._image)
        self.node.destroy_publisher(self._info)
        assert self._one.ros.spin_until(lambda: self._one.node.count_publishers("/image") == 1)


@pytest.fixture
def process() -> Iterator[Context]:
    """Has gids as another process has them: nodes in it share nothing with those of the test."""
    context = Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


@pytest.fixture
def none_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is."""
    monkeypatch.setattr(publishers, "SILENT_S", 60.0)


def leave(one: Bench) -> None:
    """The first driver ends."""
    one.peer.destroy_publisher(one._image)
    one.peer.destroy_publisher(one._info)
    assert one.ros.spin_until(lambda: one.node.count_publishers("/image") == 1)


@pytest.mark.usefixtures("none_is_silent")
def test_images_of_the_publisher_in_use_go_on_and_the_others_are_dropped(drive) -> None:
    one = drive()
    one.steps(0, 2)
    second = SecondCamera(one.one)
    for number in range(2, 5):
        # Between the images of the first, and at the same moment with another focal length.
        second.send(950 + 100 * number)
        second.send(1000 + 100 * number, camera=REAR)
        one.step(1000 + 100 * number, number)
    assert one.answers(5) == [1000, 1100, 1200, 1300, 1400] and one.questions()[-1] == (1400, 1300, 1200)
    assert {frame.intrinsics for asked in one.model.asked for frame in asked.frames} == {CAMERA}
    assert one.one.drops() == {"other publisher": 6}
    status = one.one.ask_status("input")
    assert status.level == DiagnosticStatus.WARN and status.message == (
        "image: got images of several publishers on /image (/peer, /second_camera), expected one; those of /peer are "
        "used and the others dropped; stop the others, or give each camera a node of its own, in a namespace"
    )
    second.leave()
    one.step(1500, 5)
    assert one.questions()[-1] == (1500, 1400, 1300), "nothing was forgotten"


@pytest.mark.parametrize(("name", "calibration"), [("second_camera", ""), ("peer", ""), ("second_camera", "another")])
@pytest.mark.usefixtures("none_is_silent")
def test_no_image_is_given_the_focal_length_of_another_camera(
    drive, process: Context, name: str, calibration: str
) -> None:
    """Also where two drivers have the same node name, or the CameraInfo of the first is of another node."""
    one = drive()
    if calibration:
        one.one.peer.destroy_publisher(one.one._info)
        node = one.one.ros.node(calibration)
        one.one._info = node.create_publisher(CameraInfo, "camera_info", TopicQos().profile(10))
        one.one.wait_for_subscriptions()
    one.steps(0, 2)
    second = SecondCamera(one.one, name, process if name == "peer" else None)
    for number in range(2, 5):
        one.pose(1000 + 100 * number, number)
        one.one.send(info=info_of((1000 + 100 * number) * MS))
        second.send(1000 + 100 * number, camera=REAR)
        one.one.send(image_of(128, (1000 + 100 * number) * MS))
        assert one.one.ros.spin_until(lambda number=number: one.seen() == 1000 + 100 * number)
    assert one.answers(5) == [1000, 1100, 1200, 1300, 1400] and one.one.drops() == {"other publisher": 3}
    assert {frame.intrinsics for asked in one.model.asked for frame in asked.frames} == {CAMERA}


@pytest.mark.parametrize("info_first", [True, False])
def test_the_first_image_is_not_given_the_camera_info_of_another_camera(drive, info_first: bool) -> None:
    one = drive()
    second = SecondCamera(one.one)
    one.pose(1000, 0.0)
    if info_first:
        one.one.send(info=info_of(1000 * MS))
        one.one.ros.spin_for(0.1)
    second.send_info(1000)
    one.one.send(image_of(128, 1000 * MS))
    one.one.ros.spin_for(0.1)
    if not info_first:
        one.one.send(info=info_of(1000 * MS))
    assert one.answers(1) == [1000] and one.model.asked[0].key.intrinsics == CAMERA


def test_a_second_publisher_that_is_silent_costs_nothing(drive) -> None:
    one = drive()
    one.steps(0, 2)
    SecondCamera(one.one)
    one.steps(2, 2)
    assert one.answers(4) == [1000, 1100, 1200, 1300] and one.questions()[-1] == (1300, 1200, 1100)
    assert one.one.drops() == {} and one.one.ask_status("input").level == DiagnosticStatus.OK


def test_the_first_image_may_come_long_after_its_camera_info(bench) -> None:
    one = bench()
    for number in range(20):
        one.send(info=info_of(SECOND + number * 50 * MS))
        one.ros.spin_for(0.01)
    one.send(image_of(128, SECOND))
    assert one.ros.spin_until(lambda: one.grids) and one.grids[0].header.stamp.sec == 1


@pytest.mark.usefixtures("none_is_silent")
def test_another_publisher_takes_over_at_once_where_the_first_is_gone(drive) -> None:
    one = drive()
    one.steps(0, 3)
    one.answers(3)
    second = SecondCamera(one.one)
    second.send(1250)
    leave(one.one)
    for number in (3, 4):
        one.pose(1000 + 100 * number, number)
        second.send(1000 + 100 * number)
    assert one.answers(5)[3:] == [1300, 1400] and one.questions()[-2:] == [(1300,), (1400, 1300)]
    values = one.frames()[2]
    assert values["reset: change of publisher"] == "1" and one.one.drops() == {"other publisher": 1}
    assert values_of(one.one.ask_status("input"))["restarts"] == "1"


def test_what_was_known_of_the_first_publisher_is_forgotten_where_another_takes_over(bench) -> None:
    """Its frame, its stamps, and its CameraInfo, which has the stamp of the image."""
    one = bench()
    one.ask(128, 2 * SECOND)
    second = SecondCamera(one)
    one.send(info=info_of(1100 * MS))
    one.ros.spin_for(0.1)
    leave(one)
    second.send(1100, frame="rear_optical")
    assert one.ros.spin_until(lambda: len(one.grids) == 2) and one.drops() == {}


def test_another_publisher_takes_over_from_one_that_fell_silent(bench) -> None:
    """Also for a model of one image."""
    one = bench()
    one.ask(128, SECOND)
    second = SecondCamera(one)
    second.send(1100)
    assert one.drops() == {"other publisher": 1}
    time.sleep(SILENT_S)
    second.send(2200)
    assert one.ros.spin_until(lambda: len(one.grids) == 2)
    one.send(image_of(128, 2250 * MS), info_of(2250 * MS))
    assert one.ros.spin_until(lambda: one.drops() == {"other publisher": 2})
    second.send(2300)
    assert one.ros.spin_until(lambda: len(one.grids) == 3)
    assert "those of /second_camera are used" in one.ask_status("input").message


def test_where_rclpy_does_not_say_whose_an_image_is_none_is_taken_from_two(bench) -> None:
    """What rclpy of ROS 2 before Lyrical gives beside a message has no gid."""
    one = bench()
    sources = Publishers(one.node, "/image", "/camera_info")
    for old in (None, {"source_timestamp": 1, "received_timestamp": 2}):
        assert gid_of(old) is None and sources.image(old) == Verdict()
        assert sources.info(info_of(SECOND), old) and sources.latest_infos() == []
    second = SecondCamera(one)
    first = sources.image(None)
    assert first.restart == "image: got 2 publishers on /image (/peer, /second_camera), expected one"
    assert first.reason == "two image publishers" and "this rclpy does not say whose an image is" in first.sentence
    assert sources.image(None).restart == "" and sources.image(None).reason == first.reason
    second.leave()
    assert sources.image(None) == Verdict()


class Clocked:
    """Publishers that are told the time. ``image(gid, at_s)``: whether everything starts afresh, and why it drops."""

    def __init__(self, one: Bench) -> None:
        self._now = 0.0
        self.publishers = Publishers(one.node, "/image", "/camera_info", lambda: self._now)

    def image(self, gid: bytes, at_s: float) -> tuple[bool, str]:
        self._now = 100.0 + at_s
        verdict = self.publishers.image({"publisher_gid": {"data": gid}})
        return bool(verdict.restart), verdict.reason


TAKEN, DROPPED, TAKES_OVER = (False, ""), (False, "other publisher"), (True, "")


def test_what_is_silent_is_measured_on_the_steady_clock(bench) -> None:
    one = Clocked(bench())
    assert one.image(b"a", 0.0) == TAKEN and one.image(b"a", 0.1) == TAKEN and one.image(b"b", 0.1) == DROPPED
    assert one.image(b"b", 0.1 + SILENT_S) == DROPPED and one.image(b"a", 0.2 + SILENT_S) == TAKEN
    assert one.image(b"b", 0.3 + 2 * SILENT_S) == TAKES_OVER
    assert one.image(b"a", 0.3 + 2 * SILENT_S) == DROPPED and one.image(b"b", 0.4 + 2 * SILENT_S) == TAKEN


def test_slow_cameras_do_not_take_over_from_each_other(bench) -> None:
    one = Clocked(bench())
    for number in range(4):
        assert one.image(b"a", 4.0 * number) == TAKEN
        assert one.image(b"b", 4.0 * number + 2.0) == DROPPED
    # The last came at 12 s; one of three images that are missing may be late.
    assert one.image(b"b", 24.0) == DROPPED and one.image(b"b", 24.1) == TAKES_OVER


def test_after_a_pause_a_publisher_is_not_waited_for_any_longer_than_before(bench) -> None:
    one = Clocked(bench())
    for at_s in (0.0, 0.1, 60.0):
        assert one.image(b"a", at_s) == TAKEN
    assert one.image(b"b", 60.5) == DROPPED and one.image(b"b", 61.1) == TAKES_OVER


def test_publishers_that_come_and_go_are_forgotten(bench) -> None:
    one = Clocked(bench())
    one.image(b"a", 0.0)
    for number in range(100):
        assert one.image(str(number).encode(), 0.001 * number) == DROPPED
    assert len(one.publishers._times) == 1 + KEPT_PUBLISHERS and one.image(b"a", 0.2) == TAKEN
