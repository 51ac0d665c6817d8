"""``kyn engine``: build TensorRT engines before they are needed, see which there are, remove them.

What lies beside them in the cache is listed and removed too: the models of ``kyn bench --seeded``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kyn_models import runtimes
from kyn_models.artifact import Artifact, default_artifact
from kyn_models.cache import CachedModel, cache_root, cached_models, remove_model
from kyn_models.cli.left_out import counted
from kyn_models.models import FRAME_FAMILIES
from kyn_models.runtimes.engine_cache import Entry, entries, remove
from kyn_models.runtimes.frames import choose_frames
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.types import VoxelGridSpec

DAY_S = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = _action(actions, "build", "build the engine of a model for this GPU, and test it")
    build.add_argument(
        "model", type=Path, nargs="?", default=default_artifact(), help="model artifact (else the shipped one)"
    )
    build.add_argument("--precision", default="auto", help="of convolutions: float16 or float32 (else auto: float16)")
    build.add_argument(
        "--rays",
        type=int,
        nargs=2,
        default=(96, 320),
        metavar=("ROWS", "COLUMNS"),
        help="as depth_rays of the node (else 96 320)",
    )
    build.add_argument("--points", type=int, metavar="N", help="cells of the grid (else as the node's default grid)")
    _action(actions, "list", "list what is in the cache, the newest first: engines, and models of kyn bench --seeded")
    clean = _action(actions, "clean", "remove engines, and models of kyn bench --seeded, from the cache")
    which = clean.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="all of them")
    which.add_argument("--older-than", type=float, metavar="DAYS", help="those made more than DAYS days ago")


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return parser


def run(args: argparse.Namespace) -> int:
    return {"build": _build, "list": _list, "clean": _clean}[args.action](args)


def _build(args: argparse.Namespace) -> int:
    points = math.prod(VoxelGridSpec().shape) if args.points is None else args.points
    for name, value in (("--rays", min(args.rays)), ("--points", points)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected a number above 0")
    artifact = Artifact.load(args.model)

    def say(text: str) -> None:
        print(f"  {text}", flush=True)

    options = LoadOptions(precision=args.precision, rays=math.prod(args.rays), points=points, say=say)
    print(f"{artifact.name}:", flush=True)
    choose = choose_frames if artifact.manifest.family in FRAME_FAMILIES else runtimes.choose
    runtime = choose("tensorrt", artifact, options=options)
    print(f"  ready in {runtime.precision} with {runtime.library}, self-test passed")
    return 0


def _list(args: argparse.Namespace) -> int:
    found = entries()
    for entry in found:
        facts = {
            name: entry.facts.get(name, "?") for name in ("product", "version", "gpu", "precision", "rays", "points")
        }
        frames = entry.facts.get("neighbours")
        asked = f"{facts['rays']} rays, {facts['points']} points" if frames is None else f"{frames} neighbours"
        print(
            f"{entry.folder.name[:12]}  {facts['product']} {facts['version']}  {facts['gpu']}  {facts['precision']}  "
            f"{asked}  {entry.nbytes / 1e6:.1f} MB  "
            f"{(time.time() - entry.built_s) / DAY_S:.1f} days old"
        )
    models = cached_models()
    for model in models:
        days = (time.time() - model.made_s) / DAY_S
        print(f"{model.folder.name}  model of `kyn bench --seeded`  {model.nbytes / 1e6:.1f} MB  {days:.1f} days old")
    print(f"{_summed(found, models)}, in {cache_root()}")
    return 0


def _clean(args: argparse.Namespace) -> int:
    if not args.all and not args.older_than >= 0:
        raise ValueError(f"--older-than: got {args.older_than}, expected a number of days, 0 or above")

    def chosen(made_s: float) -> bool:
        return args.all or time.time() - made_s > args.older_than * DAY_S

    engines = [entry for entry in entries() if chosen(entry.built_s)]
    models = [model for model in cached_models() if chosen(model.made_s)]
    for entry in engines:
        remove(entry, print)
    for model in models:
        remove_model(model)
    print(f"removed {_summed(engines, models)}, from {cache_root()}")
    return 0


def _summed(engines: Sequence[Entry], models: Sequence[CachedModel]) -> str:
    """How many there are and what they take; models only where there are some."""
    text = f"{counted(len(engines), 'engine')}, {sum(entry.nbytes for entry in engines) / 1e6:.1f} MB"
    if models:
        size_mb = sum(model.nbytes for model in models) / 1e6
        text += f", and {counted(len(models), 'model')} of `kyn bench --seeded`, {size_mb:.1f} MB"
    return text
