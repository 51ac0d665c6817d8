"""``kyn train``: a configuration file to a model artifact. Stops and goes on where it stopped."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kyn_models import config as configuration

if TYPE_CHECKING:
    from kyn_models.data.street_cache import CacheConfig, StreetCache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file, such as config/train/bts_streets_lite0.yaml")
    parser.add_argument("out", type=Path, help="folder for checkpoints, curves and the artifact")
    parser.add_argument("--streets", type=Path, metavar="DIR", help="folder of the rendered streets (else OUT/streets)")
    parser.add_argument("--minutes", type=float, help="stop after so long, resumable (else as configured)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (else cpu)")


def run(args: argparse.Namespace) -> int:
    import torch

    from kyn_models import recipe

    config = configuration.load_yaml(recipe.TrainConfig, args.config)
    if args.minutes is not None:
        config = replace(config, loop=replace(config.loop, minutes=args.minutes))
    # Light that hardly passes gives denormal numbers, which made a step three times slower on a CPU.
    torch.set_flush_denormal(True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = args.streets or args.out / "streets"
    validation = _streets(folder / "validation", config.validation)
    training = _streets(folder / "training", config.streets)
    trainer = recipe.make_trainer(config, training, validation, args.out, args.device)
    if trainer.resume():
        print(f"going on from step {trainer.state.step}")
    if not trainer.run():
        print(f"not finished: the same command goes on from step {trainer.state.step}")
        return 1
    path = recipe.write_best(config, args.out, args.config.name)
    print(f"best model: {path}, validation score {trainer.state.best:.4f}")
    return 0


def _streets(path: Path, config: CacheConfig) -> StreetCache:
    from tqdm import tqdm

    from kyn_models.data.street_cache import build

    with tqdm(total=config.pairs, desc=f"streets in {path}", unit="pair", mininterval=5) as bar:
        return build(path, config, lambda done: bar.update(done - bar.n))
