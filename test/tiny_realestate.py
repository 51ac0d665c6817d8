"""A tiny sequence in RealEstate10K's form: a camera file, and frames or a video that can be told apart by colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

ID = "a-b_C1"
URL = f"https://www.youtube.com/watch?v={ID}"
SHARES = (0.5, 0.9, 0.52, 0.49)
RATE_HZ = 10
STEP = 0.25
"""The camera moves so far along its optical axis per frame."""


def stamps(count: int, first: int = 3) -> list[int]:
    """Microseconds of every video frame from ``first`` on."""
    return [(first + i) * 1_000_000 // RATE_HZ for i in range(count)]


def write_cameras(folder: Path, sequence: str, count: int = 6, first: int = 3, url: str = URL) -> Path:
    """The camera file of one sequence."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [url]
    for i, stamp in enumerate(stamps(count, first)):
        numbers = [*SHARES, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, -STEP * i]
        lines.append(" ".join(map(str, (stamp, *numbers))))
    path = folder / f"{sequence}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def image(number: int, rows: int = 36, columns: int = 64) -> np.ndarray:
    """(rows, columns, 3) uint8 RGB: one colour for each frame of a video."""
    return np.full((rows, columns, 3), (10 * number, 255 - 10 * number, 128), np.uint8)


def write_prepared(root: Path, sequence: str, count: int = 6, first: int = 3) -> Path:
    """The folder that `kyn prepare realestate10k` would write."""
    write_cameras(root / "cameras", sequence, count, first)
    folder = root / "frames" / sequence
    folder.mkdir(parents=True)
    for number, stamp in enumerate(stamps(count, first), start=first):
        cv2.imwrite(str(folder / f"{stamp}.jpg"), image(number)[..., ::-1])
    return root
