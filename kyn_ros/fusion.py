"""Grids of one image after the other into one that stands still: what the perception node keeps between images."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from std_msgs.msg import Header

from kyn_models.occupancy import GridOptions
from kyn_models.rolling_grid import RollingGrid
from kyn_models.types import Float64Array, Prediction
from kyn_ros import convert
from kyn_ros.convert import InputError
from kyn_ros.diagnostics import OK, WARN, make_status
from kyn_ros.params import PerceptionParameters


class Place(NamedTuple):
    """Where the vehicle was: odom_from_base (4, 4) float64 in the frame ``frame_id`` that stands still. Places of
    different epochs do not belong together."""

    odom_from_base: Float64Array
    epoch: int
    frame_id: str


class Fusion:
    """The rolling grid of a node, in the fixed frame of its pose source.

    Takes in every answered image, also while nobody listens: it knows only what it has seen. One thread uses it.
    """

    def __init__(self, parameters: PerceptionParameters) -> None:
        self._options = replace(parameters.fusion.options(), max_speed_mps=parameters.poses.max_speed_mps)
        self._rolling: RollingGrid | None = None
        self._place: Place | None = None
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._last_s: float | None = None
        self._refusal = ""

    def add(self, prediction: Prediction, place: Place) -> None:
        """Take in the grid of one image. Another epoch, fixed frame or resolution than before starts afresh.

        Raises ``InputError`` (reason ``pose tilted``) where the fixed frame's z does not point up.
        """
        assert prediction.grid is not None
        resolution_m, last = prediction.spec.resolution_m, self._place
        rolling, afresh = self._rolling, False
        if rolling is None or rolling.resolution_m != resolution_m or last is None or last[1:] != place[1:]:
            afresh = rolling is not None
            rolling = RollingGrid(self._options, resolution_m)
        self._rolling, self._place = rolling, place
        try:
            afresh |= rolling.add(prediction.grid, prediction.spec, place.odom_from_base, prediction.stamp_ns)
        except ValueError as error:
            self._count("refused: pose tilted", str(error))
            raise InputError("pose tilted", f"image: {error}") from error
        if afresh:
            self._count("reset")
        self._count("taken in")

    def _count(self, what: str, refusal: str = "") -> None:
        with self._lock:
            self._counts[what] += 1
            self._last_s, self._refusal = time.monotonic(), refusal

    def status(self, name: str) -> DiagnosticStatus:
        """What was taken in, how often it started afresh, and whether the last pose was refused; from any thread."""
        with self._lock:
            counts, last_s, refusal = dict(self._counts), self._last_s, self._refusal
        age = "none yet" if last_s is None else f"{time.monotonic() - last_s:.1f}"
        values = {"last_image_s": age, **{what: str(count) for what, count in sorted(counts.items())}}
        message = refusal or ("grids are fused" if counts else "no grid was fused yet")
        return make_status(name, WARN if refusal else OK, message, values)

    def message(self, header: Header, rule: GridOptions) -> OccupancyGrid:
        """What is known now, in the fixed frame and at the height of the vehicle. rule: what is occupied and free.

        After ``add`` only.
        """
        assert self._rolling is not None and self._place is not None
        header = Header(stamp=header.stamp, frame_id=self._place.frame_id)
        x, y = self._rolling.origin_m
        height_m = float(self._place.odom_from_base[2, 3])
        return convert.map_message(header, self._rolling.cells(rule), self._rolling.resolution_m, (x, y, height_m))


def make_fusion(parameters: PerceptionParameters) -> Fusion | None:
    """The rolling grid, None where there are no poses or the parameters say no."""
    return Fusion(parameters) if parameters.fusion.enabled and parameters.pose_source != "none" else None
