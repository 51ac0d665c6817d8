"""What the artifact of a training says about itself: where its weights come from, what they were taught. numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kyn_models.artifact import BRANCHES, Artifact, Branch, Licences

if TYPE_CHECKING:
    from kyn_models.train_config import TrainConfig

STREETS = "synthetic streets of this package"
LSEG_LICENCE = "LSeg and CLIP's text features inside: weights not stated, the authors' code MIT"
"""What every ``kyn`` model holds from others."""


def source_of(layout: str) -> str:
    """The data of self-supervised training as a sentence's end. layout: that of ``DataConfig``."""
    data = STREETS if layout == "streets" else f"frames in the layout {layout}"
    return f"{data}, from images and poses alone"


def licences_of(config: TrainConfig, encoder: str, source: str) -> Licences:
    """Licences of what a configuration trains: Apache-2.0 from our streets, else that of the data, with its start.

    encoder: name of the image network. source: of the data. Raises as ``Artifact.load`` for ``start_from``.
    """
    data_config = config.frames or config.data
    ours = data_config is None or data_config.layout == "streets"
    weights, data = ["Apache-2.0" if ours else "that of the data"], [source]
    if config.start_from:
        start = Artifact.load(config.start_from)
        given = start.manifest.licences
        data.append(f"started from {start.name} (data: {given.data})")
        if given.weights not in weights:
            weights.append(f"of {start.name}, which it started from: {given.weights}")
    else:
        if config.imagenet:
            licence = "BSD-3-Clause, torchvision" if encoder.startswith("resnet") else "Apache-2.0"
            data.append(f"encoder started from ImageNet weights ({licence})")
        if config.lseg:
            weights.append(LSEG_LICENCE)
            data.append("LSeg and CLIP inside: those of their authors")
    return Licences(weights="; ".join(weights), data="; ".join(data))


def start_of(config: TrainConfig) -> dict[str, Any]:
    """Entries of the provenance about the artifact that a training started from; none without one."""
    if not config.start_from:
        return {}
    start = Artifact.load(config.start_from)
    return {"started from": start.name, "hash of the start": start.hash}


def branches_of(config: TrainConfig) -> tuple[Branch, ...]:
    """Answers that a model of several frames was taught, by its start too; none for other families."""
    if config.frames is None:
        return ()
    taught = set(config.depth_loss.branches)
    if config.start_from:
        taught |= set(Artifact.load(config.start_from).manifest.branches or BRANCHES)
    return tuple(branch for branch in BRANCHES if branch in taught)
