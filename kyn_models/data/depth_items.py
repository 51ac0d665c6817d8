"""What depth from several frames is learned from: a key frame, its neighbours, cameras, true depth, what moves. numpy.

Items come from a data set of ``Sample``s whose observation holds the key frame and its neighbours, and whose depth is
known; they can be stored once and read many times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from kyn_models.config import refuse_unread
from kyn_models.data import frame_cache
from kyn_models.data.frame_cache import Frames
from kyn_models.data.kitti_odometry_frames import (
    MASK_FOLDER,
    KittiOdometryFrames,
    OdometryFramesOptions,
    moving_mask_path,
)
from kyn_models.data.street_sensors import INTRINSICS
from kyn_models.data.streets import Streets, StreetsOptions
from kyn_models.relative_poses import neighbours_from_key
from kyn_models.types import Float32Array, Intrinsics, PosedFrame, Sample, UInt8Array


@dataclass(frozen=True)
class PosedDataConfig:
    """layout: ``streets`` are made, not read; ``kitti_odometry`` is read from ``root`` as ``odometry`` says.

    streets: which ones; their ``neighbours`` and ``stereo`` are those of the key frame. limit: only the first so many
    items (0: all). per_sequence: only the first so many of every sequence (0: all). cache: store the items in the
    training's folder once; else they are read anew every time.
    """

    layout: Literal["streets", "kitti_odometry"] = "streets"
    root: str = ""
    odometry: OdometryFramesOptions = OdometryFramesOptions()
    streets: StreetsOptions = StreetsOptions(width=320, height=96, views=(), neighbours=(-1, 1))
    limit: int = 0
    per_sequence: int = 0
    cache: bool = False

    def __post_init__(self) -> None:
        if self.layout != "streets" and not self.root:
            raise ValueError(f"frames.root: got none, expected the folder of the {self.layout} data")
        if self.layout == "streets" and not (self.streets.neighbours or self.streets.stereo):
            raise ValueError("frames.streets.neighbours: got none, expected frame offsets such as [-1, 1], or stereo")
        if self.layout == "kitti_odometry" and not (self.odometry.offsets or self.odometry.stereo):
            raise ValueError("frames.odometry.offsets: got none, expected frame offsets such as [-1, 1], or stereo")
        height, width = self.size
        if height % 16 or width % 16:
            raise ValueError(f"frames: got images of {height}x{width}, expected multiples of 16")
        for name in ("limit", "per_sequence"):
            if getattr(self, name) < 0:
                raise ValueError(f"frames.{name}: got {getattr(self, name)}, expected a number of items, 0 for all")
        unread = ("root", "odometry", "per_sequence") if self.layout == "streets" else ("streets",)
        refuse_unread(self, unread, f"for layout {self.layout}", "frames.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return (self.streets.height, self.streets.width) if self.layout == "streets" else self.odometry.size


class DepthItem(NamedTuple):
    """One item. Frames: the key frame first, then its N neighbours.

    images: (1 + N, H, W, 3) uint8 RGB. k: (1 + N, 3, 3) float32 camera matrices in pixels of these images, scaled with
    them as published: c' = c s. neighbour_from_key: (N, 4, 4) float32, from float64 world poses. depth_m: (H, W)
    float32, NaN unknown, +Inf sky. moving: (H, W) bool, nowhere true where that is not known.
    """

    images: UInt8Array
    k: Float32Array
    neighbour_from_key: Float32Array
    depth_m: Float32Array
    moving: np.ndarray


class DepthItems(Protocol):
    """Items as training takes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> DepthItem: ...


