"""Dynamic multi-frame depth: what comes out, what it depends on, and the official names of both backbones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from artifacts import seed_by_name
from torch import Tensor

from kyn_models.models.dymultidepth import DyMultiDepth, DyMultiDepthConfig, input_of
from kyn_models.networks.plane_sweep import Matching
from kyn_models.types import Intrinsics, Observation, PosedFrame

TINY = DyMultiDepthConfig(
    depth_steps=8,
    fused_channels=8,
    channels_enc=(6, 8, 8, 10, 12),
    channels_dec=(12, 10, 8, 8, 6, 6),
    z_near=2.0,
    z_far=50.0,
)
HEIGHT, WIDTH = 48, 64


def seeded(config: DyMultiDepthConfig = TINY) -> DyMultiDepth:
    model = DyMultiDepth(config).eval()
    seed_by_name(model)
    return model


@pytest.fixture(scope="module")
def model() -> DyMultiDepth:
    return seeded()


def question(batch: int = 1, neighbours: int = 2) -> dict[str, Tensor]:
    """Random images; the neighbours lie half a metre before and behind the key frame."""
    generator = torch.Generator().manual_seed(4)
    k = torch.tensor([[60.0, 0.0, 31.5], [0.0, 60.0, 23.5], [0.0, 0.0, 1.0]])
    poses = torch.eye(4).repeat(batch, neighbours, 1, 1)
    poses[:, :, 2, 3] = torch.linspace(-0.5, 0.5, neighbours)
    return {
        "image": torch.rand(batch, 3, HEIGHT, WIDTH, generator=generator) - 0.5,
        "k": k.repeat(batch, 1, 1),
        "neighbours": torch.rand(batch, neighbours, 3, HEIGHT, WIDTH, generator=generator) - 0.5,
        "neighbour_from_key": poses,
        "neighbour_k": k.repeat(batch, neighbours, 1, 1),
    }


@torch.inference_mode()
def test_three_depth_maps_in_metres(model: DyMultiDepth) -> None:
    found = model(**question(batch=2))
    assert all(depth.shape == (2, HEIGHT, WIDTH) and depth.dtype == torch.float32 for depth in found)
    for depth in (found.fused, found.mono):
        assert depth.min() >= 2.0 - 1e-3 and depth.max() <= 50.0 + 1e-3 and depth.std() > 0.1
    seen = torch.isfinite(found.matched)
    assert not seen[:, :2].any() and 0.2 < seen.float().mean() < 1
    assert set(found.matched[seen].tolist()) <= set(model.depths(found.fused).tolist())


@torch.inference_mode()
def test_what_each_branch_depends_on(model: DyMultiDepth) -> None:
    asked = question()
    found = model(**asked)
    for name in ("neighbours", "neighbour_from_key", "neighbour_k"):
        changed = asked[name].clone()
        if name == "neighbours":
            changed = changed.flip(-1)
        elif name == "neighbour_from_key":
            changed[:, :, 0, 3] += 0.3
        else:
            changed[:, :, 0, 0] *= 1.2
        other = model(**{**asked, name: changed})
        assert torch.equal(other.mono, found.mono)
        assert not torch.allclose(other.fused, found.fused, rtol=1e-3)
    other = model(**{**asked, "image": asked["image"].flip(-1)})
    assert not torch.allclose(other.mono, found.mono, rtol=1e-3)
    swapped = {name: value.flip(1) if name.startswith("neighbour") else value for name, value in asked.items()}
    torch.testing.assert_close(model(**swapped).fused, found.fused, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_fused_depth_depends_on_the_depth_from_one_image() -> None:
    """Through the pseudo cost volume: the networks of the fused depth see nothing else of that branch."""
    asked = question()
    one, other = seeded(), seeded()
    other.mono_module.predictors[3][1].bias.add_(0.5)
    first, second = one(**asked), other(**asked)
    assert torch.equal(first.matched.nan_to_num(), second.matched.nan_to_num())
    assert not torch.allclose(first.fused, second.fused, rtol=1e-3)


def observation(origin_m: float = 0.0, **changes: Any) -> Observation:
    """Three frames half a metre apart that look along the world's y, ``origin_m`` away from its origin."""
    rng = np.random.default_rng(3)
    frames = []
    for ahead in (0.0, -0.5, 0.5):
        pose = np.array([[0.8, 0.0, 0.6, 0.0], [0.0, 1.0, 0.0, 0.0], [-0.6, 0.0, 0.8, 0.0], [0.0, 0.0, 0.0, 1.0]])
        pose[:3, 3] = origin_m + pose[:3, 2] * ahead
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        frames.append(PosedFrame(image, Intrinsics(60.0, 61.0, 31.0, 23.0, WIDTH, HEIGHT), 7, pose))
    frames[-1] = replace(frames[-1], **changes)
    return Observation(tuple(frames), np.eye(4))


@torch.inference_mode()
def test_an_observation_is_the_input_wherever_the_map_has_its_origin(model: DyMultiDepth) -> None:
    asked = input_of(observation())
    assert asked.image.shape == (1, 3, HEIGHT, WIDTH) and asked.image.min() == -0.5 and asked.image.max() == 0.5
    # What lies 10 m ahead of the key frame is 10.5 m ahead of the frame before and 9.5 m ahead of the one after.
    moved = asked.neighbour_from_key @ torch.tensor([0.0, 0.0, 10.0, 1.0])
    expected = torch.tensor([[[0.0, 0.0, 10.5, 1.0], [0.0, 0.0, 9.5, 1.0]]])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)
    assert asked.neighbour_k[0, 1].tolist() == [[60.0, 0.0, 31.0], [0.0, 61.0, 23.0], [0.0, 0.0, 1.0]]
    far = input_of(observation(origin_m=5e5))
    torch.testing.assert_close(far.neighbour_from_key, asked.neighbour_from_key, rtol=0, atol=1e-6)
    assert model(*asked).fused.shape == (1, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="frame at 7 ns: got no pose"):
        input_of(observation(world_from_camera=None))
    small = {"image": np.zeros((16, 32, 3), np.uint8), "intrinsics": Intrinsics(1.0, 1.0, 1.0, 1.0, 32, 16)}
    with pytest.raises(ValueError, match="expected .48, 64, 3. as the key frame has"):
        input_of(observation(**small))


