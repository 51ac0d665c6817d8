"""A tiny drive in KITTI-360's official layout: a flat road and a wall, made of numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

DRIVE = "2000_01_01_drive_0001_sync"
WIDTH, HEIGHT, FOCAL = 64, 24, 32.0
CAMERA_HEIGHT_M = 1.58
VELO_HEIGHT_M = 1.73
STEP_M = 1.0
RIGHT_M = 0.6
"""How far camera 01 is to the right of camera 00."""


def write_drive(
    root: Path, frames: range = range(5, 9), drive: str = DRIVE, cameras: tuple[str, ...] = ("00",)
) -> Path:
    """Write the folder. The car drives straight ahead (world x), ``STEP_M`` per frame, frame 0 at the origin.

    Cameras look straight ahead, 1 m in front of the vehicle frame; the scanner stands 0.2 m in front of it.
    """
    calibration = root / "calibration"
    calibration.mkdir(parents=True, exist_ok=True)
    _write_calibration(calibration)
    for camera in cameras:
        (root / "data_2d_raw" / drive / f"image_{camera}" / "data_rect").mkdir(parents=True)
    scans = root / "data_3d_raw" / drive / "velodyne_points" / "data"
    scans.mkdir(parents=True)
    poses = root / "data_poses" / drive
    poses.mkdir(parents=True)
    lines = []
    for frame in frames:
        for camera in cameras:
            path = root / "data_2d_raw" / drive / f"image_{camera}" / "data_rect" / f"{frame:010d}.png"
            cv2.imwrite(str(path), image(frame)[..., ::-1])
        scan().tofile(scans / f"{frame:010d}.bin")
        # Vehicle frame: x forward, y right, z down, 0.93 m above the road.
        pose = np.array([[1, 0, 0, STEP_M * frame], [0, -1, 0, 0], [0, 0, -1, 0.93]], dtype=float)
        lines.append(f"{frame} " + " ".join(f"{value:.9f}" for value in pose.ravel()))
    (poses / "poses.txt").write_text("\n".join(lines) + "\n")
    return root


def write_timestamps(root: Path, count: int = 20, drive: str = DRIVE, camera: str = "00") -> None:
    """One line per frame number from 0: 8:00 and 0.1 s more for each, plus 5 ns."""
    lines = [f"2013-05-28 08:00:{index // 10:02d}.{index % 10}00000005" for index in range(count)]
    (root / "data_2d_raw" / drive / f"image_{camera}" / "timestamps.txt").write_text("\n".join(lines) + "\n")


def image(frame: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 RGB, different in every frame and channel."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 5 + frame, columns * 3, (rows + columns + 7 * frame) % 256], axis=-1).astype(np.uint8)


def scan() -> np.ndarray:
    """(N, 4) float32: road in front of the scanner and a wall 20 m ahead of it, 12 m wide and 3 m high."""
    x, y = np.meshgrid(np.arange(4.0, 20.0, 0.25), np.arange(-6.0, 6.01, 0.25))
    road = np.stack([x.ravel(), y.ravel(), np.full(x.size, -VELO_HEIGHT_M), np.full(x.size, 0.25)], axis=-1)
    y, z = np.meshgrid(np.arange(-6.0, 6.01, 0.1), np.arange(-VELO_HEIGHT_M, 3 - VELO_HEIGHT_M, 0.1))
    wall = np.stack([np.full(y.size, 20.0), y.ravel(), z.ravel(), np.full(y.size, 0.75)], axis=-1)
    return np.concatenate([road, wall]).astype(np.float32)


def _write_calibration(folder: Path) -> None:
    projection = f"{FOCAL} 0 {WIDTH / 2} {{}} 0 {FOCAL} {HEIGHT / 2} 0 0 0 1 0"
    # The physical camera is turned by 3 degrees about its axis; R_rect turns it back.
    turn = np.radians(3.0)
    roll = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    text = ["calib_time: 01-Jan-2000 00:00:00"]
    for camera, offset in (("00", 0.0), ("01", -FOCAL * RIGHT_M)):
        text.append(f"S_rect_{camera}: {WIDTH} {HEIGHT}")
        text.append(f"R_rect_{camera}: " + " ".join(map(repr, roll.ravel().tolist())))
        text.append(f"P_rect_{camera}: " + projection.format(offset))
    (folder / "perspective.txt").write_text("\n".join(text) + "\n")
    # Camera axes (right, down, forward) in the vehicle frame (forward, right, down).
    vehicle_from_rectified = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    raw = vehicle_from_rectified @ roll
    mounts = []
    for camera, right in (("00", 0.0), ("01", RIGHT_M)):
        mount = np.column_stack([raw, [1.0, right, 0.93 - CAMERA_HEIGHT_M]])
        mounts.append(f"image_{camera}: " + " ".join(map(repr, mount.ravel().tolist())))
    (folder / "calib_cam_to_pose.txt").write_text("\n".join(mounts) + "\n")
    # Camera 00 (physical) in the scanner's axes (forward, left, up).
    velo_from_rectified = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    velo = np.column_stack([velo_from_rectified @ roll, [0.8, 0, CAMERA_HEIGHT_M - VELO_HEIGHT_M]])
    (folder / "calib_cam_to_velo.txt").write_text(" ".join(map(repr, velo.ravel().tolist())) + "\n")
