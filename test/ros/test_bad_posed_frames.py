"""Bad images and bad poses for a model of several frames, over real rclpy: dropped or degraded, counted, named."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import CAMERA, FRAME, SECOND, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from posed_drive import MS
from std_srvs.srv import Trigger

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def test_without_a_pose_source_one_image_answers_and_diagnostics_warn(drive) -> None:
    one = drive(pose_source="none")
    one.one.ask(128, SECOND)
    assert one.questions() == [(1000,)]
    level, message, _ = one.frames()
    assert level == WARN and "pose_source is none, expected odom, pose or tf" in message


def test_no_pose_drops_the_image(drive) -> None:
    one = drive(tf_timeout_s=0.2)
    one.image(1000)
    status = one.one.wait_for_status(
        "input", ERROR, "image: no pose for its stamp on /odom after 0.2 s (none has arrived)"
    )
    assert values_of(status)["dropped: no pose"] == "1"
    assert one.one.ask_status("poses").level == DiagnosticStatus.STALE
    assert not one.one.grids and not one.model.asked
    one.step(1100, 0.0)
    assert one.answers(1) == [1100]


def test_a_late_pose_is_waited_for(drive) -> None:
    one = drive()
    one.step(1000, 0.0)
    one.image(1050)
    one.one.ros.spin_for(0.4)
    assert one.answers(1) == [1000]
    one.pose(1100, 1.6)
    assert one.answers(2) == [1000, 1050] and one.questions()[-1] == (1050, 1000)
    assert float(one.frames()[2]["pose_wait_ms"]) > 50
    assert one.one.drops() == {}


def test_poses_slower_than_images(drive) -> None:
    one = drive()
    one.pose(1000, 0.0)
    for number in range(16):
        if number % 5 == 4:
            one.pose(1000 + 100 * (number + 1), 10.0 * (number + 1) * 0.1)
        one.image(1000 + 100 * number)
        one.one.ros.spin_for(0.05)
    assert one.one.ros.spin_until(lambda: one.seen() == 2500, 30.0)
    assert set(one.one.drops()) <= {"newer image", "neighbour only"}
    # Images between two poses are there as neighbours, at their places between them.
    key, *others = one.model.asked[-1].frames
    assert key.stamp_ns == 2500 * MS and [frame.stamp_ns // MS for frame in others] == [2400, 2300]
    np.testing.assert_allclose([frame.world_from_camera[0, 3] for frame in (key, *others)], [15.0, 14.0, 13.0])


def test_late_poses_delay_images_and_cost_none(drive) -> None:
    one = drive()
    one.pose(1000, 0.0)
    for number in range(3):
        one.image(1000 + 100 * number)
        one.one.ros.spin_for(0.2)
    # From now on poses come as often as images, and three images late.
    for number in range(3, 9):
        one.pose(800 + 100 * number, number - 2)
        one.image(1000 + 100 * number)
        due = 800 + 100 * number
        assert one.one.ros.spin_until(lambda due=due: one.seen() == due, 30.0)
    assert one.answers(7) == [1000, 1100, 1200, 1300, 1400, 1500, 1600]
    assert one.questions()[-1] == (1600, 1500, 1400)


def test_a_gap_between_poses_is_no_pose(drive) -> None:
    one = drive()
    one.step(1000, 0.0)
    one.answers(1)
    one.pose(2000, 10.0)
    one.image(1500)
    one.one.wait_for_status(
        "input", ERROR, "the poses before and after it are 1.00 s apart, expected at most poses.gap_s"
    )
    assert one.answers(1) == [1000] and one.one.drops() == {"no pose": 1}


def test_a_pose_jump_forgets_the_history(drive) -> None:
    one = drive()
    one.steps(0, 3)
    one.step(1300, 203.0)
    assert one.answers(4)[-1] == 1300 and one.questions()[-1] == (1300,)
    level, message, values = one.frames()
    assert (level, message) == (WARN, "one image answers: the first frame after a pose jump")
    assert values["reset: pose jump"] == "1"
    assert values_of(one.one.ask_status("poses"))["odd: pose jump"] == "1"
    one.step(1400, 204.0)
    assert one.answers(5)[-1] == 1400 and one.questions()[-1] == (1400, 1300)


def test_a_jump_too_small_for_a_speed_forgets_the_history_too(drive) -> None:
    one = drive()
    one.steps(0, 3)
    one.step(1300, 3.6)
    assert one.questions()[-1] == (1300,) and one.frames()[2]["reset: pose jump"] == "1"


@pytest.mark.parametrize(("x", "w", "text"), [(math.nan, 1.0, "expected finite numbers"), (1.0, 0.7, "length 0.7")])
def test_a_message_that_is_no_pose_never_becomes_one(drive, x: float, w: float, text: str) -> None:
    one = drive(tf_timeout_s=0.2)
    one.step(1000, 0.0)
    one.answers(1)
    one.pose(1100, x, w=w)
    one.image(1100)
    one.one.wait_for_status("input", ERROR, text)
    assert one.answers(1) == [1000] and one.one.drops() == {"no pose": 1}
    status = one.one.ask_status("poses")
    assert status.level == ERROR and values_of(status)["odd: not a pose"] == "1"


def test_odometry_of_another_frame_is_refused_by_name(drive) -> None:
    one = drive(tf_timeout_s=0.2)
    one.pose(1000, 0.0, child="base_footprint")
    one.image(1000)
    one.one.wait_for_status(
        "input", ERROR, "got poses of 'base_footprint' (child_frame_id), expected those of grid.frame_id"
    )
    assert not one.one.grids


def test_two_publishers_of_poses(drive) -> None:
    one = drive()
    one.steps(0, 2)
    one.answers(2)
    second = one.one.ros.node("visual_odometry").create_publisher(Odometry, "odom", 5)
    assert one.one.ros.spin_until(lambda: one.one.node.count_publishers("/odom") == 2)
    one.pose(1200, 2.0)
    one.image(1200)
    one.one.wait_for_status("input", ERROR, "got 2 publishers on /odom (/peer, /visual_odometry), expected one")
    assert one.answers(2) == [1000, 1100] and one.one.drops() == {"two pose publishers": 1}
    assert second.get_subscription_count() == 1


def test_identical_stamps(drive) -> None:
    one = drive()
    one.steps(0, 2)
    one.pose(1100, 9.0)
    one.image(1100)
    assert one.one.ros.spin_until(lambda: one.one.drops() == {"repeated stamp": 1})
    one.step(1200, 2.0)
    assert one.answers(3) == [1000, 1100, 1200] and one.questions()[-1] == (1200, 1100, 1000)
    assert values_of(one.one.ask_status("poses"))["odd: repeated stamp"] == "1"


def test_images_out_of_order_are_dropped_and_the_history_stays(drive) -> None:
    one = drive()
    one.steps(0, 3)
    one.answers(3)
    one.image(1150)
    one.one.wait_for_status("input", ERROR, "its stamp is before that of the image before, expected a later one")
    one.step(1300, 3.0)
    assert one.answers(4) == [1000, 1100, 1200, 1300] and one.questions()[-1] == (1300, 1200, 1100)
    assert one.one.drops() == {"out of order": 1}


def test_two_cameras_on_one_topic(drive) -> None:
    one = drive()
    for number in range(3):
        one.step(1000 + 100 * number, number)
        one.image(1050 + 100 * number, frame="rear_optical")
        assert one.one.ros.spin_until(lambda number=number: one.one.drops() == {"other camera": number + 1})
    assert one.answers(3) == [1000, 1100, 1200] and one.questions()[-1] == (1200, 1100, 1000)
    one.step(1300, 3)
    # It is still said while images of the one camera are answered.
    one.one.wait_for_status("input", WARN, f"frame_id 'rear_optical' among images of '{FRAME}', expected one camera")


def test_the_focal_length_of_a_second_camera_is_never_used(drive) -> None:
    one = drive()
    one.steps(0, 1)
    rear = dataclasses.replace(CAMERA, fx=2 * CAMERA.fx, fy=2 * CAMERA.fy)
    for number in range(1, 4):
        # Of the same moment, and first.
        one.image(1000 + 100 * number, camera=rear, frame="rear_optical")
        one.one.ros.spin_for(0.1)
        one.step(1000 + 100 * number, number)
    assert one.answers(4) == [1000, 1100, 1200, 1300] and one.questions()[-1] == (1300, 1200, 1100)
    assert {frame.intrinsics for asked in one.model.asked for frame in asked.frames} == {CAMERA}


def test_another_camera_takes_over_and_starts_afresh(drive) -> None:
    one = drive()
    one.steps(0, 2)
    for number in range(2, 7):
        one.pose(1000 + 100 * number, number)
        one.image(1000 + 100 * number, frame="new_optical")
        one.one.ros.spin_for(0.05)
    assert one.answers(3) == [1000, 1100, 1600] and one.questions()[-1] == (1600,)
    assert one.one.grids[-1].header.stamp.nanosec == 600 * MS and one.one.drops() == {"other camera": 4}
    assert one.frames()[1] == "one image answers: the first frame after a camera change"


def test_another_size_starts_afresh(drive) -> None:
    one = drive()
    one.steps(0, 2)
    other = CAMERA.resized(176, 47)
    one.pose(1200, 2.0)
    one.image(1200, camera=other)
    assert one.one.ros.spin_until(lambda: one.one.drops() == {"preparing": 1})
    one.one.ros.spin_for(0.5)
    one.step(1300, 3.0, camera=other)
    # The image that was dropped while constants were built is a neighbour all the same.
    assert one.answers(3)[-1] == 1300 and one.questions()[-1] == (1300, 1200)
    assert one.frames()[2]["reset: size change"] == "1"


def test_standing_still_falls_back_and_says_so(drive) -> None:
    one = drive()
    one.steps(0, 4, step_m=0.0)
    assert one.answers(4) == [1000, 1100, 1200, 1300] and all(len(asked) == 1 for asked in one.questions())
    level, message, values = one.frames()
    assert level == OK and message.startswith("one image answers: standing still: the camera moved less than spacing_m")
    assert values["alone: too little baseline"] == "3" and values["answered with 0 neighbours"] == "4"


@pytest.mark.parametrize("neighbours", ["past", "centred"])
def test_a_window_that_is_never_filled(drive, neighbours: str) -> None:
    one = drive(frames__neighbours=neighbours)
    one.steps(0, 5, step_m=0.02)
    assert one.answers(5) == [1000, 1100, 1200, 1300, 1400] and all(len(asked) == 1 for asked in one.questions())
    assert "the camera moved less than spacing_m = 0.7 m within" in one.frames()[1]


def test_frames_too_far_apart_are_not_compared(drive) -> None:
    one = drive()
    one.steps(0, 1)
    for number in (1, 2, 3):
        one.pose(1000 + 450 * number, 9.0 * number)
    for number in (1, 2, 3):
        one.image(1000 + 450 * number)
        assert one.one.ros.spin_until(lambda number=number: one.seen() == 1000 + 450 * number, 30.0)
    assert one.answers(4)[-1] == 2350 and one.questions()[-1] == (2350,)
    level, message, _ = one.frames()
    assert level == WARN and "9.0 m away, expected at most max_baseline_m = 8 m" in message


@pytest.mark.parametrize(("neighbours", "pose_first"), [("past", True), ("centred", True), ("past", False)])
def test_a_bag_played_twice_starts_afresh(drive, neighbours: str, pose_first: bool) -> None:
    one = drive(frames__neighbours=neighbours)
    one.steps(0, 4, pose_first=pose_first)
    one.steps(0, 4, pose_first=pose_first)
    keys = [1000, 1100, 1200, 1300] if neighbours == "past" else [1000, 1100, 1200]
    assert one.answers(2 * len(keys)) == keys * 2
    half = len(keys)
    assert one.questions()[half:] == one.questions()[:half], "nothing of the first time is a neighbour in the second"
    poses_of = [[frame.world_from_camera.tolist() for frame in asked.frames] for asked in one.model.asked]
    assert poses_of[half:] == poses_of[:half]
    # The last image of the first time was the one after a key frame; it never became one itself.
    assert one.frames()[2]["reset: time jump"] == "1"
    drops = one.one.drops()
    assert set(drops) <= {"neighbour only", "restart"} and sum(drops.values()) == (neighbours == "centred")
    assert values_of(one.one.ask_status("poses"))["odd: restart"] == "1"


def test_a_simulator_that_starts_elsewhere_with_an_image_before_its_poses(drive) -> None:
    one = drive()
    one.steps(0, 4)
    for number in range(3):
        one.step(1000 + 100 * number, 500.0 + number, pose_first=False)
    assert one.answers(7)[4:] == [1000, 1100, 1200] and one.one.drops() == {}
    x = [[round(float(frame.world_from_camera[0, 3]), 6) for frame in asked.frames] for asked in one.model.asked]
    assert x[4:] == [[500.0], [501.0, 500.0], [502.0, 501.0, 500.0]]
    assert one.frames()[2]["reset: time jump"] == "1" and "reset: pose jump" not in one.frames()[2]


def test_reset_forgets_frames_and_poses(drive) -> None:
    one = drive(tf_timeout_s=0.2)
    one.steps(0, 3)
    one.answers(3)
    client = one.one.peer.create_client(Trigger, "reset")
    assert one.one.ros.spin_until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    assert one.one.ros.spin_until(future.done) and future.result().success
    one.image(1250)
    one.one.wait_for_status("input", ERROR, "image: no pose for its stamp")
    one.step(1300, 3.0)
    assert one.answers(4)[-1] == 1300 and one.questions()[-1] == (1300,)
    assert one.frames()[1] == "one image answers: the first frame after a reset"


def test_a_restart_while_the_mount_of_an_image_is_looked_up(drive, monkeypatch: pytest.MonkeyPatch) -> None:
    one = drive()
    perception, begun, release = one.one.node._perception, threading.Event(), threading.Event()
    set_up = perception._setup

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert release.wait(20.0)
        return set_up(*arguments)

    monkeypatch.setattr(perception, "_setup", slow)
    for number in range(2):
        one.pose(1000 + 100 * number, number)
    one.image(1000)
    assert one.one.ros.spin_until(begun.is_set)
    one.one.node._restart("the camera was changed", "change of publisher")
    release.set()
    assert one.one.ros.spin_until(lambda: one.one.drops() == {"restart": 1})
    one.image(1100)
    assert one.answers(1) == [1100] and one.questions() == [(1100,)]


def test_a_model_that_uses_no_neighbours_is_named(drive, monkeypatch: pytest.MonkeyPatch) -> None:
    one = drive()
    inner = one.model._inner
    monkeypatch.setattr(
        one.model, "predict", lambda observation, *rest: inner.predict(observation, *rest), raising=False
    )
    one.steps(0, 3)
    one.answers(3)
    level, message, _ = one.frames()
    assert level == WARN and "answered from one image although neighbours were there" in message


def test_deactivation_while_an_image_waits_for_its_pose(drive) -> None:
    one = drive()
    one.image(1000)
    one.one.ros.spin_for(0.2)
    one.one.node.trigger_deactivate()
    assert not one.one.node._left_running(), "the wait ends with the deactivation"
    one.pose(1050, 0.0)
    one.one.node.trigger_activate()
    one.one.wait_for_subscriptions()
    one.step(1100, 0.0)
    assert one.answers(1) == [1100]
