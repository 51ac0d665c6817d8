"""What a model holds before its first step: ImageNet, another training, for kyn the frozen language model. torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from kyn_models.artifact import Artifact
from kyn_models.models.loading import fill, load_model
from kyn_models.networks.efficientnet import EfficientNetB5Encoder
from kyn_models.networks.efficientnet_lite import EfficientNetLite0Encoder
from kyn_models.networks.resnet import ResnetEncoder

TRUNKS = (ResnetEncoder, EfficientNetLite0Encoder, EfficientNetB5Encoder)


def start_from_artifact(model: Any, path: str, labels: tuple[str, ...]) -> None:
    """All weights of an artifact of the same family, shape and classes.

    Raises ``ValueError`` naming what does not fit: features of its own words belong to a model of Know Your Neighbors.
    """
    artifact = Artifact.load(path)
    if artifact.manifest.labels != labels:
        raise ValueError(
            f"labels: got {', '.join(labels) or 'none'}, expected {', '.join(artifact.manifest.labels) or 'none'} in "
            f"this order as start_from {path} has them; other words need lseg instead"
        )
    fill(model, load_model(artifact).state_dict(), path)


def start_from_imagenet(model: Any) -> None:
    """The image trunk's ImageNet weights. Raises ``OSError`` or ``ImportError`` where they cannot be had."""
    next(part for part in model.modules() if isinstance(part, TRUNKS)).load_imagenet()


def start_with_density(model: Any, per_metre: float) -> None:
    """Let the field begin with about this density everywhere: so little that light reaches all depths.

    Random weights begin with 0.7 per metre, which hides everything beyond a few metres; large steps then overshoot to
    an empty field, whose densities have no gradient left.
    """
    with torch.no_grad():
        model.mlp_coarse.lin_out.bias.fill_(math.log(math.expm1(per_metre)))


def start_with_language(model: Any, lseg: str, labels: tuple[str, ...], vocabulary: str) -> None:
    """LSeg's image side from its official checkpoint, and what CLIP's text tower in it says about ``labels``.

    vocabulary: CLIP's file, empty for the one of an installed package. Raises ``FileNotFoundError``, ``ImportError``
    without a vocabulary, or ``ValueError`` naming weights that are missing, extra or misshapen.
    """
    from kyn_models.checkpoints import OfficialWeights, official_weights
    from kyn_models.models import kyn_official as official
    from kyn_models.networks.clip_tokenizer import tokenizer

    encode = tokenizer(vocabulary or None)
    found = official_weights(lseg, official.LSEG_SECTION, official.LSEG_PREFIXES)
    named = OfficialWeights({official.LSEG + name: value for name, value in found.weights.items()}, found.ignored)
    weights = official.with_text_features(named, labels, encode, Path(lseg)).weights
    parts = (official.LSEG, official.TEXT_FEATURES)
    fill(model, {**{n: v for n, v in model.state_dict().items() if not n.startswith(parts)}, **weights}, lseg)
