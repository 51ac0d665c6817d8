"""Vehicle poses by stamp, and the pose between two of them. Needs no ROS.

Written by the thread that receives poses, read by the one that waits for them.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kyn_models.motion_limits import MAX_TURN_RAD_S, SLACK_M, SLACK_RAD
from kyn_models.stamp_order import StampOrder
from kyn_models.types import Float64Array
from kyn_ros.convert import InputError
from kyn_ros.mount import pose_from_quaternion
from kyn_ros.worker import check

KEPT_NS = 10_000_000_000
KEPT_POSES = 5000
SLACK_NS = 1_000_000
"""The first and the last pose stand for stamps this far outside of them: stamps are rounded, 3 cm at 30 m/s."""
UNIT_TOLERANCE = 0.01


class Located(NamedTuple):
    """odom_from_base: (4, 4) float64 pose of the vehicle in the fixed frame, metres.

    epoch: poses of different epochs do not belong together (a jump, a restart or another fixed frame lies between).
    frame_id: the fixed frame.
    """

    odom_from_base: Float64Array
    epoch: int
    frame_id: str


class PoseLate(InputError):
    """There is no pose for an image yet; a later message may bring it."""


def check_numbers(position: Sequence[float], quaternion: Sequence[float]) -> None:
    """Raises ``ValueError`` for numbers that are not finite, or a quaternion that is not of length 1 (within 0.01)."""
    if not np.isfinite([*position, *quaternion]).all():
        raise ValueError(f"got position {tuple(position)} and quaternion {tuple(quaternion)}, expected finite numbers")
    length = float(np.linalg.norm(quaternion))
    if abs(length - 1) > UNIT_TOLERANCE:
        raise ValueError(f"got a quaternion of length {length:.3g}, expected 1")


def gap_sentence(gap_ns: int, most_ns: int) -> str:
    """Says that an image lies in a gap between poses that is not bridged."""
    return (
        f"image: the poses before and after it are {gap_ns * 1e-9:.2f} s apart, "
        f"expected at most poses.gap_s = {most_ns * 1e-9:g} s"
    )


class PoseBuffer:
    """The poses of the last 10 s, in the order of their stamps.

    gap_s: between poses further apart nothing is interpolated. max_speed_mps: what is faster is a jump, after which
    the poses before it are forgotten. patience_s: how long poses may take to go back in time after the images did.
    """

    def __init__(self, gap_s: float, max_speed_mps: float, patience_s: float = 5.0) -> None:
        self._gap_ns, self._max_speed_mps = round(gap_s * 1e9), max_speed_mps
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._order = StampOrder()
        self._stamps: list[int] = []
        self._positions: list[np.ndarray] = []
        self._quaternions: list[np.ndarray] = []
        self._epoch = 0
        self._frame_id = ""
        # Images and poses go back in time one after the other: which of them did so without the other one yet.
        self._poses_went_back = False
        self._images_went_back_s: float | None = None
        self._image_restarts = 0

    @property
    def frame_id(self) -> str:
        """The fixed frame of the newest pose; empty before the first."""
        with self._changed:
            return self._frame_id

    def add(self, stamp_ns: int, position: Sequence[float], quaternion: Sequence[float], frame_id: str = "odom") -> str:
        """Take a pose: metres and x, y, z, w in a fixed frame. What is odd about it, empty if nothing is.

        ``repeated stamp`` and ``out of order``: it is not taken. ``restart``, ``pose jump`` and ``other fixed frame``:
        it is the first of a new epoch. Raises ``ValueError`` as ``check_numbers``, and then nothing has changed.
        """
        check_numbers(position, quaternion)
        p = np.asarray(position, dtype=np.float64)
        q = np.asarray(quaternion, dtype=np.float64) / np.linalg.norm(quaternion)
        with self._changed:
            moved = self._frame_id not in ("", frame_id)
            if moved:
                self._order = StampOrder()
            self._frame_id = frame_id
            order = self._order.check(stamp_ns)
            if order == "repeated":
                return "repeated stamp"
            if order == "late":
                return "out of order"
            oddity = "restart" if order == "restart" else "pose jump" if self._is_jump(stamp_ns, p, q) else ""
            oddity = "other fixed frame" if moved else oddity
            if oddity:
                self._forget()
            self._note_time(went_back=moved or order == "restart")
            self._stamps.append(stamp_ns)
            self._positions.append(p)
            self._quaternions.append(q)
            self._prune()
            self._changed.notify_all()
        return oddity

    def clear(self) -> None:
        """Forget all poses; those that come later are of a new epoch."""
        with self._changed:
            self._order = StampOrder()
            self._poses_went_back, self._images_went_back_s = False, None
            self._forget()

    def images_restarted(self, back: bool) -> None:
        """Images jumped in time; back: to earlier stamps. Whoever waits for the pose of an image before is told.

        Where poses have not gone back yet, those that are known are of the time before, and answer no image until they
        do; poses that go on as they were after ``patience_s`` show that the images alone have another clock now.
        """
        with self._changed:
            self._image_restarts += 1
            if back and self._stamps and not self._poses_went_back:
                self._images_went_back_s = time.monotonic()
            self._poses_went_back = False
            self._changed.notify_all()

    def age_ns(self, now_ns: int) -> int | None:
        """From the newest pose's stamp to ``now_ns``; None without any."""
        with self._changed:
            return now_ns - self._stamps[-1] if self._stamps else None

    def wait(self, stamp_ns: int, timeout_s: float, cancelled: threading.Event) -> Located | None:
        """The pose at a stamp, between the two around it; None if it has not come after ``timeout_s``.

        Raises ``InputError`` (reason ``no pose``) at once where no later message can bring it, (reason ``restart``) as
        soon as images restart, ``Cancelled`` as soon as ``cancelled`` is set.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            restarts = self._image_restarts
            while (found := self._find(stamp_ns)) is None:
                check(cancelled)
                if self._image_restarts != restarts:
                    raise InputError("restart", "image: of the time before a restart")
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, 0.05))
            self._poses_went_back = False
        return found

    def _find(self, stamp_ns: int) -> Located | None:
        stamps = self._stamps
        if not stamps or self._images_went_back_s is not None or stamp_ns > stamps[-1] + SLACK_NS:
            return None
        if stamp_ns < stamps[0] - SLACK_NS:
            raise InputError(
                "no pose",
                f"image: its stamp is {(stamps[0] - stamp_ns) * 1e-9:.3f} s before the first pose that is known, "
                "expected poses from before and after each image",
            )
        after = min(bisect_left(stamps, stamp_ns), len(stamps) - 1)
        if stamps[after] == stamp_ns or after == 0 or stamp_ns > stamps[after]:
            return self._located(self._positions[after], self._quaternions[after])
        gap_ns = stamps[after] - stamps[after - 1]
        if gap_ns > self._gap_ns:
            raise InputError("no pose", gap_sentence(gap_ns, self._gap_ns))
        share = (stamp_ns - stamps[after - 1]) / gap_ns
        position = (1 - share) * self._positions[after - 1] + share * self._positions[after]
        rotation = slerp(self._quaternions[after - 1], self._quaternions[after], share)
        return self._located(position, rotation)

    def _located(self, position: np.ndarray, quaternion: np.ndarray) -> Located:
        return Located(pose_from_quaternion(position, quaternion), self._epoch, self._frame_id)

    def _note_time(self, went_back: bool) -> None:
        """A pose was taken; went_back: it is of another time than those before it."""
        waited_since_s = self._images_went_back_s
        if went_back:
            self._poses_went_back = waited_since_s is None
            self._images_went_back_s = None
        elif waited_since_s is not None and time.monotonic() - waited_since_s > self._patience_s:
            self._images_went_back_s = None

    def _is_jump(self, stamp_ns: int, position: np.ndarray, quaternion: np.ndarray) -> bool:
        if not self._stamps:
            return False
        seconds = (stamp_ns - self._stamps[-1]) * 1e-9
        moved_m = float(np.linalg.norm(position - self._positions[-1]))
        turned_rad = 2 * math.acos(min(1.0, abs(float(quaternion @ self._quaternions[-1]))))
        too_far = moved_m > self._max_speed_mps * seconds + SLACK_M
        return too_far or turned_rad > MAX_TURN_RAD_S * seconds + SLACK_RAD

    def _forget(self) -> None:
        self._epoch += 1
        for values in (self._stamps, self._positions, self._quaternions):
            values.clear()

    def _prune(self) -> None:
        first = max(bisect_left(self._stamps, self._stamps[-1] - KEPT_NS), len(self._stamps) - KEPT_POSES)
        if first > 0:
            for values in (self._stamps, self._positions, self._quaternions):
                del values[:first]


def slerp(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The rotation at ``share`` (0 to 1) of the way from ``a`` to ``b``, unit quaternions x, y, z, w, the short way."""
    cosine = float(a @ b)
    if cosine < 0:  # q and -q are the same rotation
        b, cosine = -b, -cosine
    angle = math.acos(min(1.0, cosine))
    if angle < 1e-6:
        mixed = (1 - share) * a + share * b
    else:
        mixed = (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)
    return mixed / np.linalg.norm(mixed)