@torch.inference_mode()
def test_without_neighbours_the_key_frame_alone_answers(model: DyMultiDepth) -> None:
    asked = question()
    alone = model.mono_inverse_depths(asked["image"])
    assert [tuple(map_.shape) for map_ in alone] == [(1, 1, HEIGHT >> scale, WIDTH >> scale) for scale in range(4)]
    torch.testing.assert_close(1 / alone[0][:, 0], model(**asked).mono)
    with pytest.raises(ValueError, match="neighbours: got none, expected at least one"):
        model(**question(neighbours=0))


@torch.inference_mode()
def test_items_of_a_batch_are_apart(model: DyMultiDepth) -> None:
    asked = question(batch=2)
    together = model(**asked)
    for item in range(2):
        alone = model(**{name: value[item : item + 1] for name, value in asked.items()})
        torch.testing.assert_close(together.fused[item], alone.fused[0], rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_weight_that_is_evaluated() -> None:
    model, asked = seeded().train(), question()
    found = model.inverse_depths(asked["image"], model.cost_volume(**asked))
    sum((1 / map_).mean() for maps in found for map_ in maps).backward()
    without = {name for name, value in model.named_parameters() if value.grad is None}
    assert without == {name for name, _ in model.named_parameters() if ".layer3." in name or ".layer4." in name} | {
        f"_feature_extractor.encoder.fc.{part}" for part in ("weight", "bias")
    }
    assert [map_.shape[2] for map_ in found.fused] == [48, 24, 12, 6] == [map_.shape[2] for map_ in found.mono]


@pytest.mark.parametrize("fusion", ["mono_guides_multi", "multi_guides_mono"])
@torch.inference_mode()
def test_ablations_and_wide_images(fusion: Any) -> None:
    found = seeded(replace(TINY, fusion=fusion, attention_stride=8))(**question())
    assert found.fused.shape == (1, HEIGHT, WIDTH) and torch.isfinite(found.fused).all()


@torch.inference_mode()
def test_without_the_image_beside_them_the_cues_are_all_that_the_network_sees() -> None:
    """Features of the image still come along; what its first level sees does not."""
    asked = question()
    for beside in (True, False):
        model = seeded(replace(TINY, image_beside_cues=beside))
        assert model.depth_module.enc[0][0].conv_y.in_channels == 16 + 3 * beside
        levels: list[Tensor] = []
        model.depth_module.enc[0].register_forward_hook(lambda _, given, out: levels.append(out))  # noqa: B023
        cost = model.cost_volume(**asked)
        for image in (asked["image"], asked["image"].flip(-1)):
            model._mono = lambda image, features: tuple(torch.full((1, 1, HEIGHT, WIDTH), 0.1) for _ in range(4))  # type: ignore[method-assign]
            model.inverse_depths(image, cost)
        assert torch.equal(*levels) != beside


@torch.inference_mode()
def test_another_matching_is_used_by_torch_and_refused_for_graphs() -> None:
    asked = question()
    other = seeded(replace(TINY, matching=Matching("absolute", patch=1, seen="each_plane")))
    assert not torch.allclose(other.cost_volume(**asked), seeded().cost_volume(**asked), atol=1e-2)
    assert torch.isfinite(other(**asked).fused).all()
    with pytest.raises(ValueError, match=r"model.matching: got .*'absolute'.*run this model with --runtime torch"):
        other.exportable()


@pytest.mark.parametrize("encoder, name", [("resnet18", "resnet18"), ("efficientnet_b5", "efficientnetb5")])
def test_the_published_configuration_has_the_official_names(golden: Path, encoder: Any, name: str) -> None:
    with torch.device("meta"):
        own = DyMultiDepth(DyMultiDepthConfig(encoder)).state_dict()
    official = json.loads((golden / "dymultidepth" / f"state_dict_{name}.json").read_text())
    assert {key: [list(value.shape), str(value.dtype)[6:]] for key, value in own.items()} == official


def test_what_does_not_fit_is_named(model: DyMultiDepth) -> None:
    asked = question()
    wrong = {
        "k: got shape .*expected .1, 3, 3.": {"k": torch.eye(4)[None]},
        "neighbours: got shape": {"neighbours": asked["neighbours"][..., :-16]},
        "neighbour_from_key: got shape": {"neighbour_from_key": asked["neighbour_from_key"][:, :1]},
        "neighbour_k: got shape": {"neighbour_k": asked["neighbour_k"][:, 0]},
        "multiples of 16": {
            "image": asked["image"][..., :-8],
            "neighbours": asked["neighbours"][..., :-8],
        },
    }
    for words, changes in wrong.items():
        with pytest.raises(ValueError, match=words), torch.inference_mode():
            model(**{**asked, **changes})
    for words, options in {
        "z_near": {"z_near": 500.0},
        "depth_steps": {"depth_steps": 1},
        "attention_stride: got 5": {"attention_stride": 5},
        "channels_dec: got 2": {"channels_dec": (4, 4)},
    }.items():
        with pytest.raises(ValueError, match=words):
            replace(TINY, **options)
