"""Synthetic drives in the official KITTI-360 folder layout, with the truth beside them.

Official: ``calibration/``, ``data_2d_raw/<drive>/image_0X/data_rect/<frame>.png`` (rectified images of 00 and 01),
``data_rgb`` in its place for the fisheye images of 02 and 03, ``timestamps.txt`` beside the data,
``data_3d_raw/<drive>/velodyne_points/data/<frame>.bin``, ``data_poses/<drive>/{poses,cam0_to_world}.txt``; frames
are numbered by 10 digits. Extra: ``data_truth/<drive>/<camera>/`` with

* ``depth/<frame>.png``: uint16, metres along the optical axis times 256 (along the ray for 02 and 03), 0 where nothing
  is within 255 m;
* ``instance/<frame>.png``: uint16, 0 ground and sky; ``moving/<frame>.png``: uint8, 255 on things that move;
* ``image/<frame>.png`` for the side cameras, which the official layout has no place for;
* ``data_truth/cameras.txt``: ``<camera>: width height fx fy cx cy`` and the 3x4 base_link-from-camera (pinholes).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kyn_models.data.mei_camera import MeiCamera, mei_text
from kyn_models.data.street_scene import FRAME_S, Rendered, Scene, Street
from kyn_models.data.street_sensors import (
    BASE_FROM_VEHICLE,
    BASE_FROM_VELO,
    FISHEYES,
    INTRINSICS,
    PERSPECTIVE,
    SICK_TO_VELO,
    Mount,
    base_from_camera,
    noise_seed,
    numbers,
)
from kyn_models.types import Float64Array, Intrinsics

MARKER = "SYNTHETIC.txt"
"""File that says what the folder is; only a folder with it is ever emptied."""
PERSPECTIVES = ("00", "01")
"""Cameras with rectified images in the official layout."""
_FOLDERS = ("calibration", "data_2d_raw", "data_3d_raw", "data_poses", "data_truth", "sequences", "poses", "poses_dvso")
"""Of this layout and of ``street_odometry_writer``'s."""
_START = datetime(2013, 5, 28, 12, 0, 0)


def drive_name(index: int) -> str:
    """Folder name of the index-th synthetic drive; numbers from 9000 do not occur in KITTI-360."""
    return f"2013_05_28_drive_{9000 + index:04d}_sync"


