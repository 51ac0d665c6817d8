"""Know Your Neighbors: the points of a call are one set, and rays by the short way say the same as points."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from artifacts import seed_by_name
from torch import Tensor

from kyn_models.models.kyn import Kyn, KynConfig, KynField
from kyn_models.networks import modulation
from kyn_models.render import ray_points, z_samples

K_NORM = torch.tensor([[[0.9, 0.0, 0.02], [0.0, 2.9, 0.3], [0.0, 0.0, 1.0]]])
SMALL = KynConfig(fused=12, hidden=16, heads=4, head_channels=4, text=10, label_count=6)


def model() -> Kyn:
    made = Kyn(SMALL).eval()
    seed_by_name(made)
    return made


def field(made: Kyn, batch: int = 1) -> KynField:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, SMALL.fused, 16, 48, generator=generator)
    labels = torch.randint(0, SMALL.label_count, (batch, 32, 96), generator=generator)
    pose = torch.eye(4).repeat(batch, 1, 1)
    pose[:, :3, 3] = torch.tensor([0.3, -0.2, 0.1])
    return made.field(features, labels, K_NORM.repeat(batch, 1, 1), pose)


def points(count: int = 500, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    low, high = torch.tensor([-20.0, -4.0, -2.0]), torch.tensor([20.0, 4.0, 90.0])
    return low + (high - low) * torch.rand(batch, count, 3, generator=generator)


@torch.inference_mode()
def test_the_points_of_a_call_are_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    made = field(model())
    asked = points()
    whole = made(asked)
    assert whole.shape == (1, 500) and whole.std() > 0.01 and (whole > 0).all()
    torch.testing.assert_close(made(asked.flip(1)).flip(1), whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(made(asked[:, :100]), whole[:, :100], atol=1e-4)
    monkeypatch.setattr(modulation, "CHUNK", 37)
    torch.testing.assert_close(made(asked), whole, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_points_per_call_asks_the_parts_one_by_one() -> None:
    made, asked = field(model()), points()
    parts = torch.cat([made(part) for part in asked.split(180, dim=1)], dim=1)
    torch.testing.assert_close(made.density(asked, points_per_call=180).sigma, parts, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(parts, made(asked), atol=1e-4)


@torch.inference_mode()
def test_only_points_in_view_take_part() -> None:
    made, asked = field(model()), points()
    found = made.density(asked)
    seen = ~found.invalid[0]
    assert 0.1 < seen.float().mean() < 0.95
    torch.testing.assert_close(made(asked[:, seen]), found.sigma[:, seen], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_every_view_of_a_batch_has_its_own_set() -> None:
    made, asked = field(model(), batch=2), points(batch=2)
    together = made(asked)
    for index in range(2):
        one = slice(index, index + 1)
        alone = KynField(
            made.features[one],
            made.labels[one],
            made.modulation,
            made.k_norm[one],
            made.camera_from_world[one],
            made.code,
            made.mlp,
            made.z_near,
            made.z_far,
        )
        torch.testing.assert_close(together[one], alone(asked[one]), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [modulation.CHUNK, 50])
@pytest.mark.parametrize("own_depths", [False, True], ids=["depths of all rays", "depths of each ray"])
def test_rays_of_the_encoding_camera_by_the_short_way(
    monkeypatch: pytest.MonkeyPatch, own_depths: bool, chunk: int
) -> None:
    monkeypatch.setattr(modulation, "CHUNK", chunk)
    made = field(model(), batch=2)
    generator = torch.Generator().manual_seed(2)
    uv = torch.rand(2, 40, 2, generator=generator) * 2.4 - 1.2
    directions = torch.cat([(uv - K_NORM[:, None, :2, 2]) / torch.tensor([0.9, 2.9]), torch.ones(2, 40, 1)], dim=-1)
    jitter = torch.rand(2, 40, 16, generator=generator) if own_depths else None
    z = z_samples(3.0, 80.0, 16, jitter)
    origin = torch.tensor([-0.3, 0.2, -0.1]).expand(2, 40, 3)
    plain = made(ray_points(origin, directions, z)).view(2, 40, 16)
    short = made.along_rays(directions, z if own_depths else z.view(1, 1, -1))
    torch.testing.assert_close(short, plain, rtol=1e-3, atol=1e-4)


def test_gradients_flow_to_features_and_weights() -> None:
    made = model()
    asked = field(made)
    asked.features.requires_grad_()
    directions = torch.cat([torch.rand(1, 20, 2) * 0.4, torch.ones(1, 20, 1)], dim=-1)
    loss = asked(points()).sum() + asked.along_rays(directions, z_samples(3.0, 80.0, 8).view(1, 1, -1)).sum()
    loss.backward()
    assert asked.features.grad.abs().sum() > 0
    for name, value in made.named_parameters():
        assert value.grad is not None and torch.isfinite(value.grad).all() and value.grad.abs().sum() > 0, name
