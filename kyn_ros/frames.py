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

from diagnostic_msgs.msg import DiagnosticStatus

from kyn_models.frame_window import Choice, FrameWindow, WindowOptions
from kyn_models.types import PosedFrame
from kyn_ros.arrival import Arrival, Chosen, Looks, Placed
from kyn_ros.convert import InputError
from kyn_ros.diagnostics import OK, WARN, make_status
from kyn_ros.fates import NEIGHBOUR_ONLY, NEWER_IMAGE, RESTART, Fate, Fates
from kyn_ros.pose_buffer import Located, PoseLate
from kyn_ros.poses import PoseSource
from kyn_ros.worker import check

BACKLOG = 8
"""Images that may wait to become neighbours; of more, those are let go whose neighbours are nearest in time."""


class Frames:
    """The window of one camera's images, and what became of them.

    drop: called with reason and sentence, once for each image that left without an answer. Until then an image is
    waiting: it may still be answered, or be a neighbour.
    """

    def __init__(self, poses: PoseSource, options: WindowOptions, drop: Callable[[str, str], None]) -> None:
        self._poses, self._fates = poses, Fates(drop)
        # The image that the inference thread is at.
        self._asked: Arrival | None = None
        self._window: FrameWindow[Placed] = FrameWindow(options)
        self._waiting: list[Arrival] = []
        # Of frames that can be chosen again.
        self._converted: dict[Arrival, PosedFrame] = {}
        self._lock = threading.Lock()
        self._epoch: int | None = None
        # Restarts until now, and those before the image that the inference thread is at.
        self._restarts = self._restarts_before = 0
        self._last: Chosen | None = None
        self._note = ""
        self._used: Counter[int] = Counter()
        self._alone: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._lost_last = ""

    def __len__(self) -> int:
        """Images that are neither answered nor dropped."""
        with self._lock:
            return len(self._fates)

    def arrived(self, arrival: Arrival) -> None:
        """An image that can become a neighbour, whether or not there will be time to answer it."""
        with self._lock:
            self._fates.arrived(arrival)
            self._waiting.append(arrival)
            self._thin()

    def passed_over(self, arrival: Arrival, fate: Fate) -> None:
        """An image that ``choose`` is not asked about. fate: what is said where it is of no other use."""
        with self._lock:
            self._fates.note(arrival, fate)

    def restart(self, cause: str, fate: Fate = RESTART) -> None:
        """Forget the history; ``cause`` is counted and named. fate: of the images that wait."""
        with self._lock:
            self._restarts += 1
            self._window.reset(cause)
            self._waiting.clear()
            self._fates.leave(lambda arrival: arrival is self._asked, fate)

    def begin(self, arrival: Arrival) -> bool:
        """The inference thread turns to an image; False if that was given up meanwhile.

        From here on a restart ends the work on it: images of two times are never compared.
        """
        with self._lock:
            self._restarts_before = self._restarts
            self._asked = arrival if arrival in self._fates else None
            return self._asked is not None

    def given_up(self, fate: Fate) -> None:
        """What the inference thread is at is not answered."""
        with self._lock:
            if self._asked is not None:
                self._fates.drop(self._asked, fate)
            self._asked = None
            self._leave()

    def choose(self, arrival: Arrival, looks: Looks, cancelled: threading.Event) -> Chosen | None:
        """The frames to ask about now that ``arrival`` is there; None while the next key frame waits for another.

        Of the images whose poses are there the newest is asked about: where poses come late, images do too, but none
        waits longer for it. Images that turn out to be none are dropped, and the frames are chosen anew without them.
        Raises ``InputError`` where ``arrival`` has no pose or its camera none, ``Cancelled``.
        """
        begin = time.monotonic()
        with self._lock:
            self._lost_last = ""
        *earlier, (newest, located) = self._ready(arrival, cancelled)
        pose_ms = (time.monotonic() - begin) * 1e3
        with self._lock:
            self._asked = newest
        for image, its_pose in earlier:
            try:
                self._add(image, its_pose, looks, ask=False)
            except InputError as error:
                self._lose(image, error)
        choice = self._add(newest, located, looks, ask=True)
        while choice is not None:
            frames, broken = self._convert((choice.key, *choice.neighbours), looks, cancelled)
            for placed, fault in broken:
                self._lose(placed.arrival, fault)
            with self._lock:
                self._check_restart()
                self._asked = choice.key.arrival
                if not broken:
                    return Chosen(choice, frames, (newest.stamp_ns - choice.key.stamp_ns) * 1e-6, pose_ms)
                choice = self._window.choose_again([placed for placed, _ in broken])
        with self._lock:
            self._asked = None
            self._leave()
        return None

    def _convert(
        self, chosen: tuple[Placed, ...], looks: Looks, cancelled: threading.Event
    ) -> tuple[tuple[PosedFrame, ...], list[tuple[Placed, InputError]]]:
        """The images of chosen frames, and the frames that have none, with the reason."""
        frames, broken = [], []
        for placed in chosen:
            check(cancelled)
            try:
                frame = self._converted.get(placed.arrival) or looks.convert(placed)
            except InputError as error:
                broken.append((placed, error))
                continue
            frames.append(frame)
            self._converted[placed.arrival] = frame
        return tuple(frames), broken

    def answered(self, chosen: Chosen, frames_used: int) -> None:
        """Note what became of a question. frames_used: as the prediction says it."""
        neighbours = chosen.choice.neighbours
        with self._lock:
            self._fates.answered(chosen.key)
            for neighbour in neighbours[: frames_used - 1]:
                self._fates.note(neighbour.arrival, NEIGHBOUR_ONLY)
            self._asked = None
            self._leave()
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
                "waiting": str(len(self._fates)),
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

    def _ready(self, arrival: Arrival, cancelled: threading.Event) -> list[tuple[Arrival, Located]]:
        """The waiting images up to ``arrival`` that have a pose, oldest first: at least one, which is waited for."""
        waiting = self._take_waiting(arrival)
        ready: list[tuple[Arrival, Located]] = []
        while waiting:
            self._check_restart()
            image = waiting.pop(0)
            try:
                located = self._poses.locate(image.stamp_ns, cancelled, 0.0 if ready else None)
            except PoseLate:
                # Poses come in the order of stamps: the later images have none either.
                self._asked = image
                self._wait_on([image, *waiting] if ready else waiting)
                if ready:
                    break
                raise
            except InputError as error:
                if not waiting and not ready:
                    raise
                self._lose(image, error)
            else:
                ready.append((image, located))
        return ready

    def _take_waiting(self, arrival: Arrival) -> list[Arrival]:
        """Images up to ``arrival``, oldest first; no longer waiting."""
        with self._lock:
            self._check_restart()
            taken = [one for one in self._waiting if one.stamp_ns < arrival.stamp_ns]
            self._waiting = [one for one in self._waiting if one.stamp_ns > arrival.stamp_ns]
        return [*taken, arrival]

    def _wait_on(self, images: list[Arrival]) -> None:
        """Put images back, before those that came meanwhile; not those of the time before a restart."""
        with self._lock:
            if self._restarts == self._restarts_before:
                self._waiting = [*images, *self._waiting]
                self._thin()

    def _thin(self) -> None:
        """Keep the waiting images few, and spread over the time in which they can still be neighbours.

        Those whose turn is still to come are let go last.
        """
        options = self._window.options
        too_old_ns = round((options.max_age_s + options.max_delay_s) * 1e9)
        while len(self._waiting) > BACKLOG:
            stamps = [one.stamp_ns for one in self._waiting]
            inner = range(1, len(stamps) - 1)
            if stamps[-1] - stamps[0] > too_old_ns:
                inner = range(1)
            going = [number for number in inner if self._fates.noted(self._waiting[number])] or inner
            gone = min(going, key=lambda number: stamps[number + 1] - stamps[max(0, number - 1)])
            self._fates.let_go(self._waiting.pop(gone), NEWER_IMAGE)

    def _leave(self) -> None:
        """Count the images that can be neither answered nor neighbours from now on."""
        held = {self._asked, *self._waiting}
        self._fates.leave(lambda arrival: arrival in held or self._window.holds(arrival.stamp_ns), NEWER_IMAGE)

    def _lose(self, image: Arrival, error: InputError) -> None:
        """Drop an image that cannot become a neighbour, and say so."""
        with self._lock:
            self._fates.drop(image, Fate(error.reason, str(error)))
            self._lost[error.reason] += 1
            self._lost_last = str(error)

    def _add(self, arrival: Arrival, located: Located, looks: Looks, ask: bool) -> Choice[Placed] | None:
        try:
            placed = looks.place(arrival, located.odom_from_base)
        except InputError:
            raise
        except ValueError as error:
            raise InputError("no pose", f"image: {error}") from error
        with self._lock:
            self._check_restart()
            if self._epoch not in (None, located.epoch):
                self._window.reset("pose jump")
            self._epoch = located.epoch
            choice = self._window.add(placed, ask)
            self._converted = {one: frame for one, frame in self._converted.items() if self._window.holds(one.stamp_ns)}
        return choice

    def _check_restart(self) -> None:
        if self._restarts != self._restarts_before:
            raise InputError("restart", "image: of the time before a restart")


def without_poses(name: str, wanted: int) -> DiagnosticStatus:
    """The status of a model of several frames that is given none."""
    sentence = (
        f"one image answers: the model compares up to {wanted} frames and pose_source is none, "
        "expected odom, pose or tf; distances are those of a model of one image"
    )
    return make_status(name, WARN, sentence, {"neighbours": "0"})
