"""What becomes of images that may be answered later, or be neighbours of others: each is counted once, at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Fate(NamedTuple):
    """Why an image is given up: the short name it is counted under, and a sentence."""

    reason: str
    sentence: str


NEWER_IMAGE = Fate("newer image", "image: a newer one arrived before its turn")
NEIGHBOUR_ONLY = Fate("neighbour only", "image: it was a neighbour of others that were answered, and no more")
RESTART = Fate("restart", "image: of the time before a restart")
DEACTIVATED = Fate("deactivated", "image: the node was deactivated before its answer")


class Fates:
    """The images that are neither answered nor dropped, by stamp, in the order in which they came.

    drop: called with reason and sentence, once for each image that is given up.
    """

    def __init__(self, drop: Callable[[str, str], None]) -> None:
        self._drop = drop
        # What is said of each if it leaves without an answer; None: nothing yet.
        self._open: dict[int, Fate | None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, stamp_ns: int) -> bool:
        return stamp_ns in self._open

    def arrived(self, stamp_ns: int) -> None:
        self._open[stamp_ns] = None

    def note(self, stamp_ns: int, fate: Fate) -> None:
        """It is not to be answered itself, or was of use to another: what is said if it stays at that."""
        if stamp_ns in self._open:
            self._open[stamp_ns] = fate

    def noted(self, stamp_ns: int) -> bool:
        return self._open.get(stamp_ns) is not None

    def answered(self, stamp_ns: int) -> None:
        self._open.pop(stamp_ns, None)

    def drop(self, stamp_ns: int, fate: Fate) -> None:
        """Give an image up, unless that was decided before."""
        if stamp_ns in self._open:
            del self._open[stamp_ns]
            self._drop(*fate)

    def let_go(self, stamp_ns: int, otherwise: Fate) -> None:
        """Give an image up as was noted of it, or with ``otherwise``."""
        self.drop(stamp_ns, self._open.get(stamp_ns) or otherwise)

    def leave(self, held: Callable[[int], bool], otherwise: Fate) -> None:
        """Let all go that are not held any more."""
        for stamp_ns in tuple(self._open):
            if not held(stamp_ns):
                self.let_go(stamp_ns, otherwise)
