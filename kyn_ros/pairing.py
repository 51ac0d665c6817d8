"""Image and CameraInfo of the same moment, of one camera."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

WAITING_IMAGES = 3
KEPT_INFOS = 60
CHANGED_AFTER = 5


@dataclass
class OneCamera:
    """Watches whose images arrive on one topic, by the frame_id they name."""

    frame_id: str | None = None
    _other: str = ""
    _in_a_row: int = 0

    def check(self, frame_id: str) -> Literal["same", "other", "changed"]:
        """``other``: an image among those of another camera. ``changed``: the fifth in a row, it is the camera now."""
        if self.frame_id in (None, frame_id):
            self.frame_id, self._in_a_row = frame_id, 0
            return "same"
        self._in_a_row = self._in_a_row + 1 if frame_id == self._other else 1
        self._other = frame_id
        if self._in_a_row < CHANGED_AFTER:
            return "other"
        self.frame_id, self._in_a_row = frame_id, 0
        return "changed"


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

    def waiting(self) -> int:
        """Images without their CameraInfo."""
        return len(self._images)

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
