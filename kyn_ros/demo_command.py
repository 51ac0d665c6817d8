"""``kyn demo``: a drive of KITTI-360 or KITTI odometry replayed into a real ROS 2 graph, answered, kept and drawn.

Three processes: the replay node in lockstep, the perception node, and this one, which records every message into a
rosbag2. Pictures and video are drawn afterwards from what the bag holds, so they show what a subscriber received.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kyn_models.artifact import Artifact, default_artifact
from kyn_models.runtimes import NAMES
from kyn_models.whole_files import write_whole
from kyn_ros import demo_folder
from kyn_ros.processes import ended_by_signals, private_graph, quoted, start_node, stop

SYNTHETIC_SEED = 11


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="KITTI-360 or KITTI odometry folder (else a synthetic drive is made)"
    )
    parser.add_argument("--drive", help="drive or sequence of the folder (else its only or first one)")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="how many frames (else 24)")
    parser.add_argument(
        "--model", type=Path, default=default_artifact(), metavar="DIR", help="model artifact (else the shipped one)"
    )
    parser.add_argument("--runtime", choices=NAMES, default="auto", help="what runs the network (else auto)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("demo_out"),
        help="folder for the results, new, empty, or of an earlier demo, whose results are replaced (else demo_out)",
    )
    parser.add_argument("--view", action="store_true", help="show it in a Rerun viewer in the browser")


def run(args: argparse.Namespace) -> int:
    if args.frames < 1:
        raise ValueError(f"--frames: got {args.frames}, expected at least 1")
    Artifact.load(args.model)
    private_graph()
    with ended_by_signals(), demo_folder.hold(args.out):
        return _demo(args)


def _demo(args: argparse.Namespace) -> int:
    started = time.monotonic()
    own_drive = args.out / demo_folder.DRIVE
    data = args.data if args.data is not None else _synthetic_drive(own_drive, args.frames)

    # Imported here: what they load reads the environment set above.
    from kyn_models.data.drives import drive_names, open_drive
    from kyn_ros.demo_report import draw, report

    drive = open_drive(data, args.drive or drive_names(data)[0])
    frames = min(args.frames, len(drive))
    replaced = demo_folder.clear(args.out, keep_drive=data.resolve() == own_drive.resolve())
    if replaced:
        print(f"replacing what an earlier demo left in {args.out}: {', '.join(replaced)}")
    print(f"replaying {frames} frames of {drive.drive} into a ROS 2 graph (domain {os.environ['ROS_DOMAIN_ID']})")
    bag = args.out / "recording"
    code, recording = _record(args, data, drive, frames, bag)
    summary = report(recording, bag, args.out)
    if summary["messages"].get("occupancy_grid"):
        draw(bag, args.out, Artifact.load(args.model), drive.base_from_camera(), summary, view=args.view)
    broken = _broken(drive, drive.frames[:frames]) if code else []
    summary["broken_frames"] = broken
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_whole(args.out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    written = [name for name in (*demo_folder.RESULTS, demo_folder.DRIVE) if (args.out / name).exists()]
    said = f"; {len(broken)} frame{'s' * (len(broken) != 1)} broken, named above" if broken else ""
    for warning in summary["warnings"]:
        print(f"  the node warns: {warning}")
    print(f"wrote {args.out}: {', '.join(written)} in {summary['seconds']} s in all{said}")
    return code


def _broken(drive, frames: Sequence[int]) -> list[int]:  # type: ignore[no-untyped-def]
    """The frames whose image or scan cannot be read."""
    broken = []
    for frame in frames:
        try:
            drive.posed_frame(frame)
            if drive.has_scan(frame):
                drive.scan(frame)
        except (ValueError, OSError):
            broken.append(frame)
    return broken


def _synthetic_drive(path: Path, frames: int) -> Path:
    """A drive in the official layout, made once per length."""
    mark = path / "complete"
    if mark.is_file() and mark.read_text() == str(frames):
        return path
    from kyn_models.data.street_writer import write_kitti360
    from kyn_models.data.streets import StreetOptions, make_street

    shutil.rmtree(path, ignore_errors=True)
    print(f"no DATA given: making a synthetic drive of {frames} frames in {path}")
    street = make_street(SYNTHETIC_SEED, StreetOptions(drive_m=max(60.0, 1.2 * frames + 1)))
    write_kitti360(
        [street],
        path,
        frames,
        truth=False,
        progress=lambda drive, done, of: print(f"\r  frame {done} of {of}", end="", flush=True),
    )
    print()
    mark.write_text(str(frames))
    return path


def _record(args: argparse.Namespace, data: Path, drive, frames: int, bag: Path):  # type: ignore[no-untyped-def]
    from kyn_models.data.drives import image_frame
    from kyn_ros.demo_report import Recording, listen
    from kyn_ros.mount import numbers_from_pose, parameter_text

    processes: list[subprocess.Popen] = []
    try:
        # The listener first, the replay once the node answers: what starts at the same moment may never meet.
        with listen(bag) as recorder:
            parameters = {
                "model": quoted(args.model.resolve()),
                "runtime": args.runtime,
                "camera_pose": parameter_text(numbers_from_pose(drive.base_from_camera())),
                "input_rectified": "true",
                "use_sim_time": "true",
                "qos.image.reliability": "reliable",
                "pose_source": "odom",
                # Every image is answered before the next one comes: no neighbour can be waited for.
                "frames.neighbours": "past",
            }
            perception = start_node("kyn_ros.perception_node", parameters)
            processes.append(perception)
            recorder.keep_mount(image_frame(drive.camera), drive.base_from_camera(), drive.stamp_ns(drive.frames[0]))
            recorder.until_published(perception)
            parameters = {
                "data": quoted(data.resolve()),
                "drive": quoted(drive.drive),
                "pace": "lockstep",
                "listeners": "2",
                "start": str(drive.frames[0]),
                "stop": str(drive.frames[frames - 1]),
            }
            replay = start_node("kyn_ros.replay_node", parameters)
            processes.append(replay)
            recording: Recording = recorder.until_finished(replay, perception, frames)
        return replay.returncode or (0 if recording.grids == frames else 1), recording
    finally:
        stop(processes)
