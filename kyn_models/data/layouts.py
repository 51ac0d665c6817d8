"""The layouts that training reads, behind the few questions that it asks of a folder of drives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kyn_models.data.data_config import DataConfig
from kyn_models.data.kitti360 import Kitti360, drives_of
from kyn_models.data.kitti_raw import KittiRawFolder
from kyn_models.data.realestate10k import RealEstate10kFolder
from kyn_models.data.splits import SplitLine, read_split
from kyn_models.types import Float32Array, Float64Array, Intrinsics, PosedFrame


class Layout(Protocol):
    """A folder of drives. side: "00" for the left camera of a rig, "01" for the right one, in every layout."""

    def drives(self) -> Sequence[str]:
        """Names of all drives."""

    def sides(self, stereo: bool) -> Sequence[str]:
        """Sides that key frames are taken from where no split says it."""

    def split_lines(self, path: str) -> Sequence[SplitLine]:
        """Key frames of a split file; their ``camera`` is the side."""

    def cameras(self, side: str) -> Sequence[str]:
        """The camera of that side, then its partner where there is one."""

    def fisheyes(self, side: str) -> Sequence[str]:
        """The fisheye camera of that side, then the other one; none where there are none."""

    def posed_frames(self, drive: str) -> Sequence[int]:
        """Frames with a pose, ascending. Raises ``FileNotFoundError`` where the drive is not there."""

    def image_frames(self, drive: str, camera: str) -> frozenset[int]:
        """Frames with an image of a camera."""

    def posed_frame(self, drive: str, frame: int, camera: str) -> PosedFrame:
        """Image, camera and pose."""

    def intrinsics(self, drive: str, camera: str) -> Intrinsics:
        """Camera of the images before they were made small: the networks' normalised form is taken from it."""

    def base_from_camera(self, drive: str, camera: str) -> Float64Array:
        """(4, 4) mount of a camera."""

    def depth(self, drive: str, frame: int, camera: str) -> Float32Array | None:
        """(H, W) metres from the lidar at the size of the stored image, NaN unknown; None where there is no scan."""


def open_layout(config: DataConfig) -> Layout:
    """The layout of a folder. Raises ``FileNotFoundError`` where there is no such folder."""
    if not Path(config.root).is_dir():
        raise FileNotFoundError(f"{config.root}: there is no such folder, expected {config.layout} data")
    if config.layout == "kitti_raw":
        return KittiRawFolder(config.root, config.poses or None)
    if config.layout == "realestate10k":
        return RealEstate10kFolder(config.root)
    return _Kitti360(config)


class _Kitti360:
    """One reader for each drive and side, made when it is first asked for."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._readers: dict[tuple[str, str], Kitti360] = {}
        self._images: dict[tuple[str, str], frozenset[int]] = {}

    def _reader(self, drive: str, side: str = "00") -> Kitti360:
        config, key = self._config, (drive, side)
        if key not in self._readers:
            others = [camera for camera in self.cameras(side)[1:] if config.stereo]
            others += self.fisheyes(side) if config.fisheye else ()
            views, prepared = [(camera, 0) for camera in others], config.size if config.prepared else None
            self._readers[key] = Kitti360(config.root, drive, side, views=views, prepared=prepared)
        return self._readers[key]

    def drives(self) -> Sequence[str]:
        return drives_of(self._config.root)

    def sides(self, stereo: bool) -> Sequence[str]:
        return ("00", "01") if stereo else ("00",)

    def split_lines(self, path: str) -> Sequence[SplitLine]:
        return read_split(path)

    def cameras(self, side: str) -> Sequence[str]:
        return (side, "01" if side == "00" else "00")

    def fisheyes(self, side: str) -> Sequence[str]:
        return ("02", "03") if side == "00" else ("03", "02")

    def posed_frames(self, drive: str) -> Sequence[int]:
        return self._reader(drive).posed_frames

    def image_frames(self, drive: str, camera: str) -> frozenset[int]:
        key = (drive, camera)
        if key not in self._images:
            folder = self._reader(drive).image_path(0, camera).parent
            self._images[key] = frozenset(int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit())
        return self._images[key]

    def posed_frame(self, drive: str, frame: int, camera: str) -> PosedFrame:
        return self._reader(drive).posed_frame(frame, camera)

    def intrinsics(self, drive: str, camera: str) -> Intrinsics:
        return self._reader(drive).calibration.source[camera]

    def base_from_camera(self, drive: str, camera: str) -> Float64Array:
        return self._reader(drive).base_from_camera(camera)

    def depth(self, drive: str, frame: int, camera: str) -> Float32Array | None:
        reader = self._reader(drive, camera)
        return reader.lidar_depth(frame) if reader.has_scan(frame) else None
