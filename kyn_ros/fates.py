"""What becomes of images that may be answered later, or be neighbours of others: each is counted once, at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kyn_ros.arrival import Arrival


class Fate(NamedTuple):
    """Why an image is given up: the short name it is counted under, and a sentence."""

    reason: str
    sentence: str


NEWER_IMAGE = Fate("newer image", "image: a newer one arrived before its turn")
NEIGHBOUR_ONLY = Fate("neighbour only", "image: it was a neighbour of others that were answered, and no more")
RESTART = Fate("restart", "image: of the time before a restart")
DEACTIVATED = Fate("deactivated", "image: the node was deactivated before its answer")


class Fates:
    """The images that are neither answered nor dropped, in the order in which they came.

    Each is told by itself, not by its stamp: after a restart another one may have the same.
    drop: called with reason and sentence, once for each image that is given up.
    """

    def __init__(self, drop: Callable[[str, str], None]) -> None:
        self._drop = drop
        # What is said of each if it leaves without an answer; None: nothing yet.
        self._open: dict[Arrival, Fate | None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, arrival: Arrival) -> bool:
        return arrival in self._open

    def arrived(self, arrival: Arrival) -> None:
        self._open[arrival] = None

    def note(self, arrival: Arrival, fate: Fate) -> None:
        """It is not to be answered itself, or was of use to another: what is said if it stays at that."""
        if arrival in self._open:
            self._open[arrival] = fate

    def noted(self, arrival: Arrival) -> bool:
        return self._open.get(arrival) is not None

    def answered(self, arrival: Arrival) -> None:
        self._open.pop(arrival, None)

    def drop(self, arrival: Arrival, fate: Fate) -> None:
        """Give an image up, unless that was decided before."""
        if arrival in self._open:
            del self._open[arrival]
            self._drop(*fate)

    def let_go(self, arrival: Arrival, otherwise: Fate) -> None:
        """Give an image up as was noted of it, or with ``otherwise``."""
        self.drop(arrival, self._open.get(arrival) or otherwise)

    def leave(self, held: Callable[[Arrival], bool], otherwise: Fate) -> None:
        """Let all go that are not held any more."""
        for arrival in tuple(self._open):
            if not held(arrival):
                self.let_go(arrival, otherwise)
