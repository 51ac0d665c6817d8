"""A whole training as a configuration file describes it: model, streets, loss, loop; and the artifact it ends in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from kyn_models import __version__
from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Licences, Manifest, write_artifact
from kyn_models.data.street_cache import CacheConfig, StreetCache
from kyn_models.export import export
from kyn_models.field_training import FieldLossConfig, field_loss, make_batch, validate
from kyn_models.models.bts import Bts, BtsConfig
from kyn_models.models.loading import fill, weights_file
from kyn_models.train import BEST, LoopConfig, Trainer


@dataclass(frozen=True)
class TrainConfig:
    """A whole training: model, streets to train and to validate on, loss, loop.

    imagenet: start the encoder from its ImageNet weights. frozen: prefixes of parameters that keep their values.
    """

    model: BtsConfig
    streets: CacheConfig = CacheConfig()
    validation: CacheConfig = CacheConfig(pairs=80, per_street=2, first_seed=900_000, nominal_share=1.0)
    loss: FieldLossConfig = FieldLossConfig()
    loop: LoopConfig = LoopConfig()
    imagenet: bool = True
    frozen: tuple[str, ...] = field(default=())


def make_trainer(
    config: TrainConfig, training: StreetCache, validation: StreetCache, out: Path, device: str = "cpu"
) -> Trainer:
    """The trainer of a configuration, at step 0."""
    torch.manual_seed(config.loop.seed)
    model = Bts(config.model)
    if config.imagenet:
        model.encoder.encoder.load_imagenet()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(config.frozen) if config.frozen else True)
    settings = configuration.to_mapping(config)
    settings["loop"].pop("minutes")
    return Trainer(
        model,
        lambda model, batch, step: field_loss(model, batch, config.loss),
        config.loop,
        lambda step: make_batch(training, config.loss, config.loop.seed, step),
        lambda model: validate(model, validation),
        out,
        settings,
        device,
    )


def write_best(config: TrainConfig, out: Path, source: str) -> Path:
    """The best checkpoint in ``out`` as ``out/artifact``, exported and checked; returns that folder.

    Matrices are rounded to float16 once, so that torch and ONNX read the same numbers. source: name of the recipe.
    """
    saved = torch.load(out / BEST, map_location="cpu", weights_only=True)
    model = Bts(config.model)
    fill(model, saved["averaged"], str(out / BEST))
    manifest = Manifest(
        family="bts",
        config=configuration.to_mapping(config.model),
        z_near=config.model.z_near,
        z_far=config.model.z_far,
        licences=Licences(
            weights="Apache-2.0",
            data="synthetic streets of this package; encoder started from ImageNet weights (Apache-2.0)",
        ),
        provenance={
            "recipe": source,
            "kyn": __version__,
            "seed": config.loop.seed,
            "step": saved["step"],
            "validation score": round(saved["best"], 4),
        },
    )
    artifact = write_artifact(out / "artifact", manifest, {WEIGHTS: weights_file(model, half=True)})
    _, agreements = export(artifact.path)
    for agreement in agreements:
        print(f"{agreement.runtime}: density within {agreement.density:.1e}, depth within {agreement.depth_m:.1e} m")
    return artifact.path
