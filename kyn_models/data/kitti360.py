"""KITTI-360 in its official layout: images, calibration chain, poses and Velodyne scans of one drive.

    calibration/perspective.txt  calib_cam_to_pose.txt  calib_cam_to_velo.txt
    data_2d_raw/<drive>/image_00/data_rect/<frame, 10 digits>.png, image_00/timestamps.txt; the same for image_01
    data_3d_raw/<drive>/velodyne_points/data/<frame, 10 digits>.bin
    data_poses/<drive>/poses.txt

and, where ``kyn prepare kitti360`` was run, ``image_00/data_192x640``, ``image_02/data_192x640_0x-15`` and their
partners. Cameras and frames of the data set (Liao, Xie, Geiger: KITTI-360, 2021): see ``kitti360_cameras``. What is
missing is reported by name, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kyn_models.data.calibration import inverse, read_image, read_poses, read_scan, read_stamps, require_pixels
from kyn_models.data.kitti360_cameras import (
    FISHEYE_ROTATION,
    FISHEYES,
    PERSPECTIVES,
    VEHICLE_FROM_BASE,
    Rotation,
    View,
    image_folder,
    mirrored,
    posed_after,
    prepared_intrinsics,
    read_calibration,
)
from kyn_models.data.lidar_depth import in_camera, nearest_returns
from kyn_models.data.splits import SplitLine, choose_drive, drives_of, read_split
from kyn_models.types import Float32Array, Float64Array, Intrinsics, Observation, PosedFrame, Sample

__all__ = ["DEFAULT_RATE_HZ", "Kitti360", "drives_of", "open_split"]
DEFAULT_RATE_HZ = 10.0
STEPS = ("frame", "pose")


class Kitti360:
    """One drive, seen by one rectified camera: ``len()`` and ``[i] -> Sample``.

    root: folder in the official layout. drive: name of a drive; may be left out where there is only one (or where the
    split names only one). camera: "00" (left) or "01" (right), with ``prepared`` also "02" and "03", the rectified
    fisheye cameras. split: a file of ``<drive> <frame> <l|r>`` lines; the items are then its lines of this drive and
    camera, in their order, else all frames that have an image and a pose.
    views: further frames of each sample as (camera, offset), for example (("01", 0), ("00", 1)); frames that lack one
    of them are left out, as far as no split names them. steps: what offsets count, "frame" numbers, or "pose" for
    posed frames, at the ends of the drive its first and last one (as the papers' readers do).
    rate_hz: frame rate where timestamps.txt is missing.
    prepared: (rows, columns) to read the images of ``kyn prepare kitti360``, None for the official ones. rotation: yaw
    and pitch in degrees of the prepared fisheye images.
    strict: True makes a split line whose frame, or a view of it, is missing an error; False leaves it out and says so
    in ``missing``.

    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """

    def __init__(
        self,
        root: str | Path,
        drive: str | None = None,
        camera: str = "00",
        split: str | Path | None = None,
        views: Sequence[View] = (),
        rate_hz: float = DEFAULT_RATE_HZ,
        *,
        steps: str = "frame",
        prepared: tuple[int, int] | None = None,
        rotation: Rotation = FISHEYE_ROTATION,
        strict: bool = True,
    ) -> None:
        self.root = Path(root)
        self.camera, self.views, self.rate_hz, self.steps = camera, tuple(views), rate_hz, steps
        self.prepared, self.rotation = prepared, rotation
        cameras = sorted({camera, *(view for view, _ in views)})
        self._check(cameras)
        tolerant = split is not None and not strict
        self.drive = choose_drive(self.root, drive, split, tolerant)
        self.calibration = read_calibration(self.root, [name for name in cameras if name in FISHEYES], rotation)
        pose_file = self.root / "data_poses" / self.drive / "poses.txt"
        nothing = tolerant and not pose_file.exists()
        self._world_from_vehicle = {} if nothing else read_poses(pose_file, "the vehicle poses of the drive")
        self.posed_frames: tuple[int, ...] = tuple(sorted(self._world_from_vehicle))
        """All frame numbers with a pose, ascending, with or without image."""
        self._rank = {frame: rank for rank, frame in enumerate(self.posed_frames)}
        images = {name: self._image_frames(name, tolerant) for name in cameras}
        self.frames_without_pose: tuple[int, ...] = tuple(sorted(images[camera] - set(self.posed_frames)))
        """Frames that have an image and no pose (on KITTI-360 those where the car stands); they are not items."""
        self.missing: tuple[str, ...] = ()
        """What is wrong with each line of the split that was left out, for ``strict=False``."""
        self.frames: tuple[int, ...] = (
            self._frames_of_split(split, images, strict) if split else self._all_frames(images)
        )
        """Frame number of each item."""
        self._stamps = read_stamps(self._stamp_path())
        self.stamps_assumed = self._stamps is None
        """True where timestamps.txt is missing and stamps follow from ``rate_hz``: to be said once by the consumer."""

    def _check(self, cameras: Sequence[str]) -> None:
        for name in cameras:
            if name in FISHEYES and self.prepared is None:
                raise ValueError(
                    f"camera: got {name!r}, expected one of {', '.join(PERSPECTIVES)}; fisheye cameras are read from "
                    "prepared images: run kyn prepare kitti360, and give prepared=(192, 640)"
                )
            if name not in (*PERSPECTIVES, *FISHEYES):
                expected = ", ".join((*PERSPECTIVES, *FISHEYES))
                raise ValueError(f"camera: got {name!r}, expected one of {expected} (rectified cameras)")
        if not np.isfinite(self.rate_hz) or self.rate_hz <= 0:
            raise ValueError(f"rate_hz: got {self.rate_hz}, expected a rate above 0")
        if self.steps not in STEPS:
            raise ValueError(f"steps: got {self.steps!r}, expected one of {', '.join(STEPS)}")

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
            views=tuple(self.posed_frame(self._step(frame, offset), camera) for camera, offset in self.views),
        )

    def posed_frame(self, frame: int, camera: str | None = None) -> PosedFrame:
        """Image, camera, stamp and pose of a frame; ``camera`` defaults to the reader's."""
        camera = camera or self.camera
        path, k = self.image_path(frame, camera), self.intrinsics(camera)
        image = read_image(path, f"frame {frame} of rectified camera {camera}")
        source = "its folder" if self.prepared else "calibration/perspective.txt"
        require_pixels(path, image, k.width, k.height, f"{source} says")
        return PosedFrame(image, k, self.stamp_ns(frame), self.world_from_base(frame) @ self.base_from_camera(camera))

    def intrinsics(self, camera: str | None = None) -> Intrinsics:
        """Rectified pinhole camera of the images that are read: of their own size, true for their pixels."""
        camera = camera or self.camera
        source = self.calibration.source[camera]
        return source if self.prepared is None else prepared_intrinsics(camera, source, self.prepared)

    def k_norm(self, camera: str | None = None) -> Float64Array:
        """(3, 3) normalised camera matrix as the papers' networks are trained with it, for images of any size.

        From the official rectified camera before resizing; that of 00 for the fisheye cameras, which are rectified to
        it.
        """
        return self.calibration.source[camera or self.camera].normalised()

    def stereo_offset(self, camera: str) -> float:
        """P[0, 3] of the rectified pair in pixel metres: 0 for the left camera, -fx * baseline for the right one."""
        return self.calibration.stereo_offset[camera]

    def base_from_camera(self, camera: str | None = None) -> Float64Array:
        """(4, 4) mount of the rectified optical frame in base_link."""
        return self.calibration.base_from_camera[camera or self.camera]

    def base_from_velo(self) -> Float64Array:
        """(4, 4) mount of the Velodyne (x forward, y left, z up) in base_link."""
        return self.calibration.base_from_velo

    def camera_from_velo(self, camera: str | None = None) -> Float64Array:
        """(4, 4) scan coordinates to the rectified optical frame of the same instant."""
        return inverse(self.base_from_camera(camera)) @ self.calibration.base_from_velo

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
        return self.world_from_base(frame) @ self.calibration.base_from_velo

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
        return (
            self.root
            / "data_2d_raw"
            / self.drive
            / f"image_{camera}"
            / image_folder(camera, self.prepared, self.rotation)
        )

    def _stamp_path(self) -> Path:
        return self.root / "data_2d_raw" / self.drive / f"image_{self.camera}" / "timestamps.txt"

    def _image_frames(self, camera: str, tolerant: bool) -> set[int]:
        folder = self._image_folder(camera)
        if not folder.is_dir() and not tolerant:
            what = f"the {'prepared' if self.prepared else 'rectified'} images of camera {camera}"
            remedy = "; run kyn prepare kitti360" if self.prepared else ""
            raise FileNotFoundError(f"{folder}: missing, expected {what}{remedy}")
        return {int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()}

    def _step(self, frame: int, offset: int) -> int:
        """The frame number ``offset`` steps after a posed frame."""
        if self.steps == "frame":
            return frame + offset
        return posed_after(self.posed_frames, self._rank, frame, offset)

    def _shots(self, frame: int) -> list[View]:
        """(camera, frame number) of the sample of a posed frame, the key first."""
        return [(self.camera, frame), *((camera, self._step(frame, offset)) for camera, offset in self.views)]

    def _all_frames(self, images: dict[str, set[int]]) -> tuple[int, ...]:
        chosen = [
            frame
            for frame in self.posed_frames
            if all(number in images[camera] and self.has_pose(number) for camera, number in self._shots(frame))
        ]
        if not chosen:
            raise ValueError(
                f"{self._image_folder(self.camera)}: got {len(images[self.camera])} images of which none has a pose "
                f"in {self.root / 'data_poses' / self.drive / 'poses.txt'}"
                + (f" and the views {self.views}" if self.views else "")
            )
        return tuple(chosen)

    def _frames_of_split(self, split: str | Path, images: dict[str, set[int]], strict: bool) -> tuple[int, ...]:
        lines = [line for line in read_split(split) if line.drive == self.drive and line.camera == self.camera]
        if not lines:
            raise ValueError(f"{split}: got no line for camera {self.camera} of {self.drive}, expected at least one")
        faults = [self._fault(line, images) for line in lines]
        found = [fault for fault in faults if fault is not None]
        if found and strict:
            raise found[0]
        self.missing = tuple(str(fault) for fault in found)
        return tuple(line.frame for line, fault in zip(lines, faults, strict=True) if fault is None)

    def _fault(self, line: SplitLine, images: dict[str, set[int]]) -> FileNotFoundError | ValueError | None:
        """What the sample of a split's line lacks."""
        shots = self._shots(line.frame) if self.has_pose(line.frame) else [(self.camera, line.frame)]
        for camera, frame in shots:
            names = f"{line.source}: names frame {line.frame} of {line.drive}" + (
                "" if (camera, frame) == shots[0] else f" with the view ({camera}, {frame})"
            )
            if frame not in images[camera]:
                return FileNotFoundError(f"{names}, whose image {self.image_path(frame, camera)} is missing")
            if not self.has_pose(frame):
                return ValueError(f"{names}, which has no pose")
        return None


def open_split(
    root: str | Path,
    split: str | Path,
    views: Sequence[View] = (),
    *,
    steps: str = "frame",
    prepared: tuple[int, int] | None = None,
    rotation: Rotation = FISHEYE_ROTATION,
    strict: bool = True,
) -> list[Kitti360]:
    """One reader per drive and camera that a split file names, in the order of their first line.

    views: those of the left camera; the readers of the right one have them mirrored. strict: see ``Kitti360``; if
    False, drives that are missing have readers without items whose ``missing`` says so.
    """
    keys = dict.fromkeys((line.drive, line.camera) for line in read_split(split))
    return [
        Kitti360(
            root,
            drive,
            camera,
            split,
            mirrored(views) if camera == "01" else views,
            steps=steps,
            prepared=prepared,
            rotation=rotation,
            strict=strict,
        )
        for drive, camera in keys
    ]
