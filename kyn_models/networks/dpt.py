"""Dense prediction head on a vision transformer (Ranftl et al. 2021) as LSeg uses it, official parameter names."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class _Readout(nn.Module):
    """Every place's token together with the token of no place: (B, 1 + N, C) to (B, N, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        linear, activation = self.project
        width = tokens.shape[-1]
        # Linear in both: the token of no place is multiplied once, not once a place.
        place = functional.linear(tokens[:, 1:], linear.weight[:, :width])
        return activation(place + functional.linear(tokens[:, :1], linear.weight[:, width:], linear.bias))


class Reassemble(nn.ModuleDict):
    """Tokens as a map of ``channels`` at ``scale`` times the resolution of the patches (a power of two).

    The keys are the positions of the official sequence, whose others hold no weights.
    """

    def __init__(self, width: int, channels: int, scale: float) -> None:
        super().__init__({"0": _Readout(width), "3": nn.Conv2d(width, channels, 1)})
        if scale > 1:
            self["4"] = nn.ConvTranspose2d(channels, channels, int(scale), int(scale))
        elif scale < 1:
            self["4"] = nn.Conv2d(channels, channels, 3, round(1 / scale), padding=1)

    def forward(self, tokens: Tensor, rows: int) -> Tensor:
        """(B, 1 + rows * columns, width) to (B, channels, rows * scale, columns * scale)."""
        x = self["3"](self["0"](tokens).transpose(1, 2).unflatten(2, (rows, -1)))
        return self["4"](x) if "4" in self else x


class _ResidualUnit(nn.Module):
    """Two convolutions with a shortcut, each after a ReLU and before a batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(functional.relu(x)))
        return self.bn2(self.conv2(functional.relu(y))) + x


class _Fusion(nn.Module):
    """The coarser map and a finer one, then twice the resolution. The coarsest has nothing to be fused with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1, self.resConfUnit2 = _ResidualUnit(channels), _ResidualUnit(channels)  # noqa: N815

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        # A 1x1 convolution and a bilinear enlargement commute: first it costs a quarter.
        x = self.out_conv(self.resConfUnit2(x))
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Scratch(nn.Module):
    """From maps at four scales (fine to coarse, each half of the one before) to one at twice the finest's resolution.

    stages: their channels; features: of all between; out: of ``head1``, which callers apply where they need it.
    """

    def __init__(self, stages: tuple[int, ...], features: int, out: int) -> None:
        super().__init__()
        for number, channels in enumerate(stages, start=1):
            self.add_module(f"layer{number}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
        for number in range(1, len(stages) + 1):
            self.add_module(f"refinenet{number}", _Fusion(features))
        self.head1 = nn.Conv2d(features, out, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(B, C_i, h / 2^i, w / 2^i) maps to (B, features, 2 h, 2 w)."""
        levels = [self.get_submodule(f"layer{number}_rn")(map_) for number, map_ in enumerate(maps, start=1)]
        x = self.get_submodule(f"refinenet{len(levels)}")(levels[-1])
        for number in range(len(levels) - 1, 0, -1):
            x = self.get_submodule(f"refinenet{number}")(x, levels[number - 1])
        return x
