"""Camera maths on tensors: points, rays, normalised image coordinates. torch.

Points and poses are in metres, camera axes x right, y down, z forward. Image coordinates are normalised: -1 and 1 are
the outer edges of the image, ``k_norm`` maps camera rays to them (``Intrinsics.normalised``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON_M = 1e-3
"""A point nearer to the image plane than this is not in view, as published."""


class View(NamedTuple):
    """A posed image as networks take it.

    image: (B, 3, H, W) float32 in -1..1; k_norm: (B, 3, 3); camera_from_world: (B, 4, 4).
    """

    image: Tensor
    k_norm: Tensor
    camera_from_world: Tensor


class Projection(NamedTuple):
    """uv: (B, N, 2) normalised image coordinates; z: (B, N) along the optical axis; invalid: (B, N) bool."""

    uv: Tensor
    z: Tensor
    invalid: Tensor


def _rotate(matrix: Tensor, points: Tensor) -> Tensor:
    """(B, 3, 3) times (B, N, 3), in float32 also under autocast: bfloat16 would move points by whole pixels."""
    with torch.autocast(points.device.type, enabled=False):
        return points.float() @ matrix.float().transpose(1, 2)


def transform(a_from_b: Tensor, points: Tensor) -> Tensor:
    """(B, 4, 4) pose applied to (B, N, 3) points."""
    return _rotate(a_from_b[:, :3, :3], points) + a_from_b[:, None, :3, 3]


def project(k_norm: Tensor, points: Tensor) -> Projection:
    """(B, N, 3) points in camera axes onto the image; invalid behind the camera or outside the image."""
    homogeneous = _rotate(k_norm, points)
    z = homogeneous[..., 2]
    uv = homogeneous[..., :2] / z.clamp(min=EPSILON_M).unsqueeze(-1)
    return Projection(uv, z, (z <= EPSILON_M) | (uv.abs() > 1).any(dim=-1))


def unproject(k_norm: Tensor, uv: Tensor, z: Tensor) -> Tensor:
    """(B, N, 2) normalised image coordinates at depths (B, N) back to (B, N, 3) points in camera axes."""
    x = (uv[..., 0] - k_norm[:, 0, 2, None]) / k_norm[:, 0, 0, None]
    y = (uv[..., 1] - k_norm[:, 1, 2, None]) / k_norm[:, 1, 1, None]
    return torch.stack([x * z, y * z, z], dim=-1)


def sample(values: Tensor, uv: Tensor) -> Tensor:
    """(B, C, H, W) values at (B, N, 2) normalised coordinates: (B, N, C), bilinear, border continued, float32."""
    grid = uv.float().unsqueeze(1)
    found = torch.nn.functional.grid_sample(
        values.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[:, :, 0].transpose(1, 2)


def sample_colours(views: list[View], points: Tensor) -> tuple[Tensor, Tensor]:
    """Colours of world points in several views.

    points: (B, N, 3). Returns (B, N, V, 3) colours in 0..1 and (B, N, V) bool, True where not in view.
    """
    colours, invalid = [], []
    for view in views:
        projection = project(view.k_norm, transform(view.camera_from_world, points))
        colours.append(sample(view.image * 0.5 + 0.5, projection.uv))
        invalid.append(projection.invalid)
    return torch.stack(colours, dim=2), torch.stack(invalid, dim=2)
