"""``kyn import``: an official checkpoint to a model artifact. The file is read, never run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Licences, Manifest, TrainingCamera, sha256, write_artifact
from kyn_models.models import FAMILIES


@dataclass(frozen=True)
class OfficialForm:
    """How the authors save a family: the key of the state dict in the file, the prefixes of the model's names."""

    section: str
    prefixes: tuple[str, ...]


OFFICIAL = {"bts": OfficialForm("model", ("renderer.net.", "module.renderer.net."))}


@dataclass(frozen=True)
class ImportConfig:
    """What a checkpoint does not say about itself; the defaults are those of the authors' KITTI-360 models.

    model: the family's configuration. camera: what it was trained with. licences: of code, weights and data.
    """

    model: dict[str, Any]
    camera: TrainingCamera = TrainingCamera()
    licences: Licences = Licences(
        weights="see the authors' repository", data="KITTI-360, CC BY-NC-SA 3.0 (not for commercial use)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", choices=sorted(OFFICIAL), help="the system that the checkpoint is of")
    parser.add_argument("checkpoint", type=Path, help="file that the authors published (.pt, .pth)")
    parser.add_argument("out", type=Path, help="folder for the artifact, new or empty")
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="model, camera and licences if not those of the KITTI-360 models"
    )


def run(args: argparse.Namespace) -> int:
    if not args.checkpoint.is_file():
        raise FileNotFoundError(f"{args.checkpoint}: no such file, expected an official checkpoint")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"{args.out}: is there already and not an empty folder; name a new one")
    config = configuration.load_yaml(ImportConfig, args.config) if args.config else ImportConfig({})
    source = str(args.config or FAMILIES[args.family][1])
    from kyn_models.checkpoints import official_weights
    from kyn_models.models.loading import fill, make_model, weights_file

    model: Any = make_model(args.family, config.model, source)
    form = OFFICIAL[args.family]
    print(f"reading {args.checkpoint} ({args.checkpoint.stat().st_size / 1e6:.0f} MB)", flush=True)
    found = official_weights(args.checkpoint, form.section, form.prefixes)
    constants = {name: value.clone() for name, value in model.code_xyz.named_buffers(prefix="code_xyz")}
    fill(model, found.weights, str(args.checkpoint))
    for name, value in model.code_xyz.named_buffers(prefix="code_xyz"):
        if not value.allclose(constants[name]):
            raise ValueError(
                f"{args.checkpoint}: {name} differs from the configuration in {source}; "
                "give frequencies and frequency_factor of this checkpoint with --config"
            )
    artifact = write_artifact(
        args.out,
        Manifest(
            family=args.family,
            config=configuration.to_mapping(model.config),
            camera=config.camera,
            z_near=model.config.z_near,
            z_far=model.config.z_far,
            licences=config.licences,
            provenance={"imported from": args.checkpoint.name, "sha256": sha256(args.checkpoint)},
        ),
        {WEIGHTS: weights_file(model)},
    )
    for name in found.ignored:
        print(f"  ignored, outside the model: {name}")
    print(f"{len(found.weights)} weights, all of the model's; wrote {artifact.path}")
    print(f"next: kyn export {artifact.path}")
    return 0
