"""Where the vehicle was when an image was taken: from Odometry, from PoseStamped, or from TF.

A pose is interpolated to the image's stamp. Where there is none, the image is dropped: nothing is ever made up, and a
missing pose never becomes identity.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from kyn_models.types import Float64Array
from kyn_ros import convert
from kyn_ros.convert import InputError
from kyn_ros.diagnostics import ERROR, OK, STALE, WARN, delay_text, make_status
from kyn_ros.mount import pose_from_quaternion, tf2_ros
from kyn_ros.params import PerceptionParameters
from kyn_ros.pose_buffer import Located, PoseBuffer, PoseLate, check_numbers
from kyn_ros.worker import wait_until

DEPTH = 200
"""Poses that may wait for the executor."""


class TopicPoses:
    """Poses from the topic ``odom`` (Odometry) or ``pose`` (PoseStamped of the vehicle's frame).

    Messages are buffered in the executor; ``lookup`` waits for them in whichever thread asks.
    """

    def __init__(self, node: Node, parameters: PerceptionParameters) -> None:
        self._node, self._source = node, parameters.pose_source
        self._base_frame, self._timeout_s = parameters.grid.frame_id, parameters.tf_timeout_s
        self._stale_s = parameters.input_timeout_s
        self._buffer = PoseBuffer(parameters.poses.gap_s, parameters.poses.max_speed_mps, self._timeout_s)
        self._lock = threading.Lock()
        self._frame_id = ""
        self._oddities: Counter[str] = Counter()
        self._taken = 0
        self._last_s: float | None = None
        self._refusal = ""
        message, handle = (Odometry, self._on_odometry) if self._source == "odom" else (PoseStamped, self._on_pose)
        self._subscription = node.create_subscription(
            message, self._source, handle, parameters.qos.poses.profile(DEPTH)
        )

    @property
    def frame_id(self) -> str:
        """The fixed frame the poses are in, as the messages name it; empty before the first."""
        with self._lock:
            return self._frame_id

    def lookup(self, stamp_ns: int, cancelled: threading.Event) -> Float64Array:
        """(4, 4) float64 ``odom_from_base`` at a stamp. Errors as ``locate``."""
        return self.locate(stamp_ns, cancelled).odom_from_base

    def locate(self, stamp_ns: int, cancelled: threading.Event, timeout_s: float | None = None) -> Located:
        """The pose at a stamp, and the epoch it belongs to.

        Waits up to ``tf_timeout_s`` (or timeout_s) for the message that follows the stamp. Raises ``InputError``
        (reasons ``no pose`` and ``two pose publishers``), at once where waiting cannot bring it, ``PoseLate`` after the
        wait; ``Cancelled`` as soon as ``cancelled`` is set.
        """
        if sentence := self._second_publisher():
            raise InputError("two pose publishers", sentence)
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        found = self._buffer.wait(stamp_ns, timeout_s, cancelled)
        if found is None:
            raise PoseLate("no pose", self._missing(timeout_s))
        return found

    def age_text(self) -> str:
        """Milliseconds from the newest pose's stamp to now on the node's clock, for diagnostics."""
        age_ns = self._buffer.age_ns(self._node.get_clock().now().nanoseconds)
        return delay_text(None if age_ns is None else age_ns * 1e-9)

    def reset(self) -> None:
        """Forget all poses."""
        self._buffer.clear()

    def images_restarted(self, back: bool) -> None:
        """Images jumped in time; back: to earlier stamps. Poses from before that answer no image from then on."""
        self._buffer.images_restarted(back)

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)

    def status(self, name: str) -> DiagnosticStatus:
        """What arrives, for diagnostics."""
        second = self._second_publisher()
        age = self.age_text()
        with self._lock:
            since_s = None if self._last_s is None else time.monotonic() - self._last_s
            values = {
                "source": self._source,
                "topic": self._subscription.topic_name,
                "fixed_frame": self._frame_id,
                "poses": str(self._taken),
                "arrived_s_ago": "none yet" if since_s is None else f"{since_s:.2f}",
                "age_ms": age,
                **{f"odd: {reason}": str(count) for reason, count in sorted(self._oddities.items())},
            }
            level, message = OK, "poses arrive"
            if self._refusal:
                level, message = ERROR, self._refusal
            elif second:
                level, message = ERROR, second
            elif since_s is None:
                level, message = STALE, f"no pose yet on {self._subscription.topic_name}"
            elif since_s > self._stale_s:
                level, message = STALE, f"the last pose on {self._subscription.topic_name} came {since_s:.1f} s ago"
        return make_status(name, level, message, values)

    def _on_odometry(self, message: Odometry) -> None:
        if message.child_frame_id != self._base_frame:
            self._refuse(
                "child_frame_id",
                f"{self._source}: got poses of {message.child_frame_id!r} (child_frame_id), "
                f"expected those of grid.frame_id {self._base_frame!r}",
            )
            return
        self._take(message.header, message.pose.pose)

    def _on_pose(self, message: PoseStamped) -> None:
        self._take(message.header, message.pose)

    def _take(self, header: Header, pose: Any) -> None:
        p, q = pose.position, pose.orientation
        stamp_ns = convert.stamp_ns(header.stamp)
        with self._lock:
            moved = self._frame_id not in ("", header.frame_id)
            self._frame_id = header.frame_id
        if moved:
            self._buffer.clear()
        try:
            oddity = self._buffer.add(stamp_ns, (p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
        except ValueError as error:
            self._refuse("not a pose", f"{self._source}: {error}")
            return
        with self._lock:
            self._oddities.update([oddity] * bool(oddity) + ["other fixed frame"] * moved)
            self._taken += 1
            self._last_s, self._refusal = time.monotonic(), ""

    def _refuse(self, reason: str, sentence: str) -> None:
        with self._lock:
            self._oddities[reason] += 1
            new, self._refusal = sentence != self._refusal, sentence
        if new:
            self._node.get_logger().warning(f"refused: {sentence}", throttle_duration_sec=5.0)

    def _missing(self, timeout_s: float) -> str:
        with self._lock:
            if self._refusal:
                return self._refusal
            seen = "none has arrived" if self._last_s is None else "the newest is from before its stamp"
        return f"image: no pose for its stamp on {self._subscription.topic_name} after {timeout_s:g} s ({seen})"

    def _second_publisher(self) -> str:
        topic = self._subscription.topic_name
        if self._node.count_publishers(topic) < 2:
            return ""
        names = sorted(
            f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for info in self._node.get_publishers_info_by_topic(topic)
        )
        return f"{self._source}: got {len(names)} publishers on {topic} ({', '.join(names)}), expected one"


class TfPoses:
    """Poses from TF: where the vehicle's frame is in ``poses.fixed_frame``. TF interpolates and never extrapolates."""

    def __init__(self, node: Node, parameters: PerceptionParameters) -> None:
        self.frame_id = parameters.poses.fixed_frame
        self._base_frame, self._timeout_s = parameters.grid.frame_id, parameters.tf_timeout_s
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._epoch = 0
        self._refusal = ""

    def lookup(self, stamp_ns: int, cancelled: threading.Event) -> Float64Array:
        """(4, 4) float64 ``odom_from_base`` at a stamp. Errors as ``locate``."""
        return self.locate(stamp_ns, cancelled).odom_from_base

    def locate(self, stamp_ns: int, cancelled: threading.Event, timeout_s: float | None = None) -> Located:
        """As ``TopicPoses.locate``."""
        timeout_s, epoch = self._timeout_s if timeout_s is None else timeout_s, self._epoch
        place = (self.frame_id, self._base_frame, Time(nanoseconds=stamp_ns))

        def found() -> bool:
            return self._buffer.can_transform(*place, Duration())

        wait_until(lambda: found() or self._has_newer(stamp_ns), timeout_s, cancelled)
        if not found():
            self._refusal = (
                f"image: TF has no transform from {self._base_frame!r} to {self.frame_id!r} at its stamp "
                f"within {timeout_s:g} s"
            )
            raise (InputError if self._has_newer(stamp_ns) else PoseLate)("no pose", self._refusal)
        transform = self._buffer.lookup_transform(*place).transform
        t, q = transform.translation, transform.rotation
        numbers = (t.x, t.y, t.z), (q.x, q.y, q.z, q.w)
        try:
            check_numbers(*numbers)
        except ValueError as error:
            self._refusal = f"tf: {error}"
            raise InputError("no pose", self._refusal) from error
        self._refusal = ""
        return Located(pose_from_quaternion(*numbers), epoch)

    def _has_newer(self, stamp_ns: int) -> bool:
        """True where TF is past a stamp: what it has no transform for by now, it never will."""
        latest = (self.frame_id, self._base_frame, Time())
        if not self._buffer.can_transform(*latest, Duration()):
            return False
        return convert.stamp_ns(self._buffer.lookup_transform(*latest).header.stamp) > stamp_ns

    def age_text(self) -> str:
        """TF does not say how old its newest pose is."""
        return ""

    def reset(self) -> None:
        """Forget all poses; transforms that never change stay."""
        self._epoch += 1
        self._buffer.clear()

    def images_restarted(self, back: bool) -> None:
        """Forget all poses: TF takes none that is older than what it has."""
        self.reset()

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

    def status(self, name: str) -> DiagnosticStatus:
        """What was found last, for diagnostics."""
        values = {"source": "tf", "fixed_frame": self.frame_id}
        return make_status(name, WARN if self._refusal else OK, self._refusal or "TF has poses", values)


PoseSource = TopicPoses | TfPoses


def make_pose_source(node: Node, parameters: PerceptionParameters) -> PoseSource | None:
    """What the parameter ``pose_source`` names; None for ``none``.

    Raises ``ValueError`` for ``tf`` where ``tf2_ros`` is not installed.
    """
    if parameters.pose_source == "none":
        return None
    if parameters.pose_source != "tf":
        return TopicPoses(node, parameters)
    if tf2_ros is None:
        raise ValueError(
            f"{node.get_name()}: pose_source is tf and tf2_ros is not installed, expected odom or pose, "
            "or a ROS 2 installation with TF"
        )
    return TfPoses(node, parameters)
