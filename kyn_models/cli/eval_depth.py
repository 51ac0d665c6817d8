"""``kyn eval depth``: depth against lidar on KITTI-360, KITTI raw and KITTI odometry frames."""

from __future__ import annotations

import argparse
from typing import Protocol

from kyn_models import evaluate
from kyn_models.baselines import best_box_street
from kyn_models.cli import eval_depth_raw
from kyn_models.cli.eval import (
    Drives,
    Model,
    add_common_arguments,
    check_common,
    chosen_drives,
    load_model,
    numbers,
    print_table,
    progress,
    write_csv,
)
from kyn_models.data.kitti_odometry import KittiOdometry
from kyn_models.data.kitti_raw import KittiRaw
from kyn_models.metrics import DepthScores
from kyn_models.types import Sample

LAYOUTS = ("kitti360", "kitti_raw", "kitti_odometry")


class Frames(Protocol):
    """A list of samples that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--layout", choices=LAYOUTS, default="kitti360", help="data set of DIR (else kitti360)")
    eval_depth_raw.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table of the model and of the best box street, or that of the published KITTI raw protocol."""
    check_common(args)
    if eval_depth_raw.wanted(args):
        return eval_depth_raw.run(args)
    if args.layout != "kitti360" and args.split:
        raise ValueError(f"--layout: got {args.layout}, expected kitti360 or kitti_raw for split files")
    model, name = load_model(args.model, args.runtime, args.precision)
    _depth(args, model, name)
    return 0


def _depth(args: argparse.Namespace, model: Model, name: str) -> None:
    samples = _depth_frames(args)
    order = range(len(samples))
    shown = (lambda index: samples[(index + len(samples) // 2) % len(samples)]) if args.other_images else None
    rows = evaluate.evaluate_depth(model, (samples[index] for index in order), len(samples), shown, progress)
    # On the model's pixels: where its image shows less than the data set's, the two would be scored on other scenes.
    box = best_box_street(evaluate.truth_within(samples[index], rows[index].camera) for index in order)
    box_truth = (evaluate.truth_within(samples[index], rows[index].camera) for index in order)
    box_rows = evaluate.evaluate_depth(box, box_truth)
    outside = sum(row.outside for row in rows)
    print(f"depth, {len(samples)} frames, 3 to 80 m, no crop, no scaling")
    columns = [*DepthScores._fields[:7], "pixels", "Inf/NaN", "outside", "NaN frames"]
    table = []
    for label, answer_rows in (
        (name + (", images of other frames" if args.other_images else ""), rows),
        (f"box street in hindsight, walls at {box.half_width_m:g} m", box_rows),
    ):
        mean, nothing = evaluate.mean_depth(answer_rows)
        table.append((label, [*numbers(mean[:7]), *map(str, (mean.pixels, mean.capped, outside, nothing))]))
    print_table(columns, table)
    print("sq_rel and rmse in metres; Inf/NaN: predictions without a finite depth, scored as 80 m;")
    print("outside: pixels that the model's image does not show, left out of both rows")
    if args.csv:
        write_csv(
            args.csv,
            ["frame", *DepthScores._fields, "outside"],
            ([row.frame, *row.scores, row.outside] for row in rows),
        )


class _Kitti360Depth:
    """Depth samples of several drives as one list."""

    def __init__(self, drives: Drives) -> None:
        self._items = [(drive, frame) for drive, frames in drives for frame in frames]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        drive, frame = self._items[index]
        return next(evaluate.kitti360_depth_samples(drive, [frame]))


def _depth_frames(args: argparse.Namespace) -> Frames:
    if args.layout == "kitti_raw":
        return KittiRaw(args.data, args.drive)
    if args.layout == "kitti_odometry":
        return KittiOdometry(args.data, args.drive)
    drives = chosen_drives(
        args, lambda drive: tuple(frame for frame in drive.frames if drive.has_scan(frame)), "that have no scan"
    )
    frames = _Kitti360Depth(drives)
    if not len(frames):
        raise ValueError(f"{args.data}: got no frame with image, pose and scan in the chosen range, expected one")
    return frames
