"""Monodepth2's U-Net (Godard et al. 2019) as Behind the Scenes uses it: image to pixel-aligned features."""

from __future__ import annotations

from torch import Tensor, cat, nn
from torch.nn import functional

from kyn_models.networks.efficientnet_lite import EfficientNetLite0Encoder
from kyn_models.networks.resnet import LAYERS, ResnetEncoder

ENCODERS = (*(f"resnet{layers}" for layers in LAYERS), "efficientnet_lite0")
"""Image trunks by name."""
SCALES = 4
"""Scales for which the official checkpoints hold an output convolution."""


class Conv3x3(nn.Module):
    """3x3 convolution with reflection padding."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (1, 1, 1, 1), mode="reflect"))


class ConvBlock(nn.Module):
    """``Conv3x3`` and ELU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(self.conv(x))


class Decoder(nn.Module):
    """From features at five strides to ``d_out`` channels at stride 2^finest.

    Convolutions are numbered from the coarsest scale, two per scale, then one output convolution per scale from
    ``finest`` on; only that of the finest scale is evaluated, the others are part of the official checkpoints.
    """

    def __init__(self, channels: tuple[int, ...], channels_dec: tuple[int, ...], d_out: int, finest: int) -> None:
        super().__init__()
        self.finest = finest
        dec = [max(d_out, count) for count in channels_dec]
        layers: list[nn.Module] = []
        x = channels[-1]
        for scale in range(4, finest - 1, -1):
            skip = channels[scale - 1] if scale > 0 else 0
            layers += [ConvBlock(x, dec[scale]), ConvBlock(dec[scale] + skip, dec[scale])]
            x = dec[scale]
        self._output = len(layers)
        layers += [Conv3x3(dec[scale], d_out) for scale in range(finest, SCALES if finest == 0 else finest + 1)]
        self.decoder = nn.ModuleList(layers)

    @property
    def output(self) -> nn.Conv2d:
        """The last convolution, without activation (its padding is reflection by one pixel)."""
        return self.decoder[self._output].conv

    def trunk(self, features: list[Tensor]) -> Tensor:
        """Everything before the output convolution."""
        x = features[-1]
        for number, scale in enumerate(range(4, self.finest - 1, -1)):
            x = functional.interpolate(self.decoder[2 * number](x), scale_factor=2, mode="nearest")
            if scale > 0:
                x = cat([x, features[scale - 1]], dim=1)
            x = self.decoder[2 * number + 1](x)
        return x

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.decoder[self._output](self.trunk(features))


def make_encoder(name: str) -> ResnetEncoder | EfficientNetLite0Encoder:
    """One of ``ENCODERS``. Raises ``ValueError`` for another name."""
    if name not in ENCODERS:
        raise ValueError(f"model.encoder: got {name}, expected one of {', '.join(ENCODERS)}")
    return EfficientNetLite0Encoder() if name == "efficientnet_lite0" else ResnetEncoder(int(name[6:]))


class Monodepth2(nn.Module):
    """Encoder and decoder. (B, 3, H, W) images in 0..1 to (B, d_out, H / 2^finest, W / 2^finest) features."""

    def __init__(self, encoder: str, channels_dec: tuple[int, ...], d_out: int, finest: int) -> None:
        super().__init__()
        self.encoder = make_encoder(encoder)
        self.decoder = Decoder(self.encoder.channels, channels_dec, d_out, finest)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))
