"""Vision transformer (Dosovitskiy et al. 2021) with timm's parameter names, for images of any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 1000
"""Of the ImageNet classifier, unused here but part of the official checkpoints."""


@dataclass(frozen=True)
class VitConfig:
    """width: channels of a token, a multiple of heads. depth: blocks. patch: pixels of a token's side.

    size: side of the square images the positional embedding was trained for, a multiple of patch.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 16
    size: int = 384


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Attention and two linear layers, each normalised before and added to what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), _Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Tokens of an image after some of the blocks. ``norm`` and ``head`` serve classification alone."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        side = config.size // config.patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, config.width))
        self.patch_embed = _PatchEmbed(config)
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, CLASSES)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, image: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of patch, to the (B, 1 + h * w, width) output of each block in ``taps``.

        The first token belongs to no place, the others are the rows of the h x w grid of patches. Blocks behind the
        last tap are not evaluated.
        """
        patch = self.config.patch
        x = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions(image.shape[2] // patch, image.shape[3] // patch)
        outputs = {}
        for number, block in enumerate(self.blocks[: max(taps) + 1]):
            x = block(x)
            if number in taps:
                outputs[number] = x
        return [outputs[number] for number in taps]

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, width) positional embedding, its grid resized bilinearly."""
        side = self.config.size // self.config.patch
        grid = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
