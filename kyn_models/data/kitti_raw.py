"""KITTI raw drives (Geiger et al., 2013): the left colour camera with depth truth from the frame's scan.

<root>/<date>/calib_cam_to_cam.txt  calib_velo_to_cam.txt
<root>/<date>/<drive>/image_02/data/<frame, 10 digits>.png
<root>/<date>/<drive>/velodyne_points/data/<frame, 10 digits>.bin
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kyn_models.data.calibration import entry, inverse, read_image, read_scan, read_table, transform
from kyn_models.data.lidar_depth import in_camera, nearest_returns
from kyn_models.types import Float64Array, Intrinsics, Observation, PosedFrame, Sample

VELO_HEIGHT_M = 1.73
"""Height of the scanner above the road in KITTI's sensor set-up; its axes are forward, left, up."""
RATE_HZ = 10.0


def base_from_velo() -> Float64Array:
    """(4, 4): base_link is on the road below the scanner."""
    pose = np.eye(4)
    pose[2, 3] = VELO_HEIGHT_M
    return pose


def projection_camera(
    projection: np.ndarray, rectified_from_velo: np.ndarray, width: int, height: int
) -> tuple[Intrinsics, Float64Array]:
    """Intrinsics and camera_from_velo of a rectified camera with (3, 4) P = K [I | t] in rectified camera 0."""
    camera = Intrinsics.from_matrix(projection, width, height)
    offset = np.eye(4)
    offset[:3, 3] = np.linalg.solve(camera.matrix, projection[:, 3])
    return camera, offset @ rectified_from_velo


class KittiRaw:
    """The frames of one drive that have an image and a scan: ``len()`` and ``[i] -> Sample`` with ``depth_m``.

    root: the folder with the dates. drive: ``<date>/<drive>`` or the drive's name; may be left out where there is
    only one. Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing.
    """

    def __init__(self, root: str | Path, drive: str | None = None) -> None:
        folders = sorted(path.parents[1] for path in Path(root).glob("*/*_sync/image_02/data"))
        if drive is not None:
            folders = [path for path in folders if path.name == Path(drive).name]
        if not folders:
            raise FileNotFoundError(f"{root}: got no {drive or 'drive'}, expected <date>/<drive>_sync/image_02/data")
        if len(folders) > 1:
            raise ValueError(f"drive: got none, expected one of {', '.join(path.name for path in folders)}")
        self._folder = folders[0]
        self.drive = self._folder.name
        self._read_calibration(self._folder.parent)
        images = {int(path.stem) for path in (self._folder / "image_02" / "data").glob("*.png")}
        scans = {int(path.stem) for path in (self._folder / "velodyne_points" / "data").glob("*.bin")}
        self.frames: tuple[int, ...] = tuple(sorted(images & scans))
        if not self.frames:
            raise ValueError(f"{self._folder}: got {len(images)} images and {len(scans)} scans, none of one frame")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        image = read_image(self._folder / "image_02" / "data" / f"{frame:010d}.png", f"frame {frame} of camera 02")
        points = read_scan(self._folder / "velodyne_points" / "data" / f"{frame:010d}.bin")
        stamp_ns = round((frame + 1) * 1e9 / RATE_HZ)
        return Sample(
            name=f"{self.drive}_{frame:010d}",
            observation=Observation((PosedFrame(image, self.intrinsics, stamp_ns),), self.base_from_camera),
            depth_m=nearest_returns(in_camera(points, self.camera_from_velo), self.intrinsics),
        )

    def _read_calibration(self, folder: Path) -> None:
        cameras_path, velo_path = folder / "calib_cam_to_cam.txt", folder / "calib_velo_to_cam.txt"
        cameras = read_table(cameras_path, "the rectified cameras of that date")
        velo = read_table(velo_path, "the pose of the scanner in camera 0")
        raw_from_velo = np.column_stack([entry(velo, "R", (3, 3), velo_path), entry(velo, "T", (3,), velo_path)])
        turn = transform(entry(cameras, "R_rect_00", (3, 3), cameras_path))
        width, height = entry(cameras, "S_rect_02", (2,), cameras_path)
        projection = entry(cameras, "P_rect_02", (3, 4), cameras_path)
        self.intrinsics, self.camera_from_velo = projection_camera(
            projection, turn @ transform(raw_from_velo), int(width), int(height)
        )
        self.base_from_camera: Float64Array = base_from_velo() @ inverse(self.camera_from_velo)
