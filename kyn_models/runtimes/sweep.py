"""The compiled cost volume of a key frame and its neighbours: the numbers of ``networks.plane_sweep``, on the CPU.

numpy and numba. What the published one does is kept: see ``plane_sweep.sweep_grid`` and ``plane_sweep.cost_volume``.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from kyn_models.runtimes import sweep_loops
from kyn_models.types import Float32Array, UInt8Array

EPSILON = 1e-7


class Swept(NamedTuple):
    """volume: (D, H, W) float32 in -1..1, the planes in the order of the depths, 0 where no neighbour counts.

    matched_m: (H, W) float32 depth of the plane that matches best, NaN where none counts.
    """

    volume: Float32Array
    matched_m: Float32Array


class CompiledSweep:
    """Cost volumes of images of one size, with memory of its own that every call uses again.

    height, width: at least 5. depths: (D,) float32 metres, D at least 2.
    """

    def __init__(self, height: int, width: int, depths: Float32Array) -> None:
        self._depths = np.ascontiguousarray(depths, dtype=np.float32)
        self._volume = np.zeros((len(depths), height, width), np.float32)
        self._matched = np.full((height, width), np.nan, np.float32)
        self._key, self._mean, self._spread = np.zeros((3, 3, height, width), np.float32)

    def __call__(
        self,
        image: UInt8Array,
        neighbours: UInt8Array,
        k: Float32Array,
        neighbour_k: Float32Array,
        neighbour_from_key: Float32Array,
    ) -> Swept:
        """image: (H, W, 3) uint8 key frame, neighbours (N, H, W, 3). k (3, 3) and neighbour_k (N, 3, 3) camera matrices
        in pixels, neighbour_from_key (N, 4, 4). The arrays of the answer are overwritten by the next call.
        """
        height, width = image.shape[:2]
        packed = np.empty((len(neighbours), height + 3, width + 3), np.int32)
        sweep_loops.pack(np.ascontiguousarray(neighbours), packed)
        sweep_loops.key_statistics(np.ascontiguousarray(image), self._key, self._mean, self._spread)
        ms, ts = projections(k, neighbour_k, neighbour_from_key, height, width)
        key = self._key, self._mean, self._spread
        rows = sweep_loops.rows_of_bands(height, numba.get_num_threads())
        sweep_loops.sweep(packed, ms, ts, self._depths, *key, rows, self._volume, self._matched)
        return Swept(self._volume, self._matched)


def projections(
    k: Float32Array, neighbour_k: Float32Array, neighbour_from_key: Float32Array, height: int, width: int
) -> tuple[Float32Array, Float32Array]:
    """m (N, 3, 3) and t (N, 3): a pixel (x, y) at a depth lies at m [x, y, 1] depth + t in the neighbour.

    Half a pixel too far right and down. Pixels are divided by size - 1 and then read as if by size, as published.
    """
    poses = np.asarray(neighbour_from_key, dtype=np.float64)
    cameras = np.asarray(neighbour_k, dtype=np.float64)
    spread = np.array([width / (width - 1), height / (height - 1), 1.0])[:, None]
    ms = spread * (cameras @ poses[:, :3, :3] @ np.linalg.inv(np.asarray(k, dtype=np.float64)))
    ts = spread * (cameras @ poses[:, :3, 3:])
    ts[:, 2] += EPSILON
    return np.ascontiguousarray(ms, dtype=np.float32), np.ascontiguousarray(ts[..., 0], dtype=np.float32)
