"""Scores of occupancy and depth as published, in numpy.

Occupancy scores follow Know Your Neighbors (CVPR 2024): truth is "occupied and not visible to the first scan". Depth
scores are the seven numbers of Eigen et al. (2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

FAR_CUT_ROWS = 20
"""Rows kept beyond the farthest visible one: 2 m at 10 cells per metre."""
OBJECT_MARGIN = (20, 5)
"""Rows and columns by which an object's box is enlarged: 2 m in depth, 0.5 m sideways."""
NO_OBJECT = 255
"""Value of an object map for occupied cells without an object; 0 is empty."""
MIN_PREDICTION_M = 1e-3


class OccupancyScores(NamedTuple):
    """o_acc: share of cells answered rightly. ie_acc: the same among cells that the first scan does not see.
    ie_rec: share of the truly empty unseen cells that were answered "free". NaN where there are no such cells."""

    o_acc: float
    ie_acc: float
    ie_rec: float


class DepthScores(NamedTuple):
    """The seven numbers over valid pixels, and how many pixels they rest on.

    abs_rel, sq_rel (m), rmse (m), rmse_log: errors; a1, a2, a3: share of pixels within a factor 1.25, 1.25^2, 1.25^3.
    pixels: valid truth pixels. capped: those of them whose prediction was Inf or NaN and scored as the cap.
    All seven are NaN where there is no valid pixel.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    a1: float
    a2: float
    a3: float
    pixels: int
    capped: int


def occupancy_scores(predicted: BoolArray, occupied: BoolArray, visible: BoolArray) -> OccupancyScores:
    """Scene scores of one frame. All three: bool arrays of one shape, ``occupied`` and ``visible`` as the truth has
    them. Raises ``ValueError`` for other types or shapes."""
    for name, array in (("predicted", predicted), ("occupied", occupied), ("visible", visible)):
        if array.dtype != np.bool_ or array.shape != predicted.shape:
            raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected bool {predicted.shape}")
    truth = occupied & ~visible
    right = predicted == truth
    unseen = ~visible
    return OccupancyScores(_share(right), _share(right[unseen]), _share(~predicted[unseen & ~truth]))


def object_scores(
    predicted: BoolArray, occupied: BoolArray, visible: BoolArray, object_map: NDArray[np.uint8]
) -> OccupancyScores:
    """Scores near objects only: the union of all objects' boxes, each enlarged by ``OBJECT_MARGIN``, all rows.

    object_map: uint8 of the same shape; 1..254 number an object, 255 is occupied without one, 0 empty. All NaN where
    the map has no object.
    """
    near = np.zeros(object_map.shape, dtype=bool)
    for number in np.unique(object_map[(object_map != 0) & (object_map != NO_OBJECT)]):
        rows, columns = np.nonzero(object_map == number)
        # The upper end of a box is exclusive, as published.
        near[
            max(0, rows.min() - OBJECT_MARGIN[0]) : rows.max() + OBJECT_MARGIN[0],
            max(0, columns.min() - OBJECT_MARGIN[1]) : columns.max() + OBJECT_MARGIN[1],
        ] = True
    return occupancy_scores(predicted[near], occupied[near], visible[near])


def far_cut_row(visible: BoolArray) -> int | None:
    """First row that counts after the far cut (row 0 is the far end), None where no cell is visible.

    Kept are the rows from 2 m beyond the farthest one with a visible cell.
    """
    rows = np.flatnonzero(visible.any(axis=1))
    return max(0, int(rows[0]) - FAR_CUT_ROWS) if rows.size else None


def far_cut_scores(predicted: BoolArray, occupied: BoolArray, visible: BoolArray) -> OccupancyScores:
    """Scene scores of the rows after the far cut; all NaN where no cell is visible."""
    row = far_cut_row(visible)
    if row is None:
        return OccupancyScores(np.nan, np.nan, np.nan)
    return occupancy_scores(predicted[row:], occupied[row:], visible[row:])


def depth_scores(predicted: np.ndarray, truth: np.ndarray, near_m: float = 3.0, far_m: float = 80.0) -> DepthScores:
    """The seven numbers. predicted, truth: float arrays of one shape, metres along the optical axis.

    Valid are truth pixels from ``near_m`` to ``far_m``; NaN truth is unknown. Inf and NaN predictions score as
    ``far_m`` and are counted; the others are limited to 1 mm .. ``far_m``. No crop, no scaling.
    Raises ``ValueError`` for different shapes.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted depth: got shape {predicted.shape}, expected {truth.shape} as the truth")
    with np.errstate(invalid="ignore"):
        valid = (truth >= near_m) & (truth <= far_m)
    true, guess = truth[valid].astype(np.float64), predicted[valid].astype(np.float64)
    finite = np.isfinite(guess)
    guess = np.clip(np.where(finite, guess, far_m), MIN_PREDICTION_M, far_m)
    if not true.size:
        return DepthScores(*(np.nan,) * 7, pixels=0, capped=0)
    error = guess - true
    ratio = np.maximum(guess / true, true / guess)
    return DepthScores(
        abs_rel=float(np.mean(np.abs(error) / true)),
        sq_rel=float(np.mean(error**2 / true)),
        rmse=float(np.sqrt(np.mean(error**2))),
        rmse_log=float(np.sqrt(np.mean(np.log(guess / true) ** 2))),
        a1=float(np.mean(ratio < 1.25)),
        a2=float(np.mean(ratio < 1.25**2)),
        a3=float(np.mean(ratio < 1.25**3)),
        pixels=int(true.size),
        capped=int(np.count_nonzero(~finite)),
    )


def _share(values: BoolArray) -> float:
    return float(np.mean(values)) if values.size else float("nan")
