"""Whose images are taken where several nodes publish on one topic: those of one, as long as it goes on.

Two cameras may name the same frame; mixed, they would give wrong distances. A driver that is started anew overlaps with
the one before. What tells them apart is the publisher's gid, which rclpy gives beside each message from ROS 2 Lyrical
on; older ones do not say whose a message is, and then no image is taken while there are two publishers.

Which CameraInfo belongs to the images is told by the name of the node. Two drivers may be started with the same one;
then their processes tell them apart.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

from kyn_ros.diagnostics import node_name, second_publisher
from kyn_ros.pairing import KEPT_INFOS

SILENT_S, SILENT_PERIODS = 1.0, 3
"""After so long without an image of the publisher in use, and so many of its periods, another one takes its place."""
KEPT_TIMES, KEPT_PUBLISHERS = 3, 8
PROCESS_BYTES = 12
"""With DDS, gids of one process begin with the same bytes, those of two processes with others."""
ADVICE = "stop the others, or give each camera a node of its own, in a namespace"
OTHER, UNKNOWN = "other publisher", "two image publishers"
"""Reasons for a dropped image."""

Source = Mapping[str, Any] | None
"""What rclpy says about a message beside it (``MessageInfo``); None before ROS 2 Iron."""


class Verdict(NamedTuple):
    """What to do with an image. restart: a sentence if everything starts afresh before it. reason, sentence: why it is
    dropped, empty if it is taken. chosen: its publisher is another one than before, or the first; the CameraInfo
    messages until now may be of another camera."""

    restart: str = ""
    reason: str = ""
    sentence: str = ""
    chosen: bool = False


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
        # When the last images came, by publisher.
        self._times: dict[bytes, tuple[float, ...]] = {}
        self._several = False
        self._infos: deque[tuple[bytes, CameraInfo]] = deque(maxlen=KEPT_INFOS)

    def image(self, source: Source) -> Verdict:
        """Whether an image is taken."""
        gid = gid_of(source)
        if gid is None:
            return self._without_gid()
        self._note(gid)
        before = self._used
        if before is None or before == gid:
            self._used = gid
            return Verdict(chosen=before is None)
        known = self._known(self._image_topic)
        gone = gid in known and before not in known
        # After its first image nobody knows whether another one comes.
        silent_s = self._silent_s(before) if len(self._times[gid]) > 1 else 0.0
        if not gone and not silent_s:
            return Verdict(reason=OTHER, sentence=self._sentence(known))
        self._used = gid
        return Verdict(
            restart=f"image: the publisher in use on {self._image_topic} "
            f"{'is gone' if gone else f'has been silent for {silent_s:.1f} s'}, "
            f"those of {known.get(gid, 'another one')} are used from now on",
            chosen=True,
        )

    def _note(self, gid: bytes) -> None:
        """An image of this publisher has come."""
        self._times[gid] = (*self._times.pop(gid, ())[1 - KEPT_TIMES :], self._clock())
        others = [other for other in self._times if other != self._used]
        if len(others) > KEPT_PUBLISHERS:
            del self._times[others[0]]

    def _silent_s(self, gid: bytes) -> float:
        """For how long a publisher has been silent, 0 while its next image may still come."""
        times = self._times[gid]
        # The shorter one, for a pause is not a period.
        period_s = min((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)
        silent_s = self._clock() - times[-1]
        return silent_s if silent_s > max(SILENT_S, SILENT_PERIODS * period_s) else 0.0

    def info(self, message: CameraInfo, source: Source) -> bool:
        """Whether a CameraInfo may be of the images that are taken: not if it is of another camera.

        Else two cameras that name the same frame would exchange their focal lengths. Before the first image nobody
        knows: then that brings ``latest_infos``.
        """
        gid = gid_of(source)
        if gid is None:
            return True
        self._infos.append((gid, message))
        return self._belongs()(gid)

    def latest_infos(self) -> list[CameraInfo]:
        """What was last published of the camera whose images are taken, oldest first; it may be older than they are."""
        belongs = self._belongs()
        return [message for gid, message in self._infos if belongs(gid)]

    def _belongs(self) -> Callable[[bytes], bool]:
        """Whether the CameraInfo of a publisher is of the images that are taken: if one is known to be, only that."""
        others, infos = self._known(self._image_topic), self._known(self._info_topic)
        name = others.pop(self._used or b"", "")
        process = (self._used or b"")[:PROCESS_BYTES]
        own = {gid for gid, node in infos.items() if node == name and gid.startswith(process)}
        foreign = {gid for gid, node in infos.items() if node in others.values()}
        return lambda gid: gid in own if own else gid not in foreign

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
        return Verdict(second if begins else "", UNKNOWN, sentence, begins)
