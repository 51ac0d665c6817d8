"""``kyn import``: an official checkpoint to a model artifact. The file is read, never run."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kyn_models import config as configuration
from kyn_models.artifact import WEIGHTS, Licences, Manifest, TrainingCamera, sha256, write_artifact
from kyn_models.cli import export
from kyn_models.labels import read_labels

if TYPE_CHECKING:
    from kyn_models.checkpoints import OfficialWeights

OFFICIAL = {family: f"kyn_models.models.{family}_official" for family in ("bts", "dymultidepth", "kyn")}
"""Modules on how the authors save each family: ``SECTION``, ``PREFIXES``, ``MARK``, ``config_of``, and what is known of
the published model: ``LICENCES``, ``CAMERA``, ``INPUT``."""


@dataclass(frozen=True)
class ImportConfig:
    """What a checkpoint does not say about itself.

    model: the family's configuration, as far as the shapes of the weights do not tell it. camera: what it was trained
    with. licences: of weights and data. None for what is known of the authors' KITTI-360 models, for dymultidepth of
    those of KITTI odometry.
    """

    model: dict[str, Any] = field(default_factory=dict)
    camera: TrainingCamera | None = None
    licences: Licences | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", choices=sorted(OFFICIAL), help="the system that the checkpoint is of")
    parser.add_argument("checkpoint", type=Path, help="file that the authors published (.pt, .pth)")
    parser.add_argument("out", type=Path, help="folder for the artifact, new or empty")
    parser.add_argument("--config", type=Path, metavar="YAML", help="model, camera and licences (else those published)")
    parser.add_argument(
        "--lseg", type=Path, metavar="FILE", help="kyn: demo_e200.ckpt, where the checkpoint lacks LSeg"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE|WORDS",
        help="kyn: the classes, one a line, or as road,car,person (needed)",
    )
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="kyn: CLIP's vocabulary (else that of the labels extra)"
    )
    parser.add_argument("--half", action="store_true", help="store float16: half the size, rounded once")
    parser.add_argument("--no-export", action="store_true", help="weights alone, for torch; `kyn export` adds the rest")


def run(args: argparse.Namespace) -> int:
    if not args.checkpoint.is_file():
        raise FileNotFoundError(f"{args.checkpoint}: no such file, expected an official checkpoint")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"{args.out}: is there already and not an empty folder; name a new one")
    labels = labels_of(args)
    config = configuration.load_yaml(ImportConfig, args.config) if args.config else ImportConfig()
    found, sources = read_weights(args, labels)
    model = filled_model(args, config, found.weights)
    count = len(found.weights)
    found.weights.clear()  # the model has its own: two copies of the largest one are enough
    if not args.no_export:
        model.exportable()  # nothing is written where this refuses
    from kyn_models.models.loading import weights_file

    form = form_of(args.family)
    artifact = write_artifact(
        args.out,
        Manifest(
            family=args.family,
            config=configuration.to_mapping(model.config),
            camera=config.camera or form.CAMERA,
            z_near=model.config.z_near,
            z_far=model.config.z_far,
            input=form.INPUT,
            labels=labels,
            licences=config.licences or form.LICENCES,
            provenance=provenance(sources),
        ),
        {WEIGHTS: weights_file(model, args.half)},
    )
    for name in found.ignored:
        print(f"  ignored, outside the model: {name}")
    print(f"{count} weights, all of the model's ({model.config.encoder}); wrote {artifact.path}")
    if args.no_export:
        print(f"torch runs it; for the other runtimes: kyn export {artifact.path}")
        return 0
    return export.run(argparse.Namespace(artifact=artifact.path))


def labels_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The classes of a family that has them, empty for others. Raises ``ValueError`` for options of another family."""
    if args.family == "kyn":
        if args.labels is None:
            raise ValueError(
                "--labels: got none, expected the classes as a file with one a line, or as words: --labels "
                "road,car,person (the published ones are the authors' outdoor_labels.txt)"
            )
        return read_labels(args.labels)
    for name in ("lseg", "labels", "vocabulary"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name}: got {getattr(args, name)}, expected it for kyn only, not for {args.family}")
    return ()


