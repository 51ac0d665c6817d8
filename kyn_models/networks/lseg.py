"""LSeg's image side (Li et al. 2022): language features and labels of every pixel, official parameter names.

The text side is somewhere else (``clip_text``): here text features of the labels are an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.networks.dpt import Reassemble, Scratch
from kyn_models.networks.vit import VisionTransformer, VitConfig

LOGIT_SCALE = 1 / 0.07
"""Of the cosines; CLIP's initial value, which the authors never train."""

PATCH = 16

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Resolution of the four maps against that of the patches."""


@dataclass(frozen=True)
class LSegConfig:
    """vit: the transformer. crop: side of the square image it sees, a multiple of 32.

    taps: the four blocks that are looked at. stages: channels of their maps, fine to coarse. features: of the maps
    between. out: channels of a language feature.
    """

    vit: VitConfig = VitConfig()
    crop: int = 480
    taps: tuple[int, int, int, int] = (5, 11, 17, 23)
    stages: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    features: int = 256
    out: int = 512

    def __post_init__(self) -> None:
        if self.vit.patch != PATCH:
            raise ValueError(f"vit.patch: got {self.vit.patch}, expected {PATCH}, with which the map is half the image")
        if self.crop <= 0 or self.crop % (2 * PATCH):
            raise ValueError(f"crop: got {self.crop}, expected a multiple of {2 * PATCH}")
        if list(self.taps) != sorted(set(self.taps)) or not 0 <= self.taps[0] <= self.taps[-1] < self.vit.depth:
            raise ValueError(f"taps: got {self.taps}, expected rising numbers from 0 to {self.vit.depth - 1}")


class Language(NamedTuple):
    """features: (B, out, rows, crop / 2), not normalised; logits: (B, L, H, W) at the image's size."""

    features: Tensor
    logits: Tensor


class _Backbone(nn.Module):
    """Transformer and what makes maps of its tokens."""

    def __init__(self, config: LSegConfig) -> None:
        super().__init__()
        self.taps, self.patch = config.taps, config.vit.patch
        self.model = VisionTransformer(config.vit)
        for number, (channels, scale) in enumerate(zip(config.stages, SCALES, strict=True), start=1):
            self.add_module(f"act_postprocess{number}", Reassemble(config.vit.width, channels, scale))

    def forward(self, image: Tensor) -> list[Tensor]:
        rows = image.shape[2] // self.patch
        return [
            self.get_submodule(f"act_postprocess{number}")(tokens, rows)
            for number, tokens in enumerate(self.model(image, self.taps), start=1)
        ]


class LSeg(nn.Module):
    """Images wider than high to language features and label logits."""

    def __init__(self, config: LSegConfig) -> None:
        super().__init__()
        self.config = config
        self.pretrained = _Backbone(config)
        self.scratch = Scratch(config.stages, config.features, config.out)

    def forward(self, image: Tensor, text: Tensor) -> Language:
        """image: (B, 3, H, W) in -1..1, W > H; text: (L, out) features of the labels.

        The image is resized to ``crop`` columns and padded below. Its map has half that resolution. The authors take
        as many ROWS OF THE MAP for the image's features as the resized image has (twice the image's height), and the
        published weights were trained with that; the logits are cut out rightly. Raises ``ValueError`` for an image
        that is not wider than high.
        """
        crop, (height, width) = self.config.crop, image.shape[2:]
        if width <= height:
            raise ValueError(
                f"image: got {width} x {height}, expected one that is wider than high; crop it to the training shape"
            )
        rows = int(crop * height / width)
        small = functional.interpolate(image, size=(rows, crop), mode="bilinear", align_corners=False)
        maps = self.pretrained(functional.pad(small, (0, 0, 0, crop - rows), value=-1.0))
        # Rows that nobody reads are left out before the last, widest convolution.
        features = self.scratch.head1(self.scratch(maps)[:, :, :rows])
        return Language(features, self._logits(features, text, rows, (height, width)))

    def _logits(self, features: Tensor, text: Tensor, rows: int, size: tuple[int, int]) -> Tensor:
        """Twice the map's size, cut to the image, resized to it: all linear in each direction, so two matrices."""
        twice = _enlarged(self.config.crop // 2, self.config.crop, features.device)
        down, across = _resized(twice[:rows, : features.shape[2]], size[0]), _resized(twice, size[1])
        directions = functional.normalize(text.float(), dim=1)
        with torch.autocast(features.device.type, enabled=False):
            cosines = torch.einsum("bcyx,lc->blyx", functional.normalize(features.float(), dim=1), directions)
            return LOGIT_SCALE * (down @ cosines @ across.T)


def _enlarged(count: int, wanted: int, device: torch.device) -> Tensor:
    """(wanted, count) matrix of the linear interpolation from first to last entry."""
    eye = torch.eye(count, device=device)[None]
    return functional.interpolate(eye, size=wanted, mode="linear", align_corners=True)[0].T


def _resized(matrix: Tensor, wanted: int) -> Tensor:
    """(wanted, count) of a (had, count) matrix: its rows resized linearly, pixel edges on pixel edges."""
    return functional.interpolate(matrix.T[None], size=wanted, mode="linear", align_corners=False)[0].T
