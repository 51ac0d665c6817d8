"""MonoRec's depth network (Wimbauer et al., CVPR 2021), of which the multi-frame model has two. torch.

Convolutions pad as TensorFlow's "same" does, for images whose sides are multiples of ``STRIDE``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 16
"""Of the coarsest features."""
KERNELS = (7, 7, 5, 5, 3)
SLOPE = 0.1


class SplitConv(nn.Module):
    """A convolution of columns, then one of rows, each with a leaky ReLU; to 1 / stride of the size.

    Of one map, or of several that together have ``channels_in`` channels: the sum of their convolutions is that of
    their concatenation, which large maps are spared.
    """

    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv_y = nn.Conv2d(channels_in, channels_out, (size, 1), (stride, 1))
        self.conv_x = nn.Conv2d(channels_out, channels_out, (1, size), (1, stride))
        before = (size - stride) // 2
        self._pad = before, size - stride - before

    def forward(self, *maps: Tensor) -> Tensor:
        columns = [functional.pad(x, (0, 0, *self._pad)) for x in maps]
        x = self.conv_y(columns[0]) if len(columns) == 1 else self._sum(columns)
        x = functional.leaky_relu(x, SLOPE)
        return functional.leaky_relu(self.conv_x(functional.pad(x, (*self._pad, 0, 0))), SLOPE)

    def _sum(self, columns: Sequence[Tensor]) -> Tensor:
        weights = self.conv_y.weight.split([x.shape[1] for x in columns], dim=1)
        first = functional.conv2d(columns[0], weights[0], self.conv_y.bias, self.conv_y.stride)
        rest = zip(columns[1:], weights[1:], strict=True)
        return sum((functional.conv2d(x, weight, None, self.conv_y.stride) for x, weight in rest), first)


class Refine(nn.Module):
    """A transposed convolution to twice the size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv2d_t = nn.ConvTranspose2d(channels_in, channels_out, 4, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv2d_t(x), SLOPE)


def _padded(channels_in: int, channels_out: int) -> tuple[nn.Module, nn.Module]:
    return nn.ZeroPad2d(1), nn.Conv2d(channels_in, channels_out, 3)


class DepthUNet(nn.Module):
    """(B, ``channels_in``, H, W) and image features to the position of the depth within the range, at four scales.

    features: channels of the image features at strides 2, 4, 8. enc: channels of the five encoder levels at strides 1
    to 16, dec: of the six decoder layers from coarse to fine.
    """

    def __init__(self, channels_in: int, features: tuple[int, ...], enc: tuple[int, ...], dec: tuple[int, ...]) -> None:
        super().__init__()
        levels = []
        for level, (size, channels) in enumerate(zip(KERNELS, enc, strict=True)):
            first = SplitConv(enc[level - 1] if level else channels_in, channels, size, 2 if level else 1)
            levels.append(nn.Sequential(first, SplitConv(channels, channels, 3)))
        self.enc = nn.ModuleList(levels)
        self.dec = nn.ModuleList(
            [
                Refine(enc[4], dec[0]),
                nn.Sequential(Refine(enc[3] + features[2] + dec[0], dec[1]), SplitConv(dec[1], dec[1], 3)),
                nn.Sequential(Refine(enc[2] + features[1] + dec[1], dec[2]), SplitConv(dec[2], dec[2], 3)),
                Refine(enc[1] + features[0] + dec[2], dec[3]),
                nn.Sequential(
                    SplitConv(enc[0] + dec[3], dec[4], 3), *_padded(dec[4], dec[5]), nn.LeakyReLU(negative_slope=SLOPE)
                ),
            ]
        )
        self.predictors = nn.ModuleList([nn.Sequential(*_padded(count, 1)) for count in (*dec[:3], dec[5])])

    def forward(self, x: Tensor, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Four (B, 1, h, w) maps in 0..1 at strides 1, 2, 4, 8: 0 is the far end of the range, 1 the near one."""
        levels = []
        for level in self.enc:
            x = level(x)
            levels.append(x)
        eighth = self.dec[0](levels[4])
        quarter = self.dec[1](torch.cat([levels[3], features[2], eighth], dim=1))
        half = self.dec[2](torch.cat([levels[2], features[1], quarter], dim=1))
        whole = self.dec[3](torch.cat([levels[1], features[0], half], dim=1))
        whole = self.dec[4][1:](self.dec[4][0](levels[0], whole))
        coarse_to_fine = zip(self.predictors, (eighth, quarter, half, whole), strict=True)
        return tuple(predict(scale).tanh().abs() for predict, scale in coarse_to_fine)[::-1]
