"""KITTI raw drives (Geiger et al., 2013): the rectified colour stereo pair, poses, depth truth from the frame's scan.

<root>/<date>/calib_cam_to_cam.txt  calib_velo_to_cam.txt  calib_imu_to_velo.txt (for poses from oxts)
<root>/<date>/<drive>/image_02/data/<frame, 10 digits>.png or .jpg    image_03 likewise (right camera)
<root>/<date>/<drive>/velodyne_points/data/<frame, 10 digits>.bin
<root>/<date>/<drive>/oxts/data/<frame, 10 digits>.txt

Images may be stored at another size than the calibration says (`kyn prepare kitti-raw`): they are the whole image,
resized, and their camera is the one whose ``normalised()`` is that of the source camera.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from kyn_models.data.calibration import entry, inverse, read_image, read_scan, read_table, resized_source, transform
from kyn_models.data.kitti_raw_poses import DrivePoses, OxtsPoses, SlamPoses
from kyn_models.data.lidar_depth import in_camera, nearest_returns, published_returns, read_returns
from kyn_models.data.splits import SplitLine, read_split
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Observation, PosedFrame, Sample

VELO_HEIGHT_M = 1.73
"""Height of the scanner above the road in KITTI's sensor set-up; its axes are forward, left, up."""
RATE_HZ = 10.0
CAMERAS = ("02", "03")
"""Left and right colour camera."""
CAMERA_OF_SIDE = {"00": "02", "01": "03"}
"""Side of a split line ("00" left, "01" right, as in KITTI-360's lists) to the camera."""
IMAGE_ENDINGS = (".png", ".jpg")


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


@dataclass(frozen=True)
class RawCalibration:
    """One date's cameras, by name. rectified0_from_velo: (4, 4) scanner to rectified camera 0; projections: (3, 4) P of
    that camera's coordinates; intrinsics: at the size of the rectified images; camera_from_velo: (4, 4)."""

    rectified0_from_velo: Float64Array
    projections: Mapping[str, Float64Array]
    intrinsics: Mapping[str, Intrinsics]
    camera_from_velo: Mapping[str, Float64Array]

    @classmethod
    def read(cls, folder: Path) -> RawCalibration:
        """From the files of a date's folder. Raises ``FileNotFoundError`` or ``ValueError`` by name."""
        cameras_path, velo_path = folder / "calib_cam_to_cam.txt", folder / "calib_velo_to_cam.txt"
        cameras = read_table(cameras_path, "the rectified cameras of that date")
        velo = read_table(velo_path, "the pose of the scanner in camera 0")
        raw_from_velo = np.column_stack([entry(velo, "R", (3, 3), velo_path), entry(velo, "T", (3,), velo_path)])
        turn = transform(entry(cameras, "R_rect_00", (3, 3), cameras_path))
        from_velo = turn @ transform(raw_from_velo)
        projections, intrinsics, poses = {}, {}, {}
        for name in CAMERAS:
            width, height = entry(cameras, f"S_rect_{name}", (2,), cameras_path)
            projections[name] = entry(cameras, f"P_rect_{name}", (3, 4), cameras_path)
            intrinsics[name], poses[name] = projection_camera(projections[name], from_velo, int(width), int(height))
        return cls(from_velo, projections, intrinsics, poses)

    def base_from_camera(self, camera: str) -> Float64Array:
        """(4, 4) mount of a camera's optical frame in base_link."""
        return base_from_velo() @ inverse(self.camera_from_velo[camera])


