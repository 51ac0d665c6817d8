"""One recorded drive, whichever folder it lies in: what replay, bag writer and demo read.

Both readers answer the same questions: ``drive`` (its name), ``frames``, ``posed_frame``, ``stamp_ns``, ``scan``,
``world_from_base`` (z up), ``base_from_camera``, ``base_from_velo``, ``has_pose``, ``has_scan``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kyn_models.data.kitti360 import DEFAULT_RATE_HZ, Kitti360, drives_of
from kyn_models.data.kitti_odometry_drive import OdometryDrive, sequences_of
from kyn_models.data.splits import other_layout

Drive = Kitti360 | OdometryDrive
Side = Literal["left", "right"]
KITTI360_CAMERAS: dict[Side, str] = {"left": "00", "right": "01"}
ODOMETRY_CAMERAS: dict[Side, str] = {"left": "2", "right": "3"}


def is_odometry(root: str | Path) -> bool:
    """True for a KITTI odometry folder."""
    return other_layout(root) == "kitti_odometry"


def is_drive_folder(root: str | Path) -> bool:
    """True for a folder that ``open_drive`` reads: with ``data_2d_raw`` (KITTI-360), or ``sequences``."""
    return (Path(root) / "data_2d_raw").is_dir() or is_odometry(root)


def require_drive_folder(root: str | Path) -> None:
    """Raise ``FileNotFoundError`` for anything else, saying what it is and which folder above it is one."""
    root = Path(root)
    if is_drive_folder(root):
        return
    if not root.is_dir():
        got = "a file" if root.exists() else "no such folder"
    elif other_layout(root) == "kitti_raw":
        got = "a KITTI raw folder, which `kyn eval depth --layout kitti_raw` and `kyn train` read"
    else:
        got = "other files" if any(root.iterdir()) else "an empty folder"
    above = next((path for path in root.resolve().parents if is_drive_folder(path)), None)
    raise FileNotFoundError(
        f"{root}: got {got}, expected a KITTI-360 folder (with data_2d_raw) or a KITTI odometry folder (with sequences)"
        + (f"; {above} is one" if above else "")
    )


def drive_names(root: str | Path) -> tuple[str, ...]:
    """The drives of a KITTI-360 folder, the sequences of a KITTI odometry folder. Raises ``FileNotFoundError``."""
    require_drive_folder(root)
    if not is_odometry(root):
        return drives_of(root)
    names = sequences_of(root)
    if not names:
        raise FileNotFoundError(f"{Path(root) / 'sequences'}: got no sequence, expected <name>/calib.txt in it")
    return names


def open_drive(
    root: str | Path, name: str | None = None, side: Side = "left", rate_hz: float = DEFAULT_RATE_HZ
) -> Drive:
    """A drive of a KITTI-360 folder, or a sequence of a KITTI odometry folder, seen by one rectified camera.

    name: may be left out where there is only one. rate_hz: frame rate where the stamps are missing.
    Raises ``FileNotFoundError`` or ``ValueError`` as the readers do.
    """
    require_drive_folder(root)
    if is_odometry(root):
        return OdometryDrive(root, name, ODOMETRY_CAMERAS[side], rate_hz=rate_hz)
    return Kitti360(root, name, KITTI360_CAMERAS[side], rate_hz=rate_hz)


def image_frame(camera: str) -> str:
    """Name of the coordinate frame of a camera's images, ``image_00_optical``; after the data set's folder."""
    return f"image_{camera}_optical"
