"""Synthetic drives in the layout of KITTI odometry, with dense depth truth and exact masks of what moves.

<out>/sequences/<sequence>/calib.txt  times.txt  image_2/<frame, 6 digits>.png  image_3/<frame>.png
<out>/sequences/<sequence>/image_depth_annotated/<frame>.png  mvobj_mask/<frame>.npy  velodyne/<frame>.bin
<out>/poses/<sequence>.txt  poses_dvso/<sequence>.txt (the same poses: camera 2 is camera 0 here)

The cameras are those of KITTI's sequences 04 to 12. Sequences are numbered from 90, which KITTI does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from kyn_models.data.kitti_odometry import DEPTH_FOLDER
from kyn_models.data.kitti_odometry_drive import POSE_FOLDERS
from kyn_models.data.kitti_odometry_frames import MASK_FOLDER, MASK_SIZE
from kyn_models.data.kitti_raw import base_from_velo
from kyn_models.data.published_crop import PublishedCrop
from kyn_models.data.street_scene import FRAME_S, Rendered, Street
from kyn_models.data.street_sensors import BASELINE_M, base_from_camera, noise_seed
from kyn_models.data.street_writer import MARKER, chosen_frames, depth_units, new_folder, row, write_png
from kyn_models.types import Float64Array, Intrinsics

CAMERA = Intrinsics(707.0912, 707.0912, 601.8873, 183.1104, 1226, 370)
"""Left colour camera of KITTI odometry 04 to 12."""
IMAGE_FOLDERS = {"00": "image_2", "01": "image_3"}
FIRST_SEQUENCE = 90


def write_kitti_odometry(
    streets: Street | Iterable[Street],
    out: str | Path,
    frames: int | Sequence[int] | None = None,
    *,
    cameras: Sequence[str] = ("00",),
    size: tuple[int, int] = (CAMERA.width, CAMERA.height),
    lidar: bool = False,
    truth: bool = True,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:
    """Write one sequence per street and return the sequences' names.

    frames, size, progress: as in ``write_kitti360``. cameras: of 00 (left, image_2) and 01 (right, image_3). truth:
    depth and masks of the left camera. Raises as ``write_kitti360`` does, and leaves nothing half-written either.
    """
    unknown = [camera for camera in cameras if camera not in IMAGE_FOLDERS]
    if unknown or "00" not in cameras:
        raise ValueError(f"cameras: got {','.join(cameras)}, expected 00 or 00,01 in the layout of KITTI odometry")
    out, lens, names = Path(out), CAMERA.resized(*size), []
    with new_folder(out, force):
        (out / MARKER).write_text(
            "Synthetic streets written by `kyn synth` in the KITTI odometry layout. No real data.\n"
        )
        for street in [streets] if isinstance(streets, Street) else streets:
            name, which = f"{FIRST_SEQUENCE + len(names):02d}", chosen_frames(street, frames)
            names.append(name)
            folder = out / "sequences" / name
            folder.mkdir(parents=True)
            _write_texts(out, name, street, max(which), lens)
            for done, frame in enumerate(which, start=1):
                _write_frame(folder, street, frame, lens, cameras, lidar, truth)
                if progress is not None:
                    progress(name, done, len(which))
    return names


def _write_frame(
    folder: Path, street: Street, frame: int, lens: Intrinsics, cameras: Sequence[str], lidar: bool, truth: bool
) -> None:
    scene, base = street.at(frame * FRAME_S), street.world_from_base(frame * FRAME_S)
    for camera in cameras:
        picture = scene.render(lens, base @ base_from_camera(camera), noise_seed=noise_seed(camera, frame))
        write_png(folder / IMAGE_FOLDERS[camera] / f"{frame:06d}.png", picture.image[..., ::-1])
        if truth and camera == "00":
            _write_truth(folder, frame, picture, lens)
    if lidar:
        path = folder / "velodyne" / f"{frame:06d}.bin"
        path.parent.mkdir(exist_ok=True)
        scene.lidar(base @ base_from_velo()).tofile(path)


def _write_truth(folder: Path, frame: int, picture: Rendered, lens: Intrinsics) -> None:
    write_png(folder / DEPTH_FOLDER / f"{frame:06d}.png", depth_units(picture))
    path = folder / MASK_FOLDER / f"{frame:06d}.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, PublishedCrop(lens, MASK_SIZE).mask(picture.moving).astype(np.float32))


def _write_texts(out: Path, name: str, street: Street, last: int, lens: Intrinsics) -> None:
    """Calibration, times and poses of every frame from 0 to the last."""
    mount = base_from_camera("00")
    left = np.column_stack([lens.matrix, np.zeros(3)])
    right = left.copy()
    right[0, 3] = -lens.fx * BASELINE_M
    camera_from_velo = (np.linalg.inv(mount) @ base_from_velo())[:3]
    rows = {"P0": left, "P1": right, "P2": left, "P3": right, "Tr": camera_from_velo}
    text = "".join(f"{key}: {row(values)}\n" for key, values in rows.items())
    (out / "sequences" / name / "calib.txt").write_text(text)
    (out / "sequences" / name / "times.txt").write_text(
        "".join(f"{frame * FRAME_S:.6e}\n" for frame in range(last + 1))
    )
    text = "".join(f"{row(pose[:3])}\n" for pose in _poses(street, mount, last))
    for folder in POSE_FOLDERS.values():
        (out / folder).mkdir(exist_ok=True)
        (out / folder / f"{name}.txt").write_text(text)


def _poses(street: Street, mount: Float64Array, last: int) -> list[Float64Array]:
    """Poses of the left camera in the first one."""
    poses = [street.world_from_base(frame * FRAME_S) @ mount for frame in range(last + 1)]
    return [np.linalg.inv(poses[0]) @ pose for pose in poses]
