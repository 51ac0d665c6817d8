"""MonoRec's depth network: paddings by TensorFlow's definition, scales, and the official names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from artifacts import seed_by_name
from torch.nn import functional

from kyn_models.networks.depth_unet import DepthUNet, Refine, SplitConv

ENC, DEC = (4, 6, 8, 10, 12), (12, 8, 6, 5, 4, 3)


def same(length: int, size: int, stride: int) -> tuple[int, int]:
    """ "Same" by its definition: ceil(length / stride) outputs, the odd pixel of padding behind."""
    total = (-(-length // stride) - 1) * stride + size - length
    return total // 2, total - total // 2


@pytest.mark.parametrize("size, stride", [(7, 1), (7, 2), (5, 2), (3, 2), (3, 1)])
def test_padding_is_tensorflows_same(size: int, stride: int) -> None:
    layer, x = SplitConv(4, 5, size, stride), torch.randn(2, 4, 16, 32)
    padded = functional.pad(x, (0, 0, *same(16, size, stride)))
    y = functional.leaky_relu(functional.conv2d(padded, layer.conv_y.weight, layer.conv_y.bias, (stride, 1)), 0.1)
    padded = functional.pad(y, same(32, size, stride))
    expected = functional.leaky_relu(
        functional.conv2d(padded, layer.conv_x.weight, layer.conv_x.bias, (1, stride)), 0.1
    )
    assert expected.shape == (2, 5, 16 // stride, 32 // stride)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_apart_are_as_their_concatenation(stride: int) -> None:
    layer, maps = SplitConv(9, 5, 3, stride), [torch.randn(2, count, 16, 32) for count in (4, 3, 2)]
    torch.testing.assert_close(layer(*maps), layer(torch.cat(maps, dim=1)))


def test_refinement_is_a_transposed_convolution_without_its_rim() -> None:
    layer, x = Refine(4, 5), torch.randn(2, 4, 6, 8)
    whole = functional.conv_transpose2d(x, layer.conv2d_t.weight, layer.conv2d_t.bias, stride=2)
    assert whole.shape == (2, 5, 14, 18)
    torch.testing.assert_close(layer(x), functional.leaky_relu(whole[:, :, 1:-1, 1:-1], 0.1))


@torch.inference_mode()
def test_four_scales_within_the_range_and_every_input_counts() -> None:
    network = DepthUNet(5, (3, 4, 6), ENC, DEC).eval()
    seed_by_name(network)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 32, 64, generator=generator)
    features = [torch.randn(2, c, 32 >> s, 64 >> s, generator=generator) for c, s in ((3, 1), (4, 2), (6, 3))]
    found = network(x, features)
    assert [tuple(map_.shape) for map_ in found] == [(2, 1, 32 >> s, 64 >> s) for s in range(4)]
    assert all(map_.min() >= 0 and map_.max() <= 1 and map_.std() > 1e-3 for map_ in found)
    for level in range(3):
        other = [map_ + (number == level) for number, map_ in enumerate(features)]
        assert not torch.allclose(network(x, other)[0], found[0], atol=1e-4)
    assert not torch.allclose(network(x + 1, features)[0], found[0], atol=1e-4)


@pytest.mark.parametrize("backbone, channels", [("resnet18", (64, 64, 128)), ("efficientnetb5", (24, 40, 64))])
@pytest.mark.parametrize("part, inputs", [("mono_module.", 3), ("depth_module.", 67)])
def test_official_names(golden: Path, backbone: str, channels: tuple[int, ...], part: str, inputs: int) -> None:
    official = json.loads((golden / "dymultidepth" / f"state_dict_{backbone}.json").read_text())
    with torch.device("meta"):
        own = DepthUNet(inputs, channels, (48, 64, 128, 192, 256), (256, 128, 64, 48, 32, 24)).state_dict()
    expected = {name: shape for name, (shape, _) in official.items() if name.startswith(part)}
    assert {part + name: list(value.shape) for name, value in own.items()} == expected
