"""Learning to Fuse Monocular and Multi-view Cues for Multi-frame Depth Estimation in Dynamic Scenes. torch.

Li, Gong, Yin, Chen, Zhu, Wang, Chen, Sun, Zhang, CVPR 2023: depth of a key frame from itself and its posed neighbours,
right also where things move. A cost volume of the neighbours and a pseudo cost volume of the depth that one image gives
are fused, and a network makes depth of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kyn_models.models.dymultidepth_export import FrameModules, frame_modules
from kyn_models.networks import plane_sweep
from kyn_models.networks.cue_fusion import CueFusion, Fusion
from kyn_models.networks.depth_unet import STRIDE, DepthUNet
from kyn_models.networks.efficientnet import EfficientNetB5Encoder
from kyn_models.networks.resnet import ResnetEncoder
from kyn_models.relative_poses import neighbours_from_key
from kyn_models.types import Observation

PSEUDO_RANGE_M = (1e-3, 80.0)
"""Depth from one image is cut to this before it becomes a pseudo cost volume, as published."""


@dataclass(frozen=True)
class DyMultiDepthConfig:
    """encoder: image trunk. fusion: which cue guides which, the published one or one of its ablation.

    depth_steps: planes of the sweep. fused_channels: of each fused cue. attention_stride: attention between pixels runs
    at this part of the size, 4 as published, 8 for images wider than 650. channels_enc, channels_dec: of both depth
    networks, from fine to coarse and from coarse to fine. z_near, z_far: range in metres, 1 / 0.33 and 1 / 0.0025 as
    published. image_beside_cues: the network behind the fusion sees the key frame beside the fused cues. matching: how
    the sweep compares pixels; only torch computes another than the published one.
    """

    encoder: Literal["resnet18", "efficientnet_b5"] = "resnet18"
    fusion: Fusion = "cross_cue"
    depth_steps: int = 32
    fused_channels: int = 32
    attention_stride: int = 4
    channels_enc: tuple[int, ...] = (48, 64, 128, 192, 256)
    channels_dec: tuple[int, ...] = (256, 128, 64, 48, 32, 24)
    z_near: float = 1 / 0.33
    z_far: float = 400.0
    image_beside_cues: bool = True
    matching: plane_sweep.Matching = plane_sweep.PUBLISHED

    def __post_init__(self) -> None:
        if not 0 < self.z_near < self.z_far:
            raise ValueError(f"model.z_near, z_far: got {self.z_near} and {self.z_far}, expected 0 < z_near < z_far")
        if self.depth_steps < 2:
            raise ValueError(f"model.depth_steps: got {self.depth_steps}, expected at least 2")
        if self.attention_stride not in (4, 8, 16):
            raise ValueError(f"model.attention_stride: got {self.attention_stride}, expected 4, 8 or 16")
        for name, count in (("channels_enc", 5), ("channels_dec", 6)):
            if len(getattr(self, name)) != count:
                raise ValueError(f"model.{name}: got {len(getattr(self, name))} numbers, expected {count}")


class MultiFrameInput(NamedTuple):
    """The arguments of ``DyMultiDepth.forward``, in their order and as they are told there."""

    image: Tensor
    k: Tensor
    neighbours: Tensor
    neighbour_from_key: Tensor
    neighbour_k: Tensor


def input_of(observation: Observation) -> MultiFrameInput:
    """An observation with its neighbours as a batch of one, float32 on the CPU.

    Its frames have the network's image size, and intrinsics scaled with them as published. Relative poses come from
    float64: in float32 a map whose origin is far away has no centimetres.
    Raises ``ValueError`` for a frame without a pose or of another size than the key frame.
    """
    for frame in observation.frames:
        if frame.image.shape != observation.key.image.shape:
            raise ValueError(
                f"frame at {frame.stamp_ns} ns: got shape {frame.image.shape}, "
                f"expected {observation.key.image.shape} as the key frame has"
            )
    pixels = np.stack([frame.image for frame in observation.frames]).transpose(0, 3, 1, 2)
    images = torch.from_numpy(pixels.astype(np.float32)) / 255 - 0.5
    ks = torch.from_numpy(np.stack([frame.intrinsics.matrix for frame in observation.frames])).float()
    poses = torch.from_numpy(neighbours_from_key(observation.frames)).float()
    return MultiFrameInput(images[:1], ks[:1], images[None, 1:], poses[None], ks[None, 1:])


class InverseDepths(NamedTuple):
    """1 / metres along the optical axis: four (B, 1, h, w) maps each, at strides 1, 2, 4, 8 of the key frame.

    fused: of all frames; mono: of the key frame alone.
    """

    fused: tuple[Tensor, ...]
    mono: tuple[Tensor, ...]


class KeyFrameDepth(NamedTuple):
    """Depth of the key frame in metres along its optical axis, (B, H, W) float32 each.

    fused: of all frames, the model's answer, within z_near..z_far. mono: of the key frame alone, same range.
    matched: the plane of the sweep at which the neighbours match best, without any network; NaN where none counts.
    """

    fused: Tensor
    mono: Tensor
    matched: Tensor


class DyMultiDepth(nn.Module):
    """The network, with the parameter names of the official checkpoints.

    Images are (B, 3, H, W) RGB in -0.5..0.5, as published, H and W multiples of 16.
    """

    def __init__(self, config: DyMultiDepthConfig) -> None:
        super().__init__()
        self.config = config
        self._feature_extractor: nn.Module = (
            EfficientNetB5Encoder() if config.encoder == "efficientnet_b5" else ResnetEncoder(18, scales=3)
        )
        self.fusion_module = CueFusion(
            config.fusion, config.depth_steps, config.fused_channels, config.attention_stride
        )
        features, enc, dec = self._feature_extractor.channels, config.channels_enc, config.channels_dec
        seen = self.fusion_module.out + (3 if config.image_beside_cues else 0)
        self.depth_module = DepthUNet(seen, features, enc, dec)
        self.mono_module = DepthUNet(3, features, enc, dec)

    def forward(
        self, image: Tensor, k: Tensor, neighbours: Tensor, neighbour_from_key: Tensor, neighbour_k: Tensor
    ) -> KeyFrameDepth:
        """Depth of the key frame.

        image: (B, 3, H, W) key frame, neighbours: (B, N, 3, H, W), one or more in any order; published are the frame
        before and the one after, a stereo partner will do too. k: (B, 3, 3) and neighbour_k: (B, N, 3, 3) camera
        matrices in pixels of these images, scaled with them as published: c' = c s. neighbour_from_key:
        (B, N, 4, 4) rigid transforms from the key camera's axes to the neighbour's, in metres.
        Raises ``ValueError`` for shapes that do not fit each other or sizes that are no multiple of 16.
        """
        cost = self.cost_volume(image, k, neighbours, neighbour_from_key, neighbour_k)
        found = self.inverse_depths(image, cost)
        fused, mono = (1 / maps[0][:, 0].float() for maps in found)
        return KeyFrameDepth(fused, mono, plane_sweep.best_depth(cost, self.depths(cost)))

    @torch.no_grad()
    def cost_volume(
        self, image: Tensor, k: Tensor, neighbours: Tensor, neighbour_from_key: Tensor, neighbour_k: Tensor
    ) -> Tensor:
        """(B, depth_steps, H, W) float32 in -1..1, the far end first, 0 where no neighbour counts. As ``forward``."""
        batch, count = neighbours.shape[:2]
        expected = {
            "k": (k, (batch, 3, 3)),
            "neighbours": (neighbours, (batch, count, *image.shape[1:])),
            "neighbour_from_key": (neighbour_from_key, (batch, count, 4, 4)),
            "neighbour_k": (neighbour_k, (batch, count, 3, 3)),
            "image": (image, (batch, 3, *image.shape[2:])),
        }
        for name, (value, shape) in expected.items():
            if tuple(value.shape) != shape:
                raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {shape}")
        if count < 1:
            raise ValueError("neighbours: got none, expected at least one; without any ask mono_inverse_depths")
        depths, matching = self.depths(image), self.config.matching
        return plane_sweep.cost_volume(image, k, neighbours, neighbour_from_key, neighbour_k, depths, matching)

    def inverse_depths(self, image: Tensor, cost: Tensor, kept: Tensor | None = None) -> InverseDepths:
        """Both branches at all scales. cost: of ``cost_volume``, or another that says the same.

        kept: (B, 1, H, W) 1 where fused cues stay and 0 where training takes them away; None for all of them.
        """
        features = self._features(image)
        mono = self._mono(image, features)
        with torch.no_grad():
            depth = (1 / mono[0]).clamp(*PSEUDO_RANGE_M)
            pseudo = plane_sweep.pseudo_cost(depth, self.depths(depth))
        cues = self.fusion_module(pseudo, cost)
        if kept is not None:
            cues = cues * kept
        seen = torch.cat([cues, image], dim=1) if self.config.image_beside_cues else cues
        fused = self.depth_module(seen, features)
        return InverseDepths(self._in_range(fused), mono)

    def mono_inverse_depths(self, image: Tensor) -> tuple[Tensor, ...]:
        """1 / metres of the key frame alone, four (B, 1, h, w) maps: where there is no neighbour, or no baseline."""
        return self._mono(image, self._features(image))

    def depths(self, like: Tensor) -> Tensor:
        """(depth_steps,) planes of the sweep in metres, the far end first, on the device of ``like``."""
        return plane_sweep.sweep_depths(self.config.z_near, self.config.z_far, self.config.depth_steps, like)

    def exportable(self) -> FrameModules:
        """What becomes graphs for other runtimes. They share this model, whose attention they change to graphs'.

        Raises ``ValueError`` for another matching than the published one, which graphs and compiled loops compute.
        """
        if self.config.matching != plane_sweep.PUBLISHED:
            raise ValueError(
                f"model.matching: got {self.config.matching}, expected {plane_sweep.PUBLISHED} as other runtimes than "
                "torch compute it; run this model with --runtime torch"
            )
        return frame_modules(self)

    def _features(self, image: Tensor) -> list[Tensor]:
        if image.ndim != 4 or image.shape[2] % STRIDE or image.shape[3] % STRIDE:
            raise ValueError(f"image: got shape {tuple(image.shape)}, expected (B, 3, H, W), H and W multiples of 16")
        return self._feature_extractor(image + 0.5)

    def _mono(self, image: Tensor, features: list[Tensor]) -> tuple[Tensor, ...]:
        return self._in_range(self.mono_module(image, features))

    def _in_range(self, positions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Positions 0..1 within the range, linear in inverse depth."""
        far, near = 1 / self.config.z_far, 1 / self.config.z_near
        return tuple((1 - position) * far + position * near for position in positions)
