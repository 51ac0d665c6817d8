"""``kyn cloud``: the depth of every frame of a sequence as one coloured point cloud (PLY), by any model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from kyn_models.artifact import Artifact
from kyn_models.cli.eval import check_writable, progress
from kyn_models.cli.left_out import counted
from kyn_models.cli.model_options import add_model, add_roi, add_runtime
from kyn_models.cli.unused import refuse
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.kitti_odometry_drive import POSE_FOLDERS, OdometryDrive
from kyn_models.data.moving_masks import MaskOptions, MovingMasks

LAYOUTS = ("kitti360", "kitti_odometry")
OF_MASKS = ("mask-grow", "mask-frames", "mask-hits")
"""Options of ``--without-moving``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set folder, or of kyn synth")
    parser.add_argument("--layout", choices=LAYOUTS, default="kitti360", help="data set of DIR (else kitti360)")
    parser.add_argument("--drive", metavar="NAME", help="drive or sequence, where DIR holds several")
    parser.add_argument("--poses", choices=tuple(POSE_FOLDERS), help="kitti_odometry: which poses (else kitti)")
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="PLY", help="file to write")
    parser.add_argument("--start", type=int, metavar="FRAME", help="first frame (else of the drive)")
    parser.add_argument("--stop", type=int, metavar="FRAME", help="last frame (else of the drive)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="depth of every N-th frame (else all)")
    parser.add_argument("--near", type=float, default=3.0, metavar="M", help="nearest depth in metres (else 3)")
    parser.add_argument("--far", type=float, default=30.0, metavar="M", help="farthest depth in metres (else 30)")
    parser.add_argument(
        "--edge",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="leave out pixels where inverse depth bends by more, at edges of things (else 0.05)",
    )
    parser.add_argument("--step", type=int, default=1, metavar="N", help="every N-th pixel of both directions (else 1)")
    parser.add_argument(
        "--voxel", type=float, default=0.1, metavar="M", help="one point in each cube, 0 for all points (else 0.1)"
    )
    parser.add_argument(
        "--min-frames", type=int, default=1, metavar="N", help="only cubes into which N frames put points (else 1)"
    )
    add_roi(parser, "only these rows and columns of the depth images")
    parser.add_argument(
        "--without-moving",
        action="store_true",
        default=None,
        help="kitti_odometry: leave out what the masks of moving objects (mvobj_mask) mark",
    )
    parser.add_argument("--mask-grow", type=int, metavar="PX", help="masks grow by so many of their pixels (else 16)")
    parser.add_argument("--mask-frames", type=int, metavar="N", help="masks around each frame that count (else 5)")
    parser.add_argument(
        "--mask-hits", type=int, metavar="N", help="leave out what so many of these masks mark at its pixel (else 1)"
    )
    parser.add_argument("--strict", action="store_true", help="a frame that cannot be read is an error (else left out)")
    add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``kyn cloud``; raises ValueError or OSError with one sentence for what the user can mend."""
    from kyn_models.cloud import Cloud, CloudOptions, seen_from
    from kyn_models.ply import write_points
    from kyn_models.predictor import PredictorOptions
    from kyn_models.predictors import make_predictor

    if args.every < 1:
        raise ValueError(f"--every: got {args.every}, expected at least 1")
    roi = tuple(args.roi) if args.roi else None
    options = CloudOptions(args.near, args.far, args.edge, args.step, args.voxel, args.min_frames, roi)
    check_writable(args.out)
    drive = _drive(args)
    frames = _frames(args, drive)
    masks = _masks(args, drive)
    artifact = Artifact.load(args.model)
    predictor = make_predictor(artifact, PredictorOptions(args.runtime, precision=args.precision), warn=print)
    print(f"{artifact.name} on {predictor.runtime_name}: {counted(len(frames))} of {drive.drive}", flush=True)
    cloud, done, alone = Cloud(options.voxel_m, options.min_frames), 0, 0
    damaged: list[Exception] = []
    say = None if args.strict else damaged.append
    for seen in seen_from(drive, frames, predictor, options, args.every, say, masks):
        cloud.add(seen.points)
        done, alone = done + 1, alone + (seen.frames_used == 1)
        progress(done, len(frames[:: args.every]), f"{cloud.seen} points")
    points = cloud.points()
    if not len(points.xyz):
        raise ValueError(
            f"{args.data}: got no depth from {args.near:g} to {args.far:g} m in {counted(done)}, expected some"
            + (f" in cubes that {args.min_frames} of them see" if args.min_frames > 1 else "")
            + (f"; {len(damaged)} could not be read: {damaged[0]}" if damaged else "")
        )
    write_points(args.out, *points)
    print(f"{args.out}: {len(points.xyz)} points of {counted(done)} ({cloud.seen} before thinning)")
    bare = 0 if masks is None else sum(not masks.has_mask(frame) for frame in frames)
    _say(alone if predictor.frames_wanted > 1 else 0, bare, len(frames), damaged)
    return 0


def _say(alone: int, bare: int, frames: int, damaged: Sequence[Exception]) -> None:
    """What the cloud lacks."""
    if alone:
        print(f"{alone} of these frames had no neighbours to be compared with: their depth is of one image")
    if bare:
        print(f"no mask of what moves: {bare} of {counted(frames)}")
    if damaged:
        print(f"left out: {counted(len(damaged))} that could not be read: {'; '.join(map(str, damaged))}")


def _drive(args: argparse.Namespace) -> Kitti360 | OdometryDrive:
    if args.layout == "kitti_odometry":
        return OdometryDrive(args.data, args.drive, poses=args.poses or "kitti")
    refuse(args, ("poses", "without-moving", *OF_MASKS), args.layout)
    return Kitti360(args.data, args.drive)


def _masks(args: argparse.Namespace, drive: Kitti360 | OdometryDrive) -> MovingMasks | None:
    """What moves in the sequence, if that is to be left out."""
    if not isinstance(drive, OdometryDrive):
        return None
    if not args.without_moving:
        refuse(args, OF_MASKS, "a cloud of all pixels (without --without-moving)")
        return None
    given = zip(("grow_px", "frames", "hits"), (args.mask_grow, args.mask_frames, args.mask_hits), strict=True)
    return MovingMasks(drive, MaskOptions(**{name: value for name, value in given if value is not None}))


def _frames(args: argparse.Namespace, drive: Kitti360 | OdometryDrive) -> Sequence[int]:
    last = drive.frames[-1] if args.stop is None else args.stop
    frames = [frame for frame in drive.frames if (args.start or 0) <= frame <= last]
    if not frames:
        raise ValueError(
            f"{args.data}: got no frame from --start to --stop, expected some of {drive.frames[0]} to "
            f"{drive.frames[-1]} of {drive.drive}"
        )
    return frames
