"""Values that are slow to build, built beside the thread that asks for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from kyn_ros.worker import check

T = TypeVar("T")


class Background(Generic[T]):
    """The newest values by key; one at a time is built, in a thread of its own.

    keep: how many are kept, failures included: what could not be built is not tried again for every frame.
    """

    def __init__(self, keep: int = 3) -> None:
        self._keep = keep
        self._values: OrderedDict[Hashable, T | Exception] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def get(self, key: Hashable, build: Callable[[], T]) -> T | None:
        """The value of ``key``; None while it, or another one, is being built. Raises what ``build`` raised."""
        with self._changed:
            if key not in self._values:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._build, args=(key, build), name="kyn build")
                    self._thread.daemon = True
                    self._thread.start()
                return None
            self._values.move_to_end(key)
            value = self._values[key]
        if isinstance(value, Exception):
            raise value
        return value

    def known(self, key: Hashable) -> T | None:
        """The value of ``key`` if it is there."""
        with self._changed:
            value = self._values.get(key)
        return None if isinstance(value, Exception) else value

    def any(self) -> bool:
        """True if a value is there to work with."""
        with self._changed:
            return any(not isinstance(value, Exception) for value in self._values.values())

    def wait(self, cancelled: threading.Event) -> None:
        """Until nothing is being built. Raises ``Cancelled`` as soon as the event is set."""
        while True:
            check(cancelled)
            with self._changed:
                if self._thread is None or self._changed.wait_for(lambda: self._thread is None, 0.02):
                    return

    def close(self, timeout_s: float) -> threading.Thread | None:
        """Forget everything; the thread that still builds after ``timeout_s``, if there is one."""
        with self._changed:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        with self._changed:
            self._values.clear()
        return thread if thread is not None and thread.is_alive() else None

    def _build(self, key: Hashable, build: Callable[[], T]) -> None:
        value: T | Exception
        try:
            value = build()
        except Exception as error:  # carried over to whoever asks
            value = error
        with self._changed:
            self._values[key] = value
            while len(self._values) > self._keep:
                self._values.popitem(last=False)
            self._thread = None
            self._changed.notify_all()
