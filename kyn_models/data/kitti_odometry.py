"""KITTI odometry sequences: the left colour camera with annotated lidar depth (several scans, outliers removed).

The layout is that of ``kitti_odometry_drive``, with ``sequences/<sequence>/image_depth_annotated/<frame>.png``, which
`kyn prepare kitti-odometry` makes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kyn_models.data.calibration import require_file
from kyn_models.data.kitti_odometry_drive import OdometryDrive
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Observation, Sample

DEPTH_UNITS_PER_M = 256.0
DEPTH_FOLDER = "image_depth_annotated"


class KittiOdometry:
    """The frames of one sequence with annotated depth: ``len()`` and ``[i] -> Sample`` with ``depth_m``.

    root: the folder with ``sequences``. sequence: its name; may be left out where there is only one.
    Images have their full size; poses are those of ``poses``.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing.
    """

    def __init__(self, root: str | Path, sequence: str | None = None) -> None:
        self.drive = OdometryDrive(root, sequence)
        """Images and poses of all frames, with and without annotated depth."""
        self.sequence = self.drive.drive
        self.frames: tuple[int, ...] = tuple(sorted(annotated_frames(self.drive)))
        if not self.frames:
            raise FileNotFoundError(f"{self.drive.folder / DEPTH_FOLDER}: missing or empty, expected depth images")
        self.intrinsics: Intrinsics = self.drive.intrinsics()
        self.base_from_camera: Float64Array = self.drive.base_from_camera()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        return Sample(
            name=f"{self.sequence}_{frame:010d}",
            observation=Observation((self.drive.posed_frame(frame),), self.base_from_camera),
            depth_m=read_annotated_depth(depth_path(self.drive, frame)),
        )


def depth_path(drive: OdometryDrive, frame: int) -> Path:
    """Where the annotated depth of a frame lies (or would)."""
    return drive.folder / DEPTH_FOLDER / f"{frame:06d}.png"


def annotated_frames(drive: OdometryDrive) -> frozenset[int]:
    """Frames with annotated depth."""
    return frozenset(int(path.stem) for path in depth_path(drive, 0).parent.glob("*.png") if path.stem.isdigit())


def read_annotated_depth(path: Path) -> Float32Array:
    """(H, W) float32 metres along the optical axis of KITTI's annotated depth, NaN unknown. Raises by file name."""
    stored = cv2.imread(str(require_file(path, "annotated depth")), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise ValueError(f"{path}: got no 16-bit grey image, expected depth in 1/256 m")
    return np.where(stored > 0, stored / np.float32(DEPTH_UNITS_PER_M), np.float32(np.nan)).astype(np.float32)
