"""Slow work beside the executor, so that diagnostics, services and shutdown never wait for a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """The work is no longer wanted."""


def check(cancelled: threading.Event) -> None:
    """Raises ``Cancelled`` if the event is set."""
    if cancelled.is_set():
        raise Cancelled


def wait_until(condition: Callable[[], bool], timeout_s: float, cancelled: threading.Event) -> bool:
    """True once ``condition()`` holds, False after ``timeout_s``. Raises ``Cancelled`` as soon as the event is set.

    Polled on the steady clock: with use_sim_time a stopped clock would make a wait of ROS endless.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        cancelled.wait(0.02)
        check(cancelled)
    return True


def wait_for(
    function: Callable[[], T],
    go_on: Callable[[], bool],
    leave: Callable[[threading.Thread], None],
    every_s: float = 1.0,
) -> T | None:
    """``function()`` in a thread of its own, ``go_on()`` here at once and every second until it is done.

    None as soon as ``go_on`` says False; ``leave`` is then given the thread, which goes on. Raises what ``function``
    raises.
    """
    outcome: dict[str, Any] = {}
    done = threading.Event()

    def work() -> None:
        try:
            outcome["value"] = function()
        except BaseException as error:  # carried over to the caller's thread
            outcome["error"] = error
        done.set()

    thread = threading.Thread(target=work, name="kyn load", daemon=True)
    thread.start()
    while go_on():
        if done.wait(every_s):
            if "error" in outcome:
                raise outcome["error"]
            return outcome["value"]
    leave(thread)
    return None


class Worker(Generic[T]):
    """One thread with a mailbox of one: it always works on the newest item.

    handle: called in the thread for each item, with an event that is set once the answer is no longer wanted; it must
    not raise.
    """

    def __init__(self, handle: Callable[[T, threading.Event], None]) -> None:
        self._handle = handle
        self._item: T | None = None
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="kyn inference", daemon=True)
        self.thread.start()

    def put(self, item: T) -> T | None:
        """Hand over an item; the one that it replaced, which nobody had begun, if there was one."""
        with self._changed:
            replaced, self._item = self._item, item
            self._changed.notify()
        return replaced

    def clear(self) -> T | None:
        """Take back the item that nobody has begun, if there is one."""
        with self._changed:
            waiting, self._item = self._item, None
        return waiting

    def stop(self, timeout_s: float) -> bool:
        """Cancel the current item and end the thread; False if that takes longer than ``timeout_s``."""
        with self._changed:
            self._cancelled.set()
            self._item = None
            self._changed.notify()
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._cancelled.is_set() or self._item is not None)
                if self._cancelled.is_set():
                    return
                item, self._item = self._item, None
            assert item is not None
            self._handle(item, self._cancelled)
