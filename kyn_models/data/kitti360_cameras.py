"""Cameras of KITTI-360: the calibration chain, the published views of a sample, and the names of prepared folders.

The vehicle ("pose") frame is x forward, y right, z down, 0.93 m above the road; ``base_link`` is that frame turned 180
degrees about x and lowered to the road. A rectified camera is the physical one turned by its R_rect.

Prepared images are what Behind the Scenes and Know Your Neighbors train on (their ``preprocess_kitti_360.py``): the
rectified images of 00 and 01 made small, and the fisheye images of 02 and 03 made pinhole images of the SAME
normalised camera, turned away from the fisheye's own axis (15 degrees down as published). Their rays go through a grid
whose corner pixels, not the outer edges of these, are at -1 and 1: see ``rectified_intrinsics``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kyn_models.data.calibration import entry, inverse, read_table, require_file, transform
from kyn_models.types import Float64Array, Intrinsics

PERSPECTIVES = ("00", "01")
FISHEYES = ("02", "03")
VEHICLE_HEIGHT_M = 0.93
"""Height of the vehicle frame's origin above the road (data set documentation)."""
BASE_FROM_VEHICLE: Float64Array = np.array(
    [[1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, -1.0, VEHICLE_HEIGHT_M], [0, 0, 0, 1.0]]
)
VEHICLE_FROM_BASE: Float64Array = inverse(BASE_FROM_VEHICLE)
PREPARED_SIZE = (192, 640)
"""Rows and columns of the published training's images."""
Rotation = tuple[float, float]
FISHEYE_ROTATION: Rotation = (0, -15)
"""Degrees of yaw and pitch of the published training's rectified fisheye images: 15 degrees down."""
View = tuple[str, int]
PUBLISHED_VIEWS: tuple[View, ...] = (("00", 1), ("01", 0), ("01", 1), ("02", 10), ("02", 11), ("03", 10), ("03", 11))
"""What a sample of the left camera is trained with, as (camera, offset in posed frames): stereo, the next frame, and
the fisheye cameras ten frames on, when they see what the left camera saw ahead (``fisheye_offset`` of the papers)."""


@dataclass(frozen=True)
class Calibration:
    """What the files of ``calibration/`` say, by camera.

    source: pinhole camera of the official rectified images; for a fisheye camera the one of 00, whose normalised form
    its rectified images have. base_from_camera: (4, 4) mount of the rectified optical frame in base_link.
    stereo_offset: P[0, 3] in pixel metres. base_from_velo: (4, 4) mount of the Velodyne (x forward, y left, z up).
    """

    source: dict[str, Intrinsics]
    base_from_camera: dict[str, Float64Array]
    stereo_offset: dict[str, float]
    base_from_velo: Float64Array


def read_calibration(root: Path, fisheyes: Sequence[str] = (), rotation: Rotation = FISHEYE_ROTATION) -> Calibration:
    """Both perspective cameras, and the fisheye cameras that are named, rectified with ``rotation``.

    Raises ``FileNotFoundError`` or ``ValueError`` naming file and entry.
    """
    folder = root / "calibration"
    perspective_path = folder / "perspective.txt"
    perspective = read_table(perspective_path, "the rectified cameras of KITTI-360")
    mount_path = folder / "calib_cam_to_pose.txt"
    mounts = read_table(mount_path, "the camera mounts of KITTI-360")
    velo_path = require_file(folder / "calib_cam_to_velo.txt", "the pose of camera 00 in the Velodyne frame")
    words = velo_path.read_text().split()
    if len(words) != 12:
        raise ValueError(f"{velo_path}: got {len(words)} numbers, expected 12 (3x4)")
    source: dict[str, Intrinsics] = {}
    mounted: dict[str, Float64Array] = {}
    offsets: dict[str, float] = {}
    raw = {
        camera: BASE_FROM_VEHICLE @ transform(entry(mounts, f"image_{camera}", (3, 4), mount_path))
        for camera in (*PERSPECTIVES, *fisheyes)
    }
    for camera in PERSPECTIVES:
        source[camera], offsets[camera] = _projection(perspective, camera, perspective_path)
        turn = transform(entry(perspective, f"R_rect_{camera}", (3, 3), perspective_path))
        mounted[camera] = raw[camera] @ inverse(turn)
    for camera in fisheyes:
        source[camera], offsets[camera] = source["00"], 0.0
        mounted[camera] = raw[camera] @ transform(raw_from_rectified(camera, rotation))
    velo_from_raw = transform(np.array(words, dtype=np.float64).reshape(3, 4))
    return Calibration(source, mounted, offsets, raw["00"] @ inverse(velo_from_raw))


