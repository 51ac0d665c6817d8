"""Published frame lists (``<drive> <frame> <l|r>`` per line), the way evaluation and training name their frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CAMERA_OF_SIDE = {"l": "00", "r": "01"}
"""Side letter of a split line to the KITTI-360 camera."""


@dataclass(frozen=True)
class SplitLine:
    """One line of a KITTI-360 split file, with where it was read for messages."""

    drive: str
    frame: int
    camera: str
    source: str


def read_split(path: str | Path) -> list[SplitLine]:
    """All lines of a KITTI-360 split file in their order; empty lines are skipped.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the line that is not ``<drive> <frame> <l|r>``.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"{path}: {kind}, expected a split file with lines of '<drive> <frame> <l|r>'")
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: got a file that is no text, expected lines of '<drive> <frame> <l|r>'") from None
    lines = []
    for number, text in enumerate(texts, start=1):
        words = text.split()
        if not words:
            continue
        if len(words) != 3 or not words[1].isdigit() or words[2] not in CAMERA_OF_SIDE:
            raise ValueError(f"{path}, line {number}: got {text!r}, expected '<drive> <frame> <l|r>'")
        lines.append(SplitLine(words[0], int(words[1]), CAMERA_OF_SIDE[words[2]], f"{path}, line {number}"))
    if not lines:
        raise ValueError(f"{path}: got an empty split file, expected lines of '<drive> <frame> <l|r>'")
    return lines
