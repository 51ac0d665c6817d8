"""Grids of one image after the other into one that stands still: what the perception node keeps between images."""

from __future__ import annotations

import numpy as np
from nav_msgs.msg import OccupancyGrid
from std_msgs.msg import Header

from kyn_models.occupancy import GridOptions
from kyn_models.rolling_grid import RollingGrid, RollingOptions
from kyn_models.types import Float64Array, Prediction
from kyn_ros import convert


class Fusion:
    """The rolling grid of a node, in the fixed frame of its pose source.

    Takes in every answered image, also while nobody listens: it knows only what it has seen. One thread uses it.
    """

    def __init__(self, options: RollingOptions) -> None:
        self._options = options
        self._rolling: RollingGrid | None = None
        self._height_m = 0.0
        self._epoch = 0

    def reset(self) -> None:
        """Forget everything."""
        self._rolling = None

    def add(self, prediction: Prediction, odom_from_base: Float64Array, epoch: int) -> None:
        """Take in the grid of one image. epoch: another one than before starts afresh, as does another resolution.

        Raises ``ValueError`` for a vehicle that stands on its head.
        """
        assert prediction.grid is not None
        resolution_m = prediction.spec.resolution_m
        if self._rolling is None or epoch != self._epoch or self._rolling.resolution_m != resolution_m:
            self._rolling, self._epoch = RollingGrid(self._options, resolution_m), epoch
        self._rolling.add(prediction.grid, prediction.spec, odom_from_base, prediction.stamp_ns)
        self._height_m = float(odom_from_base[2, 3])

    def message(self, header: Header, rule: GridOptions) -> OccupancyGrid:
        """What is known now, at the height of the vehicle. rule: what is occupied and free. After ``add`` only."""
        assert self._rolling is not None
        x, y = self._rolling.origin_m
        cells: np.ndarray = self._rolling.cells(rule)
        return convert.map_message(header, cells, self._rolling.resolution_m, (x, y, self._height_m))
