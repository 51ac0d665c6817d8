"""``kyn eval depth --layout kitti_raw --split FILE``: the published KITTI raw protocol, as table and CSV."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from kyn_models import published_depth, ranks
from kyn_models.artifact import Artifact
from kyn_models.cli.eval import (
    Chosen,
    Samples,
    chosen,
    first_camera,
    frames_said,
    load_model,
    numbers,
    print_table,
    require_no_runtime,
    same_kind,
    say_left_out,
    scored,
    torch_device,
    write_csv,
)
from kyn_models.cli.left_out import counted
from kyn_models.data.kitti_raw import KittiRaw
from kyn_models.data.kitti_raw_split import KittiRawSplit
from kyn_models.evaluate import DepthModel, mean_depth
from kyn_models.metrics import DepthScores
from kyn_models.models import FRAME_FAMILIES
from kyn_models.predictors import require_density
from kyn_models.published_depth import Crop, PublishedRow, Scaling
from kyn_models.types import Float32Array, Sample

SCALINGS: dict[str, tuple[Scaling, ...]] = {"both": ("none", "median"), "off": ("none",), "only": ("median",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the published protocol; each of them chooses it where no split does."""
    group = parser.add_argument_group("published KITTI raw protocol (the default with --layout kitti_raw --split)")
    group.add_argument("--crop", choices=("garg", "none"), help="part of the image that counts (else garg)")
    group.add_argument(
        "--median-scaling",
        choices=tuple(SCALINGS),
        help="print scores without and with it, or one of the two (else both)",
    )
    group.add_argument(
        "--rays",
        choices=("auto", "published", "runtime"),
        default="auto",
        help="published: whole image resized, rays of the paper's evaluator, needs torch; runtime: what a robot gets, "
        "image warped to the training camera (else auto: published for models trained on such images)",
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for this protocol. Raises ``ValueError`` for its options with another layout."""
    options = {"--crop": args.crop, "--median-scaling": args.median_scaling}
    given = [name for name, value in options.items() if value] + (["--rays"] if args.rays != "auto" else [])
    if args.layout == "kitti_raw":
        return bool(args.split or given)
    if given:
        raise ValueError(f"{given[0]}: got it with layout {args.layout}, expected --layout kitti_raw")
    return False


def run(args: argparse.Namespace) -> int:
    """Print one row per scaling."""
    frames, missing = _frames(args)
    model, name, whole = _model(args, frames)
    crop: Crop = args.crop or "garg"
    scalings = SCALINGS[args.median_scaling or "both"]

    def read(index: int) -> tuple[Sample, Float32Array, Sample | None]:
        other = frames[(index + len(frames) // 2) % len(frames)] if args.other_images else None
        return frames[index], frames.published_depth(index), other

    def score(item: tuple[Sample, Float32Array, Sample | None]) -> list[PublishedRow]:
        sample, truth, shown = item
        return published_depth.published_rows(model, sample, truth, crop, scalings, whole, shown)

    rows, damaged = scored(len(frames), read, score, args.strict)
    if ranks.first():
        _say(args, rows, crop, scalings, name, missing, damaged)
    return 0


def _say(
    args: argparse.Namespace,
    rows: Sequence[PublishedRow],
    crop: Crop,
    scalings: Sequence[Scaling],
    name: str,
    missing: Sequence[str],
    damaged: Sequence[str],
) -> None:
    source = args.split.name if args.split else args.data.name
    frames = len(rows) // len(scalings)
    print(f"depth, {counted(frames)} of {source}, published KITTI raw protocol: truth from the frame's scan,")
    print(f"{'Garg crop' if crop == 'garg' else 'no crop'}, below 80 m, predictions limited to 1 mm .. 80 m")
    say_left_out(missing, damaged)
    _print(rows, scalings, name + (", images of other frames" if args.other_images else ""))
    if args.csv:
        header = ["frame", "scaling", "factor", *DepthScores._fields, "outside"]
        write_csv(args.csv, header, ([row.frame, row.scaling, row.factor, *row.scores, row.outside] for row in rows))


def _print(rows: Sequence[PublishedRow], scalings: Sequence[Scaling], name: str) -> None:
    columns = [*DepthScores._fields[:7], "factor", "pixels", "Inf/NaN", "outside", "NaN frames"]
    table = []
    for scaling in scalings:
        of_scaling = [row for row in rows if row.scaling == scaling]
        mean, nothing = mean_depth(of_scaling)
        factors = np.array([row.factor for row in of_scaling if row.scores.pixels])
        factor = f"{factors.mean():.3f}" if factors.size else "nan"
        counts = map(str, (mean.pixels, mean.capped, sum(row.outside for row in of_scaling), nothing))
        label = "scaled by the median" if scaling == "median" else "as it is"
        table.append((label, [*numbers(mean[:7]), factor, *counts]))
    print(name)
    print_table(columns, table)
    print("sq_rel and rmse in metres; factor: mean of the medians' ratio; Inf/NaN: predictions scored as 80 m;")
    print("outside: pixels that the model's image does not show, left out; NaN frames: without a pixel of truth")


def _model(args: argparse.Namespace, frames: Samples) -> tuple[DepthModel, str, bool]:
    """The model, how to call it, and whether its depth is of the whole image."""
    prior = args.model.suffix == ".npz"
    if prior and args.rays == "published":
        raise ValueError(f"--rays: got published for the prior {args.model}, expected runtime: it renders no rays")
    if not prior and args.rays != "runtime":
        artifact = Artifact.load(args.model)
        if args.rays == "published":
            require_density(artifact, "--rays published")
        renders = artifact.manifest.family not in FRAME_FAMILIES
        if args.rays == "published" or (renders and same_kind(artifact.manifest.camera.source, first_camera(frames))):
            from kyn_models.published_rays import PublishedRays

            require_no_runtime(args, "--rays runtime")
            rays = PublishedRays(artifact, torch_device())
            return rays, f"{artifact.name}, image resized to {rays.width}x{rays.height}, rays as published", True
    model, name = load_model(args.model, args.runtime, args.precision)
    if not prior:
        name += f"{frames_said(model, False)}, image warped to the training camera"
    return model, name, False


class _Chosen(Chosen):
    """Some of the frames, with the truth of the published protocol."""

    def __init__(self, frames: KittiRawSplit | KittiRaw, indices: Sequence[int]) -> None:
        super().__init__(frames, indices)
        self._frames = frames

    def published_depth(self, index: int) -> Float32Array:
        return self._frames.published_depth(self._indices[index])


def _frames(args: argparse.Namespace) -> tuple[_Chosen, tuple[str, ...]]:
    """The chosen frames, and a sentence for every split line that is left out."""
    frames: KittiRawSplit | KittiRaw
    if args.split:
        frames = KittiRawSplit(args.data, args.split, strict=args.strict)
        named, missing = [(line.drive, line.frame) for line in frames.lines], frames.missing
    else:
        frames = KittiRaw(args.data, args.drive)
        named, missing = [(args.drive or frames.drive, frame) for frame in frames.frames], ()
    return _Chosen(frames, chosen(args, named)), missing
