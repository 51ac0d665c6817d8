"""EfficientNet-B5: the official names, the features that are used, and the blocks by their definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from artifacts import seed_by_name

from kyn_models.networks.efficientnet import EfficientNetB5Encoder, InvertedResidual, SqueezeExcite


def test_official_names(golden: Path) -> None:
    official = json.loads((golden / "dymultidepth" / "state_dict_efficientnetb5.json").read_text())
    prefix = "_feature_extractor."
    with torch.device("meta"):
        own = EfficientNetB5Encoder().state_dict()
    found = {prefix + name: [list(value.shape), str(value.dtype)[6:]] for name, value in own.items()}
    assert found == {name: value for name, value in official.items() if name.startswith(prefix)}


@torch.inference_mode()
def test_nothing_deeper_than_stride_8_is_evaluated() -> None:
    encoder = EfficientNetB5Encoder().eval()
    trunk = encoder.original_model
    unused = [*trunk.blocks[3:].parameters(), *trunk.conv_head.parameters(), *trunk.bn2.parameters()]
    for value in unused:
        value.fill_(torch.nan)
    features = encoder(torch.rand(1, 3, 32, 48))
    assert [tuple(map_.shape) for map_ in features] == [(1, 24, 16, 24), (1, 40, 8, 12), (1, 64, 4, 6)]
    assert encoder.channels == (24, 40, 64) and all(torch.isfinite(map_).all() for map_ in features)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    grey = trunk(torch.zeros(1, 3, 32, 48))[-1]
    torch.testing.assert_close(encoder(mean.expand(1, 3, 32, 48))[-1], grey, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_squeeze_excitation_weighs_by_the_mean_over_the_image() -> None:
    module, x = SqueezeExcite(8, 2), torch.randn(2, 8, 5, 7)
    seed_by_name(module)
    mean = x.flatten(2).mean(-1)
    reduced = mean @ module.conv_reduce.weight[:, :, 0, 0].T + module.conv_reduce.bias
    reduced = reduced * torch.sigmoid(reduced)
    weight = torch.sigmoid(reduced @ module.conv_expand.weight[:, :, 0, 0].T + module.conv_expand.bias)
    assert weight.std() > 0.01
    torch.testing.assert_close(module(x), x * weight[:, :, None, None])


@torch.inference_mode()
def test_a_shortcut_only_where_the_shape_stays() -> None:
    x = torch.randn(1, 8, 6, 8)
    for channels, stride, kept in ((8, 1, True), (8, 2, False), (12, 1, False)):
        block = InvertedResidual(8, channels, 4, 3, stride).eval()
        block.bn3.weight.zero_()
        found = block(x)
        assert found.shape == (1, channels, 6 // stride, 8 // stride)
        assert torch.equal(found, x) if kept else not found.any()


def test_imagenet_weights_are_those_of_the_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    source, encoder = EfficientNetB5Encoder(), EfficientNetB5Encoder()
    seed_by_name(source)
    published = {
        **source.original_model.state_dict(),
        "classifier.weight": torch.zeros(2),
        "classifier.bias": torch.ones(2),
    }
    asked: list[str] = []

    def stored(url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        return published

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", stored)
    encoder.load_imagenet()
    assert asked[0].endswith("/tf_efficientnet_b5_ap-9e82fae8.pth")
    for name, value in source.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name
    del published["conv_stem.weight"]
    with pytest.raises(RuntimeError, match=r"conv_stem\.weight"):
        encoder.load_imagenet()


def test_imagenet_weights_that_cannot_be_had_are_said_with_the_place_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(OSError, match=r"no route to host.*put that file into .*checkpoints, or set imagenet to false"):
        EfficientNetB5Encoder().load_imagenet()
