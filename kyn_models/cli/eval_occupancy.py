"""``kyn eval occupancy``: the published occupancy scores on KITTI-360 frames."""

from __future__ import annotations

import argparse

from kyn_models import evaluate
from kyn_models.cli.eval import (
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
from kyn_models.metrics import OccupancyScores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument(
        "--scans",
        type=int,
        default=evaluate.DEFAULT_SCANS,
        help="lidar scans that make the occupancy truth (else 12; published: 20 in BTS, 300 in KYN)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table of the model and of the two trivial answers."""
    check_common(args)
    if args.layout != "kitti360":
        raise ValueError(f"--layout: got {args.layout}, expected kitti360 for occupancy")
    if args.scans < 1:
        raise ValueError(f"--scans: got {args.scans}, expected at least 1")
    model, name = load_model(args.model, args.runtime, args.precision)
    _occupancy(args, model, name)
    return 0


def _occupancy(args: argparse.Namespace, model: Model, name: str) -> None:
    lack = f"that have no scan or are not followed by {args.scans} posed frames with scans"
    drives = chosen_drives(args, lambda drive: evaluate.frames_for_occupancy(drive, args.scans), lack)
    frames = sum(len(numbers) for _, numbers in drives)
    if not frames:
        raise ValueError(
            f"{args.data}: got no frame that is followed by {args.scans} posed frames with scans, expected at least "
            "one; use fewer --scans or other frames"
        )
    rows = evaluate.evaluate_occupancy(model, drives, args.scans, args.other_images, progress)
    labels = {"model": name + (", images of other frames" if args.other_images else "")}
    print(f"occupancy, {frames} frames, truth from {args.scans} scans, x -4..4 m, z 4..50 m")
    columns = [*OccupancyScores._fields, *(f"{field} (cut)" for field in OccupancyScores._fields), "NaN"]
    table = []
    for answer in dict.fromkeys(row.answer for row in rows):
        scene, cut, nothing = evaluate.mean_occupancy(rows, answer)
        table.append((labels.get(answer, answer), [*numbers(scene), *numbers(cut), str(nothing)]))
    print_table(columns, table)
    print("o_acc: right cells; ie_acc: right among unseen; ie_rec: unseen free space found; (cut): after the far cut;")
    print("NaN: frames without a score")
    if args.csv:
        fields = OccupancyScores._fields
        header = ["frame", "answer", *fields, *(f"{field}_far_cut" for field in fields)]
        write_csv(args.csv, header, ([row.frame, row.answer, *row.scene, *row.far_cut] for row in rows))
