"""Whose images are taken where several nodes publish on one topic: those of one, as long as it goes on.

Two cameras may name the same frame; mixed, they would give wrong distances. A driver that is started anew overlaps with
the one before. What tells them apart is the publisher's gid, which rclpy gives beside each message from ROS 2 Lyrical
on; older ones do not say whose a message is, and then no image is taken while there are two publishers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

from kyn_ros.diagnostics import node_name, second_publisher

SILENT_S = 1.0
"""After so long without an image of the publisher in use another one takes its place."""
KEPT_INFOS = 10
ADVICE = "stop the others, or give each camera a node of its own, in a namespace"
OTHER, UNKNOWN = "other publisher", "two image publishers"
"""Reasons for a dropped image."""

Source = Mapping[str, Any] | None
"""What rclpy says about a message beside it (``MessageInfo``); None before ROS 2 Iron."""


class Verdict(NamedTuple):
    """What to do with an image. restart: a sentence if everything starts afresh before it. reason, sentence: why it is
    dropped, empty if it is taken."""

    restart: str = ""
    reason: str = ""
    sentence: str = ""


def with_source(handle: Callable[[Any, Source], None]) -> Callable[..., None]:
    """A callback of a subscription that is told where a message comes from, as far as this rclpy knows."""
    if hasattr(Subscription, "CallbackType"):
        return handle
    return lambda message: handle(message, None)


def gid_of(source: Source) -> bytes | None:
    """The publisher's gid, None where rclpy does not say it."""
    gid = None if source is None else source.get("publisher_gid")
    return None if gid is None else bytes(gid["data"])


class Publishers:
    """The publisher whose images are taken, and the CameraInfo that belongs to it.

    clock: seconds on the steady clock.
    """

    def __init__(
        self, node: Node, image_topic: str, info_topic: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node, self._image_topic, self._info_topic = node, image_topic, info_topic
        self._clock = clock
        self._used: bytes | None = None
        self._last_s = 0.0
        self._several = False
        self._infos: deque[tuple[bytes, CameraInfo]] = deque(maxlen=KEPT_INFOS)

    def image(self, source: Source) -> Verdict:
        """Whether an image is taken."""
        gid = gid_of(source)
        if gid is None:
            return self._without_gid()
        now = self._clock()
        before = self._used
        if before in (None, gid):
            self._used, self._last_s = gid, now
            return Verdict()
        known = self._known(self._image_topic)
        gone = gid in known and before not in known
        if not gone and now - self._last_s <= SILENT_S:
            return Verdict(reason=OTHER, sentence=self._sentence(known))
        self._used, self._last_s = gid, now
        what = "is gone" if gone else f"has been silent for {SILENT_S:g} s"
        return Verdict(
            restart=f"image: the publisher in use on {self._image_topic} {what}, "
            f"those of {known.get(gid, 'another one')} are used from now on"
        )

    def info(self, message: CameraInfo, source: Source) -> bool:
        """Whether a CameraInfo may be of the images that are taken: not if it is of another node and theirs has some.

        Else two cameras that name the same frame would exchange their focal lengths.
        """
        gid = gid_of(source)
        if gid is None:
            return True
        self._infos.append((gid, message))
        if self._used is None or self._node.count_publishers(self._info_topic) < 2:
            return True
        infos = self._known(self._info_topic)
        name = self._known(self._image_topic).get(self._used)
        return name not in infos.values() or infos.get(gid, name) == name

    def latest_infos(self) -> list[CameraInfo]:
        """What the node whose images are taken last published, oldest first; it may have come before its image."""
        infos, name = self._known(self._info_topic), self._known(self._image_topic).get(self._used or b"")
        return [message for gid, message in self._infos if infos.get(gid, "") == name]

    def _known(self, topic: str) -> dict[bytes, str]:
        """Names of the nodes that publish on a topic, as far as discovery knows, by gid."""
        return {bytes(info.endpoint_gid): node_name(info) for info in self._node.get_publishers_info_by_topic(topic)}

    def _sentence(self, known: Mapping[bytes, str]) -> str:
        used = known.get(self._used or b"", "the first one")
        names = ", ".join(sorted(known.values()))
        return (
            f"image: got images of several publishers on {self._image_topic} ({names}), expected one; those of {used} "
            f"are used and the others dropped; {ADVICE}"
        )

    def _without_gid(self) -> Verdict:
        second = second_publisher(self._node, self._image_topic, "image")
        begins, self._several = bool(second) and not self._several, bool(second)
        if not second:
            return Verdict()
        # Whose images those before were is not known.
        sentence = f"{second}, and this rclpy does not say whose an image is; {ADVICE}"
        return Verdict(second if begins else "", UNKNOWN, sentence)
