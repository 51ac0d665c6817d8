"""``kyn bench``: time, memory and accuracy of every runtime on the node's own path, and how far from the machine's."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from kyn_models.artifact import Artifact
from kyn_models.benchmark import comparison, floor
from kyn_models.benchmark.case import PLAIN, Case
from kyn_models.benchmark.images import BenchmarkImages, add_image_arguments, load_images
from kyn_models.benchmark.laboratory import ONE_MILLION, Laboratory, grid_in_view, measure_all
from kyn_models.benchmark.record import check_output, hardware, in_words, write_json
from kyn_models.cli.eval import print_table
from kyn_models.cli.model_options import add_model
from kyn_models.models import FRAME_FAMILIES
from kyn_models.predictor import check_family
from kyn_models.runtimes import RUNTIMES
from kyn_models.runtimes.queries import PRECISIONS, Precision
from kyn_models.types import VoxelGridSpec

FRAMES = "dymultidepth_"
SEEDED_RAYS = (192, 640)
DEFAULT_RAYS = (96, 320)
DEFAULT_REPEAT = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time, memory and accuracy of every runtime on the path of the node: the same predictor, artifact and outputs, "
        "each runtime in a process of its own, on at least 3 images in turn. Ratios are to the float32 encoder of the "
        "same run; the plain path is the torch model without any rewrite; the floor is what has to be computed and "
        "moved over what the machine measurably can, so nothing gets below 1 in float32."
    )
    model = parser.add_mutually_exclusive_group()
    add_model(model)
    model.add_argument(
        "--seeded",
        choices=("resnet50", "kyn", f"{FRAMES}resnet18", f"{FRAMES}efficientnet_b5"),
        help="instead: bts with this encoder, kyn or dymultidepth, as published, weights that follow from their names "
        "(they mean nothing), 192x640 rays (kyn: 96x320), 1,048,576 voxels in view; kept in the cache until "
        "`kyn engine clean` removes it",
    )
    add_image_arguments(parser)
    parser.add_argument("--runtime", nargs="+", choices=tuple(RUNTIMES), help="else all that work here")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS[1:], help="else all that the runtime has")
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument("--voxels", type=int, metavar="N", help="a grid of about N cells, all in view")
    grid.add_argument(
        "--grid",
        type=float,
        nargs=7,
        metavar=("X0", "X1", "Y0", "Y1", "Z0", "Z1", "CELL"),
        help="the voxel grid in metres (else the node's)",
    )
    parser.add_argument("--depth-rays", type=int, nargs=2, metavar=("R", "C"), help="rows and columns (else 96 320)")
    parser.add_argument("--repeat", type=int, default=DEFAULT_REPEAT, help="how often each image is answered (else 10)")
    parser.add_argument("--threads", type=int, help="cores to use (else all that this process may)")
    parser.add_argument("--no-plain", action="store_true", help="leave out the plain path and the differences to it")
    parser.add_argument("--sweep", type=Path, metavar="PNG", help="cost against voxels, rays and image size as a plot")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON too")


def run(args: argparse.Namespace) -> int:
    cores = _check(args)
    artifact = _artifact(args)
    if artifact.manifest.family in FRAME_FAMILIES:
        from kyn_models.cli import bench_frames

        return bench_frames.run(args, artifact, cores)
    images = load_images(args, artifact.manifest.camera)
    cases = _cases(args, artifact, cores)
    print(f"{in_words(hardware(cores))}\n{artifact.name}; {images.source}")
    if args.seeded:
        print("its weights follow from their names: what it sees means nothing, only the speed does")
    with Laboratory(images.observations, cores) as laboratory:
        content = _measure(args, laboratory, artifact, cases)
        if args.sweep:
            from kyn_models.benchmark.sweep import sweep

            first = next(case for case in cases if case.runtime == content["cases"][0]["runtime"])
            content["sweep"] = sweep(laboratory, artifact, first, args.sweep)
    if args.json is not None:
        write_json(args.json, {"model": artifact.name, "hash": artifact.hash, **_about(images), **content}, cores)
        print(f"wrote {args.json}")
    faults = [
        row for row in content["cases"] if not (row["same_image_same_answer"] and row["other_image_other_answer"])
    ]
    for row in faults:
        print(f"{_name(row)}: its answers do not follow from the image, see its checksums", file=sys.stderr)
    return 1 if faults else 0


def _check(args: argparse.Namespace) -> int:
    """The number of cores. Raises ``ValueError`` or ``OSError`` for what cannot be, before anything is run."""
    allowed = len(os.sched_getaffinity(0))
    cores = allowed if args.threads is None else args.threads
    if not 1 <= cores <= allowed:
        raise ValueError(f"--threads: got {cores}, expected 1 to {allowed}, the cores of this process")
    if args.repeat < 1:
        raise ValueError(f"--repeat: got {args.repeat}, expected at least 1")
    check_output("--json", args.json)
    check_output("--sweep", args.sweep)
    if args.sweep is not None:
        if args.sweep.suffix.lower() != ".png":
            raise ValueError(f"--sweep: got {args.sweep.name}, expected a name that ends in .png")
        import matplotlib  # noqa: F401 - missing, it is said before the work and not after it
    return cores


def _artifact(args: argparse.Namespace) -> Artifact:
    if not args.seeded:
        artifact = Artifact.load(args.model)
        if artifact.manifest.family not in FRAME_FAMILIES:
            check_family(artifact)
        return artifact
    from kyn_models.models.bts import BtsConfig
    from kyn_models.models.dymultidepth import DyMultiDepthConfig
    from kyn_models.models.kyn import KynConfig
    from kyn_models.models.seeded import cached_artifact

    if args.seeded.startswith(FRAMES):
        return cached_artifact(DyMultiDepthConfig(encoder=args.seeded.removeprefix(FRAMES)), 512, 256)
    return cached_artifact(KynConfig() if args.seeded == "kyn" else BtsConfig(encoder=args.seeded))


def _cases(args: argparse.Namespace, artifact: Artifact, cores: int) -> list[Case]:
    if args.grid:
        *bounds, cell = args.grid
        x, y, z = ((bounds[i], bounds[i + 1]) for i in (0, 2, 4))
        spec = VoxelGridSpec(x, y, z, cell)
    else:
        voxels = args.voxels or (ONE_MILLION if args.seeded else None)
        spec = VoxelGridSpec() if voxels is None else grid_in_view(voxels)
    rows, columns = args.depth_rays or (SEEDED_RAYS if args.seeded == "resnet50" else DEFAULT_RAYS)
    if min(rows, columns) < 1:
        raise ValueError(f"--depth-rays: got {rows} {columns}, expected both at least 1")
    precisions: Sequence[Precision] = args.precision or get_args(Precision)[1:]
    return [
        Case(str(artifact.path.resolve()), runtime, precision, spec, (rows, columns), args.repeat, cores)
        for runtime in args.runtime or RUNTIMES
        for precision in precisions
    ]


def _measure(
    args: argparse.Namespace, laboratory: Laboratory, artifact: Artifact, cases: Sequence[Case]
) -> dict[str, Any]:
    measured, failed = measure_all(laboratory, cases, say)
    for outcome in failed:
        print(f"not run: {outcome.case.name}: {outcome.failed}")
    if not measured:
        raise ValueError(f"none of {', '.join(case.name for case in cases)} can be run here; `kyn doctor` tells more")
    rows = [comparison.summary(outcome) for outcome in measured]
    comparison.add_ratios(rows)
    plain, why_no_plain = None, "left out with --no-plain"
    if not args.no_plain:
        say("measuring the plain path ...")
        outcome = laboratory.measure(Case(**{**vars(cases[0]), "runtime": PLAIN, "precision": "float32", "rounds": 1}))
        why_no_plain = outcome.failed
        if not outcome.failed:
            plain = comparison.summary(outcome)
            for row, answered in zip(rows, measured, strict=True):
                row["difference"] = comparison.difference(answered.answers, outcome.answers)
            comparison.add_plain_ratios(rows, plain)
    rates = laboratory.rates()
    work = floor.count_work(artifact, cases[0].depth_rays[0] * cases[0].depth_rays[1], rows[0]["cells_in_view"])
    for row in rows:
        medians = {stage: times["median"] for stage, times in row["stages_ms"].items()}
        row["floor"] = floor.compare(work, rates, medians)
    content = {
        "depth_rays": list(cases[0].depth_rays),
        "cells": rows[0]["cells"],
        "cells_in_view": rows[0]["cells_in_view"],
        "cases": rows,
        "not_run": [{"case": outcome.case.name, "reason": outcome.failed} for outcome in failed],
        "plain": plain or why_no_plain,
        "rates": rates._asdict(),
        "work": {stage: item._asdict() for stage, item in work.items()},
    }
    print_report(content)
    return content


def say(sentence: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        print(sentence, file=sys.stderr, flush=True)


def _about(images: BenchmarkImages) -> dict[str, Any]:
    return {"images": images.source, "image_count": len(images.observations)}


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['runtime']} {row['precision']}"


def print_report(content: Mapping[str, Any]) -> None:
    """All tables of a run."""
    rows, plain = content["cases"], content["plain"]
    rays = "x".join(map(str, content["depth_rays"]))
    print(
        f"\n{rays} rays of 64 samples, {content['cells']:,} cells of which {content['cells_in_view']:,} are in view\n"
    )
    print("milliseconds, median / 95th percentile; memory in MB before loading / at the peak")
    shown = [*rows, plain] if isinstance(plain, dict) else rows
    stages = [stage for stage in comparison.STAGES if any(stage in row["stages_ms"] for row in shown)]
    print_table((*stages, "whole frame", "frames/s", "memory"), [(_name(row), _times(row, stages)) for row in shown])
    if isinstance(plain, str):
        print(f"plain path: not run, {plain}")
    print(
        "\nratio to the float32 encoder; depth and volume as a share of the plain path's time; difference to the plain "
        "path (largest / mean; share of rays and cells)"
    )
    compared = (
        "decoding",
        "whole frame",
        "depth time",
        "volume time",
        "density",
        "depth m",
        "sky differs",
        "grid differs",
        "answers",
    )
    print_table(compared, [(_name(row), [*_ratios(row), *_differences(row), _answers(row)]) for row in rows])
    rates = content["rates"]
    print(
        f"\nfloor: {rates['multiply_adds'] / 1e9:.0f} G float32 multiply-adds and {rates['bytes'] / 1e9:.1f} GB per "
        "second, measured on the CPU; in brackets how many times the floor it takes (half precision: may be below 1)"
    )
    counted = (*content["work"], "together")
    work = [_work(content["work"][stage]) if stage in content["work"] else "" for stage in counted]
    print_table(
        counted, [("counted", work), *((_name(row), [_floor(row, stage) for stage in counted]) for row in rows)]
    )
    print("\nlibraries: " + ", ".join(dict.fromkeys(row["library"] for row in shown)))


def _times(row: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    found = row["stages_ms"]
    texts = [_pair(found[stage]) if stage in found else "-" for stage in stages]
    memory = f"{row['before_mb']:.0f} / {row['peak_mb']:.0f}"
    if row["gpu_mb"] is not None:
        memory += f", GPU {row['gpu_mb']:.0f}"
    return [*texts, _pair(row["frame_ms"]), f"{row['frames_per_second']:.1f}", memory]


def _pair(times: Mapping[str, float]) -> str:
    return f"{times['median']:.1f} / {times['p95']:.1f}"


def _ratios(row: Mapping[str, Any]) -> list[str]:
    ratios = (row.get("decoding_ratio"), row.get("frame_ratio"))
    shares = [row.get("plain_ratios", {}).get(stage) for stage in comparison.DECODING]
    return [*(_number(value, 2) for value in ratios), *(_number(value, 3) for value in shares)]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _differences(row: Mapping[str, Any]) -> list[str]:
    found = row.get("difference")
    if found is None:
        return ["-"] * 4
    return [
        f"{found['density_max']:.1e} / {found['density_mean']:.1e}",
        f"{found['depth_max_m']:.1e} / {found['depth_mean_m']:.1e}",
        f"{found['sky_share']:.3%}",
        f"{found['grid_share']:.3%}",
    ]


def _answers(row: Mapping[str, Any]) -> str:
    """What the checksums say."""
    if not row["same_image_same_answer"]:
        return "CHANGE FOR ONE IMAGE"
    return "own per image" if row["other_image_other_answer"] else "THE SAME FOR ALL"


def _work(item: Mapping[str, Any]) -> str:
    operations = item["multiply_adds"]
    counted = floor.NOT_COUNTED if operations is None else f"{operations / 1e9:.2f} G"
    return f"{counted}, {item['bytes'] / 1e6:.0f} MB"


def _floor(row: Mapping[str, Any], stage: str) -> str:
    found = row["floor"].get(stage)
    if found is None or found["times_the_floor"] is None:
        return "-"
    return f"{found['floor_ms']:.1f} ms ({found['times_the_floor']:.1f})"
