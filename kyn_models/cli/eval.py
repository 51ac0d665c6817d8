"""``kyn eval occupancy|depth|nvs``: the published scores of a model, as a table and per frame as CSV.

This module names the evaluations and holds what they share; each has a module with ``add_arguments(parser)`` and
``run(args) -> int``, as a subcommand's, which imports what is heavy inside ``run``.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from kyn_models import evaluate
from kyn_models.artifact import Artifact, default_artifact
from kyn_models.baselines import Prior
from kyn_models.data.kitti360 import Kitti360, open_split
from kyn_models.predictor import Predictor
from kyn_models.runtimes import NAMES
from kyn_models.runtimes.queries import PRECISIONS, Precision

EVALUATIONS: dict[str, tuple[str, str]] = {
    "occupancy": ("kyn_models.cli.eval_occupancy", "which cells of a lidar slice are occupied (KITTI-360)"),
    "depth": ("kyn_models.cli.eval_depth", "depth against lidar (KITTI-360, KITTI raw, KITTI odometry)"),
    "nvs": ("kyn_models.cli.eval_nvs", "pictures of a second view: PSNR, SSIM, LPIPS"),
}
"""Name to module and one line of help, in the order of ``kyn eval --help``."""
Drives = list[tuple[Kitti360, tuple[int, ...]]]


class Model(evaluate.DensityModel, evaluate.DepthModel, Protocol):
    """What both evaluations may ask."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn eval``: an evaluation, and what its module asks for."""
    subparsers = parser.add_subparsers(title="evaluations", metavar="WHAT [options]", required=True)
    for name, (module_name, text) in EVALUATIONS.items():
        module = importlib.import_module(module_name)
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        module.add_arguments(subparser)
        subparser.set_defaults(evaluate=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the evaluation's module; raises as it does."""
    return int(args.evaluate(args))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model runs how, on which frames, and where the scores of each frame go."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="data set folder in its official layout"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=default_artifact(),
        metavar="DIR",
        help="model artifact, or a prior (.npz) (else the shipped artifact)",
    )
    parser.add_argument("--drive", help="drive or sequence, where DIR holds several")
    parser.add_argument("--camera", choices=("00", "01"), default="00", help="KITTI-360 camera (else 00, the left one)")
    parser.add_argument("--split", type=Path, metavar="FILE", help="published frame list: <drive> <frame> <l|r> lines")
    parser.add_argument("--start", type=int, metavar="FRAME", help="first frame (else of the drive)")
    parser.add_argument("--stop", type=int, metavar="FRAME", help="last frame (else of the drive)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th frame (else all)")
    parser.add_argument(
        "--other-images", action="store_true", help="show the model another frame's image: what its image is worth"
    )
    parser.add_argument("--runtime", choices=NAMES, default="auto", help="what runs the network (else auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of convolutions (else auto)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the scores of each frame")


def check_common(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` or ``OSError`` for what would otherwise be found out after hours."""
    if args.every < 1:
        raise ValueError(f"--every: got {args.every}, expected at least 1")
    if args.csv:
        check_writable(args.csv)


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


def chosen_drives(args: argparse.Namespace, suitable: Callable[[Kitti360], tuple[int, ...]], lack: str) -> Drives:
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


def numbers(scores: Iterable[float]) -> list[str]:
    """Scores as a table shows them."""
    return [f"{score:.4f}" for score in scores]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write the rows and say where."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    print(f"scores of each frame: {path}")
