"""Models from artifacts and weights to files: strict in both directions. torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Artifact
from kyn_models.models import FAMILIES

NAMED_AT_MOST = 4
"""Names that an error lists before it only counts."""


def make_config(family: str, options: Mapping[str, Any], source: str) -> Any:
    """The configuration dataclass of a family, filled strictly. Raises ``ValueError`` naming ``source``."""
    return configuration.from_mapping(_entry(family, source)[0], options, source)


def make_model(family: str, options: Mapping[str, Any], source: str) -> nn.Module:
    """A new model of a family. Raises ``ValueError`` for an unknown family or key."""
    return _entry(family, source)[1](make_config(family, options, source))


def load_model(artifact: Artifact) -> nn.Module:
    """The model of an artifact in evaluation mode, float32 on the CPU, with exactly the stored weights.

    Weights stored as float16 are widened. Raises ``FileNotFoundError`` if the artifact has no weights, ``ValueError``
    for an unknown family, a damaged file, weights that are not those of the model, or labels that are not as many as
    the model knows.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = artifact.file(WEIGHTS)
    # Without memory of its own the model takes over the tensors that are read: they may be gigabytes.
    with torch.device("meta"):
        model = make_model(artifact.manifest.family, artifact.manifest.config, str(artifact.path))
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); copy or import the model again") from error
    own = model.state_dict()
    for name, value in weights.items():
        weights[name] = value.to(own[name].dtype) if name in own else value
    fill(model, weights, str(path), take_over=True)
    count, labels = getattr(model.config, "label_count", None), artifact.manifest.labels
    if count is not None and len(labels) != count:
        raise ValueError(
            f"{artifact.path}: got {len(labels)} labels, expected {count} as the model has; import the model again"
        )
    return model.eval()


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: str, take_over: bool = False) -> None:
    """Load ``weights`` into ``model``: every tensor of the model, nothing else, each of its own shape.

    take_over: the model gets these tensors instead of copies. Raises ``ValueError`` that names what is missing, extra
    or misshapen.
    """
    own = model.state_dict()
    shapes = [
        f"{name} {list(weights[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    faults = {
        "missing": [name for name in own if name not in weights],
        "extra": [name for name in weights if name not in own],
        "misshapen": shapes,
    }
    found = [f"{kind}: {_some(names)}" for kind, names in faults.items() if names]
    if found:
        raise ValueError(f"{source}: weights do not fit the model, {'; '.join(found)}")
    model.load_state_dict(dict(weights), assign=take_over)


def weights_file(model: nn.Module, half: bool = False) -> bytes:
    """Content of ``weights.safetensors``.

    half: store matrices and convolutions as float16 (half the size, rounded once; vectors, statistics and the
    positional code stay float32). Raises ``ValueError`` naming a weight that is too large for float16.
    """
    from safetensors.torch import save

    rounded = {name for name, value in model.named_parameters() if half and value.ndim >= 2}
    weights = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        weights[name] = value.to(torch.float16) if name in rounded else value
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"{name}: got weights that are not finite{' in float16' if half else ''}")
    return save(weights)


def _entry(family: str, source: str) -> tuple[Any, Any]:
    if family not in FAMILIES:
        raise ValueError(f"{source}: got family {family!r}, expected one of {', '.join(FAMILIES)}")
    module_name, config_name, model_name = FAMILIES[family]
    module = importlib.import_module(module_name)
    return getattr(module, config_name), getattr(module, model_name)


def _some(names: list[str]) -> str:
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")
