"""KITTI-360 in its official layout: rectified images, calibration chain, poses and Velodyne scans of one drive.

    calibration/perspective.txt  calib_cam_to_pose.txt  calib_cam_to_velo.txt
    data_2d_raw/<drive>/image_00/data_rect/<frame, 10 digits>.png, image_00/timestamps.txt; the same for image_01
    data_3d_raw/<drive>/velodyne_points/data/<frame, 10 digits>.bin
    data_poses/<drive>/poses.txt

Frames of the data set (Liao, Xie, Geiger: KITTI-360, 2021): the vehicle ("pose") frame is x forward, y right, z down,
0.93 m above the road; ``base_link`` is that frame turned 180 degrees about x and lowered to the road. A rectified
camera is the physical one turned by its R_rect. What is missing is reported by name, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from kyn_models.data.calibration import (
    entry,
    inverse,
    read_image,
    read_poses,
    read_scan,
    read_table,
    require_file,
    transform,
)
from kyn_models.data.lidar_depth import in_camera, nearest_returns
from kyn_models.data.splits import read_split
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Observation, PosedFrame, Sample

CAMERAS = ("00", "01")
VEHICLE_HEIGHT_M = 0.93
"""Height of the vehicle frame's origin above the road (data set documentation)."""
BASE_FROM_VEHICLE: Float64Array = np.array(
    [[1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, -1.0, VEHICLE_HEIGHT_M], [0, 0, 0, 1.0]]
)
VEHICLE_FROM_BASE: Float64Array = inverse(BASE_FROM_VEHICLE)
DEFAULT_RATE_HZ = 10.0