def read_weights(args: argparse.Namespace, labels: tuple[str, ...]) -> tuple[OfficialWeights, list[Path]]:
    """What the file holds, for kyn with LSeg and with text features in place of CLIP; and the files it was read from.

    Raises ``ValueError`` for a checkpoint of another system, ``ImportError`` without a vocabulary.
    """
    from kyn_models.checkpoints import official_weights
    from kyn_models.networks.clip_tokenizer import tokenizer

    encode = tokenizer(args.vocabulary) if args.family == "kyn" else None
    form = form_of(args.family)
    print(f"reading {args.checkpoint} ({args.checkpoint.stat().st_size / 1e6:.0f} MB)", flush=True)
    try:
        found = official_weights(args.checkpoint, form.SECTION, form.PREFIXES)
    except ValueError:
        refuse_other_families(args)
        raise
    if form.MARK not in found.weights:
        refuse_other_families(args)
    if encode is None:
        return found, [args.checkpoint]
    sources = [args.checkpoint] if form.holds_lseg(found) or args.lseg is None else [args.checkpoint, args.lseg]
    found = form.with_lseg(found, args.checkpoint, args.lseg)
    print(f"asking CLIP's text tower about {len(labels)} labels", flush=True)
    return form.with_text_features(found, labels, encode, sources[-1]), sources


def refuse_other_families(args: argparse.Namespace) -> None:
    """Raises ``ValueError`` where the checkpoint is one of another family than it is said to be."""
    from kyn_models.checkpoints import official_weights

    for family in sorted(OFFICIAL.keys() - {args.family}):
        form = form_of(family)
        try:
            weights = official_weights(args.checkpoint, form.SECTION, form.PREFIXES).weights
        except ValueError:
            continue
        if form.MARK in weights:
            raise ValueError(
                f"{args.checkpoint}: is a checkpoint of {family}, expected one of {args.family}; "
                f"use kyn import {family}"
            )


def form_of(family: str) -> Any:
    """The module of ``OFFICIAL``."""
    return importlib.import_module(OFFICIAL[family])


def provenance(sources: list[Path]) -> dict[str, str]:
    """The files that the weights come from."""
    named = {"imported from": sources[0].name, "sha256": sha256(sources[0])}
    for second in sources[1:]:
        named |= {"LSeg from": second.name, "sha256 of LSeg": sha256(second)}
    return named


def filled_model(args: argparse.Namespace, config: ImportConfig, weights: dict[str, Any]) -> Any:
    """The model that these weights are of, holding them.

    ``--config`` overrules what the shapes say. Raises ``ValueError`` for weights that are missing, extra or misshapen,
    or whose constants are not those of the configuration.
    """
    from kyn_models.models.loading import fill, make_model

    try:
        options = form_of(args.family).config_of(weights)
    except ValueError as error:
        raise ValueError(f"{args.checkpoint}: {error}") from error
    model: Any = make_model(args.family, merged(options, config.model), str(args.config or args.checkpoint))
    code = getattr(model, "code_xyz", None)  # depth networks ask about pixels, not about points
    buffers = dict(code.named_buffers(prefix="code_xyz")) if code is not None else {}
    constants = {name: value.clone() for name, value in buffers.items()}
    fill(model, weights, str(args.checkpoint))
    for name, value in buffers.items():
        if not value.allclose(constants[name]):
            raise ValueError(
                f"{args.checkpoint}: {name} differs from what frequencies and frequency_factor give, expected the "
                "published code; its values are another positional code"
            )
    return model


def merged(told: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``told`` overruled by ``given``, also inside nested keys."""
    nested = {
        key: merged(told[key], value)
        for key, value in given.items()
        if isinstance(value, dict) and isinstance(told.get(key), dict)
    }
    return {**told, **given, **nested}
