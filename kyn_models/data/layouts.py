"""The layouts that training reads, behind the few questions that it asks of a folder of drives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from kyn_models.data.kitti360 import Kitti360, drives_of
from kyn_models.data.splits import SplitLine, read_split
from kyn_models.types import Float32Array, Float64Array, PosedFrame


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

    def base_from_camera(self, drive: str, camera: str) -> Float64Array:
        """(4, 4) mount of a camera."""

    def depth(self, drive: str, frame: int, camera: str) -> Float32Array | None:
        """(H, W) metres from the lidar, NaN unknown; None where there is no scan."""


def open_layout(name: str, root: str, poses: str, prepared: bool, size: tuple[int, int]) -> Layout:
    """The layout of a folder. Raises ``FileNotFoundError`` where there is no such folder."""
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder, expected {name} data")
    return _Kitti360(root)


class _Kitti360:
    """One reader for each drive and camera, made when it is first asked for."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._reader = lru_cache(maxsize=None)(lambda drive, camera: Kitti360(root, drive, camera))
        self._images = lru_cache(maxsize=None)(self._listed)

    def drives(self) -> Sequence[str]:
        return drives_of(self._root)

    def sides(self, stereo: bool) -> Sequence[str]:
        return ("00", "01") if stereo else ("00",)

    def split_lines(self, path: str) -> Sequence[SplitLine]:
        return read_split(path)

    def cameras(self, side: str) -> Sequence[str]:
        return (side, "01" if side == "00" else "00")

    def fisheyes(self, side: str) -> Sequence[str]:
        return ("02", "03") if side == "00" else ("03", "02")

    def posed_frames(self, drive: str) -> Sequence[int]:
        return self._reader(drive, "00").posed_frames

    def image_frames(self, drive: str, camera: str) -> frozenset[int]:
        return self._images(drive, camera)

    def _listed(self, drive: str, camera: str) -> frozenset[int]:
        folder = self._reader(drive, "00").image_path(0, camera).parent
        return frozenset(int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit())

    def posed_frame(self, drive: str, frame: int, camera: str) -> PosedFrame:
        return self._reader(drive, "00").posed_frame(frame, camera)

    def base_from_camera(self, drive: str, camera: str) -> Float64Array:
        return self._reader(drive, "00").base_from_camera(camera)

    def depth(self, drive: str, frame: int, camera: str) -> Float32Array | None:
        reader = self._reader(drive, camera)
        return reader.lidar_depth(frame) if reader.has_scan(frame) else None
