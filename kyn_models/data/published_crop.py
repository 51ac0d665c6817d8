"""The crop of KITTI images on which multi-frame depth is trained and scored, exactly as published.

Of MonoRec (Wimbauer et al., CVPR 2021), whose reader Li et al. (CVPR 2023) use: the middle of the image in the shape of
the target, resized by triangle filters (Pillow's "bilinear", which leaves no aliasing), its camera scaled by c' = c s,
and annotated depth sorted into the pixels of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kyn_models.types import Float32Array, Intrinsics, UInt8Array


@dataclass(frozen=True)
class PublishedCrop:
    """From images of one camera to those of the network.

    source: camera of the whole image. size: (rows, columns) of the target.
    """

    source: Intrinsics
    size: tuple[int, int] = (256, 512)

    def __post_init__(self) -> None:
        if min(self.size) < 2:
            raise ValueError(f"size: got {self.size[0]}x{self.size[1]}, expected rows x columns of at least 2")

    @property
    def _shape(self) -> tuple[float, float]:
        """Width and height that are kept, in source pixels; one of them is the image's."""
        ratio = self.size[0] / self.size[1]
        if self.source.height / self.source.width >= ratio:
            return float(self.source.width), ratio * self.source.width
        return self.source.height / ratio, float(self.source.height)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom pixel edge of the crop. Of an odd rest the crop gets the pixel, as published."""
        width, height = self._shape
        left, top = (self.source.width - width) // 2, (self.source.height - height) // 2
        return round(left), round(top), round(self.source.width - left), round(self.source.height - top)

    @property
    def intrinsics(self) -> Intrinsics:
        """Camera of the target, c' = (c - edge) s; the edge is that of the exact shape, not of whole pixels."""
        width, height = self._shape
        rows, columns = self.size
        scale = columns / width
        return Intrinsics(
            self.source.fx * scale,
            self.source.fy * scale,
            (self.source.cx - (self.source.width - width) / 2) * scale,
            (self.source.cy - (self.source.height - height) / 2) * scale,
            columns,
            rows,
        )

    def image(self, image: UInt8Array) -> UInt8Array:
        """(rows, columns, 3) uint8 of an (H, W, 3) uint8 image of the source camera."""
        left, top, right, bottom = self.box
        part = image[top:bottom, left:right].astype(np.float32)
        rows, columns = self.size
        # Rows of pixels first, rounded between the passes, as the published resizing does.
        part = np.rint(np.einsum("ow,hwc->hoc", _triangles(part.shape[1], columns), part, optimize=True))
        part = np.einsum("oh,hwc->owc", _triangles(part.shape[0], rows), part, optimize=True)
        return np.clip(np.rint(part), 0, 255).astype(np.uint8)

    def depth(self, depth_m: Float32Array) -> Float32Array:
        """(rows, columns) float32 metres of an (H, W) depth image, NaN unknown: the last of each pixel's values."""
        left, top, right, bottom = self.box
        part = depth_m[top:bottom, left:right]
        rows, columns = np.nonzero(~np.isnan(part))
        target = np.full(self.size, np.nan, dtype=np.float32)
        target[_places(rows, part.shape[0], self.size[0]), _places(columns, part.shape[1], self.size[1])] = part[
            rows, columns
        ]
        return target


def _places(indices: np.ndarray, count: int, wanted: int) -> np.ndarray:
    """Where pixels of a side of ``count`` fall on one of ``wanted``; .5 goes to the even one, as published."""
    return np.rint(np.clip(indices / count * wanted, 0, wanted - 1)).astype(np.int64)


@lru_cache(maxsize=16)
def _triangles(count: int, wanted: int) -> Float32Array:
    """(wanted, count) weights of a resizing by triangles as wide as a target pixel's share of the source."""
    scale = count / wanted
    reach = max(scale, 1.0)
    centres = (np.arange(wanted) + 0.5) * scale
    away = np.abs(np.arange(count) + 0.5 - centres[:, None]) / reach
    weights = np.clip(1 - away, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
