"""Dynamic multi-frame depth with both backbones, for the parity check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from official import Arrays, fill, tensor

from kyn_models.models.dymultidepth import DyMultiDepth, DyMultiDepthConfig

INPUTS = frozenset(
    {"keyframe", "frames", "keyframe_pose", "poses", "intrinsics", "frame_intrinsics", "lidar_inverse_depth"}
)
ENCODERS: dict[str, Any] = {"resnet18": "resnet18", "efficientnetb5": "efficientnet_b5"}
SHARPER = 8
"""So much larger are the weights of queries and keys in case 1, whose attention is then far from uniform."""


def _model(name: str, folder: Path, salt: str) -> DyMultiDepth:
    backbone = name.partition("_")[2]
    model = DyMultiDepth(DyMultiDepthConfig(ENCODERS[backbone])).eval()
    fill(model, folder / f"state_dict_{backbone}.json", "-", salt)
    if name.startswith("case1_"):
        fusion = model.fusion_module
        with torch.no_grad():
            for layer in (fusion.lin_mono_q, fusion.lin_mono_k, fusion.lin_multi_q, fusion.lin_multi_k):
                layer.weight.mul_(SHARPER)
    return model


@torch.inference_mode()
def outputs(case: Arrays, name: str, folder: Path, salt: str) -> Arrays:
    """The cost volume at every 8th pixel, inverse depths at every 2nd."""
    model = _model(name, folder, salt)
    image = tensor(case["keyframe"].transpose(2, 0, 1)) / 255 - 0.5
    neighbours = tensor(case["frames"].transpose(0, 3, 1, 2)) / 255 - 0.5
    # In float32 as the authors do: 80 m from the map's origin that moves pixels, and unlearned weights make much of it.
    neighbour_from_key = torch.linalg.inv(torch.from_numpy(case["poses"])) @ torch.from_numpy(case["keyframe_pose"])
    k, neighbour_k = (tensor(case[key][..., :3, :3]) for key in ("intrinsics", "frame_intrinsics"))
    cost = model.cost_volume(image, k, neighbours, neighbour_from_key[None], neighbour_k)
    found = model.inverse_depths(image, cost)
    return {
        "cost_volume_sub": cost[0, :, ::8, ::8].numpy(),
        "inverse_depth": found.fused[0][0, 0, ::2, ::2].numpy(),
        "inverse_depth_mono": found.mono[0][0, 0, ::2, ::2].numpy(),
    }
