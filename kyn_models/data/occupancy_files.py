"""Folders of occupancy truth and of object labels, by the names and in the form that Know Your Neighbors published.

    GT_Occ/<drive>_<frame, 10 digits>_occgt.npy      (460, 80) bool, occupied, before "and not visible"
    GT_Occ/<drive>_<frame, 10 digits>_visgt.npy      (460, 80) bool, visible to the first scan
    Object_Label/<drive>_<frame, 10 digits>_occgt_anno.png   (460, 80) uint8: 0 empty, 255 occupied, else an object

Row 0 is the far end (50 m), column 0 the left. Names do not tell the camera, so that a folder holds one camera.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from kyn_models.data.lidar_occupancy import OccupancyTruth, grid_shape
from kyn_models.types import UInt8Array
from kyn_models.whole_files import write_whole

OCCUPIED, VISIBLE, OBJECTS = "_occgt.npy", "_visgt.npy", "_occgt_anno.png"
SETTINGS = "gt_occupancy.json"


@dataclass(frozen=True)
class TruthSettings:
    """What all masks of a folder that ``kyn gt-occupancy`` wrote have in common."""

    scans: int
    camera: str


def frame_name(drive: str, frame: int) -> str:
    """``<drive>_<frame, 10 digits>``."""
    return f"{drive}_{frame:010d}"


def has_truth(folder: Path, name: str) -> bool:
    """True if both masks of a frame are there."""
    return (folder / (name + OCCUPIED)).is_file() and (folder / (name + VISIBLE)).is_file()


def write_truth(folder: Path, name: str, truth: OccupancyTruth) -> None:
    """Write both masks of 4..50 m; a file is there whole or not at all. Raises ``OSError`` naming the file."""
    for ending, mask in ((VISIBLE, truth.visible), (OCCUPIED, truth.occupied)):
        content = io.BytesIO()
        np.save(content, mask)
        write_whole(folder / (name + ending), content.getvalue())


def read_truth(folder: Path, name: str) -> OccupancyTruth:
    """Both masks of a frame; numbers other than 0 count as true.

    Raises ``FileNotFoundError``, or ``ValueError`` for a file that is damaged or of another size.
    """
    return OccupancyTruth(_read_mask(folder / (name + OCCUPIED)), _read_mask(folder / (name + VISIBLE)))


def read_objects(folder: Path, name: str) -> UInt8Array:
    """(460, 80) uint8 object map of a frame. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
    path = folder / (name + OBJECTS)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, expected the object map of the frame")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8 or image.shape != grid_shape():
        got = "a file that is no image" if image is None else f"{image.dtype} {image.shape}"
        raise ValueError(f"{path}: got {got}, expected a grey PNG, uint8 {grid_shape()} (rows, columns)")
    return np.asarray(image, dtype=np.uint8)


def open_folder(folder: Path, settings: TruthSettings) -> None:
    """Make the folder for masks of these settings, or continue it.

    Raises ``ValueError`` if it holds masks of other settings or of unknown origin.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = read_settings(folder)
    if found != settings and next(folder.glob("*" + OCCUPIED), None) is not None:
        kind = "an unknown number of scans" if found is None else f"{found.scans} scans for camera {found.camera}"
        raise ValueError(
            f"{folder}: holds masks from {kind}, expected {settings.scans} scans for camera {settings.camera} as "
            "asked for; name another folder"
        )
    if found != settings:
        write_whole(folder / SETTINGS, (json.dumps(asdict(settings)) + "\n").encode())


def close_empty(folder: Path) -> None:
    """Remove a folder of ``open_folder`` that no mask came into; one that holds anything else stays."""
    if {path.name for path in folder.iterdir()} == {SETTINGS}:
        (folder / SETTINGS).unlink()
        folder.rmdir()


def read_settings(folder: Path) -> TruthSettings | None:
    """Settings of a folder, None where it has none (the published one). Raises ``ValueError`` for a damaged file."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return TruthSettings(int(found["scans"]), str(found["camera"]))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: got something else than scans and camera; remove the folder") from None


def _read_mask(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, expected a mask of the frame")
    try:
        mask = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise ValueError(f"{path}: got a file that is damaged or no .npy array, expected a mask") from None
    if not isinstance(mask, np.ndarray) or mask.shape != grid_shape():
        got = mask.shape if isinstance(mask, np.ndarray) else "several arrays"
        raise ValueError(f"{path}: got {got}, expected {grid_shape()} (rows, columns of 4..50 m)")
    return np.asarray(mask != 0)
