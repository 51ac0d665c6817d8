"""A tiny drive in KITTI's raw layout, made of numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0099_sync"
WIDTH, HEIGHT, FOCAL = 128, 40, 64.0
RIGHT_M = 0.5
"""How far camera 03 is to the right of camera 02, which stands where rectified camera 0 does."""
STEP_M = 1.5
SCAN = np.array([[8.0, 0.0, 0.0, 0.5], [16.0, 0.0, 0.0, 0.5], [8.0, -2.0, -1.0, 0.5], [-8.0, 0.0, 0.0, 0.5]])
"""Two returns behind each other straight ahead, one below and to the right, one behind the car."""


def write_raw(root: Path, frames: range = range(3), drive: str = DRIVE, ending: str = ".png") -> Path:
    """Write the folder: scanner, inertial unit and camera 0 share one place, forward, left, up against the optical
    axes. The car drives ``STEP_M`` north per frame at 49 degrees, 8 degrees east."""
    folder = root / drive
    for name in ("image_02/data", "image_03/data", "velodyne_points/data", "oxts/data"):
        (folder / name).mkdir(parents=True)
    write_calibration(folder.parent)
    for frame in frames:
        for camera in ("02", "03"):
            pixels = image(frame, camera)[..., ::-1]
            cv2.imwrite(str(folder / f"image_{camera}" / "data" / f"{frame:010d}{ending}"), pixels)
        SCAN.astype(np.float32).tofile(folder / "velodyne_points" / "data" / f"{frame:010d}.bin")
        latitude = 49 + np.degrees(STEP_M * frame / 6378137.0)
        text = f"{latitude:.15f} 8.0 110.0 0.0 0.0 {np.pi / 2:.15f}" + " 0" * 24
        (folder / "oxts" / "data" / f"{frame:010d}.txt").write_text(text + "\n")
    return root


def write_calibration(folder: Path) -> None:
    """The three calibration files of a date."""
    axes = "0 -1 0 0 0 -1 1 0 0"
    lines = ["calib_time: 01-Jan-2012 00:00:00", "R_rect_00: 1 0 0 0 1 0 0 0 1"]
    for camera, offset in (("02", 0.0), ("03", -FOCAL * RIGHT_M)):
        lines.append(f"S_rect_{camera}: {WIDTH} {HEIGHT}")
        lines.append(f"P_rect_{camera}: {FOCAL} 0 {WIDTH / 2} {offset} 0 {FOCAL} {HEIGHT / 2} 0 0 0 1 0")
    (folder / "calib_cam_to_cam.txt").write_text("\n".join(lines) + "\n")
    (folder / "calib_velo_to_cam.txt").write_text(f"R: {axes}\nT: 0 0 0\n")
    (folder / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n")


def write_slam(folder: Path, count: int = 3, drive: str = DRIVE) -> Path:
    """Poses of camera 0: ``STEP_M`` forward per frame."""
    path = folder / f"{drive}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {STEP_M * frame}\n" for frame in range(count)))
    return folder


def image(frame: int, camera: str) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 RGB, different in every frame and camera."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 5 + frame, columns, rows + columns + 7 * frame + int(camera)], axis=-1).astype(np.uint8)
