"""Neighbours of the frames of a recorded drive."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kyn_models.drive_window import DriveWindow, Place
from kyn_models.frame_window import WindowOptions
from kyn_models.types import Intrinsics

K = Intrinsics(100.0, 100.0, 31.5, 15.5, 64, 32)


def drive(metres: Iterable[float], **options: float) -> DriveWindow:
    """A frame at each place of a straight line, 10 a second."""
    places = []
    for number, forward in enumerate(metres):
        pose = np.eye(4)
        pose[2, 3] = forward
        places.append(Place(number, (number + 1) * 100_000_000, K, pose))
    return DriveWindow(places, WindowOptions(**options))  # type: ignore[arg-type]


def test_one_before_and_one_after_and_two_of_one_side_at_the_ends() -> None:
    window = drive(np.arange(6.0))
    assert [window.beside(number) for number in range(6)] == [(1, 2), (0, 2), (1, 3), (2, 4), (3, 5), (4, 3)]
    assert drive([0.0]).beside(0) == () and window.beside(99) == ()


def test_a_slow_drive_loses_no_frame_and_standing_has_no_neighbours() -> None:
    slow = drive(0.1 * np.arange(30))
    assert slow.beside(15) == (8, 22) and slow.beside(29) == (22, 15) and slow.beside(1) == (8, 15)
    assert drive([0.0] * 30).beside(15) == ()


def test_too_old_too_far_and_beyond_a_jump_are_none() -> None:
    assert drive(0.04 * np.arange(60)).beside(30) == (12, 48)
    assert drive(0.04 * np.arange(60), max_age_s=1.0).beside(30) == ()
    assert drive(5.0 * np.arange(6)).beside(0) == (1,), "the second is too far from the key frame"
    jump = drive([0.0, 1.0, 2.0, 50.0, 51.0, 52.0])
    assert jump.beside(2) == (1, 0) and jump.beside(3) == (4, 5)


def test_another_one_serves_for_a_broken_one() -> None:
    window = drive(np.arange(6.0))
    assert window.beside(3, {2}) == (1, 4) and window.beside(3, {0, 1, 2}) == (4, 5)
