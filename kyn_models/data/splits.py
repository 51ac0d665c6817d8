"""Drives and published frame lists (``<drive> <frame> <l|r>`` per line): how evaluation and training name frames."""

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


def drives_of(root: str | Path) -> tuple[str, ...]:
    """Names of the drives of a folder in the official layout. Raises ``FileNotFoundError`` where there is none."""
    folder = Path(root) / "data_2d_raw"
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
    if not names:
        above = next((path for path in Path(root).resolve().parents if (path / "data_2d_raw").is_dir()), None)
        if layout := other_layout(root):
            raise FileNotFoundError(
                f"{root}: got a folder in the layout {layout}, expected one of KITTI-360, with data_2d_raw; commands "
                f"that read it have --layout {layout}"
            )
        raise FileNotFoundError(
            f"{folder}: missing or empty, expected a drive (a KITTI-360 folder in official layout)"
            + (f"; {above} is one" if above else "")
        )
    return names


def other_layout(root: str | Path) -> str:
    """``kitti_odometry`` or ``kitti_raw`` for a folder that looks like that and not like KITTI-360, else empty."""
    root = Path(root)
    if not root.is_dir() or (root / "data_2d_raw").is_dir():
        return ""
    if (root / "sequences").is_dir():
        return "kitti_odometry"
    return "kitti_raw" if any(path.is_dir() for path in root.glob("????_??_??/????_??_??_drive_*")) else ""


def choose_drive(root: Path, drive: str | None, split: str | Path | None, tolerant: bool) -> str:
    """``drive``, or the only one of the split, or, without a split, of the folder.

    tolerant: a drive that is named may be missing. Raises ``ValueError`` where there are several to choose from,
    ``FileNotFoundError`` for one that is missing.
    """
    drives = drives_of(root)
    if drive is None and split is not None:
        named = tuple(dict.fromkeys(line.drive for line in read_split(split)))
        drive = named[0] if len(named) == 1 else None
        drives_to_choose = named
    else:
        drives_to_choose = drives
    if drive is None and len(drives_to_choose) > 1:
        raise ValueError(f"drive: got none, expected one of {', '.join(drives_to_choose)}")
    drive = drive or drives_to_choose[0]
    if drive not in drives and not tolerant:
        raise FileNotFoundError(f"{root / 'data_2d_raw' / drive}: no such drive, there are {', '.join(drives)}")
    return drive
