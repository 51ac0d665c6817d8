"""How the authors save Dynamic Multi-frame Depth, and what the shapes of their weights say about its configuration.

Their trainer pickles its configuration object along with the weights; it is read as nothing and not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kyn_models.artifact import Licences, TrainingCamera
from kyn_models.models.bts_official import Shaped, shape_of
from kyn_models.types import Intrinsics

SECTION = "state_dict"
"""Key of the state dict in the file."""
PREFIXES = ("module.", "")
"""What stands before the model's names: the first where several GPUs trained it."""

MARK = "fusion_module.gamma"
"""A weight that no other system has."""

LICENCES = Licences(weights="not stated, the authors' code MIT", data="KITTI, CC BY-NC-SA 3.0 (not for commercial use)")
"""Of the KITTI odometry models, as far as their authors state them."""
INPUT = "RGB uint8, image / 255 - 0.5"
CAMERA = TrainingCamera(
    source=Intrinsics(707.0912, 707.0912, 358.8873, 183.1104, 740, 370),
    width=512,
    height=256,
    height_m=1.65,
    pitch_deg=0.0,
)
"""Colour camera of KITTI odometry 04 to 12, cropped in the middle to twice as wide as high, as published."""

_FUSION, _UNET = "fusion_module.", "depth_module."


def config_of(weights: Mapping[str, Shaped]) -> dict[str, Any]:
    """Keys of ``DyMultiDepthConfig`` that these weights determine: all but the range.

    Raises ``ValueError`` naming a weight without which nothing can be said; what it says of a file with other missing
    or misshapen weights need not be right.
    """
    channels, steps = shape_of(weights, f"{_FUSION}mono_expand.0.weight", 4)[:2]
    halves = len([name for name in weights if name.startswith(f"{_FUSION}mono_expand.") and name.endswith("var")])
    fused = channels * (2 if (fusion := _fusion(weights)) == "cross_cue" else 1)
    rises = ("0.conv2d_t", "1.0.conv2d_t", "2.0.conv2d_t", "3.conv2d_t")
    return {
        "encoder": _encoder(weights),
        "fusion": fusion,
        "depth_steps": steps,
        "fused_channels": channels,
        "attention_stride": 2**halves,
        "channels_enc": [shape_of(weights, f"{_UNET}enc.{level}.0.conv_y.weight", 4)[0] for level in range(5)],
        "channels_dec": [
            *(shape_of(weights, f"{_UNET}dec.{name}.weight", 4)[1] for name in rises),
            *(shape_of(weights, f"{_UNET}dec.4.{name}.weight", 4)[0] for name in ("0.conv_y", "2")),
        ],
        "image_beside_cues": shape_of(weights, f"{_UNET}enc.0.0.conv_y.weight", 4)[1] > fused,
    }


def _encoder(weights: Mapping[str, Shaped]) -> str:
    if "_feature_extractor.original_model.conv_stem.weight" in weights:
        return "efficientnet_b5"
    shape_of(weights, "_feature_extractor.encoder.conv1.weight", 4)
    return "resnet18"


def _fusion(weights: Mapping[str, Shaped]) -> str:
    if f"{_FUSION}lin_mono_v.weight" not in weights:
        return "mono_guides_multi"
    return "cross_cue" if f"{_FUSION}lin_multi_v.weight" in weights else "multi_guides_mono"
