"""Where the vehicle was when an image was taken: from Odometry, from PoseStamped, or from TF.

A pose is interpolated to the image's stamp. Where there is none, the image is dropped: nothing is ever made up, and a
missing pose never becomes identity.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from kyn_models.types import Float64Array
from kyn_ros import convert
from kyn_ros.convert import InputError
from kyn_ros.diagnostics import ERROR, OK, STALE, WARN, delay_text, make_status, second_publisher
from kyn_ros.mount import pose_from_quaternion, tf2_ros
from kyn_ros.params import PerceptionParameters
from kyn_ros.pose_buffer import KEPT_POSES, Located, PoseBuffer, PoseLate, check_numbers, gap_sentence
from kyn_ros.worker import wait_until

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # it comes with tf2_ros, or not at all
    TFMessage = None

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
        return self._buffer.frame_id

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
            raise PoseLate("no pose", self._missing(stamp_ns, timeout_s))
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
        age, fixed_frame = self.age_text(), self.frame_id
        with self._lock:
            since_s = None if self._last_s is None else time.monotonic() - self._last_s
            values = {
                "source": self._source,
                "topic": self._subscription.topic_name,
                "fixed_frame": fixed_frame,
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
                f"expected those of grid.frame_id {self._base_frame!r}; publish those, or set grid.frame_id",
            )
            return
        self._take(message.header, message.pose.pose)

    def _on_pose(self, message: PoseStamped) -> None:
        self._take(message.header, message.pose)

    def _take(self, header: Header, pose: Any) -> None:
        p, q = pose.position, pose.orientation
        stamp_ns, fixed_frame = convert.stamp_ns(header.stamp), header.frame_id
        if fixed_frame in ("", self._base_frame):
            self._refuse(
                "frame_id",
                f"{self._source}: got poses in the frame {fixed_frame!r} (header.frame_id), expected the name of a "
                "frame that stands still, such as 'odom', and not the vehicle's own",
            )
            return
        try:
            oddity = self._buffer.add(stamp_ns, (p.x, p.y, p.z), (q.x, q.y, q.z, q.w), fixed_frame)
        except ValueError as error:
            self._refuse("not a pose", f"{self._source}: {error}")
            return
        with self._lock:
            self._oddities.update([oddity] * bool(oddity))
            self._taken += 1
            self._last_s, self._refusal = time.monotonic(), ""

    def _refuse(self, reason: str, sentence: str) -> None:
        with self._lock:
            self._oddities[reason] += 1
            new, self._refusal = sentence != self._refusal, sentence
        if new:
            self._node.get_logger().warning(f"refused: {sentence}", throttle_duration_sec=5.0)

    def _missing(self, stamp_ns: int, timeout_s: float) -> str:
        before_ns = self._buffer.age_ns(stamp_ns)
        with self._lock:
            if self._refusal:
                seen = f"the last message was refused: {self._refusal}"
            elif before_ns is None:
                seen = "none has arrived"
            elif before_ns <= 0:
                seen = "those known are of the time before the images went back"
            else:
                seen = f"the newest is from {before_ns * 1e-9:.3f} s before its stamp"
        return (
            f"image: no pose for its stamp on {self._subscription.topic_name} after {timeout_s:g} s ({seen}), expected "
            f"one from before and one from after {stamp_ns * 1e-9:.3f} s; see that poses go on and have the clock of "
            "the images, or raise tf_timeout_s"
        )

    def _second_publisher(self) -> str:
        return second_publisher(self._node, self._subscription.topic_name, self._source)


class TfPoses:
    """Poses from TF: where the vehicle's frame is in ``poses.fixed_frame``.

    TF interpolates and never extrapolates, but over gaps of any length within its 10 s. The stamps of the transforms
    are therefore noted as they come, and an image in a gap longer than ``poses.gap_s`` has no pose.
    """

    def __init__(self, node: Node, parameters: PerceptionParameters) -> None:
        self.frame_id = parameters.poses.fixed_frame
        self._node, self._gap_ns = node, round(parameters.poses.gap_s * 1e9)
        self._base_frame, self._timeout_s = parameters.grid.frame_id, parameters.tf_timeout_s
        self._stale_s = parameters.input_timeout_s
        self._lock = threading.Lock()
        self._stamps: deque[int] = deque(maxlen=KEPT_POSES)
        self._last_s: float | None = None
        self._epoch = 0
        self._refusal = ""
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._subscription = node.create_subscription(TFMessage, "/tf", self._on_tf, DEPTH)

    def lookup(self, stamp_ns: int, cancelled: threading.Event) -> Float64Array:
        """(4, 4) float64 ``odom_from_base`` at a stamp. Errors as ``locate``."""
        return self.locate(stamp_ns, cancelled).odom_from_base

    def locate(self, stamp_ns: int, cancelled: threading.Event, timeout_s: float | None = None) -> Located:
        """As ``TopicPoses.locate``."""
        timeout_s, epoch = self._timeout_s if timeout_s is None else timeout_s, self._epoch
        transform: Any = None
        past = False

        def settled() -> bool:
            # In this order: what TF has no transform for although it was past it before, it never will have.
            nonlocal transform, past
            past = (self._latest_ns() or 0) > stamp_ns
            transform = self._transform(Time(nanoseconds=stamp_ns))
            return transform is not None or past or self._epoch != epoch

        wait_until(settled, timeout_s, cancelled)
        if self._epoch != epoch:
            raise InputError("restart", "image: of the time before a restart")
        if transform is None:
            self._refusal = (
                f"image: TF has no transform from {self._base_frame!r} to {self.frame_id!r} at its stamp "
                f"{stamp_ns * 1e-9:.3f} s within {timeout_s:g} s; see that TF goes on and has the clock of the images"
            )
            raise (InputError if past else PoseLate)("no pose", self._refusal)
        try:
            pose = self._checked(stamp_ns, transform.transform)
        except ValueError as error:
            self._refusal = str(error)
            raise InputError("no pose", self._refusal) from error
        self._refusal = ""
        return Located(pose, epoch, self.frame_id)

    def age_text(self) -> str:
        """As ``TopicPoses.age_text``."""
        latest_ns, now_ns = self._latest_ns(), self._node.get_clock().now().nanoseconds
        return delay_text(None if latest_ns is None else (now_ns - latest_ns) * 1e-9)

    def reset(self) -> None:
        """Forget all poses; transforms that never change stay."""
        with self._lock:
            self._epoch += 1
            self._stamps.clear()
        self._buffer.clear()

    def images_restarted(self, back: bool) -> None:
        """Forget all poses: TF takes none that is older than what it has."""
        self.reset()

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)
        self._listener.unregister()

    def status(self, name: str) -> DiagnosticStatus:
        """What arrives and what was found last, for diagnostics."""
        with self._lock:
            since_s = None if self._last_s is None else time.monotonic() - self._last_s
        wanted = f"a transform from {self._base_frame!r} to {self.frame_id!r}"
        level, message = OK, "TF has poses"
        if since_s is None:
            level, message = STALE, f"TF has not had {wanted} yet"
        elif since_s > self._stale_s:
            level, message = STALE, f"TF last got {wanted} {since_s:.1f} s ago"
        elif self._refusal:
            level, message = WARN, self._refusal
        arrived = "none yet" if since_s is None else f"{since_s:.2f}"
        values = {"source": "tf", "fixed_frame": self.frame_id, "arrived_s_ago": arrived, "age_ms": self.age_text()}
        return make_status(name, level, message, values)

    def _on_tf(self, message: Any) -> None:
        """Note the newest stamp; the listener may have taken in this message already, or do so next."""
        latest_ns = self._latest_ns()
        with self._lock:
            if latest_ns is not None and (not self._stamps or latest_ns > self._stamps[-1]):
                self._stamps.append(latest_ns)
                self._last_s = time.monotonic()

    def _checked(self, stamp_ns: int, transform: Any) -> Float64Array:
        """(4, 4) pose of a transform. Raises ``ValueError`` for one that is none, or that bridges a gap."""
        latest_ns = self._latest_ns()
        with self._lock:
            known = sorted({*self._stamps, *([] if latest_ns is None else [latest_ns])})
        after = bisect_left(known, stamp_ns)
        if 0 < after < len(known) and known[after] > stamp_ns and known[after] - known[after - 1] > self._gap_ns:
            raise ValueError(gap_sentence(known[after] - known[after - 1], self._gap_ns))
        t, q = transform.translation, transform.rotation
        numbers = (t.x, t.y, t.z), (q.x, q.y, q.z, q.w)
        try:
            check_numbers(*numbers)
        except ValueError as error:
            raise ValueError(f"tf: {error}") from error
        return pose_from_quaternion(*numbers)

    def _transform(self, at: Time) -> Any:
        """The transform at a time (0: the latest one), None where there is none."""
        # One call: between asking whether there is one and asking for it the buffer may be cleared.
        try:
            return self._buffer.lookup_transform(self.frame_id, self._base_frame, at)
        except tf2_ros.TransformException:
            return None

    def _latest_ns(self) -> int | None:
        latest = self._transform(Time())
        return None if latest is None else convert.stamp_ns(latest.header.stamp)


PoseSource = TopicPoses | TfPoses


def make_pose_source(node: Node, parameters: PerceptionParameters) -> PoseSource | None:
    """What the parameter ``pose_source`` names; None for ``none``.

    Raises ``ValueError`` for ``tf`` where ``tf2_ros`` is not installed, or the fixed frame is the vehicle's own.
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
    if parameters.poses.fixed_frame == parameters.grid.frame_id:
        raise ValueError(
            f"{node.get_name()}: poses.fixed_frame: got {parameters.poses.fixed_frame!r}, which is grid.frame_id and "
            "moves with the vehicle, expected a frame that stands still, such as odom"
        )
    return TfPoses(node, parameters)
