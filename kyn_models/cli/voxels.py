"""``kyn voxels``: a voxel mesh and a picture of every frame of a KITTI-360 split, one after the other.

A stopped run goes on where it ended; ``voxels.json`` in the folder says with what model and options it was begun.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kyn_models.artifact import Artifact, default_artifact
from kyn_models.cli.eval import progress
from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.splits import SplitLine, read_split
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import Predictor
from kyn_models.runtimes import NAMES
from kyn_models.types import Sample, VoxelGridSpec
from kyn_models.voxel_pictures import picture_path, write_voxels
from kyn_models.whole_file import write_whole

SETTINGS = "voxels.json"
NAMED_AT_MOST = 5
"""Missing frames that are named one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="KITTI-360 in its official layout")
    parser.add_argument("--split", type=Path, required=True, metavar="FILE", help="lines of <drive> <frame> <l|r>")
    parser.add_argument("--model", type=Path, default=default_artifact(), help="model artifact (else the shipped one)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the meshes and pictures")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th line of the split")
    parser.add_argument("--resolution", type=float, default=0.2, metavar="M", help="edge of a voxel (else 0.2)")
    parser.add_argument(
        "--occupied-above",
        type=float,
        default=GridOptions().occupied_above,
        metavar="P",
        help="probability (else 0.65)",
    )
    parser.add_argument("--strict", action="store_true", help="a frame that is missing is an error, not counted")
    parser.add_argument("--runtime", choices=NAMES, default="auto", help="what runs the network (else auto)")


def run(args: argparse.Namespace) -> int:
    if args.every < 1:
        raise ValueError(f"--every: got {args.every}, expected at least 1")
    if not 0 < args.occupied_above < 1:
        raise ValueError(f"--occupied-above: got {args.occupied_above}, expected a probability between 0 and 1")
    spec = VoxelGridSpec(resolution_m=args.resolution)
    frames = Frames(args.data)
    lines = read_split(args.split)[:: args.every]
    missing = {number: fault for number, line in enumerate(lines) if (fault := frames.fault(line))}
    if missing and (args.strict or len(missing) == len(lines)):
        raise ValueError(next(iter(missing.values())) + f" ({len(missing)} of {len(lines)} lines are like that)")
    faults = list(missing.values())
    artifact = Artifact.load(args.model)
    begin(args.out, {"model": artifact.hash, "grid": asdict(spec), "occupied_above": args.occupied_above})
    wanted = [line for number, line in enumerate(lines) if number not in missing]
    names = [frames.name(line) for line in wanted]
    todo = [index for index, name in enumerate(names) if not picture_path(args.out, name).is_file()]
    if todo:
        predictor = Predictor(artifact, args.runtime, spec)
        print(f"{artifact.name} on {predictor.runtime_name}: {len(todo)} of {len(lines)} frames to do", flush=True)
        for done, index in enumerate(todo, start=1):
            try:
                observation = frames.sample(wanted[index]).observation
            except (OSError, ValueError) as error:  # a damaged image
                if args.strict:
                    raise
                faults.append(str(error))
                continue
            write_voxels(args.out, names[index], predictor.predict(observation), args.occupied_above)
            progress(done, len(todo), names[index])
    for fault in faults[:NAMED_AT_MOST]:
        print(f"  left out: {fault}")
    written = len(todo) + len(missing) - len(faults)
    print(f"{args.out}: {written} frames written, {len(wanted) - len(todo)} were there, {len(faults)} missing")
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


class Frames:
    """The frames that split lines name; a drive is opened when its first line comes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._drives: dict[tuple[str, str], Kitti360 | str] = {}

    def fault(self, line: SplitLine) -> str:
        """Why a line names nothing that can be read, in a sentence; empty if it does. A damaged image shows later."""
        drive = self._drive(line)
        if isinstance(drive, str):
            return f"{line.source}: names {line.drive}, which cannot be read: {drive}"
        image = drive.image_path(line.frame)
        if not image.is_file():
            return f"{line.source}: names frame {line.frame} of {line.drive}, whose image {image} is missing"
        if not drive.has_pose(line.frame):
            return f"{line.source}: names frame {line.frame} of {line.drive}, which has no pose"
        return ""

    def name(self, line: SplitLine) -> str:
        """``<drive>_<frame, 10 digits>``, with the camera where it is the right one."""
        return f"{line.drive}_{line.frame:010d}" + ("" if line.camera == "00" else f"_{line.camera}")

    def sample(self, line: SplitLine) -> Sample:
        """The sample of a line without a fault. Raises as the reader does, by name."""
        drive = self._drive(line)
        assert not isinstance(drive, str)
        return drive.sample(line.frame)

    def _drive(self, line: SplitLine) -> Kitti360 | str:
        """The reader, or what it said instead."""
        key = line.drive, line.camera
        if key not in self._drives:
            try:
                self._drives[key] = Kitti360(self._root, *key)
            except (OSError, ValueError) as error:
                self._drives[key] = str(error)
        return self._drives[key]
