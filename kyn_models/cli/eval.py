"""``kyn eval occupancy|depth|multiframe|nvs``: the published scores of a model, as a table and per frame as CSV.

On KITTI-360, KITTI raw, KITTI odometry, RealEstate10K and synthetic streets, as far as each has what is scored.

This module names the evaluations and holds what they share; each has a module with ``add_arguments(parser)`` and
``run(args) -> int``, as a subcommand's, which imports what is heavy inside ``run``.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from kyn_models import evaluate, ranks
from kyn_models.artifact import Artifact
from kyn_models.baselines import Prior
from kyn_models.cli import add_kinds
from kyn_models.cli.left_out import counted
from kyn_models.cli.model_options import add_model, add_runtime
from kyn_models.data.kitti360 import Kitti360
from kyn_models.models import FRAME_FAMILIES
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.runtimes.queries import Precision
from kyn_models.types import Intrinsics, Sample
from kyn_models.whole_files import write_whole

EVALUATIONS: dict[str, tuple[str, str]] = {
    "occupancy": ("kyn_models.cli.eval_occupancy", "which cells of a lidar slice are occupied (KITTI-360)"),
    "depth": ("kyn_models.cli.eval_depth", "depth against lidar (KITTI-360, KITTI raw, KITTI odometry)"),
    "multiframe": (
        "kyn_models.cli.eval_multiframe",
        "depth from several frames, on what moves and on the rest (KITTI odometry, streets)",
    ),
    "nvs": ("kyn_models.cli.eval_nvs", "pictures of a second view: PSNR, SSIM, LPIPS"),
}
"""Name to module and one line of help, in the order of ``kyn eval --help``."""
Drives = list[tuple[Kitti360, tuple[int, ...]]]
FOCAL_TOLERANCE = 0.05
"""The focal lengths of KITTI raw's five dates, as shares of the image size, are within 1 % of each other; KITTI-360's
is 32 % off."""
QUIET_S = 10.0
"""Where the output is a file, longer work says so often how far it is."""
Read = TypeVar("Read")
Row = TypeVar("Row")


class Samples(Protocol):
    """A list of samples that are read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Model(evaluate.DensityModel, evaluate.DepthModel, Protocol):
    """What the evaluations of occupancy and depth may ask. frames_wanted: how many frames it is best given."""

    @property
    def frames_wanted(self) -> int: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn eval``: an evaluation, and what its module asks for."""
    add_kinds(parser, EVALUATIONS, "evaluations", "WHAT")


def run(args: argparse.Namespace) -> int:
    """Run the evaluation's module; raises as it does."""
    ranks.quieten()
    return int(args.run_kind(args))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model runs how, on which frames, and where the scores of each frame go."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="data set folder in its official layout"
    )
    add_model(parser, "model artifact, or a prior (.npz) (else the shipped artifact)")
    parser.add_argument("--drive", help="drive or sequence, where DIR holds several")
    parser.add_argument("--camera", choices=("00", "01"), help="KITTI-360 camera (else 00, the left one)")
    parser.add_argument("--split", type=Path, metavar="FILE", help="published frame list: <drive> <frame> <l|r> lines")
    parser.add_argument("--start", type=int, metavar="FRAME", help="first frame (else of the drive)")
    parser.add_argument("--stop", type=int, metavar="FRAME", help="last frame (else of the drive)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th frame (else all)")
    parser.add_argument(
        "--other-images", action="store_true", help="show the model another frame's image: what its image is worth"
    )
    add_runtime(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the scores of each frame")


def check_common(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` or ``OSError`` for what would otherwise be found out after hours."""
    if args.every < 1:
        raise ValueError(f"--every: got {args.every}, expected at least 1")
    if args.csv and ranks.first():
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
        return prior, f"prior of {counted(prior.frames)}"
    artifact = Artifact.load(path)
    predictor = make_predictor(artifact, PredictorOptions(runtime, precision=precision))
    name = f"{artifact.name} on {predictor.runtime_name} {predictor.precision}"
    if artifact.manifest.family in FRAME_FAMILIES:
        return evaluate.DepthAnswers(predictor), name
    return evaluate.PredictorAnswers(predictor), name


def frames_said(model: Model, neighbours: bool) -> str:
    """What a table adds to the name of a model of posed frames. neighbours: whether it is given some."""
    if model.frames_wanted == 1:
        return ""
    return ", with the frames before and after where there are some" if neighbours else ", from one image"


def chosen_drives(args: argparse.Namespace, suitable: Callable[[Kitti360], tuple[int, ...]], lack: str) -> Drives:
    """Reader and chosen frames of one drive, as far as they are suitable.

    lack: what the others are, for the line that says how many are left out.
    """
    first = -1 if args.start is None else args.start
    last = float("inf") if args.stop is None else args.stop

    def within(frames: Iterable[int]) -> tuple[int, ...]:
        return tuple(frame for frame in frames if first <= frame <= last)

    drive = Kitti360(args.data, args.drive, args.camera or "00")
    chosen = within(suitable(drive))
    left = len(within(drive.frames)) - len(chosen)
    counts = ((len(within(drive.frames_without_pose)), "images without a pose"), (left, f"frames {lack}"))
    said = [f"{count} {text}" for count, text in counts if count]
    if said and ranks.first():
        print(f"left out of {drive.drive}: {', '.join(said)}")
    return [(drive, chosen[:: args.every])]


class Chosen:
    """Some of the samples."""

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        self._samples, self._indices = samples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[self._indices[index]]


def chosen(args: argparse.Namespace, named: Sequence[tuple[str, int]]) -> list[int]:
    """Indices of those of ``named`` (drive, frame) that ``--drive``, ``--start``, ``--stop`` and ``--every`` choose.

    Raises ``ValueError`` where there is none.
    """
    first = -1 if args.start is None else args.start
    last = float("inf") if args.stop is None else args.stop
    indices = [
        index
        for index, (drive, frame) in enumerate(named)
        if first <= frame <= last and args.drive in (None, drive, Path(drive).name)
    ][:: args.every]
    if not indices:
        raise ValueError(f"{args.data}: got {len(named)} frames, none of which was chosen, expected at least one")
    return indices


def require_no_runtime(args: argparse.Namespace, instead: str) -> None:
    """Raise ``ValueError`` where a runtime or precision is asked for beside what torch computes in float32.

    instead: the options with which the runtime is used.
    """
    for name, value, same in (("--runtime", args.runtime, "torch"), ("--precision", args.precision, "float32")):
        if value not in ("auto", same):
            raise ValueError(
                f"{name}: got {value}, but torch computes the published rays in float32; leave it out, or give "
                f"{instead}"
            )


def scored(
    count: int, read: Callable[[int], Read], score: Callable[[Read], list[Row]], strict: bool
) -> tuple[list[Row], list[str]]:
    """Rows of ``count`` frames in their order, and why frames could not be read; shared out under ``torchrun``.

    read: everything of a frame from its files, by index; what it raises is an error where ``strict``. Every process
    gets everything. Raises ``ValueError`` where no frame could be read.
    """
    results: list[tuple[list[Row], list[str]]] = []
    mine = ranks.share(range(count))
    for done, index in enumerate(mine, start=1):
        try:
            item = read(index)
        except (ValueError, OSError) as error:
            if strict:
                raise
            results.append(([], [str(error)]))
        else:
            results.append((score(item), []))
        if ranks.first():
            progress(done, len(mine), f"frame {index}")
    everything = ranks.gather(results)
    ranks.leave()
    rows = [row for of_frame, _ in everything for row in of_frame]
    damaged = [reason for _, reasons in everything for reason in reasons]
    if damaged and not rows:
        raise ValueError(f"{damaged[0]}, and none of the {count} frames could be read")
    return rows, damaged


def say_left_out(missing: Sequence[str], damaged: Sequence[str]) -> None:
    """Print how many lines of a split lack files, and every frame that could not be read."""
    if missing:
        print(f"left out: {counted(len(missing), 'line')} whose files are missing, the first: {missing[0]}")
    if damaged:
        print(f"left out: {counted(len(damaged))} that could not be read: {'; '.join(damaged)}")


def first_camera(samples: Samples) -> Intrinsics:
    """Camera of the first sample that can be read. Raises as the reader does where none can."""
    for index in range(len(samples)):
        try:
            return samples[index].observation.key.intrinsics
        except (ValueError, OSError):
            if index == len(samples) - 1:
                raise
    raise ValueError("got no frame, expected at least one")


def same_kind(training: Intrinsics, camera: Intrinsics) -> bool:
    """Whether images of ``camera``, resized, look to a network like those it was trained with."""
    ratios = np.diag(training.normalised())[:2] / np.diag(camera.normalised())[:2]
    return bool((np.abs(ratios - 1) < FOCAL_TOLERANCE).all())


def torch_device() -> str:
    """The GPU of this process where there is one, else "cpu". Imports torch."""
    import torch

    return ranks.device("cuda" if torch.cuda.is_available() else "cpu")


def progress(done: int, total: int, frame: str) -> None:
    """One line on a terminal that is written over; nothing where the output is a file."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} {frame}", end=end, file=sys.stderr, flush=True)


def timed_progress(total: int) -> Callable[[int, str], None]:
    """Shows (done, of what) with the time that is left: on a terminal always, elsewhere a line every ten seconds."""
    started = time.monotonic()
    last = [started]

    def show(done: int, what: str) -> None:
        now = time.monotonic()
        text = f"{what}, about {(now - started) / done * (total - done):.0f} s left   "
        progress(done, total, text)
        if not sys.stderr.isatty() and now - last[0] > QUIET_S:
            print(f"{done}/{total} {text.rstrip()}", file=sys.stderr, flush=True)
            last[0] = now

    return show


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
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
    print(f"scores of each frame: {path}")
