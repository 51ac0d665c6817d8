"""``kyn eval depth``: depth against lidar on KITTI-360, KITTI raw and KITTI odometry frames."""

from __future__ import annotations

import argparse

from kyn_models import evaluate, ranks
from kyn_models.baselines import BOX_STREETS, best_answer
from kyn_models.cli import eval_depth_raw
from kyn_models.cli.eval import (
    Chosen,
    Drives,
    Model,
    Samples,
    add_common_arguments,
    check_common,
    chosen,
    chosen_drives,
    frames_said,
    load_model,
    numbers,
    print_table,
    say_left_out,
    scored,
    write_csv,
)
from kyn_models.cli.left_out import counted
from kyn_models.cli.unused import refuse
from kyn_models.data.kitti360 import open_split
from kyn_models.data.kitti_odometry import KittiOdometry
from kyn_models.data.kitti_raw import KittiRaw
from kyn_models.data.neighbours import OdometryWithNeighbours
from kyn_models.metrics import DepthScores
from kyn_models.types import Sample

LAYOUTS = ("kitti360", "kitti_raw", "kitti_odometry")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--layout", choices=LAYOUTS, default="kitti360", help="data set of DIR (else kitti360)")
    parser.add_argument(
        "--strict", action="store_true", help="a frame whose files are missing or damaged is an error (else left out)"
    )
    eval_depth_raw.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table of the model and of the best box street, or that of the published KITTI raw protocol."""
    check_common(args)
    if args.layout != "kitti360":
        refuse(args, ("camera",), args.layout)
    if eval_depth_raw.wanted(args):
        return eval_depth_raw.run(args)
    if args.layout != "kitti360" and args.split:
        raise ValueError(f"--layout: got {args.layout}, expected kitti360 or kitti_raw for split files")
    model, name = load_model(args.model, args.runtime, args.precision)
    _depth(args, model, name + frames_said(model, args.layout != "kitti_raw"))
    return 0


def _depth(args: argparse.Namespace, model: Model, name: str) -> None:
    samples, missing = _depth_frames(args, model.frames_wanted)

    def read(index: int) -> tuple[Sample, Sample | None]:
        other = samples[(index + len(samples) // 2) % len(samples)] if args.other_images else None
        return samples[index], other

    rows, damaged = scored(
        len(samples), read, lambda pair: [evaluate.score_depth(model, *pair, others=BOX_STREETS)], args.strict
    )
    if ranks.first():
        _say(args, name, rows, missing, damaged)
        if model.frames_wanted > 1:
            alone = sum(row.alone for row in rows)
            print(f"{alone} of {len(rows)} frames had no posed neighbours: one image answered there")


def _say(
    args: argparse.Namespace, name: str, rows: list[evaluate.DepthRow], missing: list[str], damaged: list[str]
) -> None:
    best = best_answer(row.others for row in rows)
    box_rows = [row._replace(scores=row.others[best]) for row in rows]
    outside = sum(row.outside for row in rows)
    print(f"depth, {counted(len(rows))}, 3 to 80 m, no crop, no scaling")
    say_left_out(missing, damaged)
    columns = [*DepthScores._fields[:7], "pixels", "Inf/NaN", "outside", "NaN frames"]
    table = []
    for label, answer_rows in (
        (name + (", images of other frames" if args.other_images else ""), rows),
        (f"box street in hindsight, walls at {BOX_STREETS[best].half_width_m:g} m", box_rows),
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

    def __init__(self, drives: Drives, frames_wanted: int) -> None:
        self._wanted = frames_wanted
        self._items = [(drive, frame) for drive, frames in drives for frame in frames]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        drive, frame = self._items[index]
        return evaluate.kitti360_depth_sample(drive, frame, self._wanted)


def _depth_frames(args: argparse.Namespace, frames_wanted: int) -> tuple[Samples, list[str]]:
    """The chosen frames, with their neighbours where a model wants them; a sentence for every split line that is left
    out."""
    if args.layout == "kitti_raw":
        raw = KittiRaw(args.data, args.drive)
        return Chosen(raw, chosen(args, [(args.drive or raw.drive, frame) for frame in raw.frames])), []
    if args.layout == "kitti_odometry":
        odometry = KittiOdometry(args.data, args.drive)
        named = [(args.drive or odometry.sequence, frame) for frame in odometry.frames]
        return Chosen(OdometryWithNeighbours(odometry, frames_wanted), chosen(args, named)), []
    missing: list[str] = []
    if args.split:
        refuse(args, ("drive", "camera"), "--split, which names its frames itself,")
        drives, missing = _split_drives(args)
    else:
        drives = chosen_drives(
            args, lambda drive: tuple(frame for frame in drive.frames if drive.has_scan(frame)), "that have no scan"
        )
    frames = _Kitti360Depth(drives, frames_wanted)
    if not len(frames):
        raise ValueError(
            f"{args.data}: got no frame with image, pose and scan in the chosen range, expected one"
            + (f"; {len(missing)} lines lack files, the first: {missing[0]}" if missing else "")
        )
    return frames, missing


def _split_drives(args: argparse.Namespace) -> tuple[Drives, list[str]]:
    """Readers and frames of a split's lines that are whole, and a sentence for every other one."""
    drives: Drives = []
    missing: list[str] = []
    for drive in open_split(args.data, args.split, strict=args.strict):
        first = -1 if args.start is None else args.start
        within = [frame for frame in drive.frames if first <= frame and (args.stop is None or frame <= args.stop)]
        lacking = [
            f"{args.split}: names frame {frame} of {drive.drive}, whose scan {drive.scan_path(frame)} is missing"
            for frame in within
            if not drive.has_scan(frame)
        ]
        if lacking and args.strict:
            raise FileNotFoundError(lacking[0])
        missing += [*drive.missing, *lacking]
        drives.append((drive, tuple(frame for frame in within if drive.has_scan(frame))[:: args.every]))
    return drives, missing
