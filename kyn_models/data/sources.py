"""Training data as a configuration names it: key frames with their further views, from any layout that kyn reads.

    frames = Frames(DataConfig("kitti360", root="data/KITTI-360", split="splits/train_files.txt"))
    sample = frames[0]

Views come camera by camera: the key camera at all its steps, its stereo partner, then the fisheye camera of either
side. Steps count frames that have a pose and end at the drive's first and last one, as published. numpy.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from kyn_models.data.data_config import DataConfig
from kyn_models.data.frame_cache import Views, views_of
from kyn_models.data.layouts import Layout, open_layout
from kyn_models.data.splits import SplitLine
from kyn_models.data.streets import Streets
from kyn_models.types import Intrinsics, Observation, Sample

__all__ = ["DataConfig", "Frames", "LiveViews"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Item:
    drive: str
    frame: int
    side: str


class Frames:
    """The key frames of a ``DataConfig``: ``len()`` and ``[i] -> Sample``, the same item in every process.

    Raises ``FileNotFoundError`` or ``ValueError`` naming what is missing or wrong.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._dilations = range(config.dilations[0], config.dilations[1] + 1)
        # Lists of frames are long, and most drives lack none.
        self._gaps = lru_cache(maxsize=None)(self._posed_without_image)
        self.missing: tuple[str, ...] = ()
        """One sentence for every split line that was left out."""
        self._streets: Streets | None = None
        if config.layout == "streets":
            self._streets = _streets(config)
            count = len(self._streets)
        else:
            self._layout: Layout = open_layout(config)
            self._items = self._all_items() if not config.split else self._items_of_split()
            count = len(self._items) * len(self._dilations)
        self._count = min(count, config.limit) if config.limit else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        """Key frame first, in ``Sample.observation``; every frame has a pose. Raises by file name."""
        if not 0 <= index < len(self):
            raise IndexError(f"data: got item {index}, expected 0 to {len(self) - 1}")
        if self._streets is not None:
            return self._streets[index]
        item, dilation = self._item(index)
        key, *others = [
            self._layout.posed_frame(item.drive, frame, camera) for camera, frame in self._shots(item, dilation)
        ]
        camera = self._layout.cameras(item.side)[0]
        return Sample(
            name=self.name(index),
            observation=Observation((key,), self._layout.base_from_camera(item.drive, camera)),
            views=tuple(others),
            depth_m=self._layout.depth(item.drive, item.frame, camera) if self.config.depth else None,
        )

    def views(self, index: int, sample: Sample | None = None) -> Views:
        """The item as networks take it, at ``config.size``; the key frame first. sample: the item, if it is at hand."""
        views = views_of(sample or self[index], self.config.size)
        if not self.config.prepared:
            return views
        item, dilation = self._item(index)
        sources = [self._layout.intrinsics(item.drive, camera) for camera, _ in self._shots(item, dilation)]
        return views._replace(k_norm=np.stack([source.normalised() for source in sources]).astype(np.float32))

    def view_count(self) -> int:
        """Views of every item, the key frame included; reads no image."""
        return 1 + len(self._streets.options.views) if self._streets is not None else len(self._shots(*self._item(0)))

    def source(self, index: int) -> Intrinsics:
        """Camera of an item's key frame before its image was made small: what ``k_norm`` is taken from."""
        if self._streets is not None:
            return self._streets.intrinsics
        item, _ = self._item(index)
        return self._layout.intrinsics(item.drive, self._layout.cameras(item.side)[0])

    def name(self, index: int) -> str:
        """Drive, frame and camera of an item, for messages; reads no image."""
        if self._streets is not None:
            return f"street {self._streets.street(index).seed} frame {self._streets.frame(index)}"
        item, _ = self._item(index)
        return f"{item.drive}_{item.frame:010d}_{self._layout.cameras(item.side)[0]}"

    def _item(self, index: int) -> tuple[_Item, int]:
        item, dilation = divmod(index, len(self._dilations))
        return self._items[item], self._dilations[dilation]

    def _shots(self, item: _Item, dilation: int) -> list[tuple[str, int]]:
        """(camera, frame) of every view of an item."""
        config, posed = self.config, self._layout.posed_frames(item.drive)
        perspective = self._layout.cameras(item.side)[: 2 if config.stereo else 1]
        fisheye = self._layout.fisheyes(item.side) if config.fisheye else ()
        return [
            (camera, _stepped(posed, item.frame, begin + step * dilation))
            for cameras, begin in ((perspective, 0), (fisheye, config.fisheye_offset))
            for camera in cameras
            for step in config.steps
        ]

    def _all_items(self) -> list[_Item]:
        items = [
            _Item(drive, frame, side)
            for drive in self._layout.drives()
            for side in self._layout.sides(self.config.stereo)
            for frame in self._layout.posed_frames(drive)
        ]
        whole = [item for item in items if self._fault(item) is None]
        if not whole:
            raise ValueError(
                f"{self.config.root}: got {len(items)} frames with a pose and none with the images of all its views, "
                "expected some"
            )
        return whole

    def _items_of_split(self) -> list[_Item]:
        config = self.config
        lines: Sequence[SplitLine] = self._layout.split_lines(config.split)
        items, missing = [], []
        for line in lines:
            item = _Item(line.drive, line.frame, line.camera)
            fault = self._fault(item)
            if fault is None:
                items.append(item)
                continue
            missing.append(f"{line.source}: names frame {line.frame} of {line.drive}, {fault}")
            if config.strict:
                raise FileNotFoundError(f"{missing[0]}; strict: false leaves such lines out")
        self.missing = tuple(missing)
        if not items:
            raise ValueError(
                f"{missing[0]}, and none of its {len(lines)} lines is whole; does the split belong to {config.root}?"
            )
        if missing:
            log.warning("%d of %d lines left out, the first: %s", len(missing), len(lines), missing[0])
        return items

    def _fault(self, item: _Item) -> str | None:
        """What of an item is missing, as the end of a sentence; None where it is whole."""
        try:
            posed = self._layout.posed_frames(item.drive)
        except FileNotFoundError as error:
            return f"a drive that is not there ({error})"
        if not _has(posed, item.frame):
            return "which has no pose"
        cameras = {camera for camera, _ in self._shots(item, self._dilations[0])}
        gaps = {camera: self._gaps(item.drive, camera) for camera in cameras}
        if not any(gaps.values()):
            return None
        for dilation in self._dilations:
            for camera, frame in self._shots(item, dilation):
                if frame in gaps[camera]:
                    return f"of whose views the image of camera {camera} at frame {frame} is missing"
        return None

    def _posed_without_image(self, drive: str, camera: str) -> frozenset[int]:
        return frozenset(self._layout.posed_frames(drive)) - self._layout.image_frames(drive, camera)


class LiveViews:
    """The items as training takes them, read anew every time."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Views:
        return self._frames.views(index)


def _streets(config: DataConfig) -> Streets:
    cameras = ("00", "01") if config.stereo else ("00",)
    views = [(camera, step) for camera in cameras for step in config.steps]
    if config.fisheye:
        views += [(side, step + config.fisheye_offset) for side in ("left", "right") for step in config.steps]
    if config.dilations != (1, 1):
        raise ValueError(f"data.dilations: got {list(config.dilations)} for streets, expected [1, 1]")
    height, width = config.size
    return Streets(replace(config.streets, width=width, height=height, views=tuple(views[1:])))


def _has(frames: Sequence[int], frame: int) -> bool:
    place = bisect_left(frames, frame)
    return place < len(frames) and frames[place] == frame


def _stepped(posed: Sequence[int], frame: int, step: int) -> int:
    """The frame ``step`` posed frames later, at most the last and at least the first one."""
    return posed[min(max(bisect_left(posed, frame) + step, 0), len(posed) - 1)]
