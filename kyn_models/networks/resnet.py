"""ResNet image encoders (He et al. 2016) with torchvision's parameter names, as Monodepth2 uses them."""

from __future__ import annotations

from torch import Tensor, nn

from kyn_models.networks.imagenet import imagenet_weights

IMAGENET = {18: "resnet18-f37072fd.pth", 34: "resnet34-b627a593.pth", 50: "resnet50-0676ba61.pth"}
"""Files of torchvision's first ImageNet weights, with the start of their SHA-256."""
LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
SCALES = 5


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)


class _Shortcut(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(_conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _Shortcut(channels_in, channels, stride) if stride > 1 or channels_in != channels else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        out = self.expansion * channels
        self.conv1, self.bn1 = _conv(channels_in, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = _conv(channels, out, 1), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _Shortcut(channels_in, out, stride) if stride > 1 or channels_in != out else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """The trunk; ``fc`` is the ImageNet classifier, unused here but part of the official checkpoints."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        block = BasicBlock if layers < 50 else Bottleneck
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels_in = 64
        for index, count in enumerate(LAYERS[layers]):
            channels, blocks = 64 << index, []
            for number in range(count):
                blocks.append(block(channels_in, channels, 2 if index > 0 and number == 0 else 1))
                channels_in = channels * block.expansion
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels_in, 1000)
        self.channels = (64, *(block.expansion * (64 << index) for index in range(4)))

    def forward(self, x: Tensor, scales: int = SCALES) -> list[Tensor]:
        """Features at the first ``scales`` of the strides 2, 4, 8, 16, 32."""
        features = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(features[0])
        for index in range(scales - 1):
            x = getattr(self, f"layer{index + 1}")(x)
            features.append(x)
        return features


class ResnetEncoder(nn.Module):
    """Monodepth2's encoder: normalises images in 0..1 and returns the features at the first ``scales`` strides."""

    def __init__(self, layers: int, scales: int = SCALES) -> None:
        super().__init__()
        self.layers = layers
        self.encoder = ResNet(layers)
        self.channels = self.encoder.channels[:scales]

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W) in 0..1, H and W multiples of the last stride."""
        return self.encoder((image - 0.45) / 0.225, len(self.channels))

    def load_imagenet(self) -> None:
        """Load torchvision's ImageNet weights from torch's cache, where they are downloaded to once.

        Raises ``OSError`` where they are not there and cannot be downloaded.
        """
        url = f"https://download.pytorch.org/models/{IMAGENET[self.layers]}"
        self.encoder.load_state_dict(imagenet_weights(url))
