"""The network at a point: positional code and ``ResnetFC`` (Yu et al. 2021, pixelNeRF), official names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PositionalCode(nn.Module):
    """x, then per frequency f_k = factor * 2^k the sines of all axes and their cosines.

    The buffers carry the official checkpoints' names: every frequency twice, with phases 0 and pi / 2.
    """

    def __init__(self, frequencies: int, factor: float, axes: int = 3) -> None:
        super().__init__()
        freqs = factor * 2.0 ** torch.arange(0, frequencies)
        self.register_buffer("_freqs", freqs.repeat_interleave(2).view(1, -1, 1))
        self.register_buffer("_phases", torch.tensor([0.0, torch.pi / 2]).repeat(frequencies).view(1, -1, 1))
        self.size = axes * (1 + 2 * frequencies)

    @property
    def frequencies(self) -> Tensor:
        """(F,) the distinct frequencies."""
        return self.get_buffer("_freqs").view(-1)[::2]

    def columns(self, axes: tuple[int, ...]) -> list[int]:
        """Which entries of the code depend on these axes alone."""
        count = self.size // (1 + 2 * len(self.frequencies))
        return [group * count + axis for group in range(self.size // count) for axis in axes]

    def forward(self, x: Tensor) -> Tensor:
        """(..., axes) to (..., size), in float32 also under autocast."""
        freqs, phases = self.get_buffer("_freqs").view(-1, 1), self.get_buffer("_phases").view(-1, 1)
        waves = torch.sin(torch.addcmul(phases, x.float().unsqueeze(-2), freqs))
        return torch.cat([x.float(), waves.flatten(-2)], dim=-1)


class ResnetBlock(nn.Module):
    """Two linear layers with a shortcut."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.fc_0, self.fc_1 = nn.Linear(size, size), nn.Linear(size, size)
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc_1(functional.relu(self.fc_0(functional.relu(x))))


class ResnetFC(nn.Module):
    """Linear, ``blocks`` residual blocks, ReLU, linear."""

    def __init__(self, d_in: int, d_out: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.lin_in, self.lin_out = nn.Linear(d_in, hidden), nn.Linear(hidden, d_out)
        self.blocks = nn.ModuleList(ResnetBlock(hidden) for _ in range(blocks))
        for layer in (self.lin_in, self.lin_out):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lin_in(x)
        for block in self.blocks:
            x = block(x)
        return self.lin_out(functional.relu(x))
