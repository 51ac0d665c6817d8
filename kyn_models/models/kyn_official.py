"""How the authors save Know Your Neighbors: ``kyn.pt``, LSeg's ``demo_e200.ckpt``, and CLIP's text tower within. torch.

A model holds what CLIP says about its labels instead of CLIP: ``text_features``, (labels, channels).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kyn_models.checkpoints import OfficialWeights, official_weights
from kyn_models.models.bts_official import PREFIXES as PREFIXES
from kyn_models.models.bts_official import SECTION as SECTION
from kyn_models.networks.clip_text import ClipText
from kyn_models.networks.clip_text import config_of as tower_config
from kyn_models.networks.clip_tokenizer import Encoder, tokenize

MARK = "mlp_coarse.lin_in_text.weight"
"""A weight that no other system has."""
LSEG = "encoder.vlseg_encoder."
"""What stands before LSeg's names inside the model."""
LSEG_SECTION, LSEG_PREFIXES = "state_dict", ("net.",)
"""Where LSeg's own checkpoint has them."""
CLIP = LSEG + "clip_pretrained."
UNUSED_IN_CLIP = ("visual.", "logit_scale")
"""CLIP's image tower, of which LSeg uses nothing."""
TEXT_FEATURES = "text_features"


def holds_lseg(found: OfficialWeights) -> bool:
    """True where a checkpoint of the whole model has LSeg's weights too."""
    return any(name.startswith(LSEG) for name in found.weights)


def with_lseg(found: OfficialWeights, checkpoint: Path, lseg: Path | None) -> OfficialWeights:
    """The weights of a ``kyn.pt`` with those of LSeg: its own, or else those of the second file.

    Raises ``ValueError`` if the first holds none and there is no second file, or that is another kind of file.
    """
    if holds_lseg(found):
        unread = [] if lseg is None else [f"{lseg}, as {checkpoint.name} holds LSeg's weights"]
        return OfficialWeights(found.weights, [*found.ignored, *unread])
    if lseg is None:
        raise ValueError(
            f"{checkpoint}: got no weights of LSeg ({LSEG}*), expected them there or in a second file; "
            "name the authors' demo_e200.ckpt as --lseg"
        )
    second = official_weights(lseg, LSEG_SECTION, LSEG_PREFIXES)
    weights = {**found.weights, **{LSEG + name: value for name, value in second.weights.items()}}
    return OfficialWeights(weights, [*found.ignored, *second.ignored])


def with_text_features(
    found: OfficialWeights, labels: tuple[str, ...], encode: Encoder, checkpoint: Path
) -> OfficialWeights:
    """The weights with what CLIP's text tower says about ``labels`` in place of CLIP.

    encode: CLIP's tokenizer. The authors give CLIP the bare words, without a sentence around them. Raises
    ``ValueError`` naming weights of the text tower that are missing or misshapen, or a label that is too long.
    """
    clip = {name.removeprefix(CLIP): value for name, value in found.weights.items() if name.startswith(CLIP)}
    tower = {name: value.float() for name, value in clip.items() if not name.startswith(UNUSED_IN_CLIP)}
    weights = {name: value for name, value in found.weights.items() if not name.startswith(CLIP)}
    weights[TEXT_FEATURES] = text_features(tower, labels, encode, checkpoint)
    return OfficialWeights(
        weights, [*found.ignored, f"{CLIP}* (its text tower was used, the artifact keeps its answers)"]
    )


def text_features(weights: dict[str, Tensor], labels: tuple[str, ...], encode: Encoder, checkpoint: Path) -> Tensor:
    """(labels, channels) float32 of CLIP's text tower with these weights. Raises as ``with_text_features``."""
    from kyn_models.models.loading import fill

    try:
        config = tower_config(weights)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    tower = ClipText(config)
    fill(tower, weights, str(checkpoint))
    with torch.inference_mode():
        return tower.eval()(torch.from_numpy(tokenize(labels, encode, config.context))).clone()
