"""The losses of multi-frame depth as published: scale-invariant log depth, and virtual normals. torch.

Li et al., Learning to Fuse Monocular and Multi-view Cues, CVPR 2023; the second from Yin, Liu, Shen, Yan, Enforcing
geometric constraints of virtual normal for depth prediction, ICCV 2019. Constants are those of the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor

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


def log_depth_loss(inverse: Tensor, target: Tensor) -> Tensor:
    """10 sqrt(variance + 0.15 mean^2) of log(depth) - log(true depth) over all known pixels of the whole batch.

    inverse, target: (B, 1, H, W) 1 / metres, target 0 where unknown. The batch is that of all processes together.
    The variance says how well depths fit each other, the mean how well they fit the metre.
    """
    known = target > 0
    difference = torch.where(known, target, 1.0).log() - torch.where(known, inverse, 1.0).log()
    difference = difference.double()
    count, added = ranks.total(torch.stack([known.sum().double(), difference.sum()])).unbind()
    mean = added / count.clamp(min=1)
    squares = ranks.total((torch.where(known, difference - mean, 0.0) ** 2).sum())
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


def virtual_normal_loss(depth: Tensor, truth: Tensor, k: Tensor, triples: Tensor) -> Tensor:
    """How far normals of large triangles lie apart: sum of absolute differences, in the mean over triples and images.

    depth: (B, 1, h, w) metres, read at the nearest pixel; truth: (B, 1, H, W) metres, 0 unknown; k: (B, 3, 3) camera
    matrices of the H x W images; triples: of ``draw_triples``. As published the rays start at the middle of the image,
    whatever the principal point, and the quarter of triples that agree best teaches nothing; there that quarter is
    taken from all images of a batch together, here from each alone, so that a batch can be divided.
    """
    height, width = truth.shape[2:]
    rows, columns = triples // width, triples % width
    triangles = _points(truth.flatten(1), triples, rows, columns, k, height, width)
    coarse = rows * depth.shape[2] // height * depth.shape[3] + columns * depth.shape[3] // width
    found = _points(depth.float().flatten(1), coarse, rows, columns, k, height, width)
    error = (_normals(found) - _normals(triangles)).abs().sum(dim=-1)
    usable = _usable(triangles)
    losses = [_hard(error[index][usable[index]]) for index in range(len(error))]
    return torch.stack(losses).mean()


def _hard(error: Tensor) -> Tensor:
    """Mean of all but the smallest ``EASY`` share of the errors (T,); 0 of none."""
    return error.sort().values[int(EASY * len(error)) :].mean() if len(error) else error.sum()


def _points(depth: Tensor, places: Tensor, rows: Tensor, columns: Tensor, k: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, T, 3) corners of the triangles in metres; depth: (B, pixels)."""
    z = depth.gather(1, places.flatten(1)).view(places.shape)
    x = (columns - width // 2) / k[:, 0, 0, None, None] * z
    y = (rows - height // 2) / k[:, 1, 1, None, None] * z
    return torch.stack([x, y, z], dim=-1)


def _normals(points: Tensor) -> Tensor:
    """(B, T, 3) unit normals of triangles (B, 3, T, 3)."""
    first, second, third = points.unbind(1)
    normal = torch.linalg.cross(second - first, third - first)
    return normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def _usable(points: Tensor) -> Tensor:
    """(B, T) bool: true triangles whose corners are known, not in one line and not all close to each other."""
    first, second, third = points.unbind(1)
    sides = torch.stack([second - first, third - first, third - second], dim=2)
    lengths = sides.norm(dim=-1)
    cosines = torch.einsum("btik,btjk->btij", sides, sides) / (lengths[..., :, None] * lengths[..., None, :] + 1e-8)
    # A side is parallel to itself: three of the nine always are.
    line = (cosines.abs() > ALIKE).sum(dim=(2, 3)) > 3
    close = (sides.abs() < CLOSE_M).any(dim=2).all(dim=-1)
    known = (points[..., 2] > 1e-4).all(dim=1)
    return known & ~line & ~close
