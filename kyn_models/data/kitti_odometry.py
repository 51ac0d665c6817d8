"""KITTI odometry sequences: the left colour camera with annotated lidar depth (several scans, outliers removed).

<root>/sequences/<sequence>/calib.txt  image_2/<frame, 6 digits>.png  image_depth_annotated/<frame>.png  times.txt
<root>/poses/<sequence>.txt
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kyn_models.data.calibration import entry, inverse, read_image, read_table, require_file, transform
from kyn_models.data.kitti_raw import base_from_velo, projection_camera
from kyn_models.types import Float32Array, Float64Array, Observation, PosedFrame, Sample

DEPTH_UNITS_PER_M = 256.0


class KittiOdometry:
    """The frames of one sequence with annotated depth: ``len()`` and ``[i] -> Sample`` with ``depth_m``.

    root: the folder with ``sequences``. sequence: its name; may be left out where there is only one.
    ``world_from_camera`` is the pose of the colour camera in the sequence's first camera 0.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing.
    """

    def __init__(self, root: str | Path, sequence: str | None = None) -> None:
        folders = sorted(path.parent for path in Path(root).glob("sequences/*/calib.txt"))
        if sequence is not None:
            folders = [path for path in folders if path.name == sequence]
        if not folders:
            raise FileNotFoundError(f"{root}: got no sequence {sequence or ''}, expected sequences/<name>/calib.txt")
        if len(folders) > 1:
            raise ValueError(f"sequence: got none, expected one of {', '.join(path.name for path in folders)}")
        self._folder = folders[0]
        self.sequence = self._folder.name
        annotated = {int(path.stem) for path in (self._folder / "image_depth_annotated").glob("*.png")}
        self.frames: tuple[int, ...] = tuple(sorted(annotated))
        if not self.frames:
            raise FileNotFoundError(
                f"{self._folder / 'image_depth_annotated'}: missing or empty, expected depth images"
            )
        self._read_calibration()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        image = read_image(self._folder / "image_2" / f"{frame:06d}.png", f"frame {frame} of camera 2")
        key = PosedFrame(image, self.intrinsics, self._stamps[frame], self._poses[frame] @ self._left_from_camera)
        return Sample(
            name=f"{self.sequence}_{frame:010d}",
            observation=Observation((key,), self.base_from_camera),
            depth_m=self._depth(frame),
        )

    def _depth(self, frame: int) -> Float32Array:
        path = require_file(self._folder / "image_depth_annotated" / f"{frame:06d}.png", "annotated depth")
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
            raise ValueError(f"{path}: got no 16-bit grey image, expected depth in 1/256 m")
        return np.where(stored > 0, stored / np.float32(DEPTH_UNITS_PER_M), np.float32(np.nan)).astype(np.float32)

    def _read_calibration(self) -> None:
        path = self._folder / "calib.txt"
        table = read_table(path, "the cameras of the sequence")
        first = require_file(self._folder / "image_2" / f"{self.frames[0]:06d}.png", "the image of an annotated frame")
        height, width = read_image(first, "a frame of camera 2").shape[:2]
        projection = entry(table, "P2", (3, 4), path)
        left_from_velo = transform(entry(table, "Tr", (3, 4), path))
        self.intrinsics, camera_from_velo = projection_camera(projection, left_from_velo, width, height)
        self.base_from_camera: Float64Array = base_from_velo() @ inverse(camera_from_velo)
        self._left_from_camera = left_from_velo @ inverse(camera_from_velo)
        poses_path = self._folder.parents[1] / "poses" / f"{self.sequence}.txt"
        times_path = self._folder / "times.txt"
        poses = np.loadtxt(require_file(poses_path, "camera 0 to the first camera 0"), ndmin=2)
        times = np.loadtxt(require_file(times_path, "seconds of each frame"), ndmin=1)
        if poses.shape[1:] != (12,) or min(len(poses), len(times)) <= self.frames[-1]:
            raise ValueError(
                f"{poses_path}, {times_path}: got {poses.shape} and {len(times)} entries, expected 12 numbers and one "
                f"time for each frame up to {self.frames[-1]}"
            )
        self._poses = {frame: transform(poses[frame].reshape(3, 4)) for frame in self.frames}
        self._stamps = {frame: round(times[frame] * 1e9) for frame in self.frames}
