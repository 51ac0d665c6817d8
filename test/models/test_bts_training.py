"""What training asks of the density field: gradients everywhere, and geometry that half precision does not touch."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from artifacts import TINY, seeded_bts
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


@torch.inference_mode()
def test_the_code_can_hold_the_distance_as_published_for_realestate10k(view: View) -> None:
    model, plain = seeded_bts(replace(TINY, code_depth="distance")), seeded_bts()
    ahead, aside = torch.tensor([[[0.0, 0.0, 9.0]]]), torch.tensor([[[4.5, 0.0, 6.0]]])
    assert torch.equal(model.condition(view)(ahead), plain.condition(view)(ahead))
    # A point 7.5 m away has the code of that distance: what the plain code says at that depth in the same pixel.
    assert torch.allclose(model.condition(view)(aside), plain.condition(view)(aside * 7.5 / 6.0), atol=1e-6)
    directions, z = torch.tensor([[[0.0, 0.0, 1.0], [0.75, 0.0, 1.0]]]), torch.tensor([[[4.0, 6.0]]])
    points = (directions.unsqueeze(2) * z.unsqueeze(-1)).flatten(1, 2)
    along = model.condition(view).along_rays(directions, z).flatten(1, 2)
    assert torch.allclose(along, model.condition(view)(points), atol=1e-5)
    with pytest.raises(ValueError, match="code_depth distance, expected z; only torch"):
        model.exportable()


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
