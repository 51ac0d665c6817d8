"""Values that are built beside the thread that asks for them."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from kyn_ros.background import Background
from kyn_ros.worker import Cancelled

NEVER = threading.Event()


def test_a_value_is_built_once_and_others_wait_their_turn() -> None:
    values: Background[str] = Background()
    release, built = threading.Event(), []

    def build(name: str) -> str:
        release.wait(5.0)
        built.append(name)
        return name.upper()

    for _ in range(3):
        assert values.get("a", lambda: build("a")) is None
        assert values.get("b", lambda: build("b")) is None and not values.any()
    release.set()
    values.wait(NEVER)
    assert values.get("a", lambda: build("a")) == "A" and values.any() and values.known("b") is None
    assert values.get("b", lambda: build("b")) is None
    values.wait(NEVER)
    assert values.get("b", lambda: build("b")) == "B" and built == ["a", "b"]


def test_a_failure_is_raised_each_time_and_not_tried_again() -> None:
    values: Background[str] = Background()
    tries = []

    def fail() -> str:
        tries.append(1)
        raise ValueError("no such camera")

    assert values.get("a", fail) is None
    values.wait(NEVER)
    for _ in range(3):
        with pytest.raises(ValueError, match="no such camera"):
            values.get("a", fail)
    assert len(tries) == 1 and not values.any() and values.known("a") is None


def test_only_the_newest_are_kept() -> None:
    values: Background[int] = Background(keep=2)
    for number in range(3):
        values.get(number, lambda number=number: number)
        values.wait(NEVER)
        values.get(0, lambda: 0)
        values.wait(NEVER)
    assert values.known(0) == 0 and values.known(2) == 2 and values.known(1) is None


def test_waiting_can_be_cancelled_and_closing_names_the_thread_that_is_left() -> None:
    values: Background[int] = Background()
    release, cancelled = threading.Event(), threading.Event()
    values.get("a", lambda: int(release.wait(20.0)))
    threading.Timer(0.1, cancelled.set).start()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        values.wait(cancelled)
    assert time.monotonic() - begin < 10
    left = values.close(0.05)
    assert left is not None and left.is_alive()
    release.set()
    left.join(5.0)
    assert values.close(0.05) is None
