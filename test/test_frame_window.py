"""The window of posed frames: which neighbours a key frame gets, and when it stands alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from kyn_models.frame_window import KEPT_FRAMES, Choice, FrameWindow, WindowOptions
from kyn_models.types import Intrinsics, PosedFrame

CAMERA = Intrinsics(50.0, 50.0, 15.5, 7.5, 32, 16)
MS = 1_000_000


def frame_at(
    stamp_ms: float, z_m: float, yaw: float = 0.0, x_m: float = 0.0, camera: Intrinsics = CAMERA
) -> PosedFrame:
    """A camera that looks along z."""
    pose = np.eye(4)
    pose[:3, :3] = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    pose[:3, 3] = x_m, 0.0, z_m
    return PosedFrame(np.zeros((camera.height, camera.width, 3), np.uint8), camera, round(stamp_ms * MS), pose)


def drive(window: FrameWindow, speed_mps: float, frames: Iterable[int], hz: float = 10.0) -> list[Choice | None]:
    return [window.add(frame_at(1000 + 1e3 * n / hz, speed_mps * n / hz)) for n in frames]


def numbers(choices: Iterable[Choice | None]) -> list[tuple[int, ...] | None]:
    """Key and neighbours as numbers of images at 10 Hz."""
    return [
        None if c is None else tuple(round((f.stamp_ns / MS - 1000) / 100) for f in (c.key, *c.neighbours))
        for c in choices
    ]


def past(**options: float) -> FrameWindow[PosedFrame]:
    return FrameWindow(WindowOptions(neighbours="past", **options))


def centred(**options: float) -> FrameWindow[PosedFrame]:
    return FrameWindow(WindowOptions(neighbours="centred", **options))


def test_past_takes_the_newest_frames_a_spacing_apart() -> None:
    assert numbers(drive(past(), 10.0, range(4))) == [(0,), (1, 0), (2, 1, 0), (3, 2, 1)]
    # 0.4 m from one image to the next: every second one is far enough.
    assert numbers(drive(past(), 4.0, range(7)))[4:] == [(4, 2, 0), (5, 3, 1), (6, 4, 2)]


def test_centred_takes_the_frames_before_and_after_as_published() -> None:
    choices = drive(centred(), 10.0, range(5))
    # The first frame is answered at once, from itself, and the second as soon as the third is there.
    assert numbers(choices) == [(0,), None, (1, 0, 2), (2, 1, 3), (3, 2, 4)]
    assert [round(c.baseline_m, 6) for c in choices if c is not None] == [0.0, 1.0, 1.0, 1.0]
    assert numbers(drive(centred(), 4.0, range(8)))[4:] == [(2, 0, 4), (3, 1, 5), (4, 2, 6), (5, 3, 7)]


@pytest.mark.parametrize("make", [past, centred])
def test_every_key_frame_is_chosen_once_and_in_order(make) -> None:
    window, rng = make(), np.random.default_rng(7)
    z_m, keys = 0.0, []
    speed = np.repeat([12.0, 0.0, 1.0, 0.0, 6.0, 0.5, 15.0], 30)
    for n, mps in enumerate(np.convolve(speed, np.full(10, 0.1), "same")):
        z_m += mps * 0.1
        early_ms = rng.integers(-20, 20)
        choice = window.add(frame_at(1000 + 100 * n + early_ms, z_m + mps * early_ms * 1e-3))
        if choice is not None:
            keys.append(choice.key.stamp_ns)
            assert bool(choice.neighbours) != bool(choice.reason)
    assert keys == sorted(set(keys)) and len(keys) > (150 if make is past else 120)
    assert not window.resets


def test_standing_still_leaves_the_newest_frame_alone() -> None:
    for window in (past(), centred()):
        drive(window, 10.0, range(6))
        choices = [window.add(frame_at(1600 + 100 * n, 5.0)) for n in range(25)]
        choices += [window.add(frame_at(4000 + 10 * n, 5.0)) for n in range(1, 1000)]
        assert all(choice.cause == "too little baseline" for choice in choices[25:])
        last = choices[24]
        assert last is not None and last.key.stamp_ns == 4000 * MS and last.neighbours == ()
        assert last.cause == "too little baseline" and last.reason.startswith("standing still: the camera moved less")
        assert len(window) <= 8


def test_too_slow_for_the_spacing_says_how_far_it_moved() -> None:
    choice = drive(past(), 0.2, range(40))[-1]
    assert choice is not None and not choice.neighbours
    assert choice.reason == "the camera moved less than spacing_m = 0.7 m within 2 s"
    # Without delay there is more time to gather a baseline than centred waits for.
    assert drive(past(), 0.5, range(40))[-1].neighbours
    slow = drive(centred(), 0.5, range(40))
    assert all(choice is not None and not choice.neighbours for choice in slow)


def test_centred_waits_at_most_for_its_delay() -> None:
    window = centred()
    choices = drive(window, 0.0, range(10))
    z_m, stamps = 0.0, [1900.0]
    for n in range(10, 40):
        z_m += min(0.3, 0.05 * (n - 9))
        choices.append(window.add(frame_at(1000 + 100 * n, z_m)))
        if choices[-1] is not None:
            stamps.append(1000.0 + 100 * n)
    assert max(np.diff(stamps)) <= 600
    assert len(numbers(choices)[-1]) == 3


def test_the_reason_of_the_first_frame() -> None:
    window = past()
    first = window.add(frame_at(1000, 0.0))
    assert first.reason == "the first frame" and first.cause == "first frame"
    window.reset("camera change")
    assert window.add(frame_at(1100, 1.0)).reason == "the first frame after a camera change"
    assert window.resets == {"camera change": 1}


def test_time_jumps_start_afresh() -> None:
    window = past()
    drive(window, 10.0, range(5))
    back = window.add(frame_at(500, 3.0))
    assert back.reason == "the first frame after a time jump"
    ahead = window.add(frame_at(500 + 5001, 4.0))
    assert not ahead.neighbours and window.resets == {"time jump": 2}


def test_repeated_and_late_frames_are_ignored() -> None:
    window = past()
    drive(window, 10.0, (0, 1, 3))
    assert window.add(frame_at(1300, 3.0)) is None and window.add(frame_at(1200, 2.0)) is None
    assert window.ignored == {"repeated stamp": 1, "out of order": 1} and not window.resets
    assert numbers([window.add(frame_at(1400, 4.0))]) == [(4, 3, 1)]


@pytest.mark.parametrize(
    "jumped",
    [
        frame_at(1500, 5.0, x_m=6.5),  # faster than 60 m/s
        frame_at(1500, 5.0, yaw=1.0),  # turned faster than a circle in a second
        frame_at(1500, 5.0, x_m=0.5),  # sideways by half a metre within a tenth of a second
        frame_at(1500, 5.6),  # the same ahead
    ],
)
def test_pose_jumps_start_afresh(jumped: PosedFrame) -> None:
    window = past()
    drive(window, 10.0, range(5))
    assert window.add(jumped).reason == "the first frame after a pose jump"
    assert window.resets == {"pose jump": 1}


def test_hard_braking_and_noise_are_no_jumps() -> None:
    window, rng = past(), np.random.default_rng(3)
    z_m, speed = 0.0, 20.0
    for n in range(60):
        speed = max(0.0, speed - 1.0) if n > 20 else speed
        z_m += speed * 0.1
        window.add(frame_at(1000 + 100 * n, z_m + rng.normal(0, 0.02), x_m=rng.normal(0, 0.02)))
    assert not window.resets


def test_another_camera_starts_afresh() -> None:
    window = past()
    drive(window, 10.0, range(3))
    assert window.add(frame_at(1300, 3.0, camera=CAMERA.resized(64, 32))).reason.endswith("after a size change")
    zoomed = Intrinsics(120.0, 120.0, 31.0, 15.0, 64, 32)
    assert window.add(frame_at(1400, 4.0, camera=zoomed)).reason.endswith("after a camera change")
    # A calibration that is refined while driving stays the same camera, and each frame keeps its own.
    refined = Intrinsics(120.5, 120.5, 31.0, 15.0, 64, 32)
    choice = window.add(frame_at(1500, 5.0, camera=refined))
    assert [frame.intrinsics.fx for frame in (choice.key, *choice.neighbours)] == [120.5, 120.0]


def test_frames_too_far_apart_or_turned_too_far_are_no_neighbours() -> None:
    choice = drive(past(), 20.0, range(0, 20, 5))[-1]
    assert choice.cause == "too far apart" and "10.0 m away, expected at most max_baseline_m = 8 m" in choice.reason
    # The nearer one may still do.
    assert numbers(drive(past(max_baseline_m=3.0), 20.0, range(4)))[-1] == (3, 2)
    window = past()
    for n in range(8):
        choice = window.add(frame_at(1000 + 100 * n, 0.2 * n, yaw=0.3 * n))
    assert choice.cause == "turned too far" and "turned by 69 degrees" in choice.reason


def test_a_frame_without_a_pose_is_refused() -> None:
    bare = PosedFrame(np.zeros((16, 32, 3), np.uint8), CAMERA, 5)
    with pytest.raises(ValueError, match="frame at 5 ns: got no pose"):
        past().add(bare)
    pose = np.eye(4)
    pose[0, 0] = 1.1
    for bad in (pose, np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="world_from_camera"):
            PosedFrame(bare.image, CAMERA, 5, bad)


def test_remembered_frames_become_neighbours_and_are_not_asked_about() -> None:
    window = centred()
    window.add(frame_at(1000, 0.0))
    for n in range(1, 5):
        assert window.add(frame_at(1000 + 100 * n, n), ask=False) is None
    assert numbers([window.add(frame_at(1500, 5.0))]) == [(4, 3, 5)]


def test_chosen_again_without_frames_that_are_of_no_use() -> None:
    window = past()
    last = drive(window, 10.0, range(5))[-1]
    assert numbers([last]) == [(4, 3, 2)]
    assert numbers([window.choose_again([last.neighbours[0]])]) == [(4, 2)]
    # Without the key frame too: what is left had its turn.
    assert window.choose_again([last.key]) is None
    assert not window.holds(last.key.stamp_ns) and len(window) == 1
    last = window.add(frame_at(1500, 5.0))
    assert numbers([last]) == [(5, 2)] and window.choose_again([last.key]) is None
    # What is no image still had a place: this is a jump from there.
    assert window.add(frame_at(1600, 9.0)).reason.endswith("after a pose jump")


def test_chosen_again_an_older_frame_that_nobody_asked_about_answers() -> None:
    window = past()
    drive(window, 10.0, range(2))
    window.add(frame_at(1200, 2.0), ask=False)
    last = window.add(frame_at(1300, 3.0))
    assert numbers([window.choose_again([last.key])]) == [(2, 1)]


def test_centred_chosen_again_waits_for_another_frame_after_the_key_frame() -> None:
    window = centred()
    last = drive(window, 10.0, range(4))[-1]
    assert numbers([last]) == [(2, 1, 3)]
    assert window.choose_again([last.neighbours[1]]) is None
    assert numbers([window.add(frame_at(1400, 4.0))]) == [(2, 1, 4)]
    # Without the key frame, and without all.
    last = window.add(frame_at(1500, 5.0))
    assert numbers([last]) == [(4, 2, 5)] and numbers([window.choose_again([last.key])]) == [None]
    assert numbers([window.add(frame_at(1600, 6.0))]) == [(5, 2, 6)]
    only = past()
    first = only.add(frame_at(1000, 0.0))
    assert only.choose_again([first.key]) is None and len(only) == 0


def test_memory_is_bounded_however_the_camera_moves() -> None:
    window, rng = past(), np.random.default_rng(1)
    most = 0
    for n in range(600):
        # To and fro by less than the spacing, at 60 Hz.
        window.add(frame_at(1000 + n * 16.7, 0.3 * math.sin(n / 9), x_m=0.3 * math.cos(n / 7) + rng.normal(0, 0.001)))
        most = max(most, len(window))
    assert most <= KEPT_FRAMES + 1 and not window.resets
    slow = past()
    for n in range(600):
        slow.add(frame_at(1000 + n * 33.3, 0.03 * n))
        assert len(slow) <= 12


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spacing_m": 0.0}, "spacing_m: got 0.0, expected a number above 0"),
        ({"max_age_s": math.nan}, "max_age_s: got nan"),
        ({"neighbours": "both"}, "neighbours: got 'both', expected centred or past"),
        ({"max_baseline_m": 0.5}, "max_baseline_m: got 0.5, expected at least spacing_m = 0.7"),
    ],
)
def test_options(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        WindowOptions(**options)
