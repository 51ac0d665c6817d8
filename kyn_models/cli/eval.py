"""``kyn eval occupancy|depth``: the published scores on KITTI frames, as a table and per frame as CSV."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from kyn_models import evaluate
from kyn_models.artifact import Artifact, default_artifact
from kyn_models.baselines import Prior, best_box_street
from kyn_models.data.kitti360 import Kitti360, open_split
from kyn_models.data.kitti_odometry import KittiOdometry
from kyn_models.data.kitti_raw import KittiRaw
from kyn_models.metrics import DepthScores, OccupancyScores
from kyn_models.predictor import Predictor
from kyn_models.runtimes import NAMES
from kyn_models.runtimes.queries import PRECISIONS, Precision
from kyn_models.types import Sample

LAYOUTS = ("kitti360", "kitti_raw", "kitti_odometry")
Drives = list[tuple[Kitti360, tuple[int, ...]]]


class Model(evaluate.DensityModel, evaluate.DepthModel, Protocol):
    """What both evaluations may ask."""


class Frames(Protocol):
    """A list of samples that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("occupancy", "depth"), help="which scores")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set folder in official layout")
    parser.add_argument(
        "--model", type=Path, default=default_artifact(), help="model artifact, or a prior (.npz); else the shipped one"
    )
    parser.add_argument("--layout", choices=LAYOUTS, default="kitti360", help="data set of DIR (occupancy: kitti360)")
    parser.add_argument("--drive", help="drive or sequence, where DIR holds several")
    parser.add_argument("--camera", choices=("00", "01"), default="00", help="KITTI-360 camera (else 00, the left one)")
    parser.add_argument("--split", type=Path, metavar="FILE", help="published frame list: <drive> <frame> <l|r> lines")
    parser.add_argument(
        "--scans",
        type=int,
        default=evaluate.DEFAULT_SCANS,
        help="lidar scans that make the occupancy truth (else 12; published: 20 in BTS, 300 in KYN)",
    )
    parser.add_argument("--start", type=int, metavar="FRAME", help="first frame number")
    parser.add_argument("--stop", type=int, metavar="FRAME", help="last frame number")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame")
    parser.add_argument(
        "--other-images", action="store_true", help="show the model another frame's image: what its image is worth"
    )
    parser.add_argument("--runtime", choices=NAMES, default="auto", help="what runs the network (else auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of its convolutions (else auto)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the scores of each frame")


def run(args: argparse.Namespace) -> int:
    if args.every < 1 or args.scans < 1:
        raise ValueError(f"--every, --scans: got {args.every} and {args.scans}, expected both at least 1")
    if args.layout != "kitti360" and (args.what == "occupancy" or args.split):
        raise ValueError(f"--layout: got {args.layout}, expected kitti360 for occupancy and for split files")
    if args.csv:
        check_writable(args.csv)
    model, name = load_model(args.model, args.runtime, args.precision)
    if args.what == "occupancy":
        _occupancy(args, model, name)
    else:
        _depth(args, model, name)
    return 0


def check_writable(path: Path) -> None:
    """Raise ``OSError`` if no file can be written at ``path``: found out before the hours of an evaluation."""
    new = not path.exists()
    path.open("a").close()
    if new:
        path.unlink()


def load_model(path: Path, runtime: str, precision: Precision = "auto") -> tuple[Model, str]:
    """A prior (``.npz``) or an artifact, and how to call it in the table."""
    if path.suffix == ".npz":
        prior = Prior.load(path)
        return prior, f"prior of {prior.frames} frames"
    artifact = Artifact.load(path)
    predictor = Predictor(artifact, runtime, precision=precision)
    name = f"{artifact.name} on {predictor.runtime_name} {predictor.precision}"
    return evaluate.PredictorAnswers(predictor), name


def _occupancy(args: argparse.Namespace, model: Model, name: str) -> None:
    lack = f"that have no scan or are not followed by {args.scans} posed frames with scans"
    drives = _drives(args, lambda drive: evaluate.frames_for_occupancy(drive, args.scans), lack)
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
        table.append((labels.get(answer, answer), [*_numbers(scene), *_numbers(cut), str(nothing)]))
    print_table(columns, table)
    print("o_acc: right cells; ie_acc: right among unseen; ie_rec: unseen free space found; (cut): after the far cut;")
    print("NaN: frames without a score")
    if args.csv:
        fields = OccupancyScores._fields
        header = ["frame", "answer", *fields, *(f"{field}_far_cut" for field in fields)]
        _write_csv(args.csv, header, ([row.frame, row.answer, *row.scene, *row.far_cut] for row in rows))


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
        table.append((label, [*_numbers(mean[:7]), *map(str, (mean.pixels, mean.capped, outside, nothing))]))
    print_table(columns, table)
    print("sq_rel and rmse in metres; Inf/NaN: predictions without a finite depth, scored as 80 m;")
    print("outside: pixels that the model's image does not show, left out of both rows")
    if args.csv:
        _write_csv(
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
    drives = _drives(
        args, lambda drive: tuple(frame for frame in drive.frames if drive.has_scan(frame)), "that have no scan"
    )
    frames = _Kitti360Depth(drives)
    if not len(frames):
        raise ValueError(f"{args.data}: got no frame with image, pose and scan in the chosen range, expected one")
    return frames


def _drives(args: argparse.Namespace, suitable: Callable[[Kitti360], tuple[int, ...]], lack: str) -> Drives:
    """Readers and chosen frames: all lines of a split, else those of one drive that are suitable.

    lack: what the others are, for the line that says how many are left out.
    """
    first = -1 if args.start is None else args.start
    last = float("inf") if args.stop is None else args.stop

    def within(frames: Iterable[int]) -> tuple[int, ...]:
        return tuple(frame for frame in frames if first <= frame <= last)

    if args.split:
        chosen = [(drive, within(drive.frames)) for drive in open_split(args.data, args.split)]
    else:
        drive = Kitti360(args.data, args.drive, args.camera)
        chosen = [(drive, within(suitable(drive)))]
        left = len(within(drive.frames)) - len(chosen[0][1])
        counts = ((len(within(drive.frames_without_pose)), "images without a pose"), (left, f"frames {lack}"))
        said = [f"{count} {text}" for count, text in counts if count]
        if said:
            print(f"left out of {drive.drive}: {', '.join(said)}")
    return [(drive, frames[:: args.every]) for drive, frames in chosen]


def progress(done: int, total: int, frame: str) -> None:
    """One line on a terminal that is written over; nothing where the output is a file."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} {frame}", end=end, file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print rows of (label, one text per column), right-aligned."""
    width = max(len(label) for label, _ in rows)
    widths = [max(len(column), *(len(texts[i]) for _, texts in rows)) for i, column in enumerate(columns)]
    print(" " * width, *(column.rjust(size) for column, size in zip(columns, widths, strict=True)), sep="  ")
    for label, texts in rows:
        print(label.ljust(width), *(text.rjust(size) for text, size in zip(texts, widths, strict=True)), sep="  ")


def _numbers(scores: Iterable[float]) -> list[str]:
    return [f"{score:.4f}" for score in scores]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    print(f"scores of each frame: {path}")
