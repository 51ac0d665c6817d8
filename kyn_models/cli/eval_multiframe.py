"""``kyn eval multiframe``: depth from several frames, where things stand still and where they move."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kyn_models import evaluate_frames, ranks
from kyn_models.artifact import Artifact
from kyn_models.cli import eval as shared
from kyn_models.cli.eval_nvs import HELD_OUT_FRAMES, HELD_OUT_SEED
from kyn_models.cli.left_out import counted
from kyn_models.cli.model_options import add_roi, add_runtime
from kyn_models.cli.unused import refuse
from kyn_models.data.calibration import resized_source
from kyn_models.data.kitti_odometry_drive import POSE_FOLDERS, sequences_of
from kyn_models.data.kitti_odometry_frames import EVALUATION, KittiOdometryFrames, OdometryFramesOptions
from kyn_models.metrics import DepthScores
from kyn_models.models import FRAME_FAMILIES
from kyn_models.roi import inside
from kyn_models.runtimes.frame_queries import FramesRuntime
from kyn_models.runtimes.queries import LoadOptions
from kyn_models.types import Sample

OF_LAYOUTS = {
    "kitti_odometry": ("data", "sequences", "poses", "index-mask", "start", "stop"),
    "streets": ("seed", "frames"),
}
"""Options that only one of the layouts uses."""
NEIGHBOURS = (-1, 1)
"""As published: the frame before and the one after."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="artifact of family dymultidepth")
    parser.add_argument("--data", type=Path, metavar="DIR", help="KITTI odometry folder (not for streets)")
    parser.add_argument(
        "--layout",
        choices=tuple(OF_LAYOUTS),
        default="kitti_odometry",
        help="else kitti_odometry; streets are made, they need no DIR",
    )
    parser.add_argument(
        "--sequences",
        nargs="+",
        metavar="NAME",
        help=f"else those of the published evaluation that DIR has: {' '.join(EVALUATION)}",
    )
    parser.add_argument("--poses", choices=tuple(POSE_FOLDERS), help="else dvso, as published")
    parser.add_argument(
        "--index-mask", nargs="+", metavar="NAME", help="only frames that sequences/*/NAME.json says (else all)"
    )
    parser.add_argument("--offsets", type=int, nargs="+", metavar="N", help="neighbours in frames (else -1 1)")
    parser.add_argument("--stereo", action="store_true", help="the right image is one more neighbour")
    parser.add_argument("--start", type=int, metavar="FRAME", help="first frame (else of each sequence)")
    parser.add_argument("--stop", type=int, metavar="FRAME", help="last frame (else of each sequence)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th frame (else all)")
    parser.add_argument(
        "--seed", type=int, metavar="N", help=f"streets: first seed (else {HELD_OUT_SEED}, never trained on)"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help=f"streets: how many, one per street (else {HELD_OUT_FRAMES})"
    )
    parser.add_argument("--far", type=float, default=evaluate_frames.FAR_M, metavar="M", help="truth up to (else 80)")
    add_roi(parser, "score only these rows and columns of the model's image")
    parser.add_argument(
        "--median-scaling", action="store_true", help="scale every answer to the median of the true inverse depth"
    )
    add_runtime(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the scores of each frame")
    parser.add_argument("--strict", action="store_true", help="a frame that cannot be read is an error (else left out)")


def run(args: argparse.Namespace) -> int:
    """Print the table: every answer of the model, all pixels, those that stand still, those that move."""
    shared.check_common(args)
    unused = [name for layout, names in OF_LAYOUTS.items() if layout != args.layout for name in names]
    refuse(args, unused, args.layout)
    roi = tuple(args.roi) if args.roi else None
    scoring = evaluate_frames.Scoring(args.far, roi, args.median_scaling)
    artifact = require_frames_artifact(args.model)
    inside(roi, (artifact.camera.height, artifact.camera.width))
    samples, notes = _samples(args, artifact)
    runtime = load_runtime(artifact, args.runtime, LoadOptions(precision=args.precision))
    chosen = range(0, len(samples), args.every)
    rows, damaged = shared.scored(
        len(chosen),
        lambda index: samples[chosen[index]],
        lambda sample: [
            evaluate_frames.score_frames(evaluate_frames.answers(runtime, sample.observation), sample, scoring)
        ],
        args.strict,
    )
    if ranks.first():
        _say(args, f"{artifact.name} on {runtime.name} {runtime.precision}", rows, [*notes, *damaged])
    return 0


def require_frames_artifact(path: Path) -> Artifact:
    """The artifact of a model of several frames. Raises ``ValueError`` for another family."""
    artifact = Artifact.load(path)
    if artifact.manifest.family not in FRAME_FAMILIES:
        expected = " or ".join(sorted(FRAME_FAMILIES))
        raise ValueError(
            f"{path}: got a model of family {artifact.manifest.family!r}, expected {expected}; models of "
            "one image are scored by kyn eval depth"
        )
    return artifact


def load_runtime(artifact: Artifact, name: str, options: LoadOptions) -> FramesRuntime:
    """A loaded runtime; what ``auto`` passes over is said."""
    from kyn_models.runtimes.frames import choose_frames

    return choose_frames(name, artifact, print, options)


def _samples(args: argparse.Namespace, artifact: Artifact) -> tuple[shared.Samples, list[str]]:
    """The chosen frames, and sentences on those that are left out."""
    offsets = NEIGHBOURS if args.offsets is None else tuple(args.offsets)
    if args.layout == "streets":
        return _streets(args, artifact, offsets), []
    if args.data is None:
        raise ValueError("--data: got none, expected the folder of KITTI odometry")
    options = OdometryFramesOptions(
        sequences=_sequences(args),
        size=(artifact.camera.height, artifact.camera.width),
        offsets=offsets,
        stereo=args.stereo,
        poses=args.poses or "dvso",
        index_masks=tuple(args.index_mask or ()),
    )
    frames = KittiOdometryFrames(args.data, options)
    camera, trained = frames.observation(*frames.items[0]).key.intrinsics, artifact.camera.intrinsics
    if not shared.same_kind(trained, camera):
        print(f"note: the model was trained with the camera {trained}; these images have {camera}")
    last = float("inf") if args.stop is None else args.stop
    within = [i for i, (_, frame) in enumerate(frames.items) if (args.start or 0) <= frame <= last]
    if not within:
        raise ValueError(f"{args.data}: got {len(frames)} frames, none from --start to --stop, expected at least one")
    return shared.Chosen(frames, within), _notes(frames)


def _notes(frames: KittiOdometryFrames) -> list[str]:
    out = frames.left_out
    counts = (
        (out.at_ends, "frames at the ends of sequences"),
        (out.masked, "frames that the index masks leave out"),
        (out.without_neighbour, "frames that lack a neighbour's image or pose"),
    )
    return [f"{count} {text}" for count, text in counts if count]


def _sequences(args: argparse.Namespace) -> tuple[str, ...]:
    if args.sequences:
        return tuple(args.sequences)
    there = set(sequences_of(args.data))
    found = tuple(name for name in EVALUATION if name in there)
    if not found:
        raise FileNotFoundError(
            f"{args.data}: got none of the sequences {', '.join(EVALUATION)}, expected sequences/<name>/calib.txt; "
            "name others with --sequences"
        )
    return found


def _streets(args: argparse.Namespace, artifact: Artifact, offsets: tuple[int, ...]) -> shared.Samples:
    from kyn_models.data.streets import Streets, StreetsOptions

    frames = HELD_OUT_FRAMES if args.frames is None else args.frames
    seed = HELD_OUT_SEED if args.seed is None else args.seed
    if frames < 1:
        raise ValueError(f"--frames: got {frames}, expected at least 1")
    options = StreetsOptions(
        frames, frames_per_street=1, first_seed=seed, views=(), neighbours=offsets, stereo=args.stereo
    )
    return _PublishedForm(Streets(options, artifact.camera.intrinsics), artifact)


class _PublishedForm:
    """Samples whose cameras are written as the model was trained with them: c' = c s, half a pixel off the true one."""

    def __init__(self, samples: shared.Samples, artifact: Artifact) -> None:
        camera = artifact.manifest.camera
        self._samples = samples
        self._intrinsics = resized_source(camera.source, camera.width, camera.height)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        frames = tuple(replace(frame, intrinsics=self._intrinsics) for frame in sample.observation.frames)
        return replace(sample, observation=replace(sample.observation, frames=frames))


def _say(
    args: argparse.Namespace, name: str, rows: Sequence[evaluate_frames.FrameScores], left_out: Sequence[str]
) -> None:
    masked = sum(row.masked for row in rows)
    print(f"multi-frame depth of {name}, {counted(len(rows))}, {masked} of them with a mask of what moves")
    part = "rows {}..{} and columns {}..{}".format(*args.roi) if args.roi else "the whole crop"
    scaled = "scaled by medians" if args.median_scaling else "no scaling"
    print(f"up to {args.far:g} m, {part}, {scaled}; means over pixels, then over frames")
    if left_out:
        print(f"left out: {'; '.join(left_out)}")
    table = []
    for (answer, area), (mean, frames) in evaluate_frames.mean_scores(rows).items():
        if frames or area == "all":
            numbers = [*shared.numbers(mean[:7]), *map(str, (mean.pixels, mean.capped, frames))]
            table.append((f"{answer}, {area}", numbers))
    shared.print_table([*DepthScores._fields[:7], "pixels", "Inf/NaN", "frames"], table)
    print("matched: the plane that matches best, without a network, where a neighbour sees the pixel")
    print(f"sq_rel and rmse in metres; Inf/NaN: predictions without a finite depth, scored as {args.far:g} m")
    if args.csv:
        shared.write_csv(
            args.csv,
            ["frame", "neighbours", "mask", "answer", "area", *DepthScores._fields],
            (
                [row.frame, row.neighbours, int(row.masked), answer, area, *scores]
                for row in rows
                for (answer, area), scores in row.scores.items()
            ),
        )
