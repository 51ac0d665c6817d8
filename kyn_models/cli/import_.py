"""``kyn import``: an official checkpoint to a model artifact. The file is read, never run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Licences, Manifest, TrainingCamera, sha256, write_artifact
from kyn_models.cli import export
from kyn_models.models import bts_official

OFFICIAL = {"bts": bts_official}
"""How the authors save each family: ``SECTION``, ``PREFIXES``, ``config_of(weights)``."""


@dataclass(frozen=True)
class ImportConfig:
    """What a checkpoint does not say about itself; the defaults are those of the authors' KITTI-360 models.

    model: the family's configuration, as far as the shapes of the weights do not tell it. camera: what it was trained
    with. licences: of code, weights and data.
    """

    model: dict[str, Any] = field(default_factory=dict)
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
    parser.add_argument("--half", action="store_true", help="store float16: half the size, rounded once")
    parser.add_argument("--no-export", action="store_true", help="weights alone, for torch; `kyn export` adds the rest")


def run(args: argparse.Namespace) -> int:
    if not args.checkpoint.is_file():
        raise FileNotFoundError(f"{args.checkpoint}: no such file, expected an official checkpoint")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"{args.out}: is there already and not an empty folder; name a new one")
    config = configuration.load_yaml(ImportConfig, args.config) if args.config else ImportConfig()
    from kyn_models.checkpoints import official_weights
    from kyn_models.models.loading import weights_file

    form = OFFICIAL[args.family]
    print(f"reading {args.checkpoint} ({args.checkpoint.stat().st_size / 1e6:.0f} MB)", flush=True)
    found = official_weights(args.checkpoint, form.SECTION, form.PREFIXES)
    model = filled_model(args, config, found.weights)
    if not args.no_export:
        model.exportable()  # nothing is written where this refuses
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
        {WEIGHTS: weights_file(model, args.half)},
    )
    for name in found.ignored:
        print(f"  ignored, outside the model: {name}")
    print(f"{len(found.weights)} weights, all of the model's ({model.config.encoder}); wrote {artifact.path}")
    if args.no_export:
        print(f"torch runs it; for the other runtimes: kyn export {artifact.path}")
        return 0
    return export.run(argparse.Namespace(artifact=artifact.path))


def filled_model(args: argparse.Namespace, config: ImportConfig, weights: dict[str, Any]) -> Any:
    """The model that these weights are of, holding them.

    ``--config`` overrules what the shapes say. Raises ``ValueError`` for weights that are missing, extra or misshapen,
    or whose constants are not those of the configuration.
    """
    from kyn_models.models.loading import fill, make_model

    try:
        options = OFFICIAL[args.family].config_of(weights) | config.model
    except ValueError as error:
        raise ValueError(f"{args.checkpoint}: {error}") from error
    model: Any = make_model(args.family, options, str(args.config or args.checkpoint))
    constants = {name: value.clone() for name, value in model.code_xyz.named_buffers(prefix="code_xyz")}
    fill(model, weights, str(args.checkpoint))
    for name, value in model.code_xyz.named_buffers(prefix="code_xyz"):
        if not value.allclose(constants[name]):
            raise ValueError(
                f"{args.checkpoint}: {name} differs from what frequencies and frequency_factor give, expected the "
                "published code; its values are another positional code"
            )
    return model
