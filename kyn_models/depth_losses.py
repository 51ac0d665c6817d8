"""The losses of multi-frame depth as published: scale-invariant log depth, and virtual normals. torch.

Li et al., Learning to Fuse Monocular and Multi-view Cues, CVPR 2023; the second from Yin, Liu, Shen, Yan, Enforcing
geometric constraints of virtual normal for depth prediction, ICCV 2019. Constants are those of the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kyn_models import ranks

ABSOLUTE = 0.15
"""Weight of the squared mean beside the variance of log differences: what scale costs."""
SCALE = 10.0
SAMPLED = 0.15
"""Triples of points that are drawn, as a share of the pixels."""
ALIKE = 0.867
"""Cosine beyond which two sides of a triangle are too parallel for a normal."""
CLOSE_M = 0.005
"""Points whose coordinates differ by less along all three axes are too close for a normal."""
EASY = 0.25
"""Share of the triples, those that agree best, that teach nothing."""

Points = tuple[Tensor, Tensor, Tensor]
"""x, y, z."""


def log_depth_loss(inverse: Tensor, target: Tensor) -> Tensor:
    """10 sqrt(variance + 0.15 mean^2) of log(depth) - log(true depth) over all known pixels of the whole batch.

    inverse: (B, 1, h, w) 1 / metres, enlarged by the nearest pixel to the size of target: (B, 1, H, W), 0 where
    unknown. The batch is that of all processes together.
    The variance says how well depths fit each other, the mean how well they fit the metre.
    """
    known = target > 0
    answer = functional.interpolate(inverse.float().log(), target.shape[2:], mode="nearest")
    difference = torch.where(known, target.where(known, 1.0).log() - answer, 0.0)
    count, added = ranks.total(torch.stack([known.sum().double(), difference.sum(dtype=torch.double)])).unbind()
    mean = added / count.clamp(min=1)
    squares = ranks.total((torch.where(known, difference - mean.float(), 0.0) ** 2).sum(dtype=torch.double))
    variance = squares / (count - 1).clamp(min=1)
    # The root has no gradient at 0, where nothing is known or all is right.
    return (SCALE * (variance + ABSOLUTE * mean**2).clamp(min=1e-12).sqrt()).float()


def draw_triples(seeds: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, T) int64 pixel numbers, row by row, of T = 0.15 H W triples of each item; on the CPU. seeds: (B,)."""
    count = int(SAMPLED * height * width)
    return torch.stack(
        [
            torch.randint(height * width, (3, count), generator=torch.Generator().manual_seed(int(seed)))
            for seed in seeds
        ]
    )


class VirtualNormals:
    """How far normals of large triangles between image points lie from the true ones.

    truth: (B, 1, H, W) metres, 0 unknown; k: (B, 3, 3) camera matrices of these images; triples: of ``draw_triples``.
    As published the rays start at the middle of the image, whatever the principal point.
    """

    def __init__(self, truth: Tensor, k: Tensor, triples: Tensor) -> None:
        height, width = truth.shape[2:]
        self._shape = height, width
        self._rows, self._columns = triples // width, triples % width
        self._x = (self._columns - width // 2) / k[:, 0, 0, None, None]
        self._y = (self._rows - height // 2) / k[:, 1, 1, None, None]
        points = self._points(truth)
        self._usable, self._normals = _usable(*points), _normals(*points)

    def loss(self, depth: Tensor) -> Tensor:
        """Sum of absolute differences, in the mean over triangles, then images; depth: (B, 1, h, w) metres, of any part
        of the size, read at the nearest pixel.

        The quarter of the triangles that agree best teaches nothing. As published it is taken from all images of a
        batch together, here from each alone, so that a batch can be divided.
        """
        found = _normals(*self._points(depth.float()))
        error = sum((a - b).abs() for a, b in zip(found, self._normals, strict=True))
        assert isinstance(error, Tensor)
        return torch.stack([_hard(error[index][self._usable[index]]) for index in range(len(error))]).mean()

    def _points(self, depth: Tensor) -> Points:
        height, width = self._shape
        rows, columns = self._rows * depth.shape[2] // height, self._columns * depth.shape[3] // width
        places = (rows * depth.shape[3] + columns).flatten(1)
        z = depth.flatten(1).gather(1, places).view(self._rows.shape)
        return self._x * z, self._y * z, z


def _hard(error: Tensor) -> Tensor:
    """Mean of all but the smallest ``EASY`` share of the errors (T,); 0 of none."""
    return error.sort().values[int(EASY * len(error)) :].mean() if len(error) else error.sum()


def _sides(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One coordinate of the three sides of triangles, (B, T) each."""
    first, second, third = corners.unbind(1)
    return second - first, third - first, third - second


def _normals(x: Tensor, y: Tensor, z: Tensor) -> Points:
    """Unit normals of triangles, three coordinates (B, T); 0 where there is none."""
    (ax, bx, _), (ay, by, _), (az, bz, _) = _sides(x), _sides(y), _sides(z)
    normal = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    length = (normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2).clamp(min=1e-12).sqrt()
    return normal[0] / length, normal[1] / length, normal[2] / length


def _usable(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """(B, T) bool: true triangles whose corners are known, not in one line and not all close to each other."""
    sides = torch.stack([torch.stack(_sides(part)) for part in (x, y, z)])
    lengths = (sides**2).sum(dim=0).sqrt()
    line = torch.zeros_like(lengths[0], dtype=torch.bool)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        line |= (sides[:, a] * sides[:, b]).sum(dim=0).abs() > ALIKE * (lengths[a] * lengths[b] + 1e-8)
    close = (sides.abs() < CLOSE_M).any(dim=1).all(dim=0)
    return (z > 1e-4).all(dim=1) & ~line & ~close