class PosedFrames:
    """The samples of a ``PosedDataConfig``: ``len()`` and ``[i] -> Sample``, the same item in every process.

    Cameras are scaled with the images as published, c' = c s. masks: some of the frames must have a mask of what moves.
    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """

    def __init__(self, config: PosedDataConfig, masks: bool = False) -> None:
        self.config = config
        self._frames: Streets | KittiOdometryFrames
        if config.layout == "streets":
            self._frames = Streets(replace(config.streets, views=()))
            self._items = list(range(len(self._frames)))
        else:
            self._frames = KittiOdometryFrames(config.root, config.odometry)
            taken: Counter[str] = Counter()
            self._items = []
            for index, (drive, _) in enumerate(self._frames.items):
                taken[drive.drive] += 1
                if not config.per_sequence or taken[drive.drive] <= config.per_sequence:
                    self._items.append(index)
        if config.limit:
            self._items = self._items[: config.limit]
        if masks:
            self._require_masks()

    def _require_masks(self) -> None:
        if isinstance(self._frames, Streets):
            if self.config.streets.street.traffic == 0:
                raise ValueError(
                    "frames.streets.street.traffic: got 0, expected above 0 where what moves is to be dropped"
                )
            return
        frames = (self._frames.items[index] for index in self._items)
        if not any(moving_mask_path(drive, frame).is_file() for drive, frame in frames):
            where = f"sequences/<name>/{MASK_FOLDER}/<6 digits>.npy"
            raise FileNotFoundError(
                f"{self.config.root}: got no masks of what moves, expected {where} of some of the {len(self)} frames"
            )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        """Key frame and neighbours in ``Sample.observation``, with ``depth_m`` and, where known, ``moving``."""
        if not 0 <= index < len(self):
            raise IndexError(f"frames: got item {index}, expected 0 to {len(self) - 1}")
        sample = self._frames[self._items[index]]
        if self.config.layout != "streets":
            return sample
        frames = tuple(_published(frame) for frame in sample.observation.frames)
        return replace(sample, observation=replace(sample.observation, frames=frames))

    def name(self, index: int) -> str:
        """Sequence and frame of an item, for messages; reads no image."""
        item = self._items[index]
        if isinstance(self._frames, Streets):
            return f"street {self._frames.street(item).seed} frame {self._frames.frame(item)}"
        drive, frame = self._frames.items[item]
        return f"{drive.drive}_{frame:010d}"

    def source(self) -> Intrinsics:
        """Camera of the images before they were made small."""
        return INTRINSICS if self.config.layout == "streets" else self[0].observation.key.intrinsics


def _published(frame: PosedFrame) -> PosedFrame:
    """Streets are rendered at the centre-correct camera of small images; the published form is half a pixel off."""
    k = frame.intrinsics
    sx, sy = k.width / INTRINSICS.width, k.height / INTRINSICS.height
    scaled = replace(k, cx=INTRINSICS.cx * sx, cy=INTRINSICS.cy * sy)
    return replace(frame, intrinsics=scaled)


def depth_item(sample: Sample) -> DepthItem:
    """A sample of ``PosedFrames`` as training takes it. Raises ``ValueError`` for a frame without a pose."""
    frames = sample.observation.frames
    depth = np.asarray(sample.depth_m, dtype=np.float32)
    moving = np.zeros(depth.shape, dtype=np.bool_) if sample.moving is None else np.asarray(sample.moving)
    return DepthItem(
        np.stack([frame.image for frame in frames]),
        np.stack([frame.intrinsics.matrix for frame in frames]).astype(np.float32),
        neighbours_from_key(frames).astype(np.float32),
        depth,
        moving,
    )


class LiveItems:
    """The items of a data set, read anew every time."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> DepthItem:
        return depth_item(self._frames[index])


class StoredItems:
    """The items that ``store_items`` wrote; arrays are memory maps."""

    def __init__(self, path: str | Path) -> None:
        self._arrays = frame_cache.stored_arrays(path, DepthItem._fields)

    def __len__(self) -> int:
        return len(self._arrays["images"])

    def __getitem__(self, index: int) -> DepthItem:
        item = DepthItem(*(np.array(self._arrays[name][index]) for name in DepthItem._fields))
        return item._replace(depth_m=item.depth_m.astype(np.float32))

    def moving_share(self) -> float:
        """Share of all pixels that are on things that move."""
        return float(np.mean([self._arrays["moving"][index].mean() for index in range(len(self))]))


def store_items(
    path: str | Path,
    frames: Frames,
    settings: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> StoredItems:
    """Store all items in ``path``, depth as float16; goes on where an interrupted call stopped.

    settings and errors as of ``frame_cache.store``.
    """

    def make(index: int) -> dict[str, np.ndarray]:
        item = depth_item(frames[index])
        return item._replace(depth_m=item.depth_m.astype(np.float16))._asdict()

    frame_cache.store(path, len(frames), make, settings, progress)
    return StoredItems(path)
