"""The order of the stamps of one stream of messages or frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

JUMP_NS = 5_000_000_000
"""Stamps this far apart do not belong to one drive."""
LATE_NS = 250_000_000
"""One message that goes back less than this came late; a second one in a row is of a new time."""

Order = Literal["next", "repeated", "late", "restart"]


@dataclass
class StampOrder:
    """Watches the stamps of one topic."""

    last_ns: int | None = None
    _one_was_late: bool = False

    def check(self, stamp_ns: int) -> Order:
        """What a stamp means after the ones before: ``restart`` when it goes back or jumps ahead by over 5 s.

        One that goes back a little is ``late``, and then the next one is compared with the one before it.
        """
        last, one_was_late = self.last_ns, self._one_was_late
        self._one_was_late = last is not None and last - LATE_NS < stamp_ns < last and not one_was_late
        if self._one_was_late:
            return "late"
        self.last_ns = stamp_ns
        if last is None or last < stamp_ns <= last + JUMP_NS:
            return "next"
        return "repeated" if stamp_ns == last else "restart"
