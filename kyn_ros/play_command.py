"""``kyn play``: a rosbag2, or a KITTI-360 or KITTI odometry folder, as live topics, without a ROS 2 installation."""

from __future__ import annotations

import argparse
from pathlib import Path

from kyn_models.data.drives import is_drive_folder
from kyn_ros.environment import prepare_environment
from kyn_ros.processes import quoted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A bag is played on its own topic names, a folder of drives on image, camera_info, odom and lidar/points, both "
        "with /clock. The perception node runs beside it, in another terminal: kyn node -p use_sim_time:=true "
        "--camera-pose X Y Z ROLL PITCH YAW (playing a folder prints its pose)."
    )
    parser.add_argument("path", type=Path, metavar="BAG_OR_DIR", help="rosbag2, or KITTI-360 or KITTI odometry folder")
    parser.add_argument("--rate", type=float, default=1.0, help="speed: times real time (else 1)")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C")
    folder = parser.add_argument_group("KITTI-360 and KITTI odometry folders only")
    folder.add_argument("--drive", help="drive or sequence, where the folder holds several")
    folder.add_argument("--start", type=int, metavar="FRAME", help="first frame (else of the drive)")
    folder.add_argument("--stop", type=int, metavar="FRAME", help="last frame (else of the drive)")
    folder.add_argument(
        "--lockstep", action="store_true", help="next image once the node has answered the last one: no frame is lost"
    )


def run(args: argparse.Namespace) -> int:
    if not args.path.exists():
        raise FileNotFoundError(f"{args.path}: there is no such file or folder")
    if not args.rate > 0:
        raise ValueError(f"--rate: got {args.rate}, expected a number above 0")
    prepare_environment()
    if is_drive_folder(args.path):
        return _play_folder(args)
    if args.lockstep or args.drive or args.start is not None or args.stop is not None:
        raise ValueError(
            f"{args.path}: has no data_2d_raw and no sequences, so it is no KITTI-360 or KITTI odometry folder; "
            "--drive, --start, --stop and --lockstep are for those"
        )
    require_bag(args.path)
    return _play_bag(args)


def require_bag(path: Path) -> None:
    """Raise ``ValueError`` for a folder that is no bag: it would be reported by what a bag has and this lacks."""
    if not path.is_dir() or (path / "metadata.yaml").is_file():
        return
    files = sorted(file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
    raise ValueError(
        f"{path}: got {'a folder without metadata.yaml' if any(path.iterdir()) else 'an empty folder'}, expected a "
        "rosbag2 (metadata.yaml and its files, or one .mcap or .db3 file), a KITTI-360 folder (with data_2d_raw) or a "
        "KITTI odometry folder (with sequences)" + (f"; play {files[0]} itself" if files else "")
    )


def _play_folder(args: argparse.Namespace) -> int:
    from kyn_ros import replay_node

    values: dict[str, object] = {"data": quoted(args.path), "rate": args.rate, "loop": str(args.loop).lower()}
    values |= {"drive": args.drive and quoted(args.drive), "start": args.start, "stop": args.stop}
    values["pace"] = "lockstep" if args.lockstep else "clock"
    given = [f"{name}:={value}" for name, value in values.items() if value is not None]
    return replay_node.main(["--ros-args", *(word for value in given for word in ("-p", value))])


def _play_bag(args: argparse.Namespace) -> int:
    from rclpy.executors import SingleThreadedExecutor

    from kyn_ros import lifecycle
    from kyn_ros.bag_player import BagPlayer

    stop = lifecycle.start_ros([])
    try:
        player = BagPlayer(args.path, args.rate, args.loop, stop)
    except ValueError as error:
        raise ValueError(
            f"{error}; where its recording was cut short, `mcap recover` (.mcap) or `ros2 bag reindex` (metadata.yaml) "
            "mends it"
        ) from error
    executor = SingleThreadedExecutor()
    executor.add_node(player)
    player.run(executor)
    player.close()
    lifecycle.end_ros(player, executor, ended=True)
    return 0
