"""EfficientNet-Lite0's paddings against a direct formulation of TensorFlow's "same"."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from torch.nn import functional

from kyn_models.networks.efficientnet_lite import SameConv2d


def tensorflow_same(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int) -> torch.Tensor:
    """ "Same" by its definition: ceil(size / stride) outputs, the odd pixel of padding right and below."""
    size = weight.shape[-1]
    pads = []
    for length in (x.shape[3], x.shape[2]):
        total = max(0, (-(-length // stride) - 1) * stride + size - length)
        pads += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, pads), weight, stride=stride, groups=groups)


@pytest.mark.parametrize("size, stride", [(1, 1), (1, 2), (3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("grouped", [False, True])
def test_padding_is_tensorflows_same(size: int, stride: int, grouped: bool) -> None:
    torch.manual_seed(size + stride)
    layer = SameConv2d(4, 4, size, stride, groups=4 if grouped else 1)
    for height, width in ((12, 20), (6, 9), (7, 8), (11, 13)):
        x = torch.randn(2, 4, height, width)
        expected = tensorflow_same(x, layer.weight, stride, 4 if grouped else 1)
        torch.testing.assert_close(layer(x), expected)