class KittiRawFolder:
    """All drives of a folder, named ``<date>/<drive>``; files are read when they are asked for.

    poses: folder with ``<date>/<drive>.txt``, poses of rectified camera 0; None for those of the car's GPS (oxts).
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """

    def __init__(self, root: str | Path, poses: str | Path | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{root}: there is no such folder, expected KITTI raw data")
        self._poses_folder = Path(poses) if poses else None
        if self._poses_folder and not self._poses_folder.is_dir():
            raise FileNotFoundError(f"{poses}: there is no such folder, expected <date>/<drive>.txt with poses")
        self.calibration = lru_cache(maxsize=None)(lambda date: RawCalibration.read(self.root / date))
        """Of a date."""
        self.poses = lru_cache(maxsize=None)(self._read_poses)
        """Of a drive. Raises ``FileNotFoundError`` where there are none."""
        self._images = lru_cache(maxsize=None)(self._listed)

    def drives(self) -> Sequence[str]:
        """Names of all drives with left images, ascending."""
        folders = sorted(path.parents[1] for path in self.root.glob("*/*_sync/image_02/data"))
        return tuple(f"{folder.parent.name}/{folder.name}" for folder in folders)

    def sides(self, stereo: bool) -> Sequence[str]:
        """Both sides give key frames where both cameras are used, as the published lists have it."""
        return tuple(CAMERA_OF_SIDE) if stereo else ("00",)

    def split_lines(self, path: str | Path) -> Sequence[SplitLine]:
        """Lines of a split file; ``camera`` is the side."""
        return read_split(path)

    def cameras(self, side: str) -> Sequence[str]:
        """The camera of a side and its stereo partner."""
        camera = CAMERA_OF_SIDE[side]
        return camera, CAMERAS[1 - CAMERAS.index(camera)]

    def fisheyes(self, side: str) -> Sequence[str]:
        """None: this car had no such cameras."""
        return ()

    def posed_frames(self, drive: str) -> Sequence[int]:
        """Frames with a pose, ascending."""
        return self.poses(drive).frames

    def image_frames(self, drive: str, camera: str) -> frozenset[int]:
        """Frames with an image of a camera; none where there is no such drive."""
        return frozenset(self._images(drive, camera))

    def image_path(self, drive: str, frame: int, camera: str) -> Path:
        """Where the image lies, or would."""
        ending = self._images(drive, camera).get(frame, IMAGE_ENDINGS[0])
        return self.root / drive / f"image_{camera}" / "data" / f"{frame:010d}{ending}"

    def scan_path(self, drive: str, frame: int) -> Path:
        """Where the scan lies, or would."""
        return self.root / drive / "velodyne_points" / "data" / f"{frame:010d}.bin"

    def truth_path(self, drive: str, frame: int, camera: str) -> Path:
        """Where `kyn prepare kitti-raw` stores the published depth truth of a frame."""
        return self.root / drive / f"lidar_{camera}" / f"{frame:010d}.npz"

    def posed_frame(self, drive: str, frame: int, camera: str, posed: bool = True) -> PosedFrame:
        """Image, camera, stamp (the drive's start is 0, 10 Hz) and pose of a frame. posed: else without pose."""
        image = read_image(self.image_path(drive, frame, camera), f"frame {frame} of camera {camera}")
        source = self.intrinsics(drive, camera)
        intrinsics = resized_source(source, image.shape[1], image.shape[0])
        stamp_ns = round((frame + 1) * 1e9 / RATE_HZ)
        return PosedFrame(image, intrinsics, stamp_ns, self._world_from_camera(drive, frame, camera) if posed else None)

    def intrinsics(self, drive: str, camera: str) -> Intrinsics:
        """The rectified camera at its source size."""
        return self._of(drive).intrinsics[camera]

    def base_from_camera(self, drive: str, camera: str) -> Float64Array:
        """(4, 4) mount of a camera."""
        return self._of(drive).base_from_camera(camera)

    def depth(self, drive: str, frame: int, camera: str) -> Float32Array | None:
        """(H, W) metres at the size of the stored image, nearest return per pixel, NaN unknown; None without scan."""
        if not self.scan_path(drive, frame).is_file():
            return None
        image = read_image(self.image_path(drive, frame, camera), f"frame {frame} of camera {camera}")
        intrinsics = resized_source(self.intrinsics(drive, camera), image.shape[1], image.shape[0])
        points = in_camera(read_scan(self.scan_path(drive, frame)), self._of(drive).camera_from_velo[camera])
        return nearest_returns(points, intrinsics)

    def published_depth(self, drive: str, frame: int, camera: str) -> Float32Array | None:
        """(H, W) metres at the source size as published evaluations form it (``published_returns``); None without
        scan or stored truth."""
        if self.truth_path(drive, frame, camera).is_file():
            return read_returns(self.truth_path(drive, frame, camera))
        if not self.scan_path(drive, frame).is_file():
            return None
        k = self.intrinsics(drive, camera)
        scan = read_scan(self.scan_path(drive, frame))
        return published_returns(scan, self.scan_projection(drive, camera), k.width, k.height)

    def scan_projection(self, drive: str, camera: str) -> Float64Array:
        """(3, 4) scan coordinates to homogeneous pixels at the source size."""
        calibration = self._of(drive)
        return calibration.projections[camera] @ calibration.rectified0_from_velo

    def _of(self, drive: str) -> RawCalibration:
        return self.calibration(drive.split("/")[0])

    def _world_from_camera(self, drive: str, frame: int, camera: str) -> Float64Array:
        try:
            world_from_rectified0 = self.poses(drive)[frame]
        except KeyError:
            frames = self.posed_frames(drive)
            raise ValueError(
                f"{drive}: got no pose for frame {frame}, expected one ({len(frames)} frames have one)"
            ) from None
        calibration = self._of(drive)
        return world_from_rectified0 @ calibration.rectified0_from_velo @ inverse(calibration.camera_from_velo[camera])

    def _read_poses(self, drive: str) -> DrivePoses:
        if self._poses_folder:
            return SlamPoses(self._poses_folder / f"{drive}.txt")
        path = self.root / drive.split("/")[0] / "calib_imu_to_velo.txt"
        table = read_table(path, "the pose of the inertial unit in the scanner's frame")
        velo_from_imu = np.column_stack([entry(table, "R", (3, 3), path), entry(table, "T", (3,), path)])
        camera0_from_imu = self._of(drive).rectified0_from_velo @ transform(velo_from_imu)
        return OxtsPoses(self.root / drive / "oxts" / "data", camera0_from_imu)

    def _listed(self, drive: str, camera: str) -> dict[int, str]:
        """Frame to ending of its file name; where both are there, the png."""
        folder = self.root / drive / f"image_{camera}" / "data"
        return {
            int(path.stem): ending
            for ending in reversed(IMAGE_ENDINGS)
            for path in folder.glob(f"*{ending}")
            if path.stem.isdigit()
        }


class KittiRaw:
    """The frames of one drive that have a left image and a scan: ``len()`` and ``[i] -> Sample`` with ``depth_m``.

    root: the folder with the dates. drive: ``<date>/<drive>`` or the drive's name; may be left out where there is
    only one. Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing.
    """

    def __init__(self, root: str | Path, drive: str | None = None) -> None:
        self._folder = KittiRawFolder(root)
        found = [name for name in self._folder.drives() if drive is None or Path(name).name == Path(drive).name]
        if not found:
            raise FileNotFoundError(f"{root}: got no {drive or 'drive'}, expected <date>/<drive>_sync/image_02/data")
        if len(found) > 1:
            raise ValueError(f"drive: got none, expected one of {', '.join(Path(name).name for name in found)}")
        self._drive, self.drive = found[0], Path(found[0]).name
        self.intrinsics = self._folder.intrinsics(self._drive, "02")
        self.base_from_camera = self._folder.base_from_camera(self._drive, "02")
        images = self._folder.image_frames(self._drive, "02")
        scans = {int(path.stem) for path in self._folder.scan_path(self._drive, 0).parent.glob("*.bin")}
        self.frames: tuple[int, ...] = tuple(sorted(images & scans))
        if not self.frames:
            raise ValueError(
                f"{Path(root) / self._drive}: got {len(images)} images and {len(scans)} scans, none of one frame"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        return Sample(
            name=f"{self.drive}_{frame:010d}",
            observation=Observation(
                (self._folder.posed_frame(self._drive, frame, "02", posed=False),), self.base_from_camera
            ),
            depth_m=self._folder.depth(self._drive, frame, "02"),
        )

    def published_depth(self, index: int) -> Float32Array:
        """(H, W) depth truth as published evaluations form it."""
        truth = self._folder.published_depth(self._drive, self.frames[index], "02")
        assert truth is not None
        return truth
