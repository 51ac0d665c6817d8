"""Know Your Neighbors: the points of a call are one set, and rays by the short way say the same as points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from artifacts import TINY_KYN, seeded_kyn, write_seeded_artifact
from torch import Tensor
from torch.nn import functional

from kyn_models.geometry import View
from kyn_models.models.kyn import PUBLISHED_LABELS, Kyn, KynField
from kyn_models.models.loading import load_model
from kyn_models.networks import modulation
from kyn_models.render import query, ray_points, z_samples

K_NORM = torch.tensor([[[0.9, 0.0, 0.02], [0.0, 2.9, 0.3], [0.0, 0.0, 1.0]]])


@pytest.fixture(scope="module")
def model() -> Kyn:
    return seeded_kyn()


def view(batch: int = 1) -> View:
    image = torch.rand(batch, 3, 64, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pose = torch.eye(4).repeat(batch, 1, 1)
    pose[:, :3, 3] = torch.tensor([0.3, -0.2, 0.1])
    return View(image, K_NORM.repeat(batch, 1, 1), pose)


def random_field(made: Kyn, batch: int = 1) -> KynField:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, TINY_KYN.fused, 16, 48, generator=generator)
    labels = torch.randint(0, TINY_KYN.label_count, (batch, 32, 96), generator=generator)
    return made.field(features, labels, *view(batch)[1:])


def points(count: int = 500, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    low, high = torch.tensor([-20.0, -4.0, -2.0]), torch.tensor([20.0, 4.0, 90.0])
    return low + (high - low) * torch.rand(batch, count, 3, generator=generator)


@torch.inference_mode()
def test_the_points_of_a_call_are_one_set(model: Kyn, monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_field(model)
    asked = points()
    whole = made(asked)
    assert whole.shape == (1, 500) and whole.std() > 0.01 and (whole > 0).all()
    torch.testing.assert_close(made(asked.flip(1)).flip(1), whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(made(asked[:, :100]), whole[:, :100], atol=1e-4)
    monkeypatch.setattr(modulation, "CHUNK", 37)
    torch.testing.assert_close(made(asked), whole, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_points_per_call_asks_the_parts_one_by_one(model: Kyn) -> None:
    made, asked = random_field(model), points()
    parts = torch.cat([made(part) for part in asked.split(180, dim=1)], dim=1)
    torch.testing.assert_close(made.density(asked, points_per_call=180).sigma, parts, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(parts, made(asked), atol=1e-4)


@torch.inference_mode()
def test_only_points_in_view_take_part(model: Kyn) -> None:
    made, asked = random_field(model), points()
    found = made.density(asked)
    seen = ~found.invalid[0]
    assert 0.1 < seen.float().mean() < 0.95
    torch.testing.assert_close(made(asked[:, seen]), found.sigma[:, seen], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_every_view_of_a_batch_has_its_own_set(model: Kyn) -> None:
    made, asked = random_field(model, batch=2), points(batch=2)
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
    model: Kyn, monkeypatch: pytest.MonkeyPatch, own_depths: bool, chunk: int
) -> None:
    monkeypatch.setattr(modulation, "CHUNK", chunk)
    made = random_field(model, batch=2)
    generator = torch.Generator().manual_seed(2)
    uv = torch.rand(2, 40, 2, generator=generator) * 2.4 - 1.2
    directions = torch.cat([(uv - K_NORM[:, None, :2, 2]) / torch.tensor([0.9, 2.9]), torch.ones(2, 40, 1)], dim=-1)
    jitter = torch.rand(2, 40, 16, generator=generator) if own_depths else None
    z = z_samples(3.0, 80.0, 16, jitter)
    origin = torch.tensor([-0.3, 0.2, -0.1]).expand(2, 40, 3)
    plain = made(ray_points(origin, directions, z)).view(2, 40, 16)
    short = made.along_rays(directions, z if own_depths else z.view(1, 1, -1))
    torch.testing.assert_close(short, plain, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_a_field_is_never_asked_in_parts(model: Kyn) -> None:
    made, asked = random_field(model), points()
    torch.testing.assert_close(query(made, asked, chunk=100), made(asked), rtol=0, atol=0)
    assert query(made, asked[:, :0]).shape == (1, 0)


@torch.inference_mode()
def test_an_image_is_fused_from_what_is_seen_and_what_is_said(model: Kyn) -> None:
    """As published: language features enlarged to the image, joined, two convolutions; labels by the best logit."""
    seen = view(batch=2)
    encoded = model.encoder(seen.image, model.text_features)
    language = functional.interpolate(encoded.language, size=(64, 128), mode="bilinear", align_corners=False)
    vision = model.encoder.vision_encoder(seen.image / 2 + 0.5)
    expected = model.encoder.fuser.fused_reg(torch.cat([vision, language], dim=1))
    assert expected.shape == (2, TINY_KYN.fused, 64, 128) and language.std() > 0.1 and vision.std() > 0.1
    torch.testing.assert_close(encoded.features, expected, rtol=1e-4, atol=1e-5)
    made = model.condition(seen)
    assert torch.equal(made.features, encoded.features) and torch.equal(made.labels, encoded.logits.argmax(1))
    assert len(made.labels.unique()) > 1


@torch.inference_mode()
def test_labels_are_those_of_the_nearest_pixel(model: Kyn) -> None:
    made = random_field(model)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(96), indexing="ij")
    for shift in (0.1, 0.9):
        uv = torch.stack([2 * (columns + shift) / 96 - 1, 2 * (rows + shift) / 32 - 1], dim=-1).view(1, -1, 2)
        assert torch.equal(made.label_at(uv).view(1, 32, 96), made.labels)
    assert torch.equal(made.label_at(torch.tensor([[[-7.0, -3.0], [5.0, 2.0]]]))[0], made.labels[0, [0, -1], [0, -1]])


@torch.inference_mode()
def test_a_mirrored_image_gives_a_field_in_the_same_place(model: Kyn) -> None:
    seen = view()
    plain, flipped = model.condition(seen), model.condition(seen, flip=True)
    mirrored = model.condition(seen._replace(image=seen.image.flip(-1)))
    assert torch.equal(flipped.features, mirrored.features.flip(-1))
    assert torch.equal(flipped.labels, mirrored.labels.flip(-1))
    assert not torch.equal(flipped.features, plain.features)


def test_the_language_model_is_frozen() -> None:
    made = seeded_kyn().train()
    lseg = made.encoder.vlseg_encoder
    before = {name: value.clone() for name, value in lseg.state_dict().items()}
    made.condition(view())(points()).sum().backward()
    assert made.encoder.vision_encoder.training and not any(module.training for module in lseg.modules())
    assert all(torch.equal(value, before[name]) for name, value in lseg.state_dict().items())
    for name, value in made.named_parameters():
        assert value.requires_grad != name.startswith("encoder.vlseg_encoder."), name
    for name in ("encoder.fuser.fused_reg.0.weight", "encoder.vision_encoder.decoder.decoder.0.conv.conv.weight"):
        assert made.get_parameter(name).grad.abs().sum() > 0


def test_gradients_flow_to_features_and_weights(model: Kyn) -> None:
    asked = random_field(model)
    asked.features.requires_grad_()
    directions = torch.cat([torch.rand(1, 20, 2) * 0.4, torch.ones(1, 20, 1)], dim=-1)
    loss = asked(points()).sum() + asked.along_rays(directions, z_samples(3.0, 80.0, 8).view(1, 1, -1)).sum()
    loss.backward()
    assert asked.features.grad.abs().sum() > 0
    for name, value in model.mlp_coarse.named_parameters():
        assert value.grad is not None and torch.isfinite(value.grad).all() and value.grad.abs().sum() > 0, name
    model.zero_grad()


def test_an_artifact_holds_labels_and_their_features(tmp_path: Path) -> None:
    made = seeded_kyn()
    artifact = write_seeded_artifact(tmp_path / "kyn", made, half=False)
    assert artifact.manifest.family == "kyn" and artifact.manifest.labels == PUBLISHED_LABELS[: TINY_KYN.label_count]
    again = load_model(artifact)
    assert isinstance(again, Kyn) and again.config == TINY_KYN
    assert torch.equal(again.text_features, made.text_features) and again.text_features.std() > 0.2
    with torch.inference_mode():
        torch.testing.assert_close(again.condition(view())(points()), made.condition(view())(points()))
    short = replace(artifact, manifest=replace(artifact.manifest, labels=("road",)))
    with pytest.raises(ValueError, match=f"got 1 labels, expected {TINY_KYN.label_count} as the model has"):
        load_model(short)


def test_the_published_labels(golden: Path) -> None:
    with np.load(golden / "kyn" / "case0.npz") as case:
        assert tuple(case["labels"].tolist()) == PUBLISHED_LABELS
    with pytest.raises(ValueError, match="label_count: got 256, expected 1 to 255"):
        replace(TINY_KYN, label_count=256)
