"""What training asks of the density field: gradients everywhere, and geometry that half precision does not touch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from artifacts import seeded_bts
from torch import Tensor

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.geometry import View, project, sample_colours, transform

K_NORM = torch.tensor(KITTI360_CAMERA.normalised(), dtype=torch.float32)[None]


@pytest.fixture(scope="module")
def view() -> View:
    image = torch.rand(1, 3, 64, 160, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return View(image, K_NORM, torch.eye(4)[None])


@pytest.fixture(scope="module")
def points() -> Tensor:
    """(1, 4000, 3) inside, beside and behind the view."""
    around = 2 * torch.rand(1, 4000, 3, generator=torch.Generator().manual_seed(2)) - 1
    return around * torch.tensor([20.0, 5.0, 40.0]) + torch.tensor([0.0, 0.0, 25.0])


def test_gradients_reach_every_weight(view: View, points: Tensor) -> None:
    model = seeded_bts().train()
    model.condition(view)(points).mean().backward()
    still = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


@torch.inference_mode()
def test_geometry_keeps_float32_under_autocast(view: View, points: Tensor) -> None:
    """In bfloat16 a coordinate would be off by half a percent, three pixels at the border of the image."""
    pose = torch.eye(4)[None].clone()
    pose[0, :3, 3] = torch.tensor([0.6, 0.0, 1.0])
    plain = transform(pose, points), *project(K_NORM, points), *sample_colours([view], points)
    with torch.autocast("cpu", torch.bfloat16):
        half = transform(pose, points), *project(K_NORM, points), *sample_colours([view], points)
    assert all(torch.equal(a, b) for a, b in zip(plain, half, strict=True))


@torch.inference_mode()
def test_densities_under_autocast_differ_by_rounding_of_the_layers(view: View, points: Tensor) -> None:
    model = seeded_bts()
    plain = model.condition(view).density(points)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.condition(view).density(points)
    assert half.sigma.dtype == torch.float32 and torch.equal(half.invalid, plain.invalid)
    error = (half.sigma - plain.sigma)[~plain.invalid].abs()
    assert error.mean() < 0.02 and error.max() < 0.3
