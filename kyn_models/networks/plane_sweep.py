"""How well a key frame matches its neighbours at planes of constant depth: MonoRec's cost volume with SSIM.

Wimbauer, Yang, von Stumberg, Zeller, Cremers, CVPR 2021, as Li, Gong, Yin, Chen, Zhu, Wang, Chen, Sun,
Zhang (CVPR 2023) use it. Depths and translations in metres; poses are written ``neighbour_from_key``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kyn_models.losses import ssim_distance

CHANNEL_WEIGHTS = (5 / 32, 16 / 32, 11 / 32)
"""Share of red, green and blue in the cost."""
SHARPNESS = 10.0
"""How fast a plane stops being mistaken for the best one as its cost grows."""
BEYOND = 2.0
"""Normalised coordinates are cut here, well outside of every image."""
EPSILON = 1e-7


@dataclass(frozen=True)
class Matching:
    """How a pixel and its match are compared; the defaults are the published ones.

    difference: of colours, "ssim" (1 - SSIM) / 2 of 3x3 pixels, "absolute" |a - b| of single ones, "ssim_absolute"
    0.85 of the first and 0.15 of the second, "absolute_mean" the second in the mean over 3x3 pixels. patch: side in
    pixels of the mean over differences. seen: a neighbour counts at a pixel that it sees on "all_planes" of the sweep,
    or on "each_plane" for itself, which keeps far planes where near ones leave the neighbour's image.
    """

    difference: Literal["ssim", "absolute", "ssim_absolute", "absolute_mean"] = "ssim"
    patch: int = 3
    seen: Literal["all_planes", "each_plane"] = "all_planes"

    def __post_init__(self) -> None:
        if self.patch < 1 or self.patch % 2 == 0:
            raise ValueError(f"matching.patch: got {self.patch}, expected an odd number of pixels")

    @property
    def border(self) -> int:
        """Pixels at the edges of every image that say nothing: windows reach beyond the image."""
        return self.patch // 2 + 1


PUBLISHED = Matching()


def sweep_depths(z_near: float, z_far: float, steps: int, like: Tensor) -> Tensor:
    """(steps,) depths in metres, evenly spaced in inverse depth, the FAR end first; device and dtype of ``like``."""
    return 1 / torch.linspace(1 / z_far, 1 / z_near, steps, device=like.device, dtype=like.dtype)


def cost_volume(
    image: Tensor,
    k: Tensor,
    neighbours: Tensor,
    neighbour_from_key: Tensor,
    neighbour_k: Tensor,
    depths: Tensor,
    matching: Matching = PUBLISHED,
) -> Tensor:
    """(B, D, H, W) agreement of the key frame with its neighbours: 1 equal, -1 opposite, 0 where no neighbour counts.

    image: (B, 3, H, W) key frame and neighbours: (B, N, 3, H, W), float32 in -0.5..0.5, N at least 1.
    k: (B, 3, 3) and neighbour_k: (B, N, 3, 3) camera matrices in pixels of these images, without skew.
    neighbour_from_key: (B, N, 4, 4) from the key camera's axes to a neighbour's. depths: (D,) metres, D at least 2.
    A neighbour counts by how clearly it prefers one plane, and only where it sees the pixel (``matching.seen``).
    """
    with torch.autocast(image.device.type, enabled=False):
        poses, cameras = neighbour_from_key.float(), neighbour_k.float()
        return mean_agreement(
            image.float(), k.float(), neighbours.float(), poses, cameras, depths.float(), matching=matching
        )


def mean_agreement(
    image: Tensor,
    k: Tensor,
    neighbours: Tensor,
    neighbour_from_key: Tensor,
    neighbour_k: Tensor,
    depths: Tensor,
    matching: Matching = PUBLISHED,
) -> Tensor:
    """``cost_volume`` of float32 arguments, in operations that graphs have."""
    total = image.new_zeros(image.shape[0], len(depths), *image.shape[2:])
    weights = image.new_zeros(image.shape[0], 1, *image.shape[2:])
    for index in range(neighbours.shape[1]):
        pose, camera = neighbour_from_key[:, index], neighbour_k[:, index]
        grid = sweep_grid(k, pose, camera, depths, image.shape[2], image.shape[3])
        cost, seen = matching_cost(image, neighbours[:, index], grid, matching)
        weight = distinctness(cost) * seen
        total = total + cost * weight
        weights = weights + weight
    unseen = weights == 0
    mean = total / weights.masked_fill(unseen, 1.0)
    return (1 - 2 * mean).masked_fill(unseen, 0.0)


def sweep_grid(k: Tensor, pose: Tensor, neighbour_k: Tensor, depths: Tensor, height: int, width: int) -> Tensor:
    """(B, D, H, W, 2) where the key frame's pixels lie in a neighbour, were they at each depth; cut at ``BEYOND``.

    As published, pixels are divided by size - 1 and yet sampled as if -1 and 1 were the outer edges, and points behind
    the neighbour are not told from those in front: official weights were trained with both.
    """
    v, u = torch.meshgrid(
        torch.arange(height, device=k.device, dtype=k.dtype),
        torch.arange(width, device=k.device, dtype=k.dtype),
        indexing="ij",
    )
    x = (u.flatten() - k[:, 0, 2, None]) / k[:, 0, 0, None]
    y = (v.flatten() - k[:, 1, 2, None]) / k[:, 1, 1, None]
    rays = neighbour_k @ pose[:, :3, :3] @ torch.stack([x, y, torch.ones_like(x)], dim=1)
    origin = neighbour_k @ pose[:, :3, 3:]
    px, py, pz = (rays.unsqueeze(2) * depths.view(1, 1, -1, 1) + origin.unsqueeze(3)).unbind(1)
    pz = pz + EPSILON
    grid = torch.stack([px / pz / (width - 1), py / pz / (height - 1)], dim=-1) * 2 - 1
    return grid.clamp(-BEYOND, BEYOND).view(k.shape[0], len(depths), height, width, 2)


def matching_cost(
    image: Tensor, neighbour: Tensor, grid: Tensor, matching: Matching = PUBLISHED
) -> tuple[Tensor, Tensor]:
    """Cost (B, D, H, W) in 0..1 of the planes for one neighbour, and 1 where it counts, else 0.

    image, neighbour: (B, 3, H, W) in -0.5..0.5 (so that what lies outside of a neighbour is grey); grid: of
    ``sweep_grid``. The cost is the difference of colours, channels weighed, in the mean over a patch. Where it counts
    is (B, 1, H, W), and (B, D, H, W) where every plane is asked for itself.
    """
    batch, depths, height, width = grid.shape[:4]
    border = matching.border
    inner = image.new_ones(1, 1, height - 2 * border, width - 2 * border)
    inner = functional.pad(inner, (border, border, border, border)).expand(batch, -1, -1, -1)
    # One image that is read at all planes at once: nothing is copied for each of them.
    found = functional.grid_sample(
        torch.cat([neighbour, inner], dim=1),
        grid.view(batch, depths * height, width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    ).view(batch, 4, depths, height, width)
    within = found[:, 3] != 0
    seen = inner * (within.all(dim=1, keepdim=True) if matching.seen == "all_planes" else within)
    # Planes take the place of channels, and the key frame, the same on all of them, has one.
    warped = found[:, :3].reshape(batch * 3, depths, height, width) + 0.5
    distance = _difference(warped, image.reshape(batch * 3, 1, height, width) + 0.5, matching)
    shares = image.new_tensor(CHANNEL_WEIGHTS).view(1, 3, 1, 1, 1)
    mixed = (distance.view(batch, 3, depths, height, width) * shares).sum(dim=1)
    return functional.avg_pool2d(mixed, matching.patch, 1, padding=matching.patch // 2), seen


def _difference(warped: Tensor, image: Tensor, matching: Matching) -> Tensor:
    """(B, D, H, W) difference in 0..1 of warped colours (B, D, H, W) and the key frame's (B, 1, H, W), both 0..1."""
    if matching.difference == "ssim":
        return ssim_distance(warped, image)
    absolute = (warped - image).abs()
    if matching.difference == "ssim_absolute":
        return 0.85 * ssim_distance(warped, image) + 0.15 * absolute
    return functional.avg_pool2d(absolute, 3, 1, padding=1) if matching.difference == "absolute_mean" else absolute


