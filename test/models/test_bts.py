"""Behind the Scenes: the field has no hidden state, and its rewrites say the same as the plain network."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from artifacts import TINY, seeded_bts
from torch import Tensor

from kyn_models.geometry import View
from kyn_models.models.bts import Bts, BtsConfig, BtsField
from kyn_models.render import query, ray_points, z_samples

K_NORM = torch.tensor([[[0.9, 0.0, 0.02], [0.0, 2.9, 0.3], [0.0, 0.0, 1.0]]])
CONFIGS = [TINY, replace(TINY, encoder="resnet18", feature_scale=0, blocks=2)]


def view(seed: int = 0, batch: int = 1) -> View:
    image = torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    pose = torch.eye(4).repeat(batch, 1, 1)
    pose[:, :3, 3] = torch.tensor([0.3, -0.2, 0.1])
    return View(image, K_NORM.repeat(batch, 1, 1), pose)


def points(count: int = 500, batch: int = 1, nearest: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    low, high = torch.tensor([-20.0, -4.0, nearest]), torch.tensor([20.0, 4.0, 90.0])
    return low + (high - low) * torch.rand(batch, count, 3, generator=generator)


@pytest.fixture(scope="module", params=CONFIGS, ids=["lite0", "resnet18 with blocks"])
def field(request: pytest.FixtureRequest) -> BtsField:
    with torch.inference_mode():
        return seeded_bts(request.param).condition(view())


@torch.inference_mode()
def test_a_density_does_not_depend_on_the_other_points_of_a_call(field: BtsField) -> None:
    asked = points()
    whole = field(asked)
    assert whole.shape == (1, 500) and whole.std() > 0.01 and (whole > 0).all()
    torch.testing.assert_close(query(field, asked, chunk=37), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(field(asked.flip(1)).flip(1), whole, rtol=1e-5, atol=1e-6)
    assert query(field, asked[:, :0]).shape == (1, 0)


@torch.inference_mode()
def test_a_field_keeps_its_image_when_the_model_sees_another_one() -> None:
    model = seeded_bts()
    first = model.condition(view(0))
    before = first(points())
    other = model.condition(view(5))(points())
    torch.testing.assert_close(first(points()), before, rtol=0, atol=0)
    assert not torch.allclose(other, before, atol=1e-3)


@torch.inference_mode()
def test_every_view_of_a_batch_has_its_own_field() -> None:
    model, both = seeded_bts(), view(3, batch=2)
    asked = points(batch=2)
    together = model.condition(both)(asked)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    for index in range(2):
        one = slice(index, index + 1)
        alone = model.condition(View(*(part[one] for part in both)))(asked[one])
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_points_are_moved_into_the_encoding_camera(field: BtsField) -> None:
    """The pose shifts the world by (0.3, -0.2, 0.1): validity follows the camera, not the world."""
    asked = points(nearest=-5.0)
    found = field.density(asked)
    local = asked[0] + torch.tensor([0.3, -0.2, 0.1])
    uv = (local @ K_NORM[0].T)[:, :2] / local[:, 2:]
    expected = (local[:, 2] <= 1e-3) | (uv.abs() > 1).any(-1)
    assert torch.equal(found.invalid[0], expected) and 0.1 < expected.float().mean() < 0.99


@torch.inference_mode()
def test_rays_of_the_encoding_camera_by_the_short_way(field: BtsField) -> None:
    generator = torch.Generator().manual_seed(2)
    uv = torch.rand(1, 40, 2, generator=generator) * 2.4 - 1.2
    directions = torch.cat([(uv - K_NORM[:, None, :2, 2]) / torch.tensor([0.9, 2.9]), torch.ones(1, 40, 1)], dim=-1)
    z = z_samples(3.0, 80.0, 16)
    origin = torch.tensor([-0.3, 0.2, -0.1]).expand(1, 40, 3)
    plain = field(ray_points(origin, directions, z)).view(1, 40, 16)
    torch.testing.assert_close(field.along_rays(directions, z.view(1, 1, -1)), plain, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_the_exported_pieces_add_up_to_the_density() -> None:
    """sigma = softplus(w_out . relu(A(pixel) + W_code code + b) + b_out) at pixel centres of the map."""
    model = seeded_bts()
    network, constants = model.exportable()
    image = torch.randint(0, 256, (1, 64, 96, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    posed = View(image.permute(0, 3, 1, 2).float() / 255 * 2 - 1, K_NORM, torch.eye(4)[None])
    map_ = network(image)[0]
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    uv = torch.stack([(columns + 0.5) / 24 - 1, (rows + 0.5) / 16 - 1], dim=-1)
    z = torch.tensor(12.5)
    asked = torch.cat([(uv - K_NORM[0, :2, 2]) / torch.tensor([0.9, 2.9]), torch.ones(32, 48, 1)], dim=-1) * z
    code = model.code_xyz(torch.cat([uv, (2 * (1 / z - 1 / 80) / (1 / 3 - 1 / 80) - 1).expand(32, 48, 1)], dim=-1))
    hidden = torch.relu(map_ + code @ constants["w_code"].T + constants["bias"])
    expected = torch.nn.functional.softplus(hidden @ constants["w_out"] + constants["b_out"])
    found = model.condition(posed)(asked.view(1, -1, 3)).view(32, 48)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_only_the_finest_scale_is_evaluated_and_the_others_are_part_of_the_checkpoint() -> None:
    """Four output convolutions under their official names; the coarser three never change the features."""
    model = seeded_bts(BtsConfig(encoder="resnet18", channels_dec=(8, 8, 8, 8, 8), d_out=8, hidden=8))
    names = [name for name in model.state_dict() if name.startswith("encoder.decoder.") and name.endswith("weight")]
    outputs = [name for name in names if not name.endswith("conv.conv.weight")]
    assert outputs == [f"encoder.decoder.decoder.{number}.conv.weight" for number in (10, 11, 12, 13)]
    with torch.inference_mode():
        before = model.condition(view()).features
        for number in (11, 12, 13):
            model.encoder.decoder.decoder[number].conv.weight.add_(1)
        assert torch.equal(model.condition(view()).features, before) and before.shape == (1, 8, 64, 96)


def test_an_unknown_encoder_is_named() -> None:
    for name in ("resnet50x", "vgg16", "resnet101"):
        with pytest.raises(ValueError, match=f"encoder: got '?{name}"):
            Bts(replace(TINY, encoder=name))
