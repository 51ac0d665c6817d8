"""Which images are asked about together and what becomes of the others, without a node."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import CAMERA, image_of, info_of
from diagnostic_msgs.msg import DiagnosticStatus
from posed_drive import MS

from kyn_models.frame_window import KEPT_FRAMES, WindowOptions
from kyn_models.types import Float64Array, PosedFrame
from kyn_ros.arrival import Arrival, Looks, Placed
from kyn_ros.camera_info import Camera
from kyn_ros.convert import InputError
from kyn_ros.fates import NEWER_IMAGE, Fate
from kyn_ros.frames import BACKLOG, Frames
from kyn_ros.pose_buffer import Located, PoseBuffer, PoseLate


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

    def choose(self, stamp_ms: int, broken: int = 0, bad_info: int = 0, **meanwhile: Callable[[], object]) -> list[int]:
        """Stamps of key and neighbours. broken: the image that is none; bad_info: the CameraInfo that is none.

        meanwhile: what happens once, after the image is begun (``begun``), while it is placed (``place``), looked at
        (``look``) or answered (``answer``).
        """

        def happen(stage: str) -> None:
            meanwhile.pop(stage, lambda: None)()

        def place(arrival: Arrival, pose: Float64Array) -> Placed:
            happen("place")
            if arrival.stamp_ns == bad_info * MS:
                raise InputError("camera_info", "camera_info: broken")
            return Placed(arrival, Camera(CAMERA, (CAMERA.width, CAMERA.height)), pose)

        def look(placed: Placed) -> PosedFrame:
            happen("look")
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
        happen("begun")
        try:
            chosen = self.frames.choose(arrival, Looks(place, look), threading.Event())
        except InputError as error:
            self.frames.given_up(Fate(error.reason, str(error)))
            raise
        if chosen is None:
            return []
        happen("answer")
        self.frames.answered(chosen, len(chosen.frames))
        self.answered += 1
        assert chosen.key.stamp_ns == chosen.frames[0].stamp_ns
        return [frame.stamp_ns // MS for frame in chosen.frames]


@pytest.mark.parametrize("every_s", [0.7, 3.0, 8.0])
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


def test_an_image_whose_turn_is_still_to_come_is_let_go_last() -> None:
    one = Asked(Poses(3.0, 1000, 1100))
    # The second is the one that the mailbox holds; max_rate_hz passes over those that follow.
    one.arrive(1000, 1010)
    for stamp_ms in range(1020, 1020 + 10 * BACKLOG, 10):
        one.arrive(stamp_ms)
        one.frames.passed_over(one.arrivals[stamp_ms], Fate("max_rate_hz", "image: above max_rate_hz"))
    assert set(one.drops) == {"max_rate_hz"} and one.choose(1010) == [1010]


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
    assert status.level == DiagnosticStatus.WARN
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
            assert len(one.frames._converted) <= len(one.frames._window)
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
    assert asked == [1100] and one.waiting() == len(one.frames) == 0


@pytest.mark.parametrize("stage", ["begun", "place", "look"])
def test_images_of_the_time_before_a_restart_are_no_neighbours_of_those_after_it(stage: str) -> None:
    one = Asked(Poses(10.0, *range(1000, 2000, 100)), WindowOptions(neighbours="centred"))
    assert [one.choose(1000), one.choose(1100)] == [[1000], []]

    def restart() -> None:
        one.frames.restart("change of publisher")
        one.arrive(1150)

    with pytest.raises(InputError, match="of the time before a restart"):
        one.choose(1200, **{stage: restart})
    assert one.drops == ["restart"] * 2 and one.waiting() == len(one.frames) == 1
    assert one.choose(1250) == [1150, 1250] and one.waiting() == len(one.frames) == 1


def test_images_that_a_late_pose_gives_back_are_not_kept_over_a_restart() -> None:
    poses = Poses(10.0, *range(1000, 2000, 100))
    one, locate = Asked(poses), poses.locate

    def late(stamp_ns: int, cancelled: threading.Event, timeout_s: float | None = None) -> Located:
        if stamp_ns == 1200 * MS and "restart" not in one.drops:
            one.frames.restart("reset")
            raise PoseLate("no pose", "image: late")
        return locate(stamp_ns, cancelled, timeout_s)

    poses.locate = late
    one.arrive(1100)
    with pytest.raises(InputError, match="of the time before a restart"):
        one.choose(1200)
    assert one.choose(1300) == [1300] and one.waiting() == len(one.frames) == 0


def test_a_restart_while_the_model_is_asked_costs_no_answer() -> None:
    one = Asked(Poses(10.0, 1000, 1100))
    assert one.choose(1000, answer=lambda: one.frames.restart("reset")) == [1000]
    assert one.drops == [] and one.waiting() == len(one.frames) == 0


def test_frames_are_not_compared_where_their_poses_are_not_of_one_series() -> None:
    """Another fixed frame, whose origin may be nearby."""
    poses = Poses(10.0, 1000, 1100)
    one, locate = Asked(poses), poses.locate
    poses.locate = lambda *asked: locate(*asked)._replace(epoch=asked[0])
    assert [one.choose(1000), one.choose(1100)] == [[1000], [1100]]
    assert one.frames._window.resets == {"pose jump": 1}


def test_an_image_with_the_stamp_of_the_one_at_work_is_answered_after_a_restart() -> None:
    one = Asked(Poses(10.0, 1000, 1100))

    def play_again() -> None:
        one.frames.restart("time jump")
        one.arrive(1000)

    one.arrive(1000)
    with pytest.raises(InputError, match="of the time before a restart"):
        one.choose(1000, begun=play_again)
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
    # The inference thread had taken it out of the mailbox, and not begun.
    assert one.choose(1600) == []


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
