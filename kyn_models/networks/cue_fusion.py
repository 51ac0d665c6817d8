"""Cross-cue fusion (Li et al., CVPR 2023): what one cue knows about itself guides the other. torch.

The cues are the cost volume of several views ("multi") and the pseudo cost of the depth from one image ("mono").
Attention of one cue over its own pixels tells which pixels belong together; the values are those of the other.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Fusion = Literal["cross_cue", "mono_guides_multi", "multi_guides_mono"]
"""The published fusion, and the two of its ablation that guide in one direction only."""
GUIDED: dict[Fusion, tuple[str, ...]] = {
    "cross_cue": ("multi", "mono"),
    "mono_guides_multi": ("multi",),
    "multi_guides_mono": ("mono",),
}
"""The cues whose values are moved by the other's attention."""


def _block(channels_in: int, channels_out: int, size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


def _shrink(steps: int, channels: int, stride: int) -> nn.Sequential:
    """To 1 / stride of the size, by halves."""
    halves = stride.bit_length() - 1
    parts = [_block(channels if number else steps, channels, 3, stride=2) for number in range(halves)]
    return nn.Sequential(*(layer for part in parts for layer in part))


def attend(query: Tensor, key: Tensor, value: Tensor, at_once: int | None = None) -> Tensor:
    """softmax(query . key) over all pixels, applied to the values: three (B, C, h, w) to one.

    Products are not scaled, as published. The (h w) x (h w) scores are never held as a whole: 8192 pixels would be
    256 MB of them. at_once: for graphs of other runtimes, the queries whose scores are; None leaves it to torch.
    """
    if at_once is not None:
        keys, values = key.flatten(2), value.flatten(2).transpose(1, 2)
        parts = query.flatten(2).transpose(1, 2).split(at_once, dim=1)
        moved = torch.cat([torch.softmax(part @ keys, dim=-1) @ values for part in parts], dim=1)
        return moved.transpose(1, 2).unflatten(2, query.shape[2:])
    q, k, v = (x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for x in (query, key, value))
    found = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    return found[:, 0].transpose(1, 2).unflatten(2, query.shape[2:])


class CueFusion(nn.Module):
    """Cost volume and pseudo cost, (B, steps, H, W) each, to (B, ``out``, H, W). H and W: multiples of ``stride``.

    fusion: which cue guides which. stride: attention runs at 1 / stride of the size, 4 as published (the authors take 8
    for images wider than 650). The result is what each cue says for itself plus, times the learned ``gamma``, what
    attention found; in the published fusion each half meets the other cue's attention, [mono + multi guided by mono,
    multi + mono guided by multi]. ``queries_at_once``: as ``at_once`` of ``attend``, None from the start.
    """

    def __init__(self, fusion: Fusion, steps: int, channels: int, stride: int) -> None:
        super().__init__()
        self._guided = GUIDED[fusion]
        self.queries_at_once: int | None = None
        self.out = channels * len(self._guided)
        self.stride = stride
        self.mono_expand, self.multi_expand = _shrink(steps, channels, stride), _shrink(steps, channels, stride)
        for guide, guided in (("mono", "multi"), ("multi", "mono")):
            if guided in self._guided:
                setattr(self, f"lin_{guide}_k", nn.Conv2d(channels, channels, 1))
                setattr(self, f"lin_{guide}_q", nn.Conv2d(channels, channels, 1))
                setattr(self, f"lin_{guided}_v", nn.Conv2d(channels, channels, 1))
        if "mono" in self._guided:
            self.mono_reg = nn.Sequential(*_block(steps, channels, 3), *_block(channels, channels, 3))
        if "multi" in self._guided:
            self.multi_reg = nn.Sequential(*_block(steps, channels, 1))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, pseudo_cost: Tensor, cost_volume: Tensor) -> Tensor:
        mono, multi = self.mono_expand(pseudo_cost), self.multi_expand(cost_volume)
        own, moved = [], []
        if "mono" in self._guided:
            own.append(self.mono_reg(pseudo_cost))
        if "multi" in self._guided:
            own.append(self.multi_reg(cost_volume))
            moved.append(self._attend(self.lin_mono_q(mono), self.lin_mono_k(mono), self.lin_multi_v(multi)))
        if "mono" in self._guided:
            moved.append(self._attend(self.lin_multi_q(multi), self.lin_multi_k(multi), self.lin_mono_v(mono)))
        large = (functional.interpolate(self.gamma * cue, scale_factor=self.stride, mode="nearest") for cue in moved)
        return torch.cat([said + found for said, found in zip(own, large, strict=True)], dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, self.queries_at_once)
