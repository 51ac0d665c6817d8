"""What a fused graph is asked beside the image: its tensors for rays, points and labels, by family. numpy only.

Channels first, as the graphs compute (see ``kyn_models/fused.py`` and ``kyn_models/fused_kyn.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from kyn_models.runtimes.constants import DecoderConstants, PointCode
from kyn_models.runtimes.kyn_constants import KynConstants, in_view, label_pixels
from kyn_models.types import Float32Array

CHUNK = 1 << 16
"""Points whose codes are computed at once."""
PARTS = 4
"""Into so many equal parts the graph of ``kyn`` cuts its points: what lies between two layers is 59 MB for 458,752
points and 128 units."""
KYN_OUTPUTS = ("depth", "density", "labels", "ray_sums", "point_sums")


class Sums(NamedTuple):
    """Tensors through which runs of the graph on parts of one set know of each other. shape: of both, float32."""

    others: str
    own: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class Kind:
    """One kind of question.

    size: of one run. inputs: shapes by name. output: name of the answer, dtype in the graph and as the asker wants it.
    place: from at most ``size`` places, (M, 3) float32, to the inputs, with zeros where there is no place. sums: where
    the places of a query attend to each other.
    """

    size: int
    inputs: dict[str, tuple[int, ...]]
    output: str
    dtypes: tuple[type, type]
    place: Callable[[np.ndarray], dict[str, np.ndarray]]
    sums: Sums | None = None


class Places(NamedTuple):
    """grid: (M, 2) float32 normalised image coordinates. code: (hidden, M) float32."""

    grid: Float32Array
    code: Float32Array


def kinds(
    constants: DecoderConstants | KynConstants, map_size: tuple[int, int], rays: int, points: int
) -> dict[str, Kind]:
    """The questions of a family's graph: "ray", "point" and, where it knows labels, "label".

    map_size: (h, w) of the label map. points: a multiple of ``PARTS``.
    """
    if isinstance(constants, KynConstants):
        return _kinds_of_kyn(constants, map_size, rays, points)
    hidden = len(constants.bias)
    floats = (np.float32, np.float32)
    return {
        "ray": Kind(
            rays,
            {"ray_grid": (1, 1, rays, 2), "ray_code": (1, hidden, 1, rays)},
            "depth",
            floats,
            lambda values: _padded_places("ray", ray_places(constants, values), rays),
        ),
        "point": Kind(
            points,
            {"point_grid": (1, 1, points, 2), "point_code": (1, hidden, 1, points)},
            "density",
            floats,
            lambda values: _padded_places("point", point_places(constants, values), points),
        ),
    }


def _kinds_of_kyn(c: KynConstants, map_size: tuple[int, int], rays: int, points: int) -> dict[str, Kind]:
    (labels, hidden), (wide, codes), part = c.modulation.shape, c.code.w_code.shape, points // PARTS
    floats = (np.float32, np.float32)
    return {
        "ray": Kind(
            rays,
            {"ray_grid": (1, 1, rays, 2), "ray_code": (1, wide, rays), "ray_pixel": (rays,), "ray_seen": (rays,)},
            "depth",
            floats,
            partial(_kyn_rays, c, map_size, rays),
            Sums("ray_others", "ray_sums", (hidden + 1, labels)),
        ),
        "point": Kind(
            points,
            {
                "point_grid": (1, PARTS, part, 2),
                "point_code": (PARTS, codes, part),
                "point_pixel": (PARTS, part),
                "point_seen": (PARTS, part),
            },
            "density",
            floats,
            partial(_kyn_points, c, map_size, points),
            Sums("point_others", "point_sums", (hidden + 1, labels)),
        ),
        "label": Kind(
            points,
            {"label_pixel": (points,)},
            "labels",
            (np.int32, np.uint8),
            lambda values: {"label_pixel": _padded(_pixels(c, map_size, values), (points,))},
        ),
    }


def ray_places(code: PointCode, directions: np.ndarray) -> Places:
    """Of rays: (..., 3) directions in camera axes, z = 1."""
    grid = code.image_coordinates(directions.reshape(-1, 3))
    return Places(grid, np.ascontiguousarray((code.project_codes(grid, (0, 1)) + code.bias).T))


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


def _kyn_rays(c: KynConstants, map_size: tuple[int, int], size: int, directions: np.ndarray) -> dict[str, np.ndarray]:
    places = ray_places(c.code, directions)
    return {
        **_padded_places("ray", places, size),
        "ray_pixel": _padded(label_pixels(places.grid, map_size), (size,)),
        "ray_seen": _padded(in_view(places.grid, directions[:, 2]).astype(np.float32), (size,)),
    }


def _kyn_points(c: KynConstants, map_size: tuple[int, int], size: int, points: np.ndarray) -> dict[str, np.ndarray]:
    grid, each = c.code.image_coordinates(points), size // PARTS
    codes = np.zeros((PARTS, c.code.w_code.shape[1], each), dtype=np.float32)
    for part in range(PARTS):
        here = slice(part * each, (part + 1) * each)
        uvz = np.concatenate([grid[here], c.code.depth_code(points[here, 2])[:, None]], axis=1)
        codes[part, :, : len(uvz)] = c.code.codes(uvz).T
    return {
        "point_grid": _padded(grid, (size, 2)),
        "point_code": codes,
        "point_pixel": _padded(label_pixels(grid, map_size), (size,)),
        "point_seen": _padded(in_view(grid, points[:, 2]).astype(np.float32), (size,)),
    }


def _pixels(c: KynConstants, map_size: tuple[int, int], points: np.ndarray) -> np.ndarray:
    return label_pixels(c.code.image_coordinates(points), map_size)


def _padded_places(kind: str, places: Places, size: int) -> dict[str, np.ndarray]:
    return {
        f"{kind}_grid": _padded(places.grid, (size, 2)),
        f"{kind}_code": _padded(places.code, (len(places.code), size)),
    }


def _padded(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``values`` in the corner of zeros."""
    padded = np.zeros(shape, values.dtype)
    padded[tuple(slice(count) for count in values.shape)] = values
    return padded
