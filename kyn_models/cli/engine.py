"""``kyn engine build|list|clean``: the TensorRT engines that this user built on this machine."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np

from kyn_models.artifact import ENGINES, Artifact, default_artifact
from kyn_models.runtimes.cuda_device import gpu_count
from kyn_models.runtimes.engine_cache import EngineCache, Entry
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.types import VoxelGridSpec

DEFAULT_RAYS = (96, 320)
DAY_S = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="build|list|clean", required=True)
    build = verbs.add_parser("build", help="build the engine that the perception node will look for")
    build.add_argument(
        "model", type=Path, nargs="?", default=default_artifact(), help="artifact (else the shipped one)"
    )
    build.add_argument("--precision", choices=("auto", *ENGINES), default="auto", help="else auto, which is float16")
    build.add_argument(
        "--rays", type=int, nargs=2, default=DEFAULT_RAYS, metavar=("ROWS", "COLUMNS"), help="depth_rays of the node"
    )
    build.add_argument("--points", type=int, metavar="N", help="cells of the node's grid (else of the default grid)")
    verbs.add_parser("list", help="what is built")
    clean = verbs.add_parser("clean", help="remove engines, which are built again where they are needed")
    clean.add_argument("--older-than", type=float, metavar="DAYS", help="only engines that were built before that")


def run(args: argparse.Namespace) -> int:
    cache = EngineCache(print, print)
    if args.verb == "build":
        return _build(args)
    entries = cache.entries()
    if args.verb == "list":
        for entry in entries:
            print(_line(entry))
        print(f"{len(entries)} engines in {cache.root}")
        return 0
    oldest_s = time.time() - DAY_S * _days(args.older_than)
    going = [entry for entry in entries if entry.built_s <= oldest_s]
    for entry in going:
        cache.remove(entry)
    print(f"removed {len(going)} of {len(entries)} engines in {cache.root}")
    return 0


def _build(args: argparse.Namespace) -> int:
    points = int(np.prod(VoxelGridSpec().shape)) if args.points is None else args.points
    if min(*args.rays, points) < 1:
        raise ValueError(f"--rays, --points: got {args.rays[0]} {args.rays[1]} and {points}, expected all at least 1")
    artifact = Artifact.load(args.model)
    if gpu_count() == 0:
        raise ValueError("no NVIDIA GPU found here by its driver (libcuda.so.1); build the engine where it will run")
    from kyn_models.runtimes.tensorrt_library import find_library
    from kyn_models.runtimes.tensorrt_runtime import open_engine

    library = find_library()
    print(f"{artifact.name}, {library.title}")
    options = LoadOptions("cuda", args.precision, args.rays[0] * args.rays[1], points, print)
    try:
        _, precision, sizes, cuda = open_engine(artifact, options, library)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    device = cuda.device()
    print(f"the engine is there: {precision}, {sizes.rays} rays, {sizes.points} points, for {device.name}")
    return 0


def _days(days: float | None) -> float:
    if days is not None and not (math.isfinite(days) and days >= 0):
        raise ValueError(f"--older-than: got {days:g} days, expected 0 or more")
    return days or 0.0


def _line(entry: Entry) -> str:
    """One engine, for people."""
    age, size = (time.time() - entry.built_s) / DAY_S, entry.size_bytes / 1e6
    known = entry.built_for
    if not known:
        return f"{entry.folder.name[:8]}  {size:8.1f} MB  {age:5.1f} days  its description is damaged"
    what = (
        f"{known['product']} {known['version']}  {known['gpu']} ({known['compute_capability']})  {known['precision']}"
    )
    return f"{entry.folder.name[:8]}  {size:8.1f} MB  {age:5.1f} days  {what}  {known['shapes']}"
