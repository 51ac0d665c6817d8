"""Images and poses gathered for a model of several frames: which of them are asked about together.

Images come in with the executor, everything else happens in the inference thread. Where that is slower than the camera,
the images it had no time for can still be neighbours. Which frames are asked about is decided by stamps and poses; only
the images of those are then decoded and rectified.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kyn_models.frame_window import Choice, FrameWindow, WindowOptions
from kyn_models.types import Float64Array, Intrinsics, PosedFrame, check_pose
from kyn_ros import convert
from kyn_ros.camera_info import Camera
from kyn_ros.convert import InputError
from kyn_ros.diagnostics import OK, WARN, make_status
from kyn_ros.pose_buffer import Located, PoseLate
from kyn_ros.poses import PoseSource
from kyn_ros.worker import check

BACKLOG = 8
"""Images that may wait to become neighbours; of more, those are let go whose neighbours are nearest in time."""


class Arrival(NamedTuple):
    """An image, the CameraInfo of the same moment, and when they were complete (steady clock, seconds)."""

    image: Image | CompressedImage
    info: CameraInfo
    complete_s: float

    @property
    def stamp_ns(self) -> int:
        return convert.stamp_ns(self.image.header.stamp)


@dataclass(frozen=True)
class Placed:
    """An image that nobody has looked at yet: its camera, and the (4, 4) pose of that in the fixed frame.

    Raises ``ValueError`` for a pose that is none.
    """

    arrival: Arrival
    camera: Camera
    world_from_camera: Float64Array

    def __post_init__(self) -> None:
        check_pose("world_from_camera", self.world_from_camera)

    @property
    def stamp_ns(self) -> int:
        return self.arrival.stamp_ns

    @property
    def intrinsics(self) -> Intrinsics:
        return self.camera.intrinsics


class Looks(NamedTuple):
    """How images become frames; both raise ``InputError``.

    place: the camera of an image, and its pose from the (4, 4) pose of the vehicle. convert: its pixels.
    """

    place: Callable[[Arrival, Float64Array], Placed]
    convert: Callable[[Placed], PosedFrame]


class Chosen(NamedTuple):
    """choice: the frames, frames: the same with their images, the key frame first. delay_ms: from its stamp to that of
    the newest image; pose_ms: how long that one waited for its pose."""

    choice: Choice[Placed]
    frames: tuple[PosedFrame, ...]
    delay_ms: float
    pose_ms: float

    @property
    def key(self) -> Arrival:
        return self.choice.key.arrival


class Frames:
    """The window of one camera's images, and what became of them.

    drop: called with reason and sentence for an image that is given up when an older one is answered in its place.
    """

    def __init__(self, poses: PoseSource, options: WindowOptions, drop: Callable[[str, str], None]) -> None:
        self._poses, self._drop = poses, drop
        self._window: FrameWindow[Placed] = FrameWindow(options)
        self._waiting: list[Arrival] = []
        # Of frames that can be chosen again, by stamp.
        self._converted: dict[int, PosedFrame] = {}
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._restarts = 0
        self._last: Chosen | None = None
        self._note = ""
        self._used: Counter[int] = Counter()
        self._alone: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._lost_last = ""

    def arrived(self, arrival: Arrival) -> None:
        """An image that can become a neighbour, whether or not there will be time to answer it."""
        with self._lock:
            self._waiting.append(arrival)
            self._thin()

    def restart(self, cause: str) -> None:
        """Forget the history; ``cause`` is counted and named."""
        with self._lock:
            self._restarts += 1
            self._window.reset(cause)
            self._waiting.clear()
            self._converted.clear()

    def choose(self, arrival: Arrival, looks: Looks, cancelled: threading.Event) -> Chosen | None:
        """The frames to ask about now that ``arrival`` is there; None while the next key frame waits for another.

        Of the images whose poses are there the newest is asked about: where poses come late, images do too, but none
        waits longer for it. Images that turn out to be none are dropped, and the frames are chosen anew without them.
        Raises ``InputError`` where ``arrival`` has no pose or its camera none, ``Cancelled``.
        """
        begin, restarts = time.monotonic(), self._restarts
        with self._lock:
            self._lost_last = ""
        *earlier, (newest, located) = self._ready(arrival, restarts, cancelled)
        pose_ms = (time.monotonic() - begin) * 1e3
        for image, its_pose in earlier:
            try:
                self._add(image, its_pose, looks, restarts, ask=False)
            except InputError as error:
                self._lose(error)
        choice = self._add(newest, located, looks, restarts, ask=True)
        while choice is not None:
            frames, broken = self._convert((choice.key, *choice.neighbours), looks, restarts, cancelled)
            if not broken:
                return Chosen(choice, frames, (newest.stamp_ns - choice.key.stamp_ns) * 1e-6, pose_ms)
            for placed, fault in broken:
                if placed.arrival is newest:
                    self._drop(fault.reason, str(fault))
                else:
                    self._lose(fault)
            with self._lock:
                self._check_restart(restarts)
                choice = self._window.choose_again([placed for placed, _ in broken])
        return None

    def _convert(
        self, chosen: tuple[Placed, ...], looks: Looks, restarts: int, cancelled: threading.Event
    ) -> tuple[tuple[PosedFrame, ...], list[tuple[Placed, InputError]]]:
        """The images of chosen frames, and the frames that have none, with the reason."""
        frames, broken = [], []
        for placed in chosen:
            check(cancelled)
            try:
                frame = self._converted.get(placed.stamp_ns) or looks.convert(placed)
            except InputError as error:
                broken.append((placed, error))
                continue
            frames.append(frame)
            with self._lock:
                # After a restart another image may have this stamp.
                self._check_restart(restarts)
                self._converted[placed.stamp_ns] = frame
        return tuple(frames), broken

    def answered(self, chosen: Chosen, frames_used: int) -> None:
        """Note what became of a question. frames_used: as the prediction says it."""
        neighbours = chosen.choice.neighbours
        with self._lock:
            self._last = chosen
            self._used[frames_used - 1] += 1
            self._alone.update([chosen.choice.cause] * bool(chosen.choice.cause))
            self._note = chosen.choice.reason
            if neighbours and frames_used == 1:
                self._note = "the model answered from one image although neighbours were there"

    def status(self, name: str) -> DiagnosticStatus:
        """How the last image was answered, and all counts."""
        with self._lock:
            options, last, window = self._window.options, self._last, self._window
            values = {
                "neighbours": "" if last is None else str(len(last.choice.neighbours)),
                "baseline_m": "" if last is None else f"{last.choice.baseline_m:.2f}",
                "delay_ms": "" if last is None else f"{last.delay_ms:.0f}",
                "pose_wait_ms": "" if last is None else f"{last.pose_ms:.0f}",
                "pose_age_ms": self._poses.age_text(),
                "mode": f"{options.neighbours}, spacing {options.spacing_m:g} m",
                "kept": str(len(window)),
                **{f"answered with {count} neighbours": str(n) for count, n in sorted(self._used.items())},
                **{f"alone: {cause}": str(count) for cause, count in sorted(self._alone.items())},
                **{f"reset: {cause}": str(count) for cause, count in sorted(window.resets.items())},
                **{f"ignored: {cause}": str(count) for cause, count in sorted(window.ignored.items())},
                **{f"no neighbour: {reason}": str(count) for reason, count in sorted(self._lost.items())},
            }
            note, reset, lost = self._note, bool(window.resets), self._lost_last
        if last is None:
            return make_status(name, OK, "no image was answered yet", values)
        if lost:
            return make_status(name, WARN, f"an image could not become a neighbour: {lost}", values)
        # Standing still and beginning are part of driving; beginning again and again is not.
        expected = last.choice.cause == "too little baseline" or (last.choice.cause == "first frame" and not reset)
        message = f"one image answers: {note}" if note else "neighbours are used"
        return make_status(name, OK if expected or not note else WARN, message, values)

    def _ready(self, arrival: Arrival, restarts: int, cancelled: threading.Event) -> list[tuple[Arrival, Located]]:
        """The waiting images up to ``arrival`` that have a pose, oldest first: at least one, which is waited for."""
        waiting = self._take_waiting(arrival)
        ready: list[tuple[Arrival, Located]] = []
        while waiting:
            self._check_restart(restarts)
            image = waiting.pop(0)
            try:
                located = self._poses.locate(image.stamp_ns, cancelled, 0.0 if ready else None)
            except PoseLate:
                # Poses come in the order of stamps: the later images have none either.
                self._wait_on([image, *waiting] if ready else waiting, restarts)
                if ready:
                    break
                raise
            except InputError as error:
                if waiting:
                    self._lose(error)
                elif ready:
                    self._drop(error.reason, str(error))
                else:
                    raise
            else:
                ready.append((image, located))
        return ready

    def _take_waiting(self, arrival: Arrival) -> list[Arrival]:
        """Images up to ``arrival``, of its camera, oldest first; no longer waiting."""
        stamp_ns, camera = arrival.stamp_ns, arrival.image.header.frame_id
        with self._lock:
            taken = [one for one in self._waiting if one.stamp_ns < stamp_ns and one.image.header.frame_id == camera]
            later = [one for one in self._waiting if one.stamp_ns > stamp_ns]
            self._waiting = later
        return [*taken, arrival]

    def _wait_on(self, images: list[Arrival], restarts: int) -> None:
        """Put images back, before those that came meanwhile; not those of the time before a restart."""
        with self._lock:
            if self._restarts == restarts:
                self._waiting = [*images, *self._waiting]
                self._thin()

    def _thin(self) -> None:
        """Keep the waiting images few, and spread over the time in which they can still be neighbours."""
        options = self._window.options
        too_old_ns = round((options.max_age_s + options.max_delay_s) * 1e9)
        while len(self._waiting) > BACKLOG:
            stamps = [one.stamp_ns for one in self._waiting]
            around = [after - before for before, after in zip(stamps, stamps[2:], strict=False)]
            too_old = stamps[-1] - stamps[0] > too_old_ns
            del self._waiting[0 if too_old else 1 + around.index(min(around))]

    def _lose(self, error: InputError) -> None:
        """Note a waiting image that cannot become a neighbour; as one to be answered it had its turn."""
        with self._lock:
            self._lost[error.reason] += 1
            self._lost_last = str(error)

    def _add(self, arrival: Arrival, located: Located, looks: Looks, restarts: int, ask: bool) -> Choice[Placed] | None:
        try:
            placed = looks.place(arrival, located.odom_from_base)
        except InputError:
            raise
        except ValueError as error:
            raise InputError("no pose", f"image: {error}") from error
        with self._lock:
            self._check_restart(restarts)
            if self._epoch not in (None, located.epoch):
                self._window.reset("pose jump")
            self._epoch = located.epoch
            choice = self._window.add(placed, ask)
            self._converted = {stamp: one for stamp, one in self._converted.items() if self._window.holds(stamp)}
        return choice

    def _check_restart(self, restarts: int) -> None:
        if self._restarts != restarts:
            raise InputError("restart", "image: of the time before a restart")


def without_poses(name: str, wanted: int) -> DiagnosticStatus:
    """The status of a model of several frames that is given none."""
    sentence = (
        f"one image answers: the model compares up to {wanted} frames and pose_source is none, "
        "expected odom, pose or tf; distances are those of a model of one image"
    )
    return make_status(name, WARN, sentence, {"neighbours": "0"})
