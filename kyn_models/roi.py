"""A part of an image as (top, bottom, left, right) in pixels, the ends exclusive. numpy only."""

from __future__ import annotations

import numpy as np

from kyn_models.metrics import BoolArray

Roi = tuple[int, int, int, int]


def check_roi(roi: Roi | None) -> None:
    """Raises ``ValueError`` for a part that has no pixel in any image; None is the whole image."""
    if roi is None:
        return
    top, bottom, left, right = roi
    if not (0 <= top < bottom and 0 <= left < right):
        raise ValueError(
            f"--roi: got top {top}, bottom {bottom}, left {left}, right {right}, "
            "expected 0 <= top < bottom and 0 <= left < right, in pixels"
        )


def inside(roi: Roi | None, shape: tuple[int, ...]) -> BoolArray:
    """(H, W) bool of an image of ``shape``. Raises ``ValueError`` where the part reaches beyond it."""
    found = np.zeros(shape, dtype=bool)
    if roi is None:
        return ~found
    top, bottom, left, right = roi
    if bottom > shape[0] or right > shape[1]:
        raise ValueError(f"--roi: got bottom {bottom}, right {right}, expected at most {shape[0]} and {shape[1]}")
    found[top:bottom, left:right] = True
    return found
