"""Waits until those who listen have been found: what is published before that reaches nobody.

Finding each other takes Fast DDS some milliseconds, or, where the first announcements are lost, until the next one
after 3 s. Then both sides learn of each other's topics, not at the same moment, and a lost message about those is sent
again after 1 s. A best-effort subscriber loses all that is published before it has learned of the publisher.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

FOUND_WITHIN_S = 5.0
"""After so long without anybody, nobody listens."""
SETTLE_S = 1.2
"""After the last subscriber was found."""


def wait_for_listeners(
    counts: Callable[[], Sequence[int]],
    enough: Callable[[Sequence[int]], bool],
    spin: Callable[[float], None],
    stop: threading.Event,
    within_s: float = FOUND_WITHIN_S,
) -> bool:
    """True once ``enough`` subscribers are there and no other one has come for a while; False after ``within_s``.

    counts: subscribers by topic. spin: does the node's work until a moment on the steady clock. stop: ends the wait.
    """
    deadline = time.monotonic() + within_s
    last: Sequence[int] = ()
    settled_s = 0.0
    while not stop.is_set():
        now, found = time.monotonic(), counts()
        if found != last:
            last, settled_s = found, now + SETTLE_S
        if enough(found) and now >= settled_s:
            return True
        if not enough(found) and now >= deadline:
            return False
        spin(now + 0.05)
    return False
