"""Depth truth of KITTI odometry: the improved annotated depth of KITTI's depth benchmark, put beside the images.

The benchmark stores it by raw drive, ``{train,val}/<drive>_sync/proj_depth/groundtruth/image_02/<10 digits>.png``; the
readers want ``sequences/<sequence>/image_depth_annotated/<6 digits>.png``. Which frames of which drive a sequence is,
says the official development kit of the odometry benchmark. A file appears under its name only when it is whole, so
that an interrupted work goes on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kyn_models.data.kitti_odometry import DEPTH_FOLDER
from kyn_models.data.kitti_odometry_drive import sequences_of
from kyn_models.data.prepare_pool import Made, Shot, in_batches, make_all, make_each, make_folders
from kyn_models.image_file import PNG_SIGNATURE
from kyn_models.whole_files import put, write_whole

DRIVES: dict[str, tuple[str, int, int]] = {
    "00": ("2011_10_03_drive_0027", 0, 4540),
    "01": ("2011_10_03_drive_0042", 0, 1100),
    "02": ("2011_10_03_drive_0034", 0, 4660),
    "03": ("2011_09_26_drive_0067", 0, 800),
    "04": ("2011_09_30_drive_0016", 0, 270),
    "05": ("2011_09_30_drive_0018", 0, 2760),
    "06": ("2011_09_30_drive_0020", 0, 1100),
    "07": ("2011_09_30_drive_0027", 0, 1100),
    "08": ("2011_09_30_drive_0028", 1100, 5170),
    "09": ("2011_09_30_drive_0033", 0, 1590),
    "10": ("2011_09_30_drive_0034", 0, 1200),
}
"""Sequence to raw drive, its first and last frame."""
ENDS = 5
"""Frames at both ends of a drive that the benchmark has no depth of: it collects 11 scans."""
PNG_END = b"IEND\xaeB\x60\x82"
GREY_16 = (16, 0)
"""Bits and colour type in the header of a PNG."""


@dataclass(frozen=True)
class Plan:
    """What goes where, and a sentence for everything that is missing. counts: files found by sequence."""

    shots: tuple[Shot, ...]
    counts: dict[str, int]
    lacks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.shots)


def plan(depth: Path, data: Path, sequences: Sequence[str] = (), strict: bool = False) -> Plan:
    """What is to be done. Writes nothing.

    depth: the benchmark's folder, with ``train`` and ``val``. data: KITTI odometry, with ``sequences``; sequences:
    names, none for all that are there and have depth truth. strict: anything missing is an error.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """
    there = sequences_of(data)
    wanted = [name for name in there if name in DRIVES] if not sequences else list(dict.fromkeys(sequences))
    unknown = [name for name in wanted if name not in DRIVES or name not in there]
    if unknown or not wanted:
        raise FileNotFoundError(
            f"{data}: got no sequence {', '.join(unknown) or 'of 00 to 10'}, expected sequences/<name>/calib.txt "
            f"of {', '.join(DRIVES)} (there are {', '.join(there) or 'none'})"
        )
    drives = _drives(depth)
    shots: list[Shot] = []
    counts: dict[str, int] = {}
    lacks: list[str] = []
    for name in wanted:
        found = _shots(drives.get(DRIVES[name][0]), data, name, lacks)
        counts[name] = len(found)
        shots += found
    if lacks and (strict or not shots):
        raise FileNotFoundError(lacks[0])
    return Plan(tuple(shots), counts, tuple(lacks))


def prepare(
    work: Plan, workers: int, link: bool = False, strict: bool = False, progress: Callable[[Made], None] | None = None
) -> Made:
    """Copy, or with ``link`` hard-link, what is not there yet, in ``workers`` processes.

    strict: a file that is no depth image ends the work. progress is given the sum so far. Raises ``ValueError`` for
    such a file, ``OSError`` naming the one that cannot be written.
    """
    make_folders(shot.target for shot in work.shots)
    batches = in_batches({"all": link}, {"all": work.shots})
    return make_all(_make, batches, workers, strict, progress or (lambda made: None))


def _drives(depth: Path) -> dict[str, Path]:
    """Folders of depth images by drive."""
    found = {
        path.parts[-4].removesuffix("_sync"): path
        for part in ("train", "val")
        for path in sorted(depth.glob(f"{part}/*_sync/proj_depth/groundtruth/image_02"))
    }
    if not found:
        raise FileNotFoundError(
            f"{depth}: got no depth, expected {{train,val}}/<drive>_sync/proj_depth/groundtruth/image_02 "
            "(KITTI's annotated depth maps, unpacked)"
        )
    return found


def _shots(folder: Path | None, data: Path, sequence: str, lacks: list[str]) -> list[Shot]:
    """The files of a sequence; what is missing is added to ``lacks``."""
    drive, first, last = DRIVES[sequence]
    if folder is None:
        lacks.append(f"sequence {sequence}: its drive {drive}_sync has no depth in train nor val")
        return []
    there = {int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()}
    missing = [frame for frame in range(max(first, ENDS), last - ENDS + 1) if frame not in there]
    if missing:
        lacks.append(
            f"sequence {sequence}: {folder} lacks {len(missing)} files, the first {missing[0]:010d}.png, "
            f"the last {missing[-1]:010d}.png"
        )
    target = data / "sequences" / sequence / DEPTH_FOLDER
    return [
        Shot(folder / f"{frame:010d}.png", target / f"{frame - first:06d}.png")
        for frame in range(first, last + 1)
        if frame in there
    ]


def _make(link: bool, shots: Sequence[Shot]) -> Made:
    def write(shot: Shot, content: bytes) -> None:
        if link:
            _link(shot)
        else:
            write_whole(shot.target, content)

    return make_each(shots, lambda shot: shot.target.is_file(), lambda shot: _depth_image(shot.source), write)


def _depth_image(path: Path) -> bytes:
    """The content of a whole 16-bit grey PNG. Raises ``ValueError`` for another file."""
    content = path.read_bytes()
    if not content.startswith(PNG_SIGNATURE) or not content.endswith(PNG_END):
        raise ValueError(f"{path}: got a file that is no whole PNG, expected annotated depth; unpack it again")
    if (content[24], content[25]) != GREY_16:
        raise ValueError(f"{path}: got no 16-bit grey image, expected depth in 1/256 m")
    return content


def _link(shot: Shot) -> None:
    def make(part: Path) -> None:
        part.unlink(missing_ok=True)
        os.link(shot.source, part)

    try:
        put(shot.target, make)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise OSError(
            f"{shot.target}: cannot be a hard link to {shot.source} on another disk; leave --link out"
        ) from None
