"""Which frames of a drive a model of several frames is asked about together. numpy.

Multi-frame depth compares a key frame with posed neighbours: standing still it learns nothing from them, and with wrong
poses it learns wrong distances. Neighbours are therefore chosen by how far the camera has moved, and a frame without
useful ones stands alone, with the reason. Published is the simple choice, the frames before and after the key frame,
which on KITTI's 10 images per second are 0.7 m apart at 25 km/h.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from kyn_models.motion_limits import MAX_TURN_RAD_S, SLACK_M, SLACK_RAD
from kyn_models.stamp_order import StampOrder
from kyn_models.types import Float64Array, Intrinsics

Neighbours = Literal["centred", "past"]
Cause = Literal["", "first frame", "too little baseline", "too far apart", "turned too far"]

MAX_ACCELERATION_MPS2 = 30.0
"""A step that no vehicle makes is a jump of its poses: three times the acceleration of a full braking."""
SAME_ZOOM = 0.01
PARTS_OF_SPACING = 4
"""Frames are kept at a quarter of the spacing, which bounds their number and chooses well enough."""
KEPT_FRAMES = 16
STANDING_M = 0.05


class Posed(Protocol):
    """What frames are chosen by; their images need not be known yet (``PosedFrame`` has one).

    stamp_ns: nanoseconds. world_from_camera: (4, 4) float64, None where unknown.
    """

    @property
    def stamp_ns(self) -> int: ...

    @property
    def intrinsics(self) -> Intrinsics: ...

    @property
    def world_from_camera(self) -> Float64Array | None: ...


F = TypeVar("F", bound=Posed)


@dataclass(frozen=True)
class WindowOptions:
    """spacing_m: at least this far is the camera moved from one chosen frame to the next.

    neighbours: ``centred``: one before and one after the key frame, as published; the answer is late by one chosen
    frame. ``past``: two before the key frame, which is the newest one.
    max_delay_s: where moving on by the spacing takes longer, ``centred`` does not wait for it.
    max_age_s, max_baseline_m, max_turn_deg: how far a neighbour may be from the key frame in time, place and direction.
    max_speed_mps: frames further apart than this speed allows show a jump of the poses.
    """

    spacing_m: float = 0.7
    neighbours: Neighbours = "past"
    max_delay_s: float = 0.5
    max_age_s: float = 2.0
    max_baseline_m: float = 8.0
    max_turn_deg: float = 30.0
    max_speed_mps: float = 60.0

    def __post_init__(self) -> None:
        for name in ("spacing_m", "max_delay_s", "max_age_s", "max_baseline_m", "max_turn_deg", "max_speed_mps"):
            if not (value := getattr(self, name)) > 0 or not math.isfinite(value):
                raise ValueError(f"{name}: got {value}, expected a number above 0")
        if self.neighbours not in ("centred", "past"):
            raise ValueError(f"neighbours: got {self.neighbours!r}, expected centred or past")
        if self.max_baseline_m < self.spacing_m:
            raise ValueError(
                f"max_baseline_m: got {self.max_baseline_m}, expected at least spacing_m = {self.spacing_m}"
            )


@dataclass(frozen=True)
class Choice(Generic[F]):
    """The frames of one question.

    neighbours: none to two. cause, reason: why there are none, in two words and in a sentence; empty if there are some.
    """

    key: F
    neighbours: tuple[F, ...]
    reason: str = ""
    cause: Cause = ""

    @property
    def baseline_m(self) -> float:
        """How far the camera moved between the key frame and the neighbour furthest from it."""
        return max((distance_m(self.key, frame) for frame in self.neighbours), default=0.0)


class FrameWindow(Generic[F]):
    """The frames of the last metres, in the order of their stamps.

    resets: how often the history was forgotten, by cause. ignored: frames that were not taken, by cause.
    """

    def __init__(self, options: WindowOptions) -> None:
        self.options = options
        self.resets: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self._kept: list[F] = []
        self._newest: F | None = None
        self._newest_usable = True
        self._answered_ns: int | None = None
        self._answered_before_ns: int | None = None
        self._forget("")

    def add(self, frame: F, ask: bool = True) -> Choice[F] | None:
        """Take the next frame, and choose the key frame that can be answered now and its neighbours.

        Every key frame is chosen once, in the order of stamps; None while the next one still waits for the frame after
        it. ask: False only remembers the frame. Frames with the stamp of the one before, or a little older, are
        ignored. Raises ``ValueError`` for a frame without a pose.
        """
        if frame.world_from_camera is None:
            raise ValueError(f"frame at {frame.stamp_ns} ns: got no pose, expected world_from_camera")
        order = self._order.check(frame.stamp_ns)
        if order in ("repeated", "late"):
            self.ignored["repeated stamp" if order == "repeated" else "out of order"] += 1
            return None
        if order == "restart":
            self.reset("time jump")
            self._order.check(frame.stamp_ns)
        elif cause := self._break(frame):
            self.reset(cause)
            self._order.check(frame.stamp_ns)
        self._take(frame)
        return self._choose() if ask else None

    def choose_again(self, broken: Collection[F]) -> Choice[F] | None:
        """The last choice anew, without frames that turned out to be of no use; None where nothing is to be answered.

        They are never chosen again. Where the vehicle was then still tells a jump of the poses.
        """
        stamps = {frame.stamp_ns for frame in broken}
        self._kept = [kept for kept in self._kept if kept.stamp_ns not in stamps]
        self._newest_usable &= self._newest is not None and self._newest.stamp_ns not in stamps
        self._answered_ns = self._answered_before_ns
        return self._choose()

    def reset(self, cause: str = "reset") -> None:
        """Forget all frames; ``cause`` is counted and named with the next frame, unless there were none."""
        if self._newest is not None:
            self.resets[cause] += 1
            self._forget(cause)

    def holds(self, stamp_ns: int) -> bool:
        """True while the frame with this stamp can still be chosen."""
        return any(frame.stamp_ns == stamp_ns for frame in self._usable())

    def __len__(self) -> int:
        return len(self._usable())

    def _usable(self) -> list[F]:
        """All that can be chosen, oldest first."""
        newest = [] if self._newest is None or not self._newest_usable else [self._newest]
        return [*self._kept, *newest]

    def _forget(self, cause: str) -> None:
        self._after = cause
        self._order = StampOrder()
        self._kept, self._newest, self._newest_usable = [], None, True
        self._velocity: np.ndarray | None = None
        self._answered_ns = self._answered_before_ns = None

    def _break(self, frame: F) -> str:
        """Why a frame does not belong to the ones before it; empty if it does."""
        before = self._newest
        if before is None:
            return ""
        a, b = before.intrinsics, frame.intrinsics
        if (a.width, a.height) != (b.width, b.height):
            return "size change"
        if _another_zoom(a, b):
            return "camera change"
        seconds = (frame.stamp_ns - before.stamp_ns) * 1e-9
        step = _position(frame) - _position(before)
        if np.linalg.norm(step) > self.options.max_speed_mps * seconds + SLACK_M:
            return "pose jump"
        if turn_rad(before, frame) > MAX_TURN_RAD_S * seconds + SLACK_RAD:
            return "pose jump"
        if self._velocity is not None:
            unexpected = np.linalg.norm(step - self._velocity * seconds)
            if unexpected > MAX_ACCELERATION_MPS2 * seconds**2 + SLACK_M:
                return "pose jump"
        return ""

    def _take(self, frame: F) -> None:
        before, grain_m = self._newest, self.options.spacing_m / PARTS_OF_SPACING
        keep, self._newest, self._newest_usable = self._newest_usable, frame, True
        if before is None:
            return
        self._velocity = (_position(frame) - _position(before)) / ((frame.stamp_ns - before.stamp_ns) * 1e-9)
        oldest_ns = frame.stamp_ns - round((self.options.max_age_s + self.options.max_delay_s) * 1e9)
        self._kept = [kept for kept in self._kept if kept.stamp_ns >= oldest_ns]
        if keep and (not self._kept or distance_m(self._kept[-1], before) >= grain_m):
            self._kept.append(before)
        chain = tuple(self._chain())
        oldest_ns = chain[-1].stamp_ns if len(chain) == 3 else oldest_ns
        self._kept = [kept for kept in self._kept if kept.stamp_ns >= oldest_ns][-KEPT_FRAMES:]

    def _chain(self) -> Iterator[F]:
        """The newest frame, the newest one a spacing from it, and the newest one a spacing from that."""
        last: F | None = None
        count = 0
        for frame in reversed(self._usable()):
            if count < 3 and (last is None or distance_m(frame, last) >= self.options.spacing_m):
                last, count = frame, count + 1
                yield frame

    def _choose(self) -> Choice[F] | None:
        chain = list(self._chain())
        if not chain:
            return None
        options, (newest, *chain) = self.options, chain
        reason, cause = self._why_not(newest, chain)
        if not cause and options.neighbours == "centred":
            key, others = chain[0], [*chain[1:], newest]
        else:
            key, others = newest, chain if not cause else []
        if self._answered_ns is not None and key.stamp_ns <= self._answered_ns:
            return None
        self._answered_before_ns, self._answered_ns = self._answered_ns, key.stamp_ns
        return Choice(key, tuple(frame for frame in others if not unfit(key, frame, options)[1]), reason, cause)

    def _why_not(self, newest: F, chain: list[F]) -> tuple[str, Cause]:
        """Sentence and cause if the newest frame has nothing to be compared with."""
        before = [frame for frame in self._kept if frame.stamp_ns != newest.stamp_ns]
        if not before:
            return f"the first frame{f' after a {self._after}' if self._after else ''}", "first frame"
        options, limit_s = self.options, self.options.max_age_s
        if options.neighbours == "centred":
            limit_s = min(options.max_delay_s, options.max_age_s)
        since_ns = newest.stamp_ns - round(limit_s * 1e9)
        if not chain or chain[0].stamp_ns < since_ns:
            recent = [frame for frame in before if frame.stamp_ns >= since_ns]
            moved_m = max((distance_m(frame, newest) for frame in recent), default=0.0)
            standing = "standing still: " if moved_m < STANDING_M else ""
            return (
                f"{standing}the camera moved less than spacing_m = {options.spacing_m:g} m within {limit_s:g} s",
                "too little baseline",
            )
        return unfit(newest, chain[0], options)


def unfit(key: Posed, neighbour: Posed, options: WindowOptions) -> tuple[str, Cause]:
    """Sentence and cause if two frames are too far from each other to be compared, else empty."""
    away_m = distance_m(key, neighbour)
    if away_m > options.max_baseline_m:
        return (
            f"the frame beside it is {away_m:.1f} m away, expected at most "
            f"max_baseline_m = {options.max_baseline_m:g} m",
            "too far apart",
        )
    if (seconds := abs(key.stamp_ns - neighbour.stamp_ns) * 1e-9) > options.max_age_s:
        return (
            f"the frame beside it is {seconds:.1f} s away, expected at most max_age_s = {options.max_age_s:g} s",
            "too far apart",
        )
    turned_deg = math.degrees(turn_rad(key, neighbour))
    if turned_deg > options.max_turn_deg:
        return (
            f"the camera turned by {turned_deg:.0f} degrees since the frame beside it, expected at most "
            f"max_turn_deg = {options.max_turn_deg:g}",
            "turned too far",
        )
    return "", ""


def distance_m(a: Posed, b: Posed) -> float:
    """Metres between the cameras of two posed frames."""
    return float(np.linalg.norm(_position(a) - _position(b)))


def turn_rad(a: Posed, b: Posed) -> float:
    """Angle between the directions in which two posed frames were taken, all three axes."""
    assert a.world_from_camera is not None and b.world_from_camera is not None
    trace = float(np.sum(a.world_from_camera[:3, :3] * b.world_from_camera[:3, :3]))
    return math.acos(min(1.0, max(-1.0, (trace - 1) / 2)))


def _position(frame: Posed) -> np.ndarray:
    assert frame.world_from_camera is not None
    return frame.world_from_camera[:3, 3]


def _another_zoom(a: Intrinsics, b: Intrinsics) -> bool:
    return abs(b.fx / a.fx - 1) > SAME_ZOOM or abs(b.fy / a.fy - 1) > SAME_ZOOM
