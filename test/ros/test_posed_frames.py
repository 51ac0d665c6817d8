"""A model of several frames in the perception node, over real rclpy: which frames it is asked about, and bad input.

The model is a stand-in that answers from the key frame and keeps what it was asked; the rest is the node.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import CAMERA, MOUNT, image_of, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from posed_drive import MS
from sensor_msgs.msg import Image

from kyn_models.frame_window import KEPT_FRAMES, WindowOptions
from kyn_models.types import Float64Array, PosedFrame
from kyn_ros import convert
from kyn_ros.arrival import Arrival, Looks, Placed
from kyn_ros.camera_info import Camera
from kyn_ros.convert import InputError
from kyn_ros.fates import NEWER_IMAGE, Fate
from kyn_ros.frames import BACKLOG, Frames
from kyn_ros.mount import pose_from_numbers
from kyn_ros.pose_buffer import Located, PoseBuffer, PoseLate

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


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


# -- without a node ----------------------------------------------------------------------------------------------------


class Poses(PoseBuffer):
    """A vehicle that drives along x, asked as the node's pose sources are."""

    def __init__(self, speed_mps: float, *stamps_ms: int) -> None:
        super().__init__(gap_s=0.5, max_speed_mps=60.0)
        for stamp_ms in stamps_ms:
            self.add(stamp_ms * MS, (speed_mps * stamp_ms * 1e-3, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))

    def locate(self, stamp_ns: int, cancelled: threading.Event, timeout_s: float | None = None) -> Located:
        found = self.wait(stamp_ns, 0.0, cancelled)
        if found is None:
            raise PoseLate("no pose", "image: late")
        return found

    def age_text(self) -> str:
        return ""


