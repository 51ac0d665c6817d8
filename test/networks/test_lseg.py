"""LSeg's image side: official names, and rewrites that say the same as what the authors compute."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from artifacts import seed_by_name
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.networks.dpt import Reassemble, Scratch
from kyn_models.networks.lseg import LSeg, LSegConfig
from kyn_models.networks.vit import VitConfig

PREFIX = "encoder.vlseg_encoder."
TINY_LSEG = LSegConfig(
    VitConfig(width=32, depth=4, heads=2, size=64), 96, (0, 1, 2, 3), (8, 16, 32, 32), features=16, out=12
)


def seeded(module: nn.Module) -> nn.Module:
    seed_by_name(module)
    return module.eval()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def resized(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def test_names_and_shapes_are_official(golden: Path) -> None:
    names = json.loads((golden / "kyn" / "state_dict.json").read_text())
    official = {
        name.removeprefix(PREFIX): (tuple(shape), dtype)
        for name, (shape, dtype) in names.items()
        if name.startswith(PREFIX) and not name.startswith(PREFIX + "clip_pretrained.")
    }
    with torch.device("meta"):
        state = LSeg(LSegConfig()).state_dict()
    own = {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()}
    assert own == official and len(own) > 300


@torch.inference_mode()
@pytest.mark.parametrize("scale", [4.0, 2.0, 1.0, 0.5])
def test_tokens_become_a_map(scale: float) -> None:
    """The token of no place is joined to every other one; rows of patches become rows of the map."""
    model, tokens = seeded(Reassemble(8, 6, scale)), random(2, 1 + 4 * 6, 8)
    places = tokens[:, 1:]
    joined = torch.cat([places, tokens[:, :1].expand_as(places)], dim=-1)
    map_ = model["0"].project(joined).permute(0, 2, 1).reshape(2, 8, 4, 6)
    expected = nn.Sequential(*(model[key] for key in ("3", "4") if key in model))(map_)
    assert expected.shape == (2, 6, 4 * scale, 6 * scale) and expected.std() > 0.05
    torch.testing.assert_close(model(tokens, 4), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_maps_are_fused_from_coarse_to_fine() -> None:
    """As published: enlarge, then the 1x1 convolution."""
    model = seeded(Scratch((3, 5, 7), 6, 4))
    maps = [random(1, channels, 16 >> level, 24 >> level) for level, channels in enumerate((3, 5, 7))]
    x = torch.zeros(1, 6, 4, 6)
    for number in (3, 2, 1):
        fuse = model.get_submodule(f"refinenet{number}")
        level = model.get_submodule(f"layer{number}_rn")(maps[number - 1])
        units = [fuse.resConfUnit2] if number == 3 else [fuse.resConfUnit1, fuse.resConfUnit2]
        for unit in units:
            if unit is fuse.resConfUnit2 and number < 3:
                level = level + x
            level = unit.bn2(unit.conv2(torch.relu(unit.bn1(unit.conv1(torch.relu(level)))))) + level
        x = fuse.out_conv(resized(level, (2 * level.shape[2], 2 * level.shape[3]), align_corners=True))
    torch.testing.assert_close(model(maps), x, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(64, 160), (96, 128), (37, 121)])
def test_features_and_logits_as_published(height: int, width: int) -> None:
    """Resize, pad below with -1; ``rows`` of the map for the features; logits twice as large, cut, resized."""
    model, image, text = seeded(LSeg(TINY_LSEG)), random(2, 3, height, width), random(6, 12)
    found = model(image, text)
    rows = int(96 * height / width)
    padded = torch.full((2, 3, 96, 96), -1.0)
    padded[:, :, :rows] = resized(image, (rows, 96))
    map_ = model.scratch.head1(model.scratch(model.pretrained(padded)))
    assert map_.shape == (2, 12, 48, 48)
    features = map_[:, :, :rows]
    torch.testing.assert_close(found.features, features, rtol=1e-4, atol=1e-5)
    cosines = torch.einsum("bcyx,lc->blyx", map_ / map_.norm(dim=1, keepdim=True), text / text.norm(dim=1)[:, None])
    logits = resized(resized(cosines / 0.07, (96, 96), align_corners=True)[:, :, :rows], (height, width))
    assert found.logits.shape == (2, 6, height, width) and logits.std() > 0.1
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-4)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="image: got 64 x 96, expected one that is wider than high"):
        LSeg(TINY_LSEG)(random(1, 3, 96, 64), random(6, 12))
    with pytest.raises(ValueError, match="crop: got 100, expected a multiple of 32"):
        replace(TINY_LSEG, crop=100)
    with pytest.raises(ValueError, match="vit.patch: got 8, expected 16"):
        replace(TINY_LSEG, vit=replace(TINY_LSEG.vit, patch=8))
    for taps in ((0, 1, 2, 4), (0, 2, 1, 3), (0, 0, 1, 2), (-1, 0, 1, 2)):
        with pytest.raises(ValueError, match="expected rising numbers from 0 to 3"):
            replace(TINY_LSEG, taps=taps)
