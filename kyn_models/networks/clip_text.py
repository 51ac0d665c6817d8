"""CLIP's text tower (Radford et al. 2021), with the parameter names of OpenAI's ViT-B/32. float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ClipTextConfig:
    """width: of a token; heads divide it. layers: of attention. context: tokens of a text. vocabulary: number of
    different tokens. out: channels of a text's feature, which are those of the image features it is compared with.
    """

    width: int = 512
    heads: int = 8
    layers: int = 12
    context: int = 77
    vocabulary: int = 49408
    out: int = 512


HEAD = 64
"""Channels of an attention head in every published CLIP."""


def config_of(weights: Mapping[str, Tensor]) -> ClipTextConfig:
    """What the shapes of a tower's weights say about it. Raises ``ValueError`` naming a weight that is missing."""
    needed = "positional_embedding", "token_embedding.weight", "text_projection"
    missing = [name for name in needed if name not in weights or weights[name].ndim != 2]
    if missing:
        raise ValueError(f"weights do not fit CLIP's text tower, missing: {', '.join(missing)}")
    (context, width), (vocabulary, _), (_, out) = (tuple(weights[name].shape) for name in needed)
    blocks = {name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")}
    return ClipTextConfig(width, max(1, width // HEAD), len(blocks), context, vocabulary, out)


class ClipText(nn.Module):
    """Texts to the features that CLIP compares images with."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.context, config.width))
        self.transformer = _Transformer(config)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.zeros(config.width, config.out))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, context) int64 tokens as ``clip_tokenizer.tokenize`` gives them to (N, out), not normalised.

        A text is read off at its end token, which has the highest number of all.
        """
        x = self.ln_final(self.transformer(self.token_embedding(tokens) + self.positional_embedding))
        return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ self.text_projection


class _Transformer(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.layers))
        # A token attends to itself and those before it: also the zeros behind a text change nothing.
        later = torch.full((config.context, config.context), -torch.inf).triu(1)
        self.register_buffer("later", later, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, self.later)
        return x


class _Block(nn.Module):
    """Attention and two linear layers, each normalised before and added to what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))  # CLIP's own, faster GELU
