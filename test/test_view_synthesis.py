"""Self-supervision: which views explain which, rays and colours that fit, and a loss that knows the true geometry."""

from __future__ import annotations

import colorsys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kyn_models.data.frame_cache import Views
from kyn_models.models.bts import Bts, BtsConfig, Density
from kyn_models.view_synthesis import (
    ViewLossConfig,
    _turned_hue,
    divide_views,
    epoch_items,
    frames_batch,
    invalid_rays,
    jitter_colours,
    patches_of,
    reconstruction,
    view_loss,
)

SIZE = (64, 96)
WALL_M = 10.0
K_NORM = np.array([[1.6, 0, 0.1], [0, 3.2, -0.05], [0, 0, 1]], dtype=np.float32)


def wall_colours(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth pattern on the plane z = WALL_M, (..., 3) in 0..1."""
    waves = [np.sin(1.9 * x + 0.3), np.sin(1.3 * x - 2.3 * y), np.cos(2.1 * y + 0.7 * x)]
    return 0.5 + 0.4 * np.stack(waves, axis=-1)


class Wall:
    """Items of a camera that moves before a painted wall: four views, the second half half a metre to the right."""

    def __init__(self, items: int = 3) -> None:
        self.items = items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Views:
        poses = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
        poses[:, 0, 3] = np.array([0.0, 0.2, 0.5, 0.7]) + 0.02 * index * np.arange(4)
        height, width = SIZE
        v, u = np.meshgrid(
            (2 * np.arange(height) + 1) / height - 1, (2 * np.arange(width) + 1) / width - 1, indexing="ij"
        )
        x, y = (u - K_NORM[0, 2]) / K_NORM[0, 0] * WALL_M, (v - K_NORM[1, 2]) / K_NORM[1, 1] * WALL_M
        images = np.stack([wall_colours(x + pose[0, 3], y) for pose in poses])
        return Views(np.rint(images * 255).astype(np.uint8), np.tile(K_NORM, (4, 1, 1)), poses)


class Planes(torch.nn.Module):
    """A model that says "a wall at ``distance``" whatever it sees."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        self.distance = torch.nn.Parameter(torch.tensor(distance))

    def condition(self, view: object, flip: bool = False) -> SimpleNamespace:
        def density(points: torch.Tensor) -> Density:
            sigma = 20 * torch.sigmoid(20 * (points[..., 2] - self.distance))
            return Density(sigma, torch.zeros_like(points[..., 2], dtype=torch.bool))

        return SimpleNamespace(density=density, z_near=3.0, z_far=80.0)


CONFIG = ViewLossConfig(
    images=2, rays=256, sample_mode="mono", jitter=False, corners=False, smoothness=0.0, samples=192
)


@pytest.mark.parametrize(
    ("mode", "count", "expected"),
    [
        ("stereo", 4, {((0, 1), (2, 3)), ((2, 3), (0, 1))}),
        ("mono", 4, {((0, 3), (1, 2)), ((1, 2), (0, 3))}),
        ("kitti360-mono", 8, {((0, 3, 4, 7), (1, 2, 5, 6)), ((1, 2, 5, 6), (0, 3, 4, 7))}),
    ],
)
def test_views_are_divided_as_published(mode: str, count: int, expected: set) -> None:
    config = ViewLossConfig(sample_mode=mode)  # type: ignore[arg-type]  # given as text
    found = {tuple(map(tuple, divide_views(count, config, np.random.default_rng(seed)))) for seed in range(20)}
    assert found == expected


@pytest.mark.parametrize(
    ("mode", "count", "explained", "divisions"),
    [("default", 6, 4, 15), ("default", 4, 2, 6), ("default", 3, 1, 3), ("only", 6, 1, 10), ("not", 6, 2, 10)],
)
def test_random_divisions_never_explain_a_view_by_itself(mode: str, count: int, explained: int, divisions: int) -> None:
    """KITTI raw has four views, RealEstate10K three."""
    config = ViewLossConfig(sample_mode=mode)  # type: ignore[arg-type]  # given as text
    drawn = [divide_views(count, config, np.random.default_rng(seed)) for seed in range(200)]
    assert all(not set(loss) & set(rendered) and len(loss) == explained and rendered for loss, rendered in drawn)
    assert len({tuple(rendered) for _, rendered in drawn}) == divisions
    if mode == "only":
        assert {tuple(loss) for loss, _ in drawn} == {(0,)}


@pytest.mark.parametrize(("mode", "count"), [("kitti360-mono", 6), ("mono", 5), ("default", 2)])
def test_too_few_views_are_an_error_that_names_the_mode(mode: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"loss.sample_mode {mode}: got items with {count} views"):
        divide_views(count, ViewLossConfig(sample_mode=mode), np.random.default_rng(0))  # type: ignore[arg-type]


def test_a_batch_depends_on_seed_and_step_alone_and_shares_are_parts_of_it() -> None:
    whole = frames_batch(Wall(), CONFIG, 3, 7)
    again = frames_batch(Wall(), CONFIG, 3, 7)
    other = frames_batch(Wall(), CONFIG, 3, 8)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not torch.equal(whole["directions"], other["directions"])
    halves = [frames_batch(Wall(), CONFIG, 3, 7, share) for share in (slice(0, 1), slice(1, 2))]
    for name in ("images", "origins", "directions", "truth", "seeds", "items"):
        assert torch.equal(torch.cat([half[name] for half in halves]), whole[name]), name
    assert torch.equal(halves[1]["loss_views"], whole["loss_views"])


def test_rays_meet_the_wall_where_their_colour_is() -> None:
    batch = frames_batch(Wall(), CONFIG, 0, 0)
    assert torch.allclose(batch["directions"].norm(dim=-1), torch.ones(()), atol=1e-6)
    reach = (WALL_M - batch["origins"][..., 2:]) / batch["directions"][..., 2:]
    x, y, z = (batch["origins"] + reach * batch["directions"]).double().unbind(-1)
    assert torch.allclose(z, torch.full_like(z, WALL_M), atol=1e-4)
    assert np.abs(wall_colours(x.numpy(), y.numpy()) - batch["truth"].numpy()).max() < 0.01


def test_rays_from_the_corners_are_those_of_linspace() -> None:
    config = ViewLossConfig(images=1, rays=288, patch=6, sample_mode="mono", jitter=False)
    batch = frames_batch(Wall(1), config, 0, 0)
    u = batch["directions"][0, :, 0] / batch["directions"][0, :, 2] * K_NORM[0, 0] + K_NORM[0, 2]
    steps = (u + 1) / 2 * (SIZE[1] - 1)
    assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_the_true_wall_explains_the_views_and_others_do_not() -> None:
    batch = frames_batch(Wall(), CONFIG, 0, 0)
    loss = {
        distance: float(view_loss(Planes(distance), batch, CONFIG)["colour"].detach()) for distance in (7.0, 10.0, 14.0)
    }
    assert loss[10.0] < 0.03
    assert loss[10.0] < 0.3 * min(loss[7.0], loss[14.0])


def test_the_loss_pulls_the_wall_to_its_place() -> None:
    batch = frames_batch(Wall(), CONFIG, 0, 0)
    for start, sign in ((9.0, -1.0), (11.5, 1.0)):
        model = Planes(start)
        view_loss(model, batch, CONFIG)["colour"].backward()
        assert model.distance.grad is not None and sign * float(model.distance.grad) > 0


def test_the_mean_over_shares_is_the_loss_of_the_whole_batch() -> None:
    model = Planes(9.0)
    whole = view_loss(model, frames_batch(Wall(), CONFIG, 1, 2), CONFIG)["colour"]
    halves = [
        view_loss(model, frames_batch(Wall(), CONFIG, 1, 2, share), CONFIG)["colour"]
        for share in (slice(0, 1), slice(1, 2))
    ]
    assert float(sum(halves).detach()) / 2 == pytest.approx(float(whole.detach()), rel=1e-5)  # type: ignore[union-attr]


def test_invalid_rays_by_policy() -> None:
    weights = torch.tensor([[[0.96, 0.04], [0.5, 0.5]]])
    outside = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    outside[0, :, 0] = True
    colours = torch.rand(1, 2, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    assert invalid_rays(weights, outside, colours, "weight_guided").tolist() == [[True, False]]
    assert invalid_rays(weights, outside, colours, "strict").tolist() == [[True, True]]
    assert invalid_rays(weights, outside, colours, "none").tolist() == [[False, False]]
    outside[0, :, 0, 1] = False
    assert invalid_rays(weights, outside, colours, "weight_guided").tolist() == [[False, False]]
    flat = torch.full_like(colours, 0.5)
    assert invalid_rays(weights, outside, flat, "weight_guided_diverse").tolist() == [[True, True]]


@pytest.mark.parametrize(
    ("policy", "total", "smooth"), [("weight_guided", 0.1211809, 0.4375171), ("none", 0.2569156, 0.9631535)]
)
def test_the_loss_is_the_authors(policy: str, total: float, smooth: float) -> None:
    """Numbers that the authors' ReconstructionLoss gave for these random patches, with a smoothness of 0.001."""
    rng = np.random.default_rng(7)
    count, views, size, samples = 3, 2, 8, 6
    truth = rng.random((1, count, size, size, 3)).astype(np.float32)
    noise = 0.3 * rng.standard_normal((1, count, size, size, views, 3))
    seen = (truth[..., None, :] + noise).clip(0, 1).astype(np.float32)
    weights = rng.random((1, count, size, size, samples)).astype(np.float32)
    weights /= weights.sum(-1, keepdims=True)
    outside = rng.random((1, count, size, size, samples, views)) < 0.93
    distance = (3 + 30 * rng.random((1, count, size, size))).astype(np.float32)
    rays = count * size**2
    invalid = invalid_rays(
        torch.from_numpy(weights).view(1, rays, samples),
        torch.from_numpy(outside).view(1, rays, samples, views),
        torch.zeros(1, rays, samples, views, 3),
        policy,  # type: ignore[arg-type]  # given as text
    )
    patches = (count, size, size)
    terms = reconstruction(
        patches_of(torch.from_numpy(seen).view(1, rays, views, 3), patches),
        patches_of(torch.from_numpy(truth).view(1, rays, 1, 3), patches),
        invalid.view(patches),
        torch.from_numpy(distance)[0],
        ViewLossConfig(),
    )
    assert float(terms["colour"] + terms["smooth"]) == pytest.approx(total, abs=2e-7)
    assert float(terms["smooth"]) == pytest.approx(0.001 * smooth, abs=1e-8)


def test_an_epoch_takes_every_item_once() -> None:
    taken = np.concatenate([epoch_items(7, 3, 5, step) for step in range(14)])
    orders = taken.reshape(6, 7)
    assert all(sorted(order) == list(range(7)) for order in orders) and len({tuple(order) for order in orders}) > 1
    assert not np.array_equal(orders[0], epoch_items(7, 7, 6, 0))


def test_hue_turns_as_in_hsv() -> None:
    colours = np.random.default_rng(0).random((1, 5, 5, 3)).astype(np.float32)
    colours[0, 0, 0] = (1, 0, 0)
    turned = _turned_hue(colours, 0.1)
    for before, after in zip(colours.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, before))
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + 0.1) % 1, saturation, value), abs=1e-4)


