"""What a fused graph is given beside the image: grids and codes of rays and points. numpy only.

Channels first, as the graph computes (see ``kyn_models/fused.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kyn_models.runtimes.constants import DecoderConstants
from kyn_models.types import Float32Array

CHUNK = 1 << 16
"""Points whose codes are computed at once."""


class Places(NamedTuple):
    """grid: (M, 2) float32 normalised image coordinates. code: (hidden, M) float32."""

    grid: Float32Array
    code: Float32Array


def ray_places(constants: DecoderConstants, directions: np.ndarray) -> Places:
    """Of rays: (..., 3) directions in camera axes, z = 1."""
    grid = constants.image_coordinates(directions.reshape(-1, 3))
    return Places(grid, np.ascontiguousarray((constants.project_codes(grid, (0, 1)) + constants.bias).T))


def point_places(constants: DecoderConstants, points: np.ndarray) -> Places:
    """Of points: (N, 3) in camera axes, metres."""
    points = np.ascontiguousarray(points, dtype=np.float32)
    grid = constants.image_coordinates(points)
    code = np.empty((len(constants.bias), len(points)), dtype=np.float32)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        uvz = np.concatenate([grid[part], constants.depth_code(points[part, 2])[:, None]], axis=1)
        code[:, part] = (constants.project_codes(uvz, (0, 1, 2)) + constants.bias).T
    return Places(grid, code)
