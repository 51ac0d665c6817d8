"""Camera maths: project and unproject invert, images are sampled where points say, views name what they miss."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="geometry needs the train extra")

from kyn_models.artifact import KITTI360_CAMERA  # noqa: E402
from kyn_models.geometry import View, project, sample, sample_colours, transform, unproject  # noqa: E402

K_NORM = torch.tensor(KITTI360_CAMERA.normalised(), dtype=torch.float32)[None]


def pose(yaw: float = 0.3, offset: tuple[float, float, float] = (1.0, -0.5, 2.0)) -> torch.Tensor:
    matrix = torch.eye(4)[None].clone()
    c, s = np.cos(yaw), np.sin(yaw)
    matrix[0, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    matrix[0, :3, 3] = torch.tensor(offset)
    return matrix


def ramp(height: int = 6, width: int = 20) -> torch.Tensor:
    """(1, 3, H, W) in -1..1 whose channels are column, row (both as centre coordinates in -1..1) and a constant."""
    y = (2 * torch.arange(height) + 1) / height - 1
    x = (2 * torch.arange(width) + 1) / width - 1
    v, u = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([u, v, torch.full_like(u, 0.5)])[None]


def test_project_and_unproject_invert() -> None:
    generator = torch.Generator().manual_seed(3)
    uv = 2 * torch.rand(1, 5000, 2, generator=generator) - 1
    z = 3 + 77 * torch.rand(1, 5000, generator=generator)
    back = project(K_NORM, unproject(K_NORM, uv, z))
    torch.testing.assert_close(back.uv, uv, rtol=0, atol=2e-6)
    torch.testing.assert_close(back.z, z)
    inside = uv.abs().amax(-1) < 0.9999
    assert not back.invalid[inside].any()


def test_normalised_coordinates_are_those_of_pixels() -> None:
    """A pixel's ray lands at (2 x / W - 1), the published normalisation of pixel coordinates."""
    k = KITTI360_CAMERA
    pixels = np.array([[0, 0], [1407, 375], [700.5, 100.25], [682.049453, 238.769549]])
    rays = np.stack([(pixels[:, 0] - k.cx) / k.fx, (pixels[:, 1] - k.cy) / k.fy, np.ones(4)], axis=-1)
    uv = project(K_NORM, torch.tensor(7 * rays, dtype=torch.float32)[None]).uv[0]
    np.testing.assert_allclose(uv, 2 * pixels / [k.width, k.height] - 1, atol=1e-6)


def test_behind_and_beside_is_invalid() -> None:
    points = torch.tensor([[[0, 0, 5], [0, 0, -5], [0, 0, 0], [0, 0, 1e-3], [20, 0, 5], [0, -20, 5], [0, 0, 1e-2]]])
    assert project(K_NORM, points.float()).invalid[0].tolist() == [False, True, True, True, True, True, False]


def test_poses_read_left_to_right() -> None:
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(1, 50, 3, generator=generator)
    a_from_b, b_from_c = pose(0.3), pose(-1.1, (4.0, 0.0, 1.0))
    torch.testing.assert_close(
        transform(a_from_b @ b_from_c, points), transform(a_from_b, transform(b_from_c, points)), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        transform(torch.linalg.inv(a_from_b), transform(a_from_b, points)), points, rtol=0, atol=1e-5
    )


def test_bilinear_samples_reproduce_a_ramp_and_continue_the_border() -> None:
    image = ramp()
    generator = torch.Generator().manual_seed(5)
    # Between the centres of the outer pixels, where a ramp is reproduced exactly.
    uv = (2 * torch.rand(1, 400, 2, generator=generator) - 1) * torch.tensor([0.95, 5 / 6])
    found = sample(image, uv)
    torch.testing.assert_close(found[..., :2], uv, rtol=0, atol=1e-6)
    corners = sample(image, torch.tensor([[[-1.0, -1.0], [-9.0, -9.0], [1.0, 9.0]]]))
    torch.testing.assert_close(corners[0, :, 0], torch.tensor([-0.95, -0.95, 0.95]))
    torch.testing.assert_close(corners[0, :, 1], torch.tensor([-5 / 6, -5 / 6, 5 / 6]))


def test_colours_of_each_view_and_what_it_misses() -> None:
    here, there = View(ramp(), K_NORM, torch.eye(4)[None]), View(ramp(), K_NORM, torch.linalg.inv(pose()))
    generator = torch.Generator().manual_seed(6)
    points = torch.randn(1, 300, 3, generator=generator) * 10
    colours, invalid = sample_colours([here, there], points)
    assert colours.shape == (1, 300, 2, 3) and invalid.shape == (1, 300, 2)
    assert colours.min() >= 0 and colours.max() <= 1
    assert invalid.any(dim=1).all() and not invalid.all(dim=1).any()
    for index, camera_from_world in enumerate((here.camera_from_world, there.camera_from_world)):
        seen = project(K_NORM, transform(camera_from_world, points))
        torch.testing.assert_close(invalid[..., index], seen.invalid)
        # Away from the border the colour is the ramp's value there, moved from -1..1 to 0..1.
        inner = (seen.uv.abs() < torch.tensor([0.95, 5 / 6])).all(-1) & ~seen.invalid
        expected = seen.uv[inner] * 0.5 + 0.5
        torch.testing.assert_close(colours[..., index, :2][inner], expected, rtol=0, atol=1e-5)
