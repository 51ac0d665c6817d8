"""``kyn eval occupancy``: the published occupancy scores on KITTI-360 frames."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from kyn_models import evaluate_occupancy, ranks
from kyn_models.baselines import Prior
from kyn_models.cli import left_out
from kyn_models.cli.eval import (
    Drives,
    add_common_arguments,
    check_common,
    chosen_drives,
    frames_said,
    load_model,
    numbers,
    print_table,
    progress,
    write_csv,
)
from kyn_models.cli.unused import refuse
from kyn_models.data import drive_truth
from kyn_models.data.kitti360 import Kitti360, drives_of
from kyn_models.data.occupancy_files import OBJECTS, frame_name, has_truth, read_objects, read_settings
from kyn_models.data.splits import SplitLine, read_split
from kyn_models.evaluate import DensityModel, PredictorAnswers
from kyn_models.evaluate_occupancy import KYN, PROTOCOLS, TRIVIAL, OccupancyProtocol, OccupancyRow, mean_occupancy
from kyn_models.metrics import OccupancyScores
from kyn_models.types import UInt8Array

DEFAULT_SCANS = 12
"""Without a named protocol: what 24 shared frames can give to half of them."""
SHORTEST_SHARE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        help="of which paper: kyn (300 scans) or bts (20 scans, own depth) (else as kyn with 12 scans)",
    )
    parser.add_argument(
        "--scans", type=int, metavar="N", help="scans that make the truth (else the protocol's; without --protocol 12)"
    )
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="DIR",
        help="take the truth from masks (of `kyn gt-occupancy`, or GT_Occ) instead of scans",
    )
    parser.add_argument(
        "--objects", type=Path, metavar="DIR", help="object maps (Object_Label): also scores near objects"
    )
    parser.add_argument("--prior", type=Path, metavar="FILE", help="a prior (.npz) as a further row of the table")
    parser.add_argument("--strict", action="store_true", help="stop at the first frame that cannot be scored")


def run(args: argparse.Namespace) -> int:
    """Print the tables of the model and of answers that look at no image."""
    protocol = _protocol(args)
    drives, missing = _frames(args, protocol)
    frames = sum(len(chosen) for _, chosen in drives)
    if not frames and missing:
        raise ValueError(
            f"{args.split}: none of its {len(missing)} frames can be scored; {left_out.sentences(missing[:1])[0]}"
        )
    if not frames:
        why = "that has masks" if args.truth else f"that is followed by {protocol.scans} posed frames with scans"
        raise ValueError(f"{args.data}: got no frame {why}, expected at least one; use fewer --scans or other frames")
    model, name = load_model(args.model, args.runtime, args.precision)
    name += frames_said(model, True)
    models: dict[str, DensityModel] = {name + (", images of other frames" if args.other_images else ""): model}
    if args.prior:
        prior = Prior.load(args.prior)
        models[f"prior of {left_out.counted(prior.frames)}, no image"] = prior
    rows, skipped = _score(args, protocol, drives, {**models, **TRIVIAL}, model.frames_wanted)
    ranks.leave()
    if skipped and not rows:
        raise ValueError(f"{skipped[0][1]}, and none of the {frames} frames could be scored")
    if ranks.first():
        _say(args, protocol, rows, [*missing, *skipped])
    return 0


def _protocol(args: argparse.Namespace) -> OccupancyProtocol:
    """The protocol that the arguments name, with its number of scans. Raises for arguments that do not go together."""
    check_common(args)
    protocol = PROTOCOLS[args.protocol] if args.protocol else replace(KYN, scans=DEFAULT_SCANS)
    if args.scans is not None:
        protocol = replace(protocol, scans=args.scans)
    if protocol.scans < 1:
        raise ValueError(f"--scans: got {protocol.scans}, expected at least 1")
    for name, folder in (("--truth", args.truth), ("--objects", args.objects)):
        if folder and protocol.own_depth:
            raise ValueError(f"{name}: holds maps of 4 to 50 m, which the bts protocol does not use; leave it out")
        if folder and not folder.is_dir():
            raise FileNotFoundError(f"{name}: there is no folder {folder}")
    if args.truth and args.scans is not None:
        raise ValueError("--scans: the masks of --truth are made already; leave one of the two out")
    return protocol


def _frames(args: argparse.Namespace, protocol: OccupancyProtocol) -> tuple[Drives, list[tuple[str, str]]]:
    """Readers and frames to score; name and reason of those that a split names and that cannot be."""
    if not args.split:
        if args.truth:
            lack = f"without masks in {args.truth}"
        else:
            lack = f"that have no scan or are not followed by {protocol.scans} posed frames with scans"
        with contextlib.nullcontext() if ranks.first() else contextlib.redirect_stdout(io.StringIO()):
            drives = chosen_drives(args, partial(_suitable, args, protocol), lack)
        _check_camera(args, drives)
        return drives, []
    refuse(args, ("drive", "camera"), "--split, which names its frames itself,")
    lines = [line for line in read_split(args.split) if _within(args, line.frame)]
    known = drives_of(args.data)
    drives, missing = [], []
    for name, camera in dict.fromkeys((line.drive, line.camera) for line in lines):
        wanted = [line for line in lines if (line.drive, line.camera) == (name, camera)][:: args.every]
        drive, fault = None, f"there is no drive {name} in {args.data / 'data_2d_raw'}"
        if name in known:
            try:
                drive = Kitti360(args.data, name, camera)
            except (FileNotFoundError, ValueError) as error:
                fault = str(error)
        good = []
        for line in wanted:
            reason = fault if drive is None else _lack(args, protocol, drive, line)
            if reason and args.strict:
                raise ValueError(f"{line.source}: frame {line.frame} of {line.drive} cannot be scored, {reason}")
            if reason:
                missing.append((frame_name(line.drive, line.frame), reason))
            else:
                good.append(line.frame)
        if drive and good:
            drives.append((drive, tuple(good)))
    _check_camera(args, drives)
    return drives, missing


def _within(args: argparse.Namespace, frame: int) -> bool:
    return (args.start is None or frame >= args.start) and (args.stop is None or frame <= args.stop)


def _suitable(args: argparse.Namespace, protocol: OccupancyProtocol, drive: Kitti360) -> tuple[int, ...]:
    """Frames of a drive that can be scored, without a split."""
    if args.truth:
        return tuple(frame for frame in drive.frames if has_truth(args.truth, frame_name(drive.drive, frame)))
    return drive_truth.frames_with_scans(drive, protocol.scans)


def _lack(args: argparse.Namespace, protocol: OccupancyProtocol, drive: Kitti360, line: SplitLine) -> str:
    """Why a frame of a split cannot be scored, empty where it can."""
    if not drive.has_pose(line.frame):
        return "no pose"
    if not drive.image_path(line.frame).is_file():
        return "no image"
    name = frame_name(line.drive, line.frame)
    if args.strict and args.objects and not _has_objects(args, name):
        return f"no object map in {args.objects}"
    if args.truth:
        return "" if has_truth(args.truth, name) else f"no masks in {args.truth}"
    window = drive_truth.window(drive, line.frame, protocol.scans)
    return next((f"{drive.scan_path(later)} is missing" for later in window if not drive.has_scan(later)), "")


def _check_camera(args: argparse.Namespace, drives: Drives) -> None:
    """Masks and object maps do not tell their camera: refuse those of another one."""
    settings = read_settings(args.truth) if args.truth else None
    camera = settings.camera if settings else "00"
    other = next((drive.camera for drive, _ in drives if drive.camera != camera), None)
    if other and (args.truth or args.objects):
        raise ValueError(f"--truth, --objects: are for camera {camera}, got frames of camera {other}; leave those out")


def _score(
    args: argparse.Namespace,
    protocol: OccupancyProtocol,
    drives: Drives,
    models: Mapping[str, DensityModel],
    frames_wanted: int,
) -> tuple[list[OccupancyRow], list[tuple[str, str]]]:
    """Rows of all ranks' frames, and name and reason of frames whose truth or image turned out to be damaged."""
    turned = {
        (drive.drive, drive.camera): {
            frame: frames[(i + len(frames) // 2) % len(frames)] for i, frame in enumerate(frames)
        }
        for drive, frames in drives
    }
    skipped: list[tuple[str, str]] = []

    def objects(name: str) -> UInt8Array | None:
        return read_objects(args.objects, name) if _has_objects(args, name) else None

    parts = ranks.share(_parts(drives))
    rows = evaluate_occupancy.evaluate_occupancy(
        models,
        parts,
        protocol,
        partial(evaluate_occupancy.stored_truths, args.truth) if args.truth else None,
        objects,
        (lambda drive, frame: turned[drive.drive, drive.camera][frame]) if args.other_images else _same,
        None if args.strict else lambda name, reason: skipped.append((name, reason)),
        progress if ranks.first() else None,
        {answer: model.reach for answer, model in models.items() if isinstance(model, PredictorAnswers)},
        frames_wanted,
    )
    if ranks.here()[1] == 1:
        return rows, skipped
    everything = ranks.gather([(rows, skipped)])
    return [row for part, _ in everything for row in part], [entry for _, part in everything for entry in part]


def _has_objects(args: argparse.Namespace, name: str) -> bool:
    return args.objects is not None and (args.objects / (name + OBJECTS)).is_file()


def _same(drive: Kitti360, frame: int) -> int:
    return frame


def _parts(drives: Drives) -> Drives:
    """The same frames in pieces that ranks can share: neighbours stay together, for their scans."""
    world = ranks.here()[1]
    size = max(SHORTEST_SHARE, sum(len(frames) for _, frames in drives) // (4 * world))
    if world == 1:
        return drives
    return [(drive, frames[at : at + size]) for drive, frames in drives for at in range(0, len(frames), size)]


def _say(
    args: argparse.Namespace, protocol: OccupancyProtocol, rows: Sequence[OccupancyRow], missing: list[tuple[str, str]]
) -> None:
    settings = read_settings(args.truth) if args.truth else None
    source = f"truth from {protocol.scans} scans" if not args.truth else f"truth of {args.truth}"
    if settings:
        source += f" from {settings.scans} scans"
    kinds = ["scene", *(["far_cut"] if protocol.far_cut else []), *(["near_objects"] if args.objects else [])]
    marks = {"scene": "", "far_cut": " (cut)", "near_objects": " (objects)"}
    frames = len({row.frame for row in rows})
    for far, near in protocol.ranges:
        print(f"occupancy, {left_out.counted(frames)}, {source}, x -4..4 m, z {near:g}..{far:g} m")
        columns = [*(f"{field}{marks[kind]}" for kind in kinds for field in OccupancyScores._fields), "NaN"]
        columns += ["NaN (objects)"] if args.objects else []
        table = []
        for answer in dict.fromkeys(row.answer for row in rows):
            means = mean_occupancy(rows, answer, far, protocol)
            texts = [text for kind in kinds for text in numbers(getattr(means, kind))]
            counts = [means.nothing, *([means.no_objects] if args.objects else [])]
            table.append((answer, [*texts, *map(str, counts)]))
        print_table(columns, table)
    print("o_acc: right cells; ie_acc: right among unseen; ie_rec: unseen free space found; (cut): after the far cut;")
    print("NaN: frames without a score")
    if protocol.own_depth:
        print(
            "seen are also the cells before an answer's own depth: what it calls free and sees is not in ie_acc, ie_rec"
        )
    if args.objects:
        blank = sum(not _has_objects(args, name) for name in {row.frame for row in rows})
        print(f"(objects): near the objects of {args.objects}, in frames that have some; {blank} without a map")
    for sentence in left_out.sentences(missing):
        print(sentence)
    if args.csv:
        endings = ["" if kind == "scene" else f"_{kind}" for kind in kinds]
        header = [
            "frame",
            "answer",
            "far_m",
            *(field + ending for ending in endings for field in OccupancyScores._fields),
        ]
        lines = ([row[:3], [value for kind in kinds for value in getattr(row, kind)]] for row in rows)
        write_csv(args.csv, header, ([*who, *values] for who, values in lines))
