"""Training data as a configuration file names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kyn_models.config import refuse_unread
from kyn_models.data.streets import StreetsOptions


@dataclass(frozen=True)
class DataConfig:
    """layout: how the folder ``root`` is organised; ``streets`` are made, not read. split: file with the key frames,
    none for all of them.

    size: (height, width) of the images that a network sees. steps: frames of every camera, 0 (the key frame) first.
    stereo: also the other camera. fisheye: also the rectified fisheye cameras of KITTI-360, ``fisheye_offset`` frames
    later, when they pass what the key frame sees. dilations: (from, to) factor on the steps, each an item of its own.
    prepared: KITTI-360 as `kyn prepare kitti360` wrote it at ``size``. poses: folder of KITTI raw's poses, none for
    those of the GPS. depth: read the lidar's depth too, for validation. limit: only the first so many items (0: all).
    strict: a split line that names a missing frame is an error, else it is counted and left out.
    cache: store resized views in the training's folder once; else files are read anew every time.
    streets: which ones, for that layout; its size and views are those named here.
    """

    layout: Literal["streets", "kitti360", "kitti_raw", "realestate10k"] = "streets"
    root: str = ""
    split: str = ""
    size: tuple[int, int] = (192, 640)
    steps: tuple[int, ...] = (0, 1)
    stereo: bool = True
    fisheye: bool = False
    fisheye_offset: int = 10
    dilations: tuple[int, int] = (1, 1)
    prepared: bool = False
    poses: str = ""
    depth: bool = False
    limit: int = 0
    strict: bool = False
    cache: bool = False
    streets: StreetsOptions = StreetsOptions()

    def __post_init__(self) -> None:
        if not self.steps or self.steps[0] != 0 or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"data.steps: got {list(self.steps)}, expected different frame steps with 0 first")
        if min(self.size) < 64 or self.size[0] % 32 or self.size[1] % 32:
            raise ValueError(
                f"data.size: got {list(self.size)}, expected a height and a width that are multiples of 32 from 64 on"
            )
        if not 1 <= self.dilations[0] <= self.dilations[1]:
            raise ValueError(f"data.dilations: got {list(self.dilations)}, expected (from, to), both at least 1")
        if self.prepared and (self.layout != "kitti360" or self.cache):
            raise ValueError("data.prepared: got true, expected it for kitti360 alone and without data.cache")
        if self.layout == "kitti360" and self.fisheye and not self.prepared:
            raise ValueError("data.fisheye: got true without prepared, expected both; run `kyn prepare kitti360` first")
        if self.layout != "streets" and not self.root:
            raise ValueError(f"data.root: got none, expected the folder of the {self.layout} data")
        if self.fisheye and self.layout in ("kitti_raw", "realestate10k"):
            raise ValueError(f"data.fisheye: got true for {self.layout}, expected false: it has no such cameras")
        if self.limit < 0:
            raise ValueError(f"data.limit: got {self.limit}, expected a number of items, 0 for all")
        unread = ["root", "split", "strict"] if self.layout == "streets" else ["streets"]
        if self.layout != "kitti_raw":
            unread.append("poses")
        refuse_unread(self, unread, f"for layout {self.layout}", "data.")
