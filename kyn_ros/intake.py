"""What the messages of a camera become: pairs of image and CameraInfo, of one camera, in order, not too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kyn_models.stamp_order import StampOrder
from kyn_ros import convert
from kyn_ros.pairing import CHANGED_AFTER, OneCamera, Pairing
from kyn_ros.params import PerceptionParameters


class Intake:
    """drop: called with reason and sentence for every image that is given up. restart: called with a sentence, a cause
    and the jump in nanoseconds (0: none) before the first image of another time or camera."""

    def __init__(
        self,
        parameters: PerceptionParameters,
        drop: Callable[[str, str], None],
        restart: Callable[[str, str, int], None],
    ) -> None:
        self._slop_s, self._limit_hz = parameters.pairing_slop_s, parameters.max_rate_hz
        self._drop, self._restart = drop, restart
        self._pairing = Pairing(round(self._slop_s * 1e9), self._on_unpaired)
        self._begin()

    def _begin(self) -> None:
        self._camera, self._images, self._infos = OneCamera(), StampOrder(), StampOrder()
        self._last_taken_ns: int | None = None
        self._info_is_named = False
        self._set_aside: deque[CameraInfo] = deque(maxlen=CHANGED_AFTER)

    def forget(self) -> None:
        """Begin afresh with the next messages, whatever they are."""
        self._pairing.forget_infos()
        self._begin()

    def begin_with(self, infos: Iterable[CameraInfo]) -> None:
        """Begin afresh, with these as the only CameraInfo messages that have come, oldest first."""
        self.forget()
        for info in infos:
            self.info(info)

    def waiting(self) -> int:
        """Images that wait for their CameraInfo."""
        return self._pairing.waiting()

    def drop_images(self) -> int:
        """Forget the images that wait for their CameraInfo; how many there were."""
        self._last_taken_ns = None
        return self._pairing.drop_images()

    def image(self, message: Image | CompressedImage) -> tuple[Any, CameraInfo] | None:
        """The pair that an image completes."""
        stamp, frame_id = convert.stamp_ns(message.header.stamp), message.header.frame_id
        camera = self._camera.check(frame_id)
        if camera == "other":
            self._drop(
                "other camera",
                f"image: frame_id {frame_id!r} among images of {self._camera.frame_id!r}, expected one camera on one "
                "topic; give each camera a node of its own, in a namespace",
            )
            return None
        before = self._images.last_ns
        order = self._images.check(stamp)
        jump_ns = stamp - before if order == "restart" and before is not None else 0
        if order == "repeated":
            self._drop("repeated stamp", "image: its stamp is that of the image before, expected a later one")
            return None
        if order == "late":
            self._drop("out of order", "image: its stamp is before that of the image before, expected a later one")
            return None
        if camera == "changed":
            self._restart("image: its frame_id changed", "camera change", jump_ns)
            self._pairing.forget_infos()
            self._info_is_named, others = False, list(self._set_aside)
            for info in others:
                self.info(info)
        elif order == "restart":
            self._restart("image: its stamp jumped", "time jump", jump_ns)
        return self._pairing.add_image(stamp, message)

    def info(self, message: CameraInfo) -> tuple[Any, CameraInfo] | None:
        """The newest pair that a CameraInfo completes."""
        stamp = convert.stamp_ns(message.header.stamp)
        # Some drivers name another frame than the image does. Where one with the image's name comes, others belong to
        # a second camera, and with its focal length distances would be wrong.
        if message.header.frame_id == self._camera.frame_id:
            self._info_is_named = True
        elif self._info_is_named:
            self._set_aside.append(message)
            return None
        # Each topic finds its own restart: late messages of the other one, from before it, then do no harm.
        if self._infos.check(stamp) == "restart":
            self._pairing.forget_infos()
        return self._pairing.add_info(stamp, message)

    def too_soon(self, stamp_ns: int) -> bool:
        """True where an image is above ``max_rate_hz``; else the rate counts from it."""
        # A tenth of a period of tolerance keeps every second image of a 20 Hz camera at 10 Hz in spite of jitter.
        last = self._last_taken_ns
        if self._limit_hz > 0 and last is not None and stamp_ns - last < 0.9e9 / self._limit_hz:
            return True
        self._last_taken_ns = stamp_ns
        return False

    def _on_unpaired(self, distance_ns: int | None) -> None:
        if distance_ns is None:
            self._drop("no camera_info", "image: no camera_info has arrived, expected one with the stamp of each image")
        else:
            self._drop(
                "unpaired",
                f"image: the nearest camera_info is {distance_ns * 1e-9:.3f} s away, expected one with the stamp of "
                f"each image (pairing_slop_s is {self._slop_s})",
            )