class Asked:
    """The frames of a window, and what became of the images that they were given."""

    def __init__(self, poses: Poses, options: WindowOptions = WindowOptions()) -> None:  # noqa: B008 - frozen
        self.drops: list[str] = []
        self.looked: list[int] = []
        self.arrivals: dict[int, Arrival] = {}
        self.received = self.answered = 0
        self.frames = Frames(poses, options, lambda reason, sentence: self.drops.append(reason))

    def arrive(self, *stamps_ms: int) -> None:
        for stamp_ms in stamps_ms:
            self.arrivals[stamp_ms] = Arrival(image_of(128, stamp_ms * MS), info_of(stamp_ms * MS), 0.0)
            self.received += 1
            self.frames.arrived(self.arrivals[stamp_ms])

    def waiting(self) -> int:
        """Images that are neither answered nor dropped, by the counts."""
        return self.received - self.answered - len(self.drops)

    def choose(
        self, stamp_ms: int, broken: int = 0, bad_info: int = 0, meanwhile: Callable[[], object] = lambda: None
    ) -> list[int]:
        """Stamps of key and neighbours. broken: the image that is none; bad_info: the CameraInfo that is none.

        meanwhile: called once the image is begun.
        """

        def place(arrival: Arrival, pose: Float64Array) -> Placed:
            if arrival.stamp_ns == bad_info * MS:
                raise InputError("camera_info", "camera_info: broken")
            return Placed(arrival, Camera(CAMERA, (CAMERA.width, CAMERA.height)), pose)

        def look(placed: Placed) -> PosedFrame:
            self.looked.append(placed.stamp_ns // MS)
            if placed.stamp_ns == broken * MS:
                raise InputError("image data", "image: broken")
            image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
            return PosedFrame(image, CAMERA, placed.stamp_ns, placed.world_from_camera)

        if stamp_ms not in self.arrivals:
            self.arrive(stamp_ms)
        arrival = self.arrivals[stamp_ms]
        if not self.frames.begin(arrival):
            return []
        meanwhile()
        try:
            chosen = self.frames.choose(arrival, Looks(place, look), threading.Event())
        except InputError as error:
            self.frames.given_up(Fate(error.reason, str(error)))
            raise
        if chosen is None:
            return []
        self.frames.answered(chosen, len(chosen.frames))
        self.answered += 1
        assert chosen.key.stamp_ns == chosen.frames[0].stamp_ns
        return [frame.stamp_ns // MS for frame in chosen.frames]


@pytest.mark.parametrize("every_s", [0.7, 3.0])
def test_a_fast_camera_before_a_slow_model_still_has_neighbours(every_s: float) -> None:
    one = Asked(Poses(3.0, *range(1000, 11_000, 100)))
    stamps = range(1000, 10_800, 16)
    due = 1000.0
    for stamp_ms in stamps:
        one.arrive(stamp_ms)
        assert len(one.frames._waiting) <= BACKLOG
        if stamp_ms < due:
            continue
        due += 1e3 * every_s
        key, *neighbours = one.choose(stamp_ms)
        assert key == stamp_ms
        # At 3 m/s a spacing of 0.7 m takes 0.23 s; two of them are well within the 2 s of a neighbour.
        assert len(neighbours) == 2 or stamp_ms == 1000, one.frames._note


def test_the_newest_image_without_a_pose_is_counted_when_an_older_one_answers() -> None:
    one = Asked(Poses(10.0, 1000, 1100, 1200, 1300, 2000))
    assert one.choose(1000) == [1000]
    one.arrive(1100, 1200, 1600)
    assert one.choose(1600) == [1200, 1100, 1000] and one.drops == ["no pose"]


def test_an_image_that_cannot_become_a_neighbour_is_counted_and_named() -> None:
    one = Asked(Poses(10.0, *range(1000, 2000, 100)))
    assert one.choose(1000) == [1000]
    one.arrive(1100, 1200, 1300)
    assert one.choose(1300, bad_info=1200) == [1300, 1100, 1000] and one.drops == ["camera_info"]
    status = one.frames.status("frames")
    assert status.level == WARN
    assert status.message == "an image could not become a neighbour: camera_info: broken"
    assert {value.key: value.value for value in status.values}["no neighbour: camera_info"] == "1"
    one.arrive(1400)
    one.choose(1400)
    assert "could not become" not in one.frames.status("frames").message


def test_only_chosen_images_are_looked_at_and_each_once() -> None:
    one = Asked(Poses(3.0, *range(1000, 11_000, 100)))
    for stamp_ms in range(1000, 4000, 100):
        one.arrive(stamp_ms)
        if stamp_ms % 500 == 0:
            before = len(one.looked)
            frames = one.choose(stamp_ms)
            assert sorted(one.looked[before:]) == sorted(set(frames) - set(one.looked[:before]))
    assert len(one.looked) == len(set(one.looked)) <= 3 * 6


def test_a_chosen_image_that_is_none_is_dropped_and_the_frames_chosen_again() -> None:
    one = Asked(Poses(10.0, *range(1000, 2000, 100)))
    one.arrive(1000, 1100, 1200)
    assert one.choose(1300, broken=1200) == [1300, 1100] and one.looked == [1300, 1200, 1100]
    assert "could not become a neighbour: image: broken" in one.frames.status("frames").message
    assert one.choose(1400) == [1400, 1300, 1100]
    # The newest one: the frames before were answered, or had their turn.
    assert one.choose(1500, broken=1500) == [] and one.drops.count("image data") == 2
    assert one.choose(1600) == [1600, 1400, 1300]


def test_images_of_the_time_before_a_restart_are_not_waited_for() -> None:
    poses = Poses(10.0, 1000)
    one = Asked(poses)
    one.arrive(1100, 1200)
    asked: list[int] = []

    def locate(stamp_ns: int, cancelled: threading.Event, timeout_s: float | None = None) -> Located:
        asked.append(stamp_ns // MS)
        one.frames.restart("time jump")
        raise InputError("restart", "image: of the time before a restart")

    poses.locate = locate
    with pytest.raises(InputError, match="of the time before"):
        one.choose(1300)
    assert asked == [1100]


def test_an_image_of_the_time_before_a_restart_is_no_neighbour_of_those_after_it() -> None:
    one = Asked(Poses(10.0, *range(1000, 2000, 100)))

    def restart() -> None:
        one.frames.restart("change of publisher")
        one.arrive(1100)

    one.arrive(1300)
    with pytest.raises(InputError, match="of the time before a restart"):
        one.choose(1300, meanwhile=restart)
    assert one.drops == ["restart"] and one.looked == []
    assert one.choose(1200) == [1200, 1100] and one.waiting() == len(one.frames) == 1


def test_an_image_with_the_stamp_of_the_one_at_work_is_answered_after_a_restart() -> None:
    one = Asked(Poses(10.0, 1000, 1100))

    def play_again() -> None:
        one.frames.restart("time jump")
        one.arrive(1000)

    one.arrive(1000)
    with pytest.raises(InputError, match="of the time before a restart"):
        one.choose(1000, meanwhile=play_again)
    assert one.drops == ["restart"] and one.waiting() == len(one.frames) == 1
    assert one.choose(1000) == [1000] and one.waiting() == len(one.frames) == 0


def test_an_image_that_was_only_a_neighbour_is_counted_as_that_when_it_leaves() -> None:
    one = Asked(Poses(10.0, *range(1000, 3000, 100)))
    one.arrive(1000, 1050, 1100, 1200)
    for stamp_ms in (1000, 1050, 1100):
        one.frames.passed_over(one.arrivals[stamp_ms], NEWER_IMAGE)
    assert one.choose(1200) == [1200, 1100, 1000]
    # They may still be neighbours of others; the one between them was not, and never is.
    assert one.drops == [] and one.waiting() == len(one.frames) == 3
    for stamp_ms in (1300, 1400, 1500):
        one.choose(stamp_ms)
    assert sorted(one.drops) == ["neighbour only", "neighbour only", "newer image"] and one.waiting() == 0
    one.arrive(1600)
    one.frames.restart("reset")
    assert one.drops[-1] == "restart" and one.waiting() == len(one.frames) == 0


def test_an_older_image_that_is_answered_late_was_not_dropped_before() -> None:
    one = Asked(Poses(10.0, 1000, 1100))
    assert one.choose(1000) == [1000]
    one.arrive(1100, 1200)
    one.frames.passed_over(one.arrivals[1100], NEWER_IMAGE)
    assert one.choose(1200) == [1100, 1000] and not one.drops and one.waiting() == len(one.frames) == 1


@pytest.mark.parametrize("neighbours", ["past", "centred"])
@pytest.mark.parametrize("seed", range(6))
def test_every_image_is_answered_or_dropped_or_waits(neighbours: Literal["past", "centred"], seed: int) -> None:
    """Whatever happens: slow and late poses, gaps, a slow model, broken images, restarts, a rate limit."""
    rng = np.random.default_rng(seed)
    poses = Poses(3.0, 900)
    one = Asked(poses, WindowOptions(neighbours=neighbours))
    stamp_ms, posed_ms, speed = 1000, 900, 3.0
    mailbox = 0
    for _ in range(600):
        stamp_ms += int(rng.integers(15, 120))
        one.arrive(stamp_ms)
        if rng.random() < 0.3:
            one.frames.passed_over(one.arrivals[stamp_ms], Fate("max_rate_hz", "image: above max_rate_hz"))
        else:
            if mailbox:
                one.frames.passed_over(one.arrivals[mailbox], NEWER_IMAGE)
            mailbox = stamp_ms
        if rng.random() < 0.7:
            # Late, now and then by more than poses.gap_s.
            posed_ms = max(posed_ms + 10, stamp_ms - int(rng.integers(0, 200)) + 700 * (rng.random() < 0.03))
            poses.add(posed_ms * MS, (speed * posed_ms * 1e-3, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
        if mailbox and rng.random() < 0.5:
            broken = mailbox if rng.random() < 0.1 else 0
            with contextlib.suppress(InputError):
                one.choose(mailbox, broken, mailbox if rng.random() < 0.1 else 0)
            mailbox = 0
        if rng.random() < 0.02:
            one.frames.restart("reset")
            mailbox = 0
            assert len(one.frames) == 0
        assert one.waiting() == len(one.frames) <= BACKLOG + KEPT_FRAMES + 2
    assert one.answered > 50 and {"newer image", "neighbour only", "max_rate_hz", "no pose"} <= set(one.drops)
    one.frames.restart("deactivation", Fate("deactivated", "image: the node was deactivated"))
    assert one.received == one.answered + len(one.drops) and len(one.frames) == 0


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
