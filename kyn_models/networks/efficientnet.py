"""EfficientNet-B5 (Tan, Le 2019) as an image encoder, with the parameter names of gen-efficientnet.

It is ``tf_efficientnet_b5_ap`` there: convolutions pad as TensorFlow's "same" does, blocks end in squeeze-excitation.
The multi-frame network looks at features down to stride 8 only; what lies deeper is part of the official checkpoints
and never evaluated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.networks.efficientnet_lite import SameConv2d
from kyn_models.networks.imagenet import imagenet_weights

IMAGENET = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/tf_efficientnet_b5_ap-9e82fae8.pth"
"""The published ImageNet weights (Apache-2.0, by adversarial propagation), with the start of their SHA-256."""
CLASSIFIER = "classifier."
"""What their file holds beyond the trunk."""

STAGES = (
    # expansion, kernel, stride, channels, blocks
    (1, 3, 1, 24, 3),
    (6, 3, 2, 40, 5),
    (6, 5, 2, 64, 5),
    (6, 3, 2, 128, 7),
    (6, 5, 1, 176, 7),
    (6, 5, 2, 304, 9),
    (6, 3, 1, 512, 3),
)
STEM, HEAD = 48, 2048
FEATURE_STAGES = 3
"""Stages that are evaluated: the first three end at strides 2, 4 and 8."""
SQUEEZED = 4
"""So many times narrower than a block's input is its squeeze-excitation."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SqueezeExcite(nn.Module):
    """Weighs channels by what they hold on average over the image."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.conv_expand(functional.silu(self.conv_reduce(mean))))


class DepthwiseBlock(nn.Module):
    """Filter per channel, weigh, project; a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = SameConv2d(channels_in, channels_in, size, stride, channels_in), _norm(channels_in)
        self.se = SqueezeExcite(channels_in, channels_in // SQUEEZED)
        self.conv_pw, self.bn2 = SameConv2d(channels_in, channels_out, 1), _norm(channels_out)
        self._residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv_pw(self.se(functional.silu(self.bn1(self.conv_dw(x))))))
        return found + x if self._residual else found


class InvertedResidual(nn.Module):
    """Expand, filter per channel, weigh, project; a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, size: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.conv_pw, self.bn1 = SameConv2d(channels_in, wide, 1), _norm(wide)
        self.conv_dw, self.bn2 = SameConv2d(wide, wide, size, stride, wide), _norm(wide)
        self.se = SqueezeExcite(wide, channels_in // SQUEEZED)
        self.conv_pwl, self.bn3 = SameConv2d(wide, channels_out, 1), _norm(channels_out)
        self._residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.silu(self.bn1(self.conv_pw(x)))
        wide = functional.silu(self.bn2(self.conv_dw(wide)))
        found = self.bn3(self.conv_pwl(self.se(wide)))
        return found + x if self._residual else found


class EfficientNetB5(nn.Module):
    """The trunk. The later stages, ``conv_head`` and ``bn2`` are unused here but part of the official checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = SameConv2d(3, STEM, 3, 2), _norm(STEM)
        stages, channels_in = [], STEM
        for expansion, size, stride, channels, count in STAGES:
            blocks: list[nn.Module] = []
            for number in range(count):
                step = stride if number == 0 else 1
                if expansion == 1:
                    blocks.append(DepthwiseBlock(channels_in, channels, size, step))
                else:
                    blocks.append(InvertedResidual(channels_in, channels, expansion, size, step))
                channels_in = channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = SameConv2d(channels_in, HEAD, 1), _norm(HEAD)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at strides 2, 4, 8."""
        x = functional.silu(self.bn1(self.conv_stem(x)))
        features = []
        for stage in self.blocks[:FEATURE_STAGES]:
            x = stage(x)
            features.append(x)
        return features


class EfficientNetB5Encoder(nn.Module):
    """Normalises images in 0..1 and returns the features at strides 2, 4, 8."""

    channels = tuple(channels for *_, channels, _ in STAGES[:FEATURE_STAGES])

    def __init__(self) -> None:
        super().__init__()
        self.original_model = EfficientNetB5()

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W) in 0..1, H and W multiples of 8."""
        mean, deviation = (image.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
        return self.original_model((image - mean) / deviation)

    def load_imagenet(self) -> None:
        """Load the published ImageNet weights from torch's cache, where they are downloaded to once.

        Raises ``OSError`` where they are not there and cannot be downloaded.
        """
        weights = imagenet_weights(IMAGENET)
        self.original_model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(CLASSIFIER)})
