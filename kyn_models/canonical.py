"""The canonical camera: what a model was trained with, and how images of other cameras become its images.

A monocular network ties size in the image to distance through the focal length it was trained with. Another camera is
therefore warped to the training camera (crop, scale, pad) before the network sees it, so that metres stay metres.
numpy and OpenCV only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from kyn_models.types import Float32Array, Float64Array, Intrinsics, UInt8Array


@dataclass(frozen=True)
class CanonicalCamera:
    """The training camera and the size at which the network sees its image.

    source: the camera of the training images before they were resized (1408 x 376 on KITTI-360).
    width, height: the network's image size in pixels.
    """

    source: Intrinsics
    width: int = 640
    height: int = 192

    @property
    def intrinsics(self) -> Intrinsics:
        """The centre-correct camera of the resized image: the K published beside the depth image."""
        return self.source.resized(self.width, self.height)

    @property
    def k_norm(self) -> Float64Array:
        """(3, 3) normalised camera matrix of the networks, from the source camera as published."""
        return self.source.normalised()

    def rays(self, rows: int, columns: int) -> Float32Array:
        """(rows, columns, 3) float32 rays in camera axes, z = 1, through the pixel centres of the image at that size.

        With fewer rays than pixels each stands for an enlarged pixel.
        """
        k = self.intrinsics.resized(columns, rows)
        y, x = np.meshgrid((np.arange(rows) - k.cy) / k.fy, (np.arange(columns) - k.cx) / k.fx, indexing="ij")
        return np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)

    def warp(self, image: UInt8Array, intrinsics: Intrinsics) -> tuple[UInt8Array, np.ndarray]:
        """The image as this camera would have seen it.

        image: (H, W, 3) uint8 RGB without distortion, of the camera ``intrinsics``.
        Returns the (height, width, 3) uint8 image and the (height, width) bool mask of pixels the camera saw; the
        others repeat the border. Images shrink by area means, which leave no aliasing; the authors' readers resize
        theirs between the four nearest pixels (``evaluate_nvs`` and ``published_rays`` do so).
        """
        target = self.intrinsics
        if _same_camera(intrinsics.resized(self.width, self.height), target):
            seen = np.ones((self.height, self.width), dtype=bool)
            if (intrinsics.width, intrinsics.height) == (self.width, self.height):
                return image, seen
            return cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA), seen
        # Area means first where the image shrinks (no aliasing), then the exact remaining scale and shift.
        width = max(1, min(image.shape[1], round(intrinsics.width * target.fx / intrinsics.fx)))
        height = max(1, min(image.shape[0], round(intrinsics.height * target.fy / intrinsics.fy)))
        if (width, height) != (image.shape[1], image.shape[0]):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        small = intrinsics.resized(width, height)
        columns, rows = _maps(small, target)
        warped = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return warped, self.seen(intrinsics)

    def seen(self, intrinsics: Intrinsics) -> np.ndarray:
        """(height, width) bool: pixels of this camera whose ray lies inside the image of ``intrinsics``."""
        columns, rows = _maps(intrinsics, self.intrinsics)
        inside_columns = (columns[0] >= -0.5) & (columns[0] <= intrinsics.width - 0.5)
        inside_rows = (rows[:, 0] >= -0.5) & (rows[:, 0] <= intrinsics.height - 0.5)
        return inside_rows[:, None] & inside_columns[None, :]

    def seen_beside(self, intrinsics: Intrinsics, hood_mask: np.ndarray | None) -> np.ndarray:
        """As ``seen``, without what only the hood is seen on. hood_mask: (H, W) of the source image, non-zero on the
        vehicle itself, or None. Raises ``ValueError`` if it has another size than the image."""
        seen = self.seen(intrinsics)
        if hood_mask is None:
            return seen
        if hood_mask.shape[:2] != (intrinsics.height, intrinsics.width):
            raise ValueError(
                f"hood_mask: got {hood_mask.shape[1]}x{hood_mask.shape[0]} pixels, "
                f"expected {intrinsics.width}x{intrinsics.height} as the image"
            )
        return seen & ~self.warp_mask(hood_mask, intrinsics)

    def warp_mask(self, mask: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
        """(height, width) bool: this camera's pixels that see a non-zero pixel of ``mask`` (H, W) of ``intrinsics``."""
        columns, rows = _maps(intrinsics, self.intrinsics)
        source = (mask != 0).astype(np.uint8)
        return cv2.remap(source, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT) != 0


def _same_camera(a: Intrinsics, b: Intrinsics) -> bool:
    return bool(np.allclose((a.fx, a.fy, a.cx, a.cy), (b.fx, b.fy, b.cx, b.cy), rtol=0, atol=0.02))


@lru_cache(maxsize=8)
def _maps(source: Intrinsics, target: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel of ``target`` the float32 column and row in ``source`` that its ray goes through."""
    columns = (np.arange(target.width) - target.cx) * (source.fx / target.fx) + source.cx
    rows = (np.arange(target.height) - target.cy) * (source.fy / target.fy) + source.cy
    shape = (target.height, target.width)
    return (
        np.ascontiguousarray(np.broadcast_to(columns[None, :], shape), dtype=np.float32),
        np.ascontiguousarray(np.broadcast_to(rows[:, None], shape), dtype=np.float32),
    )