def check_folder(out: Path, force: bool) -> None:
    """Raise FileExistsError unless ``out`` is missing, an empty folder, or, with force, one that has ``MARKER``."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, expected a folder to write to; name another one")
    if out.is_dir() and any(out.iterdir()):
        if not force:
            raise FileExistsError(f"{out} is not empty; name another folder, or use --force to replace a synthetic one")
        if not (out / MARKER).is_file():
            raise FileExistsError(f"{out} holds files that kyn synth did not write; name another folder")


@contextmanager
def new_folder(out: Path, force: bool) -> Iterator[None]:
    """``out`` without what an earlier `kyn synth` wrote; whatever stops the work, nothing half-written stays behind.

    Raises ``FileExistsError`` as ``check_folder`` does.
    """
    check_folder(out, force)
    new = not out.is_dir()
    for folder in _FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in _FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
        (out / MARKER).unlink(missing_ok=True)
        if new and not any(out.iterdir()):
            out.rmdir()
        raise


def write_kitti360(
    streets: Street | Iterable[Street],
    out: str | Path,
    frames: int | Sequence[int] | None = None,
    *,
    cameras: Sequence[str] = ("00",),
    size: tuple[int, int] = (1408, 376),
    lidar: bool = True,
    truth: bool = True,
    mount: Mount | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[str]:
    """Write one drive per street and return the drives' names.

    frames: how many from frame 0, or which, None for the whole drive. cameras: of 00, 01, 02, 03, left, right; 00 and
    01 are part of every calibration. size: (width, height) in pixels; another than KITTI-360's changes the intrinsics
    accordingly, and the fisheye images are enlarged like the width.
    mount: another mount of the cameras than KITTI-360's, written into the calibration. progress(drive, done, of) is
    called after each frame. Raises ValueError for frames outside a drive or unknown cameras, FileExistsError for a
    folder that is not empty. Nothing half-written stays behind, whatever stops it.
    """
    mounts = {camera: base_from_camera(camera, mount) for camera in dict.fromkeys((*PERSPECTIVES, *cameras))}
    lenses = _lenses(mounts, size)
    out = Path(out)
    with new_folder(out, force):
        return _write_drives(streets, out, frames, cameras, lenses, mounts, lidar, truth, progress)


def _write_drives(
    streets: Street | Iterable[Street],
    out: Path,
    frames: int | Sequence[int] | None,
    cameras: Sequence[str],
    lenses: dict[str, Intrinsics | MeiCamera],
    mounts: dict[str, Float64Array],
    lidar: bool,
    truth: bool,
    progress: Callable[[str, int, int], None] | None,
) -> list[str]:
    (out / MARKER).write_text("Synthetic streets written by `kyn synth` in the KITTI-360 layout. No real data.\n")
    _write_calibration(out, lenses, mounts, cameras, truth)
    names: list[str] = []
    for street in [streets] if isinstance(streets, Street) else streets:
        name, which = drive_name(len(names)), chosen_frames(street, frames)
        names.append(name)
        _write_poses(out, name, street, which, mounts["00"])
        _write_stamps(out, name, which, cameras, lidar)
        for done, frame in enumerate(which, start=1):
            scene = street.at(frame * FRAME_S)
            pose = street.world_from_base(frame * FRAME_S)
            for camera in cameras:
                picture = scene.render(lenses[camera], pose @ mounts[camera], noise_seed=noise_seed(camera, frame))
                _write_picture(out, name, camera, frame, picture, truth)
            if lidar:
                _write_scan(out, name, frame, scene, pose)
            if progress is not None:
                progress(name, done, len(which))
    return names


def _lenses(cameras: Iterable[str], size: tuple[int, int]) -> dict[str, Intrinsics | MeiCamera]:
    """The camera of each name at images of ``size``."""
    scale = size[0] / INTRINSICS.width
    return {
        camera: FISHEYES[camera].resized(
            *(round(side * scale) for side in (FISHEYES[camera].width, FISHEYES[camera].height))
        )
        if camera in FISHEYES
        else INTRINSICS.resized(*size)
        for camera in cameras
    }


def chosen_frames(street: Street, frames: int | Sequence[int] | None) -> list[int]:
    """Frame numbers: how many from 0, or which, None for the whole drive. Raises ``ValueError`` for others."""
    if frames is None or isinstance(frames, int):
        which = list(range(street.frames if frames is None else frames))
    else:
        which = list(frames)
    if not which:
        raise ValueError(f"frames: got {frames}, expected at least 1")
    if min(which) < 0 or max(which) >= street.frames:
        raise ValueError(
            f"frames: got {min(which)} to {max(which)}, but the drive of seed {street.seed} has frames 0 to "
            f"{street.frames - 1}; make the street with a longer drive_m"
        )
    return which


def row(values: np.ndarray) -> str:
    """Numbers of an array in one line."""
    return " ".join(f"{value:.10g}" for value in np.asarray(values).reshape(-1))


def _write_calibration(
    out: Path,
    lenses: dict[str, Intrinsics | MeiCamera],
    mounts: dict[str, Float64Array],
    cameras: Sequence[str],
    truth: bool,
) -> None:
    """The official files, true for these mounts and image sizes, and ``data_truth/cameras.txt``."""
    folder = out / "calibration"
    folder.mkdir(exist_ok=True)
    vehicle_from_base = np.linalg.inv(BASE_FROM_VEHICLE)
    lines, unrectified = [], {}
    for camera in (*PERSPECTIVES, *(camera for camera in FISHEYES if camera in cameras)):
        turn = numbers(PERSPECTIVE[f"R_rect_{camera}"]) if camera in PERSPECTIVES else np.eye(4)
        unrectified[camera] = mounts[camera] @ turn
        lines.append(f"image_{camera}: {row((vehicle_from_base @ unrectified[camera])[:3])}\n")
    (folder / "calib_cam_to_pose.txt").write_text("".join(lines))
    (folder / "calib_cam_to_velo.txt").write_text(row((np.linalg.inv(BASE_FROM_VELO) @ unrectified["00"])[:3]) + "\n")
    (folder / "calib_sick_to_velo.txt").write_text(SICK_TO_VELO + "\n")
    pinholes = {camera: lens for camera, lens in lenses.items() if isinstance(lens, Intrinsics)}
    for camera, lens in lenses.items():
        if isinstance(lens, MeiCamera):
            (folder / f"image_{camera}.yaml").write_text(mei_text(lens, f"image_{camera}"))
    (folder / "perspective.txt").write_text(_perspective_text(pinholes["00"]))
    if truth or not all(_official(camera) for camera in cameras):
        (out / "data_truth").mkdir(exist_ok=True)
        text = "".join(
            f"{camera}: {k.width} {k.height} {k.fx:.6f} {k.fy:.6f} {k.cx:.6f} {k.cy:.6f} {row(mounts[camera][:3])}\n"
            for camera in cameras
            if (k := pinholes.get(camera)) is not None
        )
        (out / "data_truth" / "cameras.txt").write_text(text)


def _perspective_text(k: Intrinsics) -> str:
    """``perspective.txt`` of KITTI-360 with another rectified camera."""
    lines = ["calib_time: synthetic\n", "corner_dist: 0.100000\n"]
    for key, text in PERSPECTIVE.items():
        if key.startswith("S_rect"):
            text = f"{k.width:.6f} {k.height:.6f}"
        elif key.startswith("P_rect"):
            shift = numbers(text)[0, 3] * k.fx / INTRINSICS.fx
            text = " ".join(f"{v:.6f}" for v in (k.fx, 0, k.cx, shift, 0, k.fy, k.cy, 0, 0, 0, 1, 0))
        lines.append(f"{key}: {text}\n")
    return "".join(lines)


def _write_poses(out: Path, name: str, street: Street, frames: Sequence[int], base_from_cam0: Float64Array) -> None:
    folder = out / "data_poses" / name
    folder.mkdir(parents=True)
    poses, cameras = [], []
    for frame in frames:
        base = street.world_from_base(frame * FRAME_S)
        poses.append(f"{frame} {row((base @ BASE_FROM_VEHICLE)[:3])}\n")
        cameras.append(f"{frame} {row(base @ base_from_cam0)}\n")
    (folder / "poses.txt").write_text("".join(poses))
    (folder / "cam0_to_world.txt").write_text("".join(cameras))


def _write_stamps(out: Path, name: str, frames: Sequence[int], cameras: Sequence[str], lidar: bool) -> None:
    """One line per frame number from 0 to the last, as in KITTI-360, where the line number is the frame number."""
    text = "".join(
        f"{(_START + timedelta(seconds=round(frame * FRAME_S, 6))).isoformat(' ', 'microseconds')}000\n"
        for frame in range(max(frames) + 1)
    )
    folders = [out / "data_2d_raw" / name / f"image_{camera}" for camera in cameras if _official(camera)]
    if lidar:
        folders.append(out / "data_3d_raw" / name / "velodyne_points")
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "timestamps.txt").write_text(text)


def _official(camera: str) -> bool:
    """Whether the official layout has a place for the camera's images."""
    return camera in PERSPECTIVES or camera in FISHEYES


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image in OpenCV's order of colours; its folder is made. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 3]):
        raise OSError(f"could not write {path}; is the disk full?")


def depth_units(picture: Rendered) -> NDArray[np.uint16]:
    """(H, W) metres times 256, 0 where nothing is within 255 m."""
    near = picture.depth_m < 255.0
    return np.where(near, np.round(np.where(near, picture.depth_m, 0.0) * 256.0), 0.0).astype(np.uint16)


def _write_picture(out: Path, name: str, camera: str, frame: int, picture: Rendered, truth: bool) -> None:
    file, extra = f"{frame:010d}.png", out / "data_truth" / name / camera
    official = out / "data_2d_raw" / name / f"image_{camera}" / ("data_rgb" if camera in FISHEYES else "data_rect")
    write_png((official if _official(camera) else extra / "image") / file, picture.image[..., ::-1])
    if truth:
        write_png(extra / "depth" / file, depth_units(picture))
        write_png(extra / "instance" / file, picture.instances)
        write_png(extra / "moving" / file, picture.moving.astype(np.uint8) * 255)


def _write_scan(out: Path, name: str, frame: int, scene: Scene, world_from_base: Float64Array) -> None:
    path = out / "data_3d_raw" / name / "velodyne_points" / "data" / f"{frame:010d}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    scene.lidar(world_from_base @ BASE_FROM_VELO).tofile(path)
