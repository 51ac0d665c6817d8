"""``kyn train``: a configuration file to a model artifact. Stops and goes on where it stopped."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from kyn_models import __version__
from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Licences, Manifest, write_artifact
from kyn_models.data.street_cache import CacheConfig, StreetCache, build
from kyn_models.field_training import FieldLossConfig, field_loss, make_batch, validate
from kyn_models.models.bts import Bts, BtsConfig
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file, such as config/train/bts_streets_lite0.yaml")
    parser.add_argument("out", type=Path, help="folder for checkpoints, curves and the artifact")
    parser.add_argument("--streets", type=Path, metavar="DIR", help="folder of the rendered streets (else OUT/streets)")
    parser.add_argument("--minutes", type=float, help="stop after so long, resumable (else as configured)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (else cpu)")


def run(args: argparse.Namespace) -> int:
    config = configuration.load_yaml(TrainConfig, args.config)
    if args.minutes is not None:
        config = replace(config, loop=replace(config.loop, minutes=args.minutes))
    import torch

    # Light that hardly passes gives denormal numbers, which made a step three times slower on a CPU.
    torch.set_flush_denormal(True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = args.streets or args.out / "streets"
    validation = _streets(folder / "validation", config.validation)
    training = _streets(folder / "training", config.streets)
    trainer = make_trainer(config, training, validation, args.out, args.device)
    if trainer.resume():
        print(f"going on from step {trainer.state.step}")
    if not trainer.run():
        print(f"not finished: the same command goes on from step {trainer.state.step}")
        return 1
    path = write_best(config, args.out, args.config.name)
    print(f"best model: {path}, validation score {trainer.state.best:.4f}")
    return 0


def make_trainer(
    config: TrainConfig, training: StreetCache, validation: StreetCache, out: Path, device: str = "cpu"
) -> Trainer:
    """The trainer of a configuration, at step 0."""
    import torch

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
    import torch

    from kyn_models.export import export
    from kyn_models.models.loading import fill, weights_file

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


def _streets(path: Path, config: CacheConfig) -> StreetCache:
    from tqdm import tqdm

    with tqdm(total=config.pairs, desc=f"streets in {path}", unit="pair", mininterval=5) as bar:
        return build(path, config, lambda done: bar.update(done - bar.n))