def distinctness(cost: Tensor) -> Tensor:
    """(B, 1, H, W) 1 where one plane of (B, D, H, W) costs is clearly the best, 0 where all are alike."""
    alike = torch.exp(-SHARPNESS * (cost - cost.min(dim=1, keepdim=True).values) ** 2).sum(dim=1, keepdim=True)
    return 1 - 1 / (cost.shape[1] - 1) * (alike - 1)


def best_depth(cost: Tensor, depths: Tensor) -> Tensor:
    """(B, H, W) depth in metres of the plane that matches best, NaN where no neighbour counts.

    cost: of ``cost_volume`` at ``depths``.
    """
    found = depths[cost.argmax(dim=1)]
    return found.masked_fill((cost == 0).all(dim=1), torch.nan)


def pseudo_cost(depth: Tensor, depths: Tensor) -> Tensor:
    """(B, D, H, W) a depth map (B, 1, H, W) as a volume: 1 at the plane nearest to it in metres, 0 at the others.

    depths: (D,) metres, the far end first. Half way between two planes the farther one is taken.
    """
    # Two comparisons with the depths between planes: a graph for other runtimes needs no search through all of them.
    between = (depths[1:] + depths[:-1]) / 2
    nearer_than = torch.cat([between.new_full((1,), torch.inf), between]).view(1, -1, 1, 1)
    not_nearer_than = torch.cat([between, between.new_full((1,), -torch.inf)]).view(1, -1, 1, 1)
    return ((depth < nearer_than) & (depth >= not_nearer_than)).to(depth.dtype)
