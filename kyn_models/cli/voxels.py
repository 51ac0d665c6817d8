"""``kyn voxels``: a voxel mesh and a picture of every frame of a KITTI-360 split, one after the other.

A stopped run goes on where it ended; ``voxels.json`` in the folder says with what model and options it was begun.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kyn_models.artifact import Artifact
from kyn_models.cli.eval import progress
from kyn_models.cli.left_out import counted
from kyn_models.cli.model_options import add_model, add_runtime
from kyn_models.data.kitti360 import open_split
from kyn_models.data.neighbours import kitti360_sample
from kyn_models.data.splits import SplitLine, read_split
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import VoxelGridSpec
from kyn_models.voxel_pictures import picture_path, write_voxels
from kyn_models.whole_files import write_whole

SETTINGS = "voxels.json"
NAMED_AT_MOST = 5
"""Missing frames that are named one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="KITTI-360 folder in its official layout"
    )
    parser.add_argument(
        "--split", type=Path, required=True, metavar="FILE", help="frame list: <drive> <frame> <l|r> lines"
    )
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the meshes and pictures")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every N-th line of the split (else all)"
    )
    parser.add_argument(
        "--resolution", type=float, default=0.2, metavar="M", help="edge of a voxel in metres (else 0.2)"
    )
    parser.add_argument(
        "--occupied-above",
        type=float,
        default=GridOptions().occupied_above,
        metavar="P",
        help="probability above which a voxel is drawn (else 0.65)",
    )
    parser.add_argument("--strict", action="store_true", help="stop at a frame that is missing, instead of counting it")
    add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    if args.every < 1:
        raise ValueError(f"--every: got {args.every}, expected at least 1")
    if not 0 < args.occupied_above < 1:
        raise ValueError(f"--occupied-above: got {args.occupied_above}, expected a probability between 0 and 1")
    spec = VoxelGridSpec(resolution_m=args.resolution)
    readers = {(drive.drive, drive.camera): drive for drive in open_split(args.data, args.split, strict=False)}
    faults = {fault.split(": names ")[0]: fault for drive in readers.values() for fault in drive.missing}
    lines = read_split(args.split)[:: args.every]
    missing = [faults[line.source] for line in lines if line.source in faults]
    if missing and (args.strict or len(missing) == len(lines)):
        raise ValueError(f"{missing[0]} ({len(missing)} of {len(lines)} lines are like that)")
    artifact = Artifact.load(args.model)
    begin(args.out, {"model": artifact.hash, "grid": asdict(spec), "occupied_above": args.occupied_above})
    wanted = [line for line in lines if line.source not in faults]
    names = [frame_name(line) for line in wanted]
    damaged = []
    todo = [index for index, name in enumerate(names) if not picture_path(args.out, name).is_file()]
    if todo:
        predictor = make_predictor(artifact, PredictorOptions(args.runtime, spec, precision=args.precision))
        print(f"{artifact.name} on {predictor.runtime_name}: {len(todo)} of {len(lines)} frames to do", flush=True)
        for done, index in enumerate(todo, start=1):
            try:
                line = wanted[index]
                drive = readers[line.drive, line.camera]
                observation = kitti360_sample(drive, line.frame, predictor.frames_wanted).observation
            except (OSError, ValueError) as error:  # a damaged image
                if args.strict:
                    raise
                damaged.append(str(error))
                continue
            write_voxels(args.out, names[index], predictor.predict(observation), args.occupied_above)
            progress(done, len(todo), names[index])
    left_out = [*missing, *damaged]
    for fault in left_out[:NAMED_AT_MOST]:
        print(f"  left out: {fault}")
    written, there = len(todo) - len(damaged), len(wanted) - len(todo)
    print(f"{args.out}: {counted(written)} written, {there} were there, {len(left_out)} missing")
    return 0


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or raise ``ValueError`` if it was begun with other settings or holds other files."""
    file = out / SETTINGS
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if file.is_file():
        if file.read_text() != text:
            raise ValueError(f"{file}: the folder was begun with another model or grid; name another folder as --out")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is there already and not a folder of `kyn voxels`; name a new one as --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode())


def frame_name(line: SplitLine) -> str:
    """``<drive>_<frame, 10 digits>``, with the camera where it is the right one."""
    return f"{line.drive}_{line.frame:010d}" + ("" if line.camera == "00" else f"_{line.camera}")