def read_source(root: Path, camera: str = "00") -> Intrinsics:
    """The pinhole camera of the official rectified images of 00 or 01."""
    path = root / "calibration" / "perspective.txt"
    return _projection(read_table(path, "the rectified cameras of KITTI-360"), camera, path)[0]


def raw_from_rectified(camera: str, rotation: Rotation) -> Float64Array:
    """(3, 3) rotation of rectified fisheye axes (x right, y down, z forward) into the fisheye's own.

    rotation: degrees of yaw (about y, mirrored for camera 03) and pitch (about x, negative: down); the pitch is applied
    first, as in the published preprocessing.
    """
    yaw, pitch = np.radians(rotation) * (-1 if camera == "03" else 1, 1)
    about_x = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    about_y = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    return np.array(about_y) @ np.array(about_x)


def rectified_intrinsics(source: Intrinsics, size: tuple[int, int]) -> Intrinsics:
    """Pinhole camera of a rectified fisheye image of ``size`` (rows, columns), whose corner pixels are at -1 and 1.

    source: the official rectified camera that it shares the normalised form with.
    """
    rows, columns = size
    sx, sy = (columns - 1) / source.width, (rows - 1) / source.height
    return Intrinsics(source.fx * sx, source.fy * sy, source.cx * sx, source.cy * sy, columns, rows)


def prepared_intrinsics(camera: str, source: Intrinsics, size: tuple[int, int]) -> Intrinsics:
    """Pinhole camera of a prepared image of ``size`` (rows, columns), perspective or fisheye."""
    return rectified_intrinsics(source, size) if camera in FISHEYES else source.resized(size[1], size[0])


def image_folder(camera: str, prepared: tuple[int, int] | None = None, rotation: Rotation = FISHEYE_ROTATION) -> str:
    """Name of the folder of a camera's images: ``data_rect``, ``data_rgb``, or, prepared, ``data_192x640`` and
    ``data_192x640_0x-15``: rows, columns, yaw and pitch."""
    if prepared is None:
        return "data_rgb" if camera in FISHEYES else "data_rect"
    name = f"data_{prepared[0]}x{prepared[1]}"
    return f"{name}_{rotation[0]:g}x{rotation[1]:g}" if camera in FISHEYES else name


def posed_after(posed: Sequence[int], rank: Mapping[int, int], frame: int, offset: int) -> int:
    """The frame ``offset`` posed frames after ``frame``, the first or last one beyond the drive's ends.

    posed: frame numbers with a pose, ascending. rank: place of each in ``posed``.
    """
    return posed[min(max(rank[frame] + offset, 0), len(posed) - 1)]


def mirrored(views: Sequence[View]) -> tuple[View, ...]:
    """The views with left and right exchanged: what a sample of the right camera is trained with."""
    other = {"00": "01", "01": "00", "02": "03", "03": "02"}
    return tuple((other[camera], offset) for camera, offset in views)


def _projection(table: dict[str, Float64Array], camera: str, path: Path) -> tuple[Intrinsics, float]:
    projection = entry(table, f"P_rect_{camera}", (3, 4), path)
    width, height = entry(table, f"S_rect_{camera}", (2,), path)
    return Intrinsics.from_matrix(projection, int(width), int(height)), float(projection[0, 3])
