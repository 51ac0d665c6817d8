"""How the authors save Behind the Scenes, and what the shapes of their weights say about its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

SECTION = "model"
"""Key of the state dict in the file."""
PREFIXES = ("renderer.net.", "module.renderer.net.")
"""What stands before the model's names."""

MARK = "mlp_coarse.lin_in.weight"
"""A weight that no other system has."""

_TRUNK = "encoder.encoder.encoder."
_DECODER = "encoder.decoder.decoder."
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
    convolutions = [name for name in weights if name.startswith(_DECODER) and name.endswith(".conv.conv.weight")]
    scales = min(len(convolutions) // 2, _DECODER_SCALES)
    finest = _DECODER_SCALES - scales
    d_out = _shape(weights, f"{_DECODER}{2 * scales}.conv.weight")[0]
    # From coarse to fine, two convolutions per scale; scales finer than the map do not exist and may be anything.
    channels = [_shape(weights, f"{_DECODER}{2 * number}.conv.conv.weight")[0] for number in range(scales)][::-1]
    return {
        "encoder": _encoder(weights),
        "channels_dec": channels[:1] * finest + channels,
        "d_out": d_out,
        "feature_scale": finest,
        "hidden": _shape(weights, f"{_MLP}lin_in.weight")[0],
        "blocks": len([name for name in weights if name.startswith(f"{_MLP}blocks.") and name.endswith("fc_0.weight")]),
        "frequencies": _shape(weights, _FREQUENCIES, 3)[1] // 2,
        "frequency_factor": float(weights[_FREQUENCIES].flatten()[0]),
    }


def _encoder(weights: Mapping[str, Shaped]) -> str:
    if "encoder.encoder._conv_stem.weight" in weights:
        return "efficientnet_lite0"
    _shape(weights, f"{_TRUNK}conv1.weight")
    if f"{_TRUNK}layer1.0.conv3.weight" in weights:
        return "resnet50"
    return "resnet34" if f"{_TRUNK}layer1.2.conv1.weight" in weights else "resnet18"


def _shape(weights: Mapping[str, Shaped], name: str, dimensions: int | None = None) -> tuple[int, ...]:
    """A shape with as many dimensions as weights of that kind have (4 for convolutions, 2 for linear layers)."""
    if name not in weights:
        raise ValueError(f"weights do not fit the model, missing: {name}")
    shape = tuple(weights[name].shape)
    expected = dimensions or (2 if name.startswith(_MLP) else 4)
    if len(shape) != expected or 0 in shape:
        raise ValueError(f"weights do not fit the model, misshapen: {name} {list(shape)}, not {expected} dimensions")
    return shape
