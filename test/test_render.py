"""Volume rendering against what physics says: a slab's opacity, a plane's depth, an empty sky."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="rendering needs the train extra")

from torch import Tensor  # noqa: E402

from kyn_models.render import composite, query, ray_points, render, surface_depth, z_samples  # noqa: E402

Z_NEAR, Z_FAR = 3.0, 80.0


def slab(near: float, far: float, density: float):
    """A field with ``density`` between two distances, empty elsewhere."""
    return lambda points: torch.where((points[..., 2] >= near) & (points[..., 2] < far), density, 0.0)


def rays(count: int = 7) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, count)
    directions = torch.stack([x, 0.2 * x, torch.ones(count)], dim=-1)[None]
    return torch.zeros_like(directions), directions


def test_samples_are_equidistant_in_inverse_depth() -> None:
    z = z_samples(Z_NEAR, Z_FAR, 64)
    steps = (1 / z).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, -(1 / Z_NEAR - 1 / Z_FAR) / 64), rtol=1e-4, atol=0)
    # The first and the last lie half a step inside.
    assert math.isclose(1 / z[0], 1 / Z_NEAR - (1 / Z_NEAR - 1 / Z_FAR) / 128, rel_tol=1e-5)
    assert math.isclose(1 / z[-1], 1 / Z_FAR + (1 / Z_NEAR - 1 / Z_FAR) / 128, rel_tol=1e-4)


def test_jitter_stays_within_its_step() -> None:
    generator = torch.Generator().manual_seed(1)
    z = z_samples(Z_NEAR, Z_FAR, 32, torch.rand(5, 32, generator=generator))
    edges = 1 / torch.linspace(1 / Z_NEAR, 1 / Z_FAR, 33)
    assert z.shape == (5, 32) and (z >= edges[:-1] - 1e-4).all() and (z <= edges[1:] + 1e-4).all()
    torch.testing.assert_close(z_samples(Z_NEAR, Z_FAR, 32, torch.full((32,), 0.5)), z_samples(Z_NEAR, Z_FAR, 32))


@pytest.mark.parametrize("density", [0.05, 0.5, 5.0])
def test_a_slab_has_the_opacity_it_must_have(density: float) -> None:
    """1 - exp(-density * thickness), whatever lies before and behind."""
    z = torch.linspace(4, 20, 161)
    got = render(slab(9.95, 11.95, density), *rays(), z)
    torch.testing.assert_close(1 - got.passed, torch.full((1, 7), 1 - math.exp(-density * 2.0)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got.weights.sum(-1), torch.ones(1, 7))
    # The published threshold means p = 0.5: density 0.5 stops half of the light in 1.386 m.
    half = render(slab(9.95, 9.95 + 2 * math.log(2), 0.5), *rays(), torch.linspace(4, 20, 16001))
    torch.testing.assert_close(half.passed, torch.full((1, 7), 0.5), rtol=0, atol=1e-3)


def test_slabs_multiply() -> None:
    z = torch.linspace(4, 30, 261)
    first, second = slab(6.95, 8.95, 0.3), slab(14.95, 15.95, 0.7)
    both = render(lambda points: first(points) + second(points), *rays(), z)
    one, other = render(first, *rays(), z), render(second, *rays(), z)
    torch.testing.assert_close(both.passed, one.passed * other.passed)


@pytest.mark.parametrize("distance", [4.0, 12.5, 47.0])
def test_a_plane_has_the_depth_it_must_have(distance: float) -> None:
    """Depth along the optical axis, the same on every ray; no farther than the next sample."""
    z = z_samples(Z_NEAR, Z_FAR, 64)
    got = render(slab(distance, 1e6, 1e4), *rays(), z)
    expected = z[z >= distance][0]
    torch.testing.assert_close((got.weights * z).sum(-1), torch.full((1, 7), float(expected)))
    torch.testing.assert_close(surface_depth(got, z), torch.full((1, 7), float(expected)))


def test_a_tilted_plane() -> None:
    """z = 10 + x / 2: the depth of each ray where it meets the plane, to the spacing of samples."""
    z = torch.linspace(3, 30, 27001)
    origins, directions = rays()
    got = render(lambda points: 1e5 * (points[..., 2] >= 10 + points[..., 0] / 2), origins, directions, z)
    expected = 10 / (1 - directions[..., 0] / 2)
    torch.testing.assert_close((got.weights * z).sum(-1), expected, rtol=0, atol=2e-3)


def test_empty_space_is_sky() -> None:
    z = z_samples(Z_NEAR, Z_FAR, 64)
    got = render(slab(0, 0, 0.0), *rays(), z)
    torch.testing.assert_close(got.passed, torch.ones(1, 7))
    # As published the last sample takes what is left; robots are told that there is nothing.
    torch.testing.assert_close((got.weights * z).sum(-1), torch.full((1, 7), float(z[-1])))
    assert torch.isinf(surface_depth(got, z)).all()


def test_depth_turns_to_sky_where_half_of_the_light_is_left() -> None:
    z = torch.linspace(4, 20, 161)
    thin, thick = (render(slab(9.95, 10.95, d), *rays(), z) for d in (math.log(2) - 1e-3, math.log(2) + 1e-3))
    assert torch.isinf(surface_depth(thin, z)).all()
    depth = surface_depth(thick, z)
    assert ((depth > 9.95) & (depth < 10.95)).all()


def test_soft_last_sample() -> None:
    """Its interval has no end: any density takes all light, none takes none."""
    sigma, z = torch.full((2, 5), 0.4), torch.linspace(3, 7, 5)
    sigma[1, -1] = 0
    soft, hard = composite(sigma, z, hard_last=False), composite(sigma, z)
    torch.testing.assert_close(soft.weights.sum(-1), torch.tensor([1.0, 1 - math.exp(-0.4 * 4)]))
    torch.testing.assert_close(hard.weights.sum(-1), torch.ones(2))
    torch.testing.assert_close(soft.passed, hard.passed)
    torch.testing.assert_close(soft.weights[:, :-1], hard.weights[:, :-1])


def test_the_split_does_not_change_the_answer() -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(2, 1001, 3, generator=generator)
    whole = query(lambda p: p.square().sum(-1), points)
    for chunk in (1, 7, 1001, 5000):
        assert torch.equal(query(lambda p: p.square().sum(-1), points, chunk), whole)
    assert query(lambda p: p[..., 0], points[:, :0]).shape == (2, 0)


def test_points_lie_on_their_rays() -> None:
    origins, directions = torch.ones(2, 3, 3), torch.tensor([[[0.5, 0.0, 1.0]]]).expand(2, 3, 3)
    z = torch.tensor([2.0, 4.0])
    points = ray_points(origins, directions, z).view(2, 3, 2, 3)
    torch.testing.assert_close(points[..., 2], (1 + z).expand(2, 3, 2))
    torch.testing.assert_close(points[..., 0], (1 + 0.5 * z).expand(2, 3, 2))


def test_gradients_reach_the_density() -> None:
    """A surface seen too far pulls density up before it."""
    z = z_samples(Z_NEAR, Z_FAR, 64)
    raw = torch.full((1, 1, 64), 0.05, requires_grad=True)
    depth = (composite(raw, z).weights * z).sum()
    depth.backward()
    assert raw.grad is not None and torch.isfinite(raw.grad).all()
    assert (raw.grad[..., :40] < 0).all()