class Kitti360:
    """One drive, seen by one rectified camera: ``len()`` and ``[i] -> Sample``.

    root: folder in the official layout. drive: name of a drive; may be left out where there is only one (or where the
    split names only one). camera: "00" (left) or "01" (right). split: a file of ``<drive> <frame> <l|r>`` lines; the
    items are then its lines of this drive and camera, in their order, else all frames that have an image and a pose.
    views: further frames of each sample as (camera, frame offset), for example (("01", 0), ("00", 1)); frames that
    lack one of them are left out (with a split: an error). rate_hz: frame rate where timestamps.txt is missing.

    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """

    def __init__(
        self,
        root: str | Path,
        drive: str | None = None,
        camera: str = "00",
        split: str | Path | None = None,
        views: Sequence[tuple[str, int]] = (),
        rate_hz: float = DEFAULT_RATE_HZ,
    ) -> None:
        self.root = Path(root)
        for name in {camera, *(view for view, _ in views)}:
            if name not in CAMERAS:
                raise ValueError(f"camera: got {name!r}, expected one of {', '.join(CAMERAS)} (rectified cameras)")
        if not np.isfinite(rate_hz) or rate_hz <= 0:
            raise ValueError(f"rate_hz: got {rate_hz}, expected a rate above 0")
        self.camera = camera
        self.views = tuple(views)
        self.rate_hz = rate_hz
        self.drive = _choose_drive(self.root, drive, split)
        self._read_calibration()
        pose_file = self.root / "data_poses" / self.drive / "poses.txt"
        self._world_from_vehicle = read_poses(pose_file, "the vehicle poses of the drive")
        self.posed_frames: tuple[int, ...] = tuple(sorted(self._world_from_vehicle))
        """All frame numbers with a pose, ascending, with or without image."""
        images = {name: self._image_frames(name) for name in sorted({camera, *(view for view, _ in views)})}
        self.frames_without_pose: tuple[int, ...] = tuple(sorted(images[camera] - set(self.posed_frames)))
        """Frames that have an image and no pose (on KITTI-360 those where the car stands); they are not items."""
        self.frames: tuple[int, ...] = self._frames_of_split(split) if split else self._all_frames(images)
        """Frame number of each item."""
        self._stamps = self._read_stamps()
        self.stamps_assumed = self._stamps is None
        """True where timestamps.txt is missing and stamps follow from ``rate_hz``: to be said once by the consumer."""

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        """The item; ``Sample.name`` is ``<drive>_<frame, 10 digits>``. Raises ``IndexError`` beyond the last one."""
        return self.sample(self.frames[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self.sample(frame) for frame in self.frames)

    def sample(self, frame: int) -> Sample:
        """The sample of a frame number. Raises as the reader does, by name."""
        return Sample(
            name=f"{self.drive}_{frame:010d}",
            observation=Observation((self.posed_frame(frame, self.camera),), self.base_from_camera(self.camera)),
            views=tuple(self.posed_frame(frame + offset, camera) for camera, offset in self.views),
        )

    def posed_frame(self, frame: int, camera: str | None = None) -> PosedFrame:
        """Image, camera, stamp and pose of a frame; ``camera`` defaults to the reader's."""
        camera = camera or self.camera
        image = read_image(self.image_path(frame, camera), f"frame {frame} of rectified camera {camera}")
        k = self.intrinsics(camera)
        if image.shape[:2] != (k.height, k.width):
            raise ValueError(
                f"{self.image_path(frame, camera)}: got {image.shape[1]}x{image.shape[0]} pixels, expected "
                f"{k.width}x{k.height} as calibration/perspective.txt says"
            )
        return PosedFrame(image, k, self.stamp_ns(frame), self.world_from_base(frame) @ self.base_from_camera(camera))

    def intrinsics(self, camera: str | None = None) -> Intrinsics:
        """Rectified pinhole camera at the size of the stored images."""
        return self._intrinsics[camera or self.camera]

    def stereo_offset(self, camera: str) -> float:
        """P[0, 3] of the rectified pair in pixel metres: 0 for the left camera, -fx * baseline for the right one."""
        return self._stereo_offset[camera]

    def base_from_camera(self, camera: str | None = None) -> Float64Array:
        """(4, 4) mount of the rectified optical frame in base_link."""
        return self._base_from_camera[camera or self.camera]

    def base_from_velo(self) -> Float64Array:
        """(4, 4) mount of the Velodyne (x forward, y left, z up) in base_link."""
        return self._base_from_velo

    def camera_from_velo(self, camera: str | None = None) -> Float64Array:
        """(4, 4) scan coordinates to the rectified optical frame of the same instant."""
        return inverse(self.base_from_camera(camera)) @ self._base_from_velo

    def world_from_base(self, frame: int) -> Float64Array:
        """(4, 4) pose of base_link in the drive's world (z up). Raises ``ValueError`` for a frame without a pose."""
        if frame not in self._world_from_vehicle:
            raise ValueError(
                f"{self.root / 'data_poses' / self.drive / 'poses.txt'}: got no pose for frame {frame}, expected one "
                f"(it covers {len(self.posed_frames)} frames from {self.posed_frames[0]} to {self.posed_frames[-1]})"
            )
        return self._world_from_vehicle[frame] @ VEHICLE_FROM_BASE

    def world_from_velo(self, frame: int) -> Float64Array:
        """(4, 4) scan coordinates of a frame to the drive's world."""
        return self.world_from_base(frame) @ self._base_from_velo

    def scan(self, frame: int) -> Float32Array:
        """(N, 4) float32 x, y, z in metres and reflectance, in the scanner's axes. Raises by file name."""
        return read_scan(self.scan_path(frame))

    def has_pose(self, frame: int) -> bool:
        """True where poses.txt has the frame."""
        return frame in self._world_from_vehicle

    def lidar_depth(self, frame: int) -> Float32Array:
        """(height, width) float32 depth truth of the reader's camera from the frame's one scan, NaN unknown."""
        return nearest_returns(in_camera(self.scan(frame), self.camera_from_velo()), self.intrinsics())

    def stamp_ns(self, frame: int) -> int:
        """Nanoseconds of a frame: from timestamps.txt (taken as UTC), else (frame + 1) / rate_hz: never 0, which
        means "no stamp" in ROS."""
        if self._stamps is None:
            return round((frame + 1) * 1e9 / self.rate_hz)
        if frame >= len(self._stamps):
            raise ValueError(
                f"{self._stamp_path()}: got {len(self._stamps)} lines, expected one for frame {frame}; "
                "it has one line per frame number, from 0"
            )
        stamp = self._stamps[frame]
        if stamp is None:
            raise ValueError(
                f"{self._stamp_path()}, line {frame + 1}: is blank, expected the stamp of frame {frame}; "
                "leave that frame out, or remove the file to have stamps from the frame rate"
            )
        return stamp

    def image_path(self, frame: int, camera: str | None = None) -> Path:
        """Where the rectified image of a frame lies (or would)."""
        return self._image_folder(camera or self.camera) / f"{frame:010d}.png"

    def scan_path(self, frame: int) -> Path:
        """Where the scan of a frame lies (or would)."""
        folder = self.root / "data_3d_raw" / self.drive / "velodyne_points" / "data"
        return folder / f"{frame:010d}.bin"

    def has_scan(self, frame: int) -> bool:
        """True where the scan of a frame exists (KITTI-360 lacks some)."""
        return self.scan_path(frame).is_file()

    def _image_folder(self, camera: str) -> Path:
        return self.root / "data_2d_raw" / self.drive / f"image_{camera}" / "data_rect"

    def _stamp_path(self) -> Path:
        return self.root / "data_2d_raw" / self.drive / f"image_{self.camera}" / "timestamps.txt"

    def _read_calibration(self) -> None:
        folder = self.root / "calibration"
        perspective_path = folder / "perspective.txt"
        perspective = read_table(perspective_path, "the rectified cameras of KITTI-360")
        mount_path = folder / "calib_cam_to_pose.txt"
        mounts = read_table(mount_path, "the camera mounts of KITTI-360")
        velo_path = require_file(folder / "calib_cam_to_velo.txt", "the pose of camera 00 in the Velodyne frame")
        words = velo_path.read_text().split()
        if len(words) != 12:
            raise ValueError(f"{velo_path}: got {len(words)} numbers, expected 12 (3x4)")
        velo_from_camera = transform(np.array(words, dtype=np.float64).reshape(3, 4))
        self._intrinsics: dict[str, Intrinsics] = {}
        self._base_from_camera: dict[str, Float64Array] = {}
        self._stereo_offset: dict[str, float] = {}
        for camera in CAMERAS:
            projection = entry(perspective, f"P_rect_{camera}", (3, 4), perspective_path)
            width, height = entry(perspective, f"S_rect_{camera}", (2,), perspective_path)
            turn = transform(entry(perspective, f"R_rect_{camera}", (3, 3), perspective_path))
            vehicle_from_raw = transform(entry(mounts, f"image_{camera}", (3, 4), mount_path))
            self._intrinsics[camera] = Intrinsics.from_matrix(projection, int(width), int(height))
            self._stereo_offset[camera] = float(projection[0, 3])
            self._base_from_camera[camera] = BASE_FROM_VEHICLE @ vehicle_from_raw @ inverse(turn)
            if camera == "00":
                self._base_from_velo = BASE_FROM_VEHICLE @ vehicle_from_raw @ inverse(velo_from_camera)

    def _read_stamps(self) -> list[int | None] | None:
        """One entry per frame number, None where the line is blank: the frames after it keep their own stamps."""
        path = self._stamp_path()
        if not path.is_file():
            return None
        return [
            _nanoseconds(line, f"{path}, line {number}") if line.strip() else None
            for number, line in enumerate(path.read_text().rstrip().splitlines(), start=1)
        ]

    def _image_frames(self, camera: str) -> set[int]:
        folder = self._image_folder(camera)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: missing, expected the rectified images of camera {camera}")
        return {int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()}

    def _all_frames(self, images: dict[str, set[int]]) -> tuple[int, ...]:
        posed = set(self.posed_frames)
        chosen = images[self.camera] & posed
        for camera, offset in self.views:
            chosen &= {frame - offset for frame in images[camera] & posed}
        if not chosen:
            raise ValueError(
                f"{self._image_folder(self.camera)}: got {len(images[self.camera])} images of which none has a pose "
                f"in {self.root / 'data_poses' / self.drive / 'poses.txt'}"
                + (f" and the views {self.views}" if self.views else "")
            )
        return tuple(sorted(chosen))

    def _frames_of_split(self, split: str | Path) -> tuple[int, ...]:
        lines = [line for line in read_split(split) if line.drive == self.drive and line.camera == self.camera]
        if not lines:
            raise ValueError(f"{split}: got no line for camera {self.camera} of {self.drive}, expected at least one")
        posed = set(self.posed_frames)
        for line in lines:
            for camera, frame in ((line.camera, line.frame), *((c, line.frame + o) for c, o in self.views)):
                if not self.image_path(frame, camera).is_file():
                    raise FileNotFoundError(
                        f"{line.source}: names frame {frame} of {line.drive}, whose image "
                        f"{self.image_path(frame, camera)} is missing"
                    )
                if frame not in posed:
                    raise ValueError(f"{line.source}: names frame {frame} of {line.drive}, which has no pose")
        return tuple(line.frame for line in lines)


def drives_of(root: str | Path) -> tuple[str, ...]:
    """Names of the drives of a folder in the official layout. Raises ``FileNotFoundError`` where there is none."""
    folder = Path(root) / "data_2d_raw"
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder")
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
    if not names:
        raise FileNotFoundError(f"{folder}: missing or empty, expected a drive (a KITTI-360 folder in official layout)")
    return names


def open_split(root: str | Path, split: str | Path) -> list[Kitti360]:
    """One reader per drive and camera that a split file names, in the order of their first line."""
    lines = read_split(split)
    keys = dict.fromkeys((line.drive, line.camera) for line in lines)
    return [Kitti360(root, drive, camera, split=split) for drive, camera in keys]


def _choose_drive(root: Path, drive: str | None, split: str | Path | None) -> str:
    drives = drives_of(root)
    if drive is None and split is not None:
        named = tuple(dict.fromkeys(line.drive for line in read_split(split)))
        drive = named[0] if len(named) == 1 else None
        drives_to_choose = named
    else:
        drives_to_choose = drives
    if drive is None and len(drives_to_choose) > 1:
        raise ValueError(f"drive: got none, expected one of {', '.join(drives_to_choose)}")
    drive = drive or drives_to_choose[0]
    if drive not in drives:
        raise FileNotFoundError(f"{root / 'data_2d_raw' / drive}: no such drive, there are {', '.join(drives)}")
    return drive


def _nanoseconds(text: str, source: str) -> int:
    """``YYYY-MM-DD hh:mm:ss.fffffffff`` as nanoseconds since 1970, UTC, without rounding."""
    date, _, fraction = text.strip().partition(".")
    try:
        seconds = datetime.strptime(date, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
        if len(fraction) > 9:
            raise ValueError
        return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0"))
    except ValueError:
        raise ValueError(f"{source}: got {text.strip()!r}, expected 'YYYY-MM-DD hh:mm:ss.fffffffff'") from None
