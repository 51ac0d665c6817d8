"""Neighbours of the frames of a recorded drive, where later frames are known as well as earlier ones. numpy.

The rules are those of ``FrameWindow``, without what a live camera suffers from: every frame is a key frame, also the
last ones, and no answer is late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from kyn_models.frame_window import FrameWindow, WindowOptions, distance_m, unfit
from kyn_models.types import Float64Array, Intrinsics

AT_MOST = 2


@dataclass(frozen=True)
class Place:
    """Where and when a frame was taken. number: of the frame. world_from_camera: (4, 4) float64."""

    number: int
    stamp_ns: int
    intrinsics: Intrinsics
    world_from_camera: Float64Array


class DriveWindow:
    """Chooses neighbours among frames in the order of their stamps. Its options need no ``max_delay_s``."""

    def __init__(self, places: Iterable[Place], options: WindowOptions) -> None:
        self._options = options
        self._at: dict[int, tuple[list[Place], int]] = {}
        window: FrameWindow[Place] = FrameWindow(options)
        stretch: list[Place] = []
        for place in places:
            breaks = window.resets.total()
            window.add(place, ask=False)
            if window.resets.total() > breaks:
                stretch = []
            self._at[place.number] = stretch, len(stretch)
            stretch.append(place)

    def beside(self, number: int, broken: Collection[int] = ()) -> tuple[int, ...]:
        """Frames to be compared with a frame: one before and one after it, or, where one side has none, up to two of
        the other, as far as there are some.

        Each is at least ``spacing_m`` from the next one, and not further from the key frame than the options allow; no
        jump of the poses lies between. broken: frames that are of no use. A frame that is not known has none.
        """
        if number not in self._at:
            return ()
        stretch, at = self._at[number]
        before = self._chain(stretch[at], reversed(stretch[:at]), broken)
        after = self._chain(stretch[at], stretch[at + 1 :], broken)
        chosen = [*before[:1], *after[:1]] if before and after else [*before, *after]
        return tuple(place.number for place in chosen)

    def _chain(self, key: Place, others: Iterable[Place], broken: Collection[int]) -> Sequence[Place]:
        """The first two of ``others`` that are a spacing from the key frame and from each other."""

        def spaced() -> Iterator[Place]:
            last = key
            for place in others:
                if abs(place.stamp_ns - key.stamp_ns) * 1e-9 > self._options.max_age_s:
                    return
                if place.number not in broken and distance_m(last, place) >= self._options.spacing_m:
                    last = place
                    yield place

        return [place for place in islice(spaced(), AT_MOST) if not unfit(key, place, self._options)[1]]
