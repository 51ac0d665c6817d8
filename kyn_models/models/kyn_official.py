"""How the authors save Know Your Neighbors: ``kyn.pt``, LSeg's ``demo_e200.ckpt``, and CLIP's text tower within. torch.

A model holds what CLIP says about its labels instead of CLIP: ``text_features``, (labels, channels).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kyn_models.artifact import Licences
from kyn_models.checkpoints import OfficialWeights, official_weights
from kyn_models.models.bts_official import CAMERA as CAMERA
from kyn_models.models.bts_official import INPUT as INPUT
from kyn_models.models.bts_official import KITTI360, code_of, image_encoder_of, shape_of
from kyn_models.models.bts_official import PREFIXES as PREFIXES
from kyn_models.models.bts_official import SECTION as SECTION
from kyn_models.networks.clip_text import ClipText
from kyn_models.networks.clip_text import config_of as tower_config
from kyn_models.networks.clip_tokenizer import Encoder, tokenize
from kyn_models.origin import LSEG_LICENCE

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
LICENCES = Licences(
    weights=f"not stated, the authors' code without a licence file; {LSEG_LICENCE}",
    data=f"{KITTI360}; LSeg and CLIP inside: those of their authors",
)
"""Of the KITTI-360 model, as far as its authors state them."""


HEAD = 64
"""Channels of an attention head in published vision transformers."""
LINEAR_HEAD = 32
"""Channels of a head of the point network's attention, as published."""


def config_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keys of ``KynConfig`` that these weights determine, heads as published: all but range and LSeg's image size.

    weights: with text features in place of CLIP. Raises ``ValueError`` naming a weight without which nothing can be
    said; what it says of a file with other missing or misshapen weights need not be right.
    """
    image = image_encoder_of(weights, "encoder.vision_encoder.")
    if image.pop("feature_scale"):
        raise ValueError("weights do not fit the model, missing: the finest scales of encoder.vision_encoder.decoder")
    return {
        **image,
        "lseg": lseg_config_of(weights),
        "fused": shape_of(weights, "encoder.fuser.fused_reg.2.weight", 4)[0],
        "hidden": shape_of(weights, MARK, 2)[0],
        "heads": max(1, shape_of(weights, "mlp_coarse.point_attn.w_qs.weight", 2)[0] // LINEAR_HEAD),
        "head_channels": LINEAR_HEAD,
        "label_count": shape_of(weights, TEXT_FEATURES, 2)[0],
        **code_of(weights),
    }


def lseg_config_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keys of ``LSegConfig``; it looks at the ends of the four quarters of its transformer. Raises ``ValueError``."""
    model, scratch = f"{LSEG}pretrained.model.", f"{LSEG}scratch."
    width, _, patch, _ = shape_of(weights, f"{model}patch_embed.proj.weight", 4)
    places = shape_of(weights, f"{model}pos_embed", 3)[1] - 1
    depth = len({name.removeprefix(model).split(".")[1] for name in weights if name.startswith(f"{model}blocks.")})
    return {
        "vit": {
            "width": width,
            "depth": depth,
            "heads": max(1, width // HEAD),
            "patch": patch,
            "size": round(places**0.5) * patch,
        },
        "taps": [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)],
        "stages": [shape_of(weights, f"{scratch}layer{number}_rn.weight", 4)[1] for number in (1, 2, 3, 4)],
        "features": shape_of(weights, f"{scratch}head1.weight", 4)[1],
        "out": shape_of(weights, f"{scratch}head1.weight", 4)[0],
    }


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
    return OfficialWeights(weights, [*found.ignored, f"{CLIP}* (what it says about the labels is kept)"])


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
