"""Image and CameraInfo of the same moment, and the order of stamps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

WAITING_IMAGES = 3
KEPT_INFOS = 60
JUMP_NS = 5_000_000_000
"""Stamps this far apart do not belong to one drive."""

LATE_NS = 500_000_000
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


@dataclass
class Pairing:
    """Pairs images with CameraInfo by stamp, in whichever order they arrive.

    slop_ns: stamps this near are the same moment. unpaired: called with the number of nanoseconds to the nearest
    CameraInfo (None without any) for every image that is given up.
    """

    slop_ns: int
    unpaired: Callable[[int | None], None]
    _images: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    _infos: OrderedDict[int, Any] = field(default_factory=OrderedDict)

    def add_image(self, stamp_ns: int, image: Any) -> tuple[Any, Any] | None:
        """The pair (image, info), or None while its CameraInfo has not come."""
        nearest = self._nearest(stamp_ns)
        if nearest is not None and abs(nearest - stamp_ns) <= self.slop_ns:
            self._give_up(before_ns=stamp_ns)
            return image, self._infos[nearest]
        self._images[stamp_ns] = image
        if len(self._images) > WAITING_IMAGES:
            self._give_up(before_ns=next(iter(self._images)) + 1)
        return None

    def add_info(self, stamp_ns: int, info: Any) -> tuple[Any, Any] | None:
        """The newest pair (image, info) that this CameraInfo completes, or None."""
        self._infos[stamp_ns] = info
        if len(self._infos) > KEPT_INFOS:
            self._infos.popitem(last=False)
        waiting = [stamp for stamp in self._images if abs(stamp - stamp_ns) <= self.slop_ns]
        if not waiting:
            return None
        image = self._images.pop(waiting[-1])
        self._give_up(before_ns=waiting[-1])
        return image, info

    def drop_images(self) -> int:
        """Forget the images that wait, after a restart of their stamps; how many there were."""
        count = len(self._images)
        self._images.clear()
        return count

    def forget_infos(self) -> None:
        """Forget the CameraInfo messages, after a restart of their stamps."""
        self._infos.clear()

    def _nearest(self, stamp_ns: int) -> int | None:
        return min(self._infos, key=lambda other: abs(other - stamp_ns), default=None)

    def _give_up(self, before_ns: int) -> None:
        for stamp in [stamp for stamp in self._images if stamp < before_ns]:
            del self._images[stamp]
            nearest = self._nearest(stamp)
            self.unpaired(None if nearest is None else abs(nearest - stamp))
