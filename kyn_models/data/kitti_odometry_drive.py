"""A KITTI odometry sequence as a drive: every image, its pose and its stamp, with or without depth truth.

<root>/sequences/<sequence>/calib.txt  times.txt  image_2/<frame, 6 digits>.png  image_3/<frame>.png
<root>/sequences/<sequence>/velodyne/<frame>.bin (optional)
<root>/poses/<sequence>.txt and, where they are used, <root>/poses_dvso/<sequence>.txt

``poses`` are those of rectified camera 0, from a GPS and an inertial unit. ``poses_dvso`` are estimates from images
(visual odometry of Yang et al., ECCV 2018), of the left colour camera: what they differ by from ``poses`` when the car
turns is camera 2's place beside camera 0 (-0.06 m on sequence 07). Both have one line for every frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from kyn_models.data.calibration import (
    entry,
    inverse,
    read_image,
    read_scan,
    read_table,
    require_file,
    require_pixels,
    transform,
)
from kyn_models.data.kitti_raw import base_from_velo, projection_camera
from kyn_models.types import Float32Array, Float64Array, Intrinsics, PosedFrame

CAMERAS = ("2", "3")
"""Left and right colour camera."""
DEFAULT_RATE_HZ = 10.0
Poses = Literal["kitti", "dvso"]
POSE_FOLDERS: dict[str, str] = {"kitti": "poses", "dvso": "poses_dvso"}


def sequences_of(root: str | Path) -> tuple[str, ...]:
    """Names of the sequences of a folder, ascending."""
    return tuple(sorted(path.parent.name for path in Path(root).glob("sequences/*/calib.txt")))


class OdometryDrive:
    """One sequence, seen by one colour camera.

    root: the folder with ``sequences``. sequence: its name; may be left out where there is only one. camera: "2" (left)
    or "3" (right). poses: "kitti" or "dvso". rate_hz: frame rate where times.txt is missing.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """

    def __init__(
        self,
        root: str | Path,
        sequence: str | None = None,
        camera: str = "2",
        *,
        poses: Poses = "kitti",
        rate_hz: float = DEFAULT_RATE_HZ,
    ) -> None:
        if camera not in CAMERAS:
            raise ValueError(f"camera: got {camera!r}, expected one of {', '.join(CAMERAS)} (colour cameras)")
        if poses not in POSE_FOLDERS:
            raise ValueError(f"poses: got {poses!r}, expected one of {', '.join(POSE_FOLDERS)}")
        if not np.isfinite(rate_hz) or rate_hz <= 0:
            raise ValueError(f"rate_hz: got {rate_hz}, expected a rate above 0")
        self.root, self.camera, self.rate_hz = Path(root), camera, rate_hz
        self.drive = _choose(self.root, sequence)
        self.folder = self.root / "sequences" / self.drive
        self._images = {name: self._image_frames(name) for name in CAMERAS}
        if not self._images[camera]:
            raise FileNotFoundError(f"{self.folder / f'image_{camera}'}: missing or empty, expected <6 digits>.png")
        self._read_calibration()
        self._world_from_base = self._read_poses(poses)
        self.length = len(self._world_from_base)
        """Frames of the whole sequence, of which some images may be missing."""
        self.posed_frames: tuple[int, ...] = tuple(range(self.length))
        """All frame numbers with a pose, ascending, with or without image."""
        self.frames: tuple[int, ...] = tuple(sorted(frame for frame in self._images[camera] if self.has_pose(frame)))
        """All frame numbers with image and pose, ascending."""
        self.frames_without_pose: tuple[int, ...] = tuple(sorted(self._images[camera] - set(self.frames)))
        if not self.frames:
            raise ValueError(f"{self.folder}: got {len(self._images[camera])} images, expected one that has a pose")
        self._times = self._read_times()
        self.stamps_assumed = self._times is None
        """True where times.txt is missing and stamps follow from ``rate_hz``: to be said once by the consumer."""

    def __len__(self) -> int:
        return len(self.frames)

    def posed_frame(self, frame: int, camera: str | None = None) -> PosedFrame:
        """Image, camera, stamp and pose of a frame; ``camera`` defaults to the reader's."""
        camera = camera or self.camera
        path = self.image_path(frame, camera)
        image = read_image(path, f"frame {frame} of camera {camera}")
        k = self.intrinsics(camera)
        require_pixels(path, image, k.width, k.height, "the sequence's other images")
        return PosedFrame(image, k, self.stamp_ns(frame), self.world_from_base(frame) @ self.base_from_camera(camera))

    def intrinsics(self, camera: str | None = None) -> Intrinsics:
        """Rectified pinhole camera of the images."""
        return self._intrinsics[camera or self.camera]

    def base_from_camera(self, camera: str | None = None) -> Float64Array:
        """(4, 4) mount of a camera's optical frame in base_link, which is on the road below the scanner."""
        return self._base_from_camera[camera or self.camera]

    def base_from_velo(self) -> Float64Array:
        """(4, 4) mount of the Velodyne (x forward, y left, z up) in base_link."""
        return base_from_velo()

    def world_from_base(self, frame: int) -> Float64Array:
        """(4, 4) pose of base_link in a world with z up: base_link where the poses begin. Raises ``ValueError``."""
        if not self.has_pose(frame):
            raise ValueError(f"{self._pose_path}: got {self.length} poses, expected one for frame {frame}")
        return self._world_from_base[frame]

    def has_pose(self, frame: int) -> bool:
        """True where the pose file has the frame."""
        return 0 <= frame < self.length

    def has_image(self, frame: int, camera: str | None = None) -> bool:
        """True where the image of a frame exists."""
        return frame in self._images[camera or self.camera]

    def stamp_ns(self, frame: int) -> int:
        """Nanoseconds of a frame: of times.txt, else at ``rate_hz``; one period later, as 0 means "no stamp" in ROS."""
        if self._times is None:
            return round((frame + 1) * 1e9 / self.rate_hz)
        if frame >= len(self._times):
            raise ValueError(
                f"{self.folder / 'times.txt'}: got {len(self._times)} lines, expected one for frame {frame}"
            )
        return round((self._times[frame] + 1 / DEFAULT_RATE_HZ) * 1e9)

    def image_path(self, frame: int, camera: str | None = None) -> Path:
        """Where the image of a frame lies (or would)."""
        return self.folder / f"image_{camera or self.camera}" / f"{frame:06d}.png"

    def scan_path(self, frame: int) -> Path:
        """Where the scan of a frame lies (or would)."""
        return self.folder / "velodyne" / f"{frame:06d}.bin"

    def has_scan(self, frame: int) -> bool:
        """True where the scan of a frame exists."""
        return self.scan_path(frame).is_file()

    def scan(self, frame: int) -> Float32Array:
        """(N, 4) float32 x, y, z in metres and reflectance, in the scanner's axes. Raises by file name."""
        return read_scan(self.scan_path(frame))

    def _image_frames(self, camera: str) -> frozenset[int]:
        folder = self.folder / f"image_{camera}"
        return frozenset(int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit())

    def _read_calibration(self) -> None:
        path = self.folder / "calib.txt"
        table = read_table(path, "the cameras of the sequence")
        first = self.image_path(min(self._images[self.camera]))
        height, width = read_image(first, f"a frame of camera {self.camera}").shape[:2]
        self._camera0_from_velo = transform(entry(table, "Tr", (3, 4), path))
        self._intrinsics: dict[str, Intrinsics] = {}
        self._base_from_camera: dict[str, Float64Array] = {}
        for camera in CAMERAS:
            projection = entry(table, f"P{camera}", (3, 4), path)
            k, camera_from_velo = projection_camera(projection, self._camera0_from_velo, width, height)
            self._intrinsics[camera] = k
            self._base_from_camera[camera] = base_from_velo() @ inverse(camera_from_velo)

    def _read_poses(self, poses: Poses) -> Float64Array:
        """(frames, 4, 4) poses of base_link."""
        path = self._pose_path = self.root / POSE_FOLDERS[poses] / f"{self.drive}.txt"
        table = _table(path, "the poses of the sequence's cameras, 12 numbers a line")
        if table.shape[1] != 12 or not np.isfinite(table).all():
            raise ValueError(f"{path}: got {table.shape[1]} numbers a line, expected 12 finite ones, a pose of 3x4")
        world_from_camera = np.tile(np.eye(4), (len(table), 1, 1))
        world_from_camera[:, :3] = table.reshape(-1, 3, 4)
        base_from_camera0 = base_from_velo() @ inverse(self._camera0_from_velo)
        mount = base_from_camera0 if poses == "kitti" else self._base_from_camera["2"]
        return mount @ world_from_camera @ inverse(mount)

    def _read_times(self) -> Float64Array | None:
        path = self.folder / "times.txt"
        if not path.is_file():
            return None
        times = _table(path, "the seconds of each frame")
        if times.shape[1] != 1 or not (np.diff(times[:, 0]) > 0).all():
            raise ValueError(f"{path}: got no column of rising numbers, expected the seconds of each frame")
        return times[:, 0]


def _choose(root: Path, sequence: str | None) -> str:
    names = [name for name in sequences_of(root) if sequence in (None, name)]
    if not names:
        raise FileNotFoundError(f"{root}: got no sequence {sequence or ''}, expected sequences/<name>/calib.txt")
    if len(names) > 1:
        raise ValueError(f"sequence: got none, expected one of {', '.join(names)}")
    return names[0]


def _table(path: Path, what: str) -> Float64Array:
    """A text file of numbers as (lines, numbers a line). Raises ``FileNotFoundError`` or ``ValueError`` by name."""
    lines = [line for line in require_file(path, what).read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: is empty, expected {what}")
    try:
        return np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: got lines that are no numbers or of different lengths ({error})") from None
