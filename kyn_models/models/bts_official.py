"""How the authors save Behind the Scenes, and what the shapes of their weights say about its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kyn_models.artifact import Licences, Manifest, TrainingCamera

SECTION = "model"
"""Key of the state dict in the file."""
PREFIXES = ("renderer.net.", "module.renderer.net.")
"""What stands before the model's names."""

MARK = "mlp_coarse.lin_in.weight"
"""A weight that no other system has."""

KITTI360 = "KITTI-360, CC BY-NC-SA 3.0 (not for commercial use)"
LICENCES = Licences(weights="not stated, the authors' code BSD-2-Clause", data=KITTI360)
"""Of the KITTI-360 model, as far as its authors state them."""
CAMERA, INPUT = TrainingCamera(), Manifest.input
"""What that model was trained with."""

_MLP = "mlp_coarse."
_FREQUENCIES = "code_xyz._freqs"
_DECODER_SCALES = 5


class Shaped(Protocol):
    """A tensor, as far as it matters here."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def flatten(self) -> Any: ...


def config_of(weights: Mapping[str, Shaped]) -> dict[str, Any]:
    """Keys of ``BtsConfig`` that these weights determine: all but the range.

    Raises ``ValueError`` naming a weight without which nothing can be said. What it says of a file with other missing
    or misshapen weights need not be right: filling the model finds them.
    """
    return {
        **image_encoder_of(weights, "encoder."),
        "hidden": shape_of(weights, f"{_MLP}lin_in.weight", 2)[0],
        "blocks": len([name for name in weights if name.startswith(f"{_MLP}blocks.") and name.endswith("fc_0.weight")]),
        **code_of(weights),
    }


def image_encoder_of(weights: Mapping[str, Shaped], prefix: str) -> dict[str, Any]:
    """Keys of a configuration about the Monodepth2 network whose names begin with ``prefix``.

    Raises ``ValueError`` naming a missing or misshapen weight.
    """
    decoder = f"{prefix}decoder.decoder."
    convolutions = [name for name in weights if name.startswith(decoder) and name.endswith(".conv.conv.weight")]
    scales = min(len(convolutions) // 2, _DECODER_SCALES)
    finest = _DECODER_SCALES - scales
    d_out = shape_of(weights, f"{decoder}{2 * scales}.conv.weight", 4)[0]
    # From coarse to fine, two convolutions per scale; scales finer than the map do not exist and may be anything.
    channels = [shape_of(weights, f"{decoder}{2 * number}.conv.conv.weight", 4)[0] for number in range(scales)][::-1]
    return {
        "encoder": _trunk(weights, prefix),
        "channels_dec": channels[:1] * finest + channels,
        "d_out": d_out,
        "feature_scale": finest,
    }


def code_of(weights: Mapping[str, Shaped]) -> dict[str, Any]:
    """Keys of a configuration about the positional code. Raises ``ValueError`` as ``shape_of``."""
    return {
        "frequencies": shape_of(weights, _FREQUENCIES, 3)[1] // 2,
        "frequency_factor": float(weights[_FREQUENCIES].flatten()[0]),
    }


def _trunk(weights: Mapping[str, Shaped], prefix: str) -> str:
    if f"{prefix}encoder._conv_stem.weight" in weights:
        return "efficientnet_lite0"
    trunk = f"{prefix}encoder.encoder."
    shape_of(weights, f"{trunk}conv1.weight", 4)
    if f"{trunk}layer1.0.conv3.weight" in weights:
        return "resnet50"
    return "resnet34" if f"{trunk}layer1.2.conv1.weight" in weights else "resnet18"


def shape_of(weights: Mapping[str, Shaped], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a weight. Raises ``ValueError`` if it is missing or has not so many dimensions, or one of them 0."""
    if name not in weights:
        raise ValueError(f"weights do not fit the model, missing: {name}")
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"weights do not fit the model, misshapen: {name} {list(shape)}, not {dimensions} dimensions")
    return shape
