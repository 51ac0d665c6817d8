"""Slow work beside the executor, so that diagnostics, services and shutdown never wait for a network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def wait_for(function: Callable[[], T], go_on: Callable[[], bool], every_s: float = 1.0) -> T | None:
    """``function()`` in a thread of its own, ``go_on()`` here at once and every second until it is done.

    None as soon as ``go_on`` says False; the thread is then left to itself. Raises what ``function`` raises.
    """
    outcome: dict[str, Any] = {}
    done = threading.Event()

    def work() -> None:
        try:
            outcome["value"] = function()
        except BaseException as error:  # carried over to the caller's thread
            outcome["error"] = error
        done.set()

    threading.Thread(target=work, name="kyn load", daemon=True).start()
    while go_on():
        if done.wait(every_s):
            if "error" in outcome:
                raise outcome["error"]
            return outcome["value"]
    return None


class Worker(Generic[T]):
    """One thread with a mailbox of one: it always works on the newest item.

    handle: called in the thread for each item; it must not raise.
    """

    def __init__(self, handle: Callable[[T], None]) -> None:
        self._handle = handle
        self._item: T | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kyn inference", daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Hand over an item; True if it replaced one that nobody had begun."""
        with self._changed:
            replaced, self._item = self._item is not None, item
            self._changed.notify()
        return replaced

    def clear(self) -> bool:
        """Take back an item that nobody has begun; True if there was one."""
        with self._changed:
            waiting, self._item = self._item is not None, None
        return waiting

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current item; False if that takes longer than ``timeout_s``."""
        with self._changed:
            self._stopping, self._item = True, None
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._item is not None)
                if self._stopping:
                    return
                item, self._item = self._item, None
            assert item is not None
            self._handle(item)
