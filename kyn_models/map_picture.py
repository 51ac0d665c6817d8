"""A picture of the rolling grid: a map that stands still, with the way the vehicle took. numpy and OpenCV."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kyn_models.types import Float64Array, UInt8Array
from kyn_models.views import FREE_COLOUR, INK, OCCUPIED_COLOUR, UNKNOWN_COLOUR, VEHICLE_COLOUR, draw_vehicle, label

AXES = "x up, y left"
"""How the map lies: as the bird's-eye view of an image, but along the axes of the fixed frame."""


def map_picture(
    cells: np.ndarray,
    resolution_m: float,
    origin_m: tuple[float, float],
    way: Sequence[Float64Array],
    height: int = 420,
) -> UInt8Array:
    """(height, height, 3) uint8 RGB, the fixed frame's x up and y to the left, the vehicle in the middle.

    cells: (n, n) int8, 100 occupied, 0 free, -1 unknown. origin_m: x, y of the outer corner of cell (0, 0). way: (4, 4)
    poses of the vehicle in the fixed frame, the newest last.
    """
    share = np.clip(cells, 0, 100)[..., None] / 100.0
    blend = (1 - share) * np.array(FREE_COLOUR) + share * np.array(OCCUPIED_COLOUR)
    colours = np.where((cells >= 0)[..., None], blend, np.array(UNKNOWN_COLOUR)).astype(np.uint8)
    scale = height / (cells.shape[0] * resolution_m)
    picture = cv2.resize(
        np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1, ::-1]), (height, height), interpolation=cv2.INTER_AREA
    )

    def pixels(points: np.ndarray) -> np.ndarray:
        across = (np.asarray(points)[:, :2] - origin_m) * scale
        return np.rint(height - across[:, ::-1]).astype(np.int32)

    places = np.array([pose[:3, 3] for pose in way]).reshape(-1, 3)
    cv2.polylines(picture, [pixels(places)], False, VEHICLE_COLOUR, 1, cv2.LINE_AA)
    if len(way):
        column, place_row = pixels(places)[-1]
        draw_vehicle(picture, (int(column), int(place_row)), float(np.arctan2(way[-1][1, 0], way[-1][0, 0])))
    row = height - 12
    cv2.line(picture, (8, row), (8 + round(10 * scale), row), INK, 2)
    label(picture, "10 m", (10, row - 6), 0.38)
    return picture


def no_map_picture(height: int = 420) -> UInt8Array:
    """The same size, where there is no map."""
    picture = np.full((height, height, 3), UNKNOWN_COLOUR, dtype=np.uint8)
    label(picture, "no fused grid for this frame", (12, height // 2))
    return picture
