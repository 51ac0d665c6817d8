"""A model of several frames in the perception node, over real rclpy: which frames it is asked about, and bad input.

The model is a stand-in that answers from the key frame and keeps what it was asked; the rest is the node.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import MOUNT, image_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from posed_drive import MS
from sensor_msgs.msg import Image

from kyn_ros import convert
from kyn_ros.mount import pose_from_numbers

OK, ERROR = DiagnosticStatus.OK, DiagnosticStatus.ERROR


def test_past_neighbours_answer_every_image_at_once(drive) -> None:
    one = drive()
    one.steps(0, 4)
    assert one.answers(4) == [1000, 1100, 1200, 1300]
    assert one.questions() == [(1000,), (1100, 1000), (1200, 1100, 1000), (1300, 1200, 1100)]
    level, message, values = one.frames()
    assert (level, message) == (OK, "neighbours are used")
    assert (values["neighbours"], values["baseline_m"], values["delay_ms"]) == ("2", "2.00", "0")
    assert values["answered with 2 neighbours"] == "2" and values["alone: first frame"] == "1"


def test_poses_of_frames_are_those_of_the_camera(drive) -> None:
    one = drive()
    one.step(1000, 0.0)
    # The camera is between two poses when the second image is taken.
    one.pose(1060, 0.9)
    one.image(1080)
    one.pose(1100, 1.1)
    assert one.answers(2) == [1000, 1080]
    key, before = one.model.asked[-1].frames
    mount = pose_from_numbers(MOUNT)
    np.testing.assert_allclose(before.world_from_camera, mount, atol=1e-12)
    np.testing.assert_allclose(key.world_from_camera[:3, 3], mount[:3, 3] + [1.0, 0, 0], atol=1e-9)
    assert key.intrinsics == before.intrinsics


def test_centred_answers_carry_the_stamp_of_the_key_frame_once(drive) -> None:
    one = drive(frames__neighbours="centred")
    depths = one.one.listen(Image, "depth/image_rect")
    one.steps(0, 5)
    assert one.answers(4) == [1000, 1100, 1200, 1300]
    assert one.questions() == [(1000,), (1100, 1000, 1200), (1200, 1100, 1300), (1300, 1200, 1400)]
    assert one.one.ros.spin_until(lambda: len(depths) == 4)
    assert [convert.stamp_ns(depth.header.stamp) // MS for depth in depths] == [1000, 1100, 1200, 1300]
    level, _, values = one.frames()
    assert level == OK and (values["delay_ms"], values["baseline_m"]) == ("100", "1.00")
    assert one.one.drops() == {}


def test_images_that_had_no_time_for_an_answer_are_neighbours(drive) -> None:
    one = drive()
    one.step(1000, 0.0)
    one.answers(1)
    one.model.hold.clear()
    for number in range(1, 6):
        one.pose(1000 + 100 * number, number)
        one.image(1000 + 100 * number)
        one.one.ros.spin_for(0.1)
    one.model.hold.set()
    assert one.answers(3) == [1000, 1100, 1500]
    assert one.questions()[-1] == (1500, 1400, 1300)
    # Two of them may still be neighbours of the next ones.
    assert one.one.drops() == {"newer image": 1} and values_of(one.one.ask_status("input"))["waiting"] == "2"


def test_undecodable_images_are_dropped_and_the_frames_chosen_again(drive) -> None:
    one = drive()
    one.steps(0, 2)
    one.answers(2)
    one.model.hold.clear()
    one.step(1200, 2.0)
    for number, encoding in ((3, "rgb8"), (4, "32FC1"), (5, "rgb8")):
        one.pose(1000 + 100 * number, number)
        one.image(1000 + 100 * number, encoding=encoding)
        one.one.ros.spin_for(0.1)
    one.model.hold.set()
    assert one.answers(4) == [1000, 1100, 1200, 1500]
    assert one.questions()[-1] == (1500, 1300)
    one.pose(1600, 6.0)
    one.image(1600, encoding="32FC1")
    status = one.one.wait_for_status("input", ERROR, "image: got encoding '32FC1', expected one of")
    assert values_of(status)["dropped: encoding"] == "2"
    one.step(1700, 7.0)
    assert one.questions()[-1] == (1700, 1500, 1300)


def test_the_node_counts_every_image_once(drive) -> None:
    one = drive(tf_timeout_s=0.3, frames__neighbours="centred")

    def settled() -> dict[str, str]:
        """The counts once the inference thread has nothing to do."""
        values: dict[str, str] = {}

        def agree() -> bool:
            values.update(values_of(one.one.ask_status("input")))
            held = one.one.node._intake.waiting() + int(values_of(one.one.status("frames"))["waiting"])
            return int(values["waiting"]) == held

        assert one.one.ros.spin_until(agree, 5.0), values
        return values

    one.steps(0, 4)
    one.answers(3)
    assert settled()["waiting"] != "0", "the newest waits for the next one"
    one.one.send(image_of(128, 1310 * MS))
    one.one.ros.spin_for(0.2)
    settled()
    one.image(1290)
    one.one.ros.spin_for(0.2)
    one.image(1400)
    assert one.one.ros.spin_until(lambda: "no pose" in one.one.drops())
    one.model.hold.clear()
    for number in range(5, 9):
        one.pose(1000 + 100 * number, number)
        one.image(1000 + 100 * number, encoding="rgb8" if number != 6 else "32FC1")
        one.one.ros.spin_for(0.1)
    one.image(1800, frame="rear_optical")
    one.model.hold.set()
    one.one.ros.spin_for(0.5)
    values = settled()
    assert {"out of order", "no pose", "other camera"} <= {key[9:] for key in values if key.startswith("dropped: ")}
    one.steps(0, 2)
    one.one.ros.spin_for(0.3)
    assert int(settled()["dropped: neighbour only"]) > 0, "of the time before the restart"
    one.one.node.trigger_deactivate()
    one.one.node.trigger_activate()
    one.one.wait_for_subscriptions()
    assert settled()["waiting"] == "0" and "dropped: deactivated" in settled()
    one.step(2000, 50.0)
    assert int(settled()["images"]) > 12