def test_jitter_changes_all_views_alike_and_keeps_grey_grey() -> None:
    images = np.full((2, 4, 4, 3), 0.5, dtype=np.float32)
    images[1, :2] = 0.25
    out = jitter_colours(images, np.random.default_rng(5))
    assert out.shape == images.shape and out.dtype == np.float32
    assert np.ptp(out, axis=-1).max() < 1e-5
    assert np.array_equal(out[0, 0, 0], out[0, 3, 3]) and np.abs(out - images).max() > 0.005
    vivid = np.random.default_rng(0).random((1, 8, 8, 3)).astype(np.float32)
    changed = jitter_colours(vivid, np.random.default_rng(6))
    assert changed.min() >= 0 and changed.max() <= 1 and np.abs(changed - vivid).mean() > 0.01


def test_bts_learns_from_views_alone() -> None:
    torch.manual_seed(0)
    model = Bts(BtsConfig(encoder="resnet18", channels_dec=(4, 4, 8, 8, 8), d_out=8, feature_scale=2, hidden=16))
    config = ViewLossConfig(images=1, rays=128, sample_mode="mono", corners=False, samples=32, flip=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = []
    for step in range(30):
        terms = view_loss(model, frames_batch(Wall(1), config, 0, step), config)
        total = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        total.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
        optimiser.step()
        history.append(float(terms["colour"].detach()))
    assert np.mean(history[-8:]) < 0.8 * np.mean(history[:8])


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss.rays: got 100, expected a multiple of 8x8"):
        ViewLossConfig(rays=100)
    with pytest.raises(ValueError, match=r"loss: got images 0"):
        ViewLossConfig(images=0)
