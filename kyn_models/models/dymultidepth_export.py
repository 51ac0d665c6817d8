"""Dynamic multi-frame depth as modules that become graphs for other runtimes. torch.

Images are uint8 as cameras give them, (1, H, W, 3); depths come out as (H, W) float32 metres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from kyn_models.networks import plane_sweep

if TYPE_CHECKING:
    from kyn_models.models.dymultidepth import DyMultiDepth

QUERIES_AT_ONCE = 1024
"""Of the attention between pixels: their scores against 8192 pixels are 32 MB."""


class FrameModules(NamedTuple):
    """network: image and cost volume to both depths. mono: image to depth. whole: images, camera and poses to both."""

    network: nn.Module
    mono: nn.Module
    whole: nn.Module


def frame_modules(model: DyMultiDepth) -> FrameModules:
    """Three modules around ``model``, which then asks its attention in parts."""
    model.fusion_module.queries_at_once = QUERIES_AT_ONCE
    modules = FrameModules(_Network(model), _Mono(model), _Whole(model))
    for module in modules:
        module.eval()
    return modules


class _Network(nn.Module):
    """image (1, H, W, 3) uint8, cost (1, D, H, W) float32 -> fused (H, W), mono (H, W)."""

    def __init__(self, model: DyMultiDepth) -> None:
        super().__init__()
        self.network = model

    def forward(self, image: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.inverse_depths(_normalised(image), cost)
        return 1 / found.fused[0][0, 0], 1 / found.mono[0][0, 0]


class _Mono(nn.Module):
    """image (1, H, W, 3) uint8 -> mono (H, W)."""

    def __init__(self, model: DyMultiDepth) -> None:
        super().__init__()
        self.network = model

    def forward(self, image: Tensor) -> Tensor:
        return 1 / self.network.mono_inverse_depths(_normalised(image))[0][0, 0]


class _Whole(nn.Module):
    """image (1, H, W, 3) uint8, neighbours (N, H, W, 3) uint8, k (3, 3), neighbour_from_key (N, 4, 4) -> fused, mono.

    All images have the camera k.
    """

    def __init__(self, model: DyMultiDepth) -> None:
        super().__init__()
        self.network = model

    def forward(
        self, image: Tensor, neighbours: Tensor, k: Tensor, neighbour_from_key: Tensor
    ) -> tuple[Tensor, Tensor]:
        key, others, camera = _normalised(image), _normalised(neighbours)[None], k[None]
        cameras = camera[:, None].expand(-1, len(neighbours), -1, -1)
        planes = self.network.depths(key)
        cost = plane_sweep.mean_agreement(key, camera, others, neighbour_from_key[None], cameras, planes)
        found = self.network.inverse_depths(key, cost)
        return 1 / found.fused[0][0, 0], 1 / found.mono[0][0, 0]


def _normalised(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) in -0.5..0.5."""
    # Floats first: TensorRT turns no bytes.
    return images.float().permute(0, 3, 1, 2) / 255 - 0.5
