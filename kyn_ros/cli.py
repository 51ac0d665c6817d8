"""The ``kyn`` console script: the commands of ``kyn_models`` and the ROS verbs. Without ROS all others still work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kyn_models import cli

ROS_COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("kyn_ros.demo_command", "replay a drive through the perception node"),
    "play": ("kyn_ros.play_command", "publish a rosbag2, a KITTI-360 or a KITTI odometry folder as ROS 2 topics"),
    "node": ("kyn_ros.node_command", "start the perception node"),
    "bag": ("kyn_ros.bag_command", "write a drive of KITTI-360 or KITTI odometry as a rosbag2"),
    "bench-node": ("kyn_ros.bench_node_command", "rate, latency and memory of the node, end to end"),
}
COMMANDS = {**ROS_COMMANDS, **cli.COMMANDS, "doctor": ("kyn_ros.doctor_command", cli.COMMANDS["doctor"][1])}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``kyn`` with ``argv`` (default: the process's arguments) and return its exit code."""
    return cli.main(argv, COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
