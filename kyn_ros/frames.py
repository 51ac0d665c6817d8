"""Images and poses gathered for a model of several frames: which of them are asked about together.

Images come in with the executor, everything else happens in the inference thread. Where that is slower than the camera,
the images it had no time for are still neighbours: they are converted with the next one, and only those that can be
chosen are kept.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kyn_models.frame_window import Choice, FrameWindow, WindowOptions
from kyn_models.types import Float64Array, PosedFrame
from kyn_ros import convert
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


class Chosen(NamedTuple):
    """choice: the frames. info, camera_frame: of the key frame. delay_ms: from its stamp to that of the newest image;
    pose_ms: how long that one waited for its pose."""

    choice: Choice
    info: CameraInfo
    camera_frame: str
    delay_ms: float
    pose_ms: float


class Frames:
    """The window of one camera's images, and what became of them.

    drop: called with reason and sentence for an image that is given up when an older one is answered in its place.
    """

    def __init__(self, poses: PoseSource, options: WindowOptions, drop: Callable[[str, str], None]) -> None:
        self._poses, self._window, self._drop = poses, FrameWindow(options), drop
        self._waiting: list[Arrival] = []
        self._sources: dict[int, tuple[CameraInfo, str]] = {}
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

    def choose(
        self, arrival: Arrival, posed: Callable[[Arrival, Float64Array], PosedFrame], cancelled: threading.Event
    ) -> Chosen | None:
        """The frames to ask about now that ``arrival`` is there; None while the next key frame waits for another.

        Of the images whose poses are there the newest is asked about: where poses come late, images do too, but none
        waits longer for it. posed: makes a frame of an image and the vehicle's (4, 4) pose. Raises ``InputError`` where
        an image has no pose or is none, ``Cancelled``.
        """
        begin, restarts = time.monotonic(), self._restarts
        with self._lock:
            self._lost_last = ""
        *earlier, (newest, located) = self._ready(arrival, restarts, cancelled)
        pose_ms = (time.monotonic() - begin) * 1e3
        for image, its_pose in earlier:
            check(cancelled)
            try:
                self._add(image, its_pose, posed, restarts, ask=False)
            except InputError as error:
                self._lose(error)
        choice = self._add(newest, located, posed, restarts, ask=True)
        if choice is None:
            return None
        info, camera_frame = self._sources[choice.key.stamp_ns]
        return Chosen(choice, info, camera_frame, (newest.stamp_ns - choice.key.stamp_ns) * 1e-6, pose_ms)

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
            if self._restarts != restarts:
                raise InputError("restart", "image: of the time before a restart")
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

    def _add(
        self,
        arrival: Arrival,
        located: Located,
        posed: Callable[[Arrival, Float64Array], PosedFrame],
        restarts: int,
        ask: bool,
    ) -> Choice | None:
        try:
            frame = posed(arrival, located.odom_from_base)
        except InputError:
            raise
        except ValueError as error:
            raise InputError("no pose", f"image: {error}") from error
        with self._lock:
            if self._restarts != restarts:
                raise InputError("restart", "image: of the time before a restart")
            if self._epoch not in (None, located.epoch):
                self._window.reset("pose jump")
            self._epoch = located.epoch
            choice = self._window.add(frame, ask)
            self._sources[frame.stamp_ns] = (arrival.info, arrival.image.header.frame_id)
            self._sources = {stamp: source for stamp, source in self._sources.items() if self._window.holds(stamp)}
        return choice


def without_poses(name: str, wanted: int) -> DiagnosticStatus:
    """The status of a model of several frames that is given none."""
    sentence = (
        f"one image answers: the model compares up to {wanted} frames and pose_source is none, "
        "expected odom, pose or tf; distances are those of a model of one image"
    )
    return make_status(name, WARN, sentence, {"neighbours": "0"})
