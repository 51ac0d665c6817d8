"""Where things move in a KITTI odometry sequence, for clouds that should hold only what stands still. numpy, OpenCV.

As the authors' clouds of points leave things out (Li et al., CVPR 2023): masks grow by 16 pixels, and a pixel counts
only if none of five masks in turn, that of the key frame in the middle, marks the same place of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from kyn_models.data.kitti_odometry_drive import OdometryDrive
from kyn_models.data.kitti_odometry_frames import (
    MASK_SIZE,
    centred_camera,
    has_moving_masks,
    moving_mask_path,
    read_moving_mask,
)
from kyn_models.data.published_crop import PublishedCrop
from kyn_models.evaluate import sample_depth
from kyn_models.metrics import BoolArray
from kyn_models.types import Intrinsics


@dataclass(frozen=True)
class MaskOptions:
    """grow_px: masks of 256x512 pixels grow by so many to all sides. frames: how many masks in turn are looked at, that
    of the key frame in the middle. hits: how many of them must mark a pixel, so that it is left out.
    """

    grow_px: int = 16
    frames: int = 5
    hits: int = 1

    def __post_init__(self) -> None:
        if self.grow_px < 0:
            raise ValueError(f"--mask-grow: got {self.grow_px}, expected pixels, 0 or above")
        if self.frames < 1 or self.frames % 2 == 0:
            raise ValueError(f"--mask-frames: got {self.frames}, expected an odd number, the key frame in the middle")
        if not 1 <= self.hits <= self.frames:
            raise ValueError(f"--mask-hits: got {self.hits}, expected 1 to {self.frames}, the masks that are looked at")


class MovingMasks:
    """Masks of a sequence around its frames. A frame without a mask marks nothing.

    Raises ``FileNotFoundError`` for a sequence without any mask.
    """

    def __init__(self, drive: OdometryDrive, options: MaskOptions) -> None:
        folder = moving_mask_path(drive, 0).parent
        if not has_moving_masks(drive):
            raise FileNotFoundError(f"{folder}: missing or empty, expected <6 digits>.npy, masks of moving objects")
        self._drive, self._options = drive, options
        self._grown = lru_cache(maxsize=2 * options.frames)(self._read)
        self._camera = centred_camera(PublishedCrop(drive.intrinsics(), MASK_SIZE))

    def has_mask(self, frame: int) -> bool:
        """True where a frame has a mask of its own."""
        return moving_mask_path(self._drive, frame).is_file()

    def __call__(self, frame: int, camera: Intrinsics) -> BoolArray:
        """(H, W) bool of an image of ``camera``, in the key frame's optical frame; False beyond the masks."""
        half = self._options.frames // 2
        masks = [self._grown(near) for near in range(frame - half, frame + half + 1)]
        votes = np.zeros(MASK_SIZE, dtype=np.float32)
        for mask in masks:
            votes += 0 if mask is None else mask
        sampled, _ = sample_depth(votes, self._camera, camera)
        with np.errstate(invalid="ignore"):
            found: BoolArray = sampled >= self._options.hits
        return found

    def _read(self, frame: int) -> BoolArray | None:
        mask = read_moving_mask(self._drive, frame)
        if mask is None:
            return None
        side = 2 * self._options.grow_px + 1
        return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)
