"""``kyn doctor`` with what the nodes need: ROS 2, the messages, the Fast DDS profile."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
from collections.abc import Iterator
from typing import Any

from kyn_models.cli import ROS_FROM_PIP, extra
from kyn_models.cli import doctor as models_doctor
from kyn_models.cli.doctor import Check, library, report
from kyn_ros.environment import PROFILE_VARIABLES, check_environment, profile_variables, shared_file

MESSAGES = ("builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "nav_msgs", "rosgraph_msgs", "sensor_msgs")
add_arguments = models_doctor.add_arguments


def run(args: argparse.Namespace) -> int:
    """Report on both jobs; the exit code is 0 if the perception node can run."""
    jobs = {
        "photos (kyn image)": models_doctor.checks(args.model),
        "perception node (kyn demo, kyn node)": checks(),
    }
    return report(jobs, args.json)


def checks() -> Iterator[Check]:
    """ROS 2 and the standard messages are needed; the own message, the profile and bags are recommended."""
    try:
        check_environment()
    except ValueError as error:
        # Importing rclpy may end the process with another middleware than the installed ones.
        yield Check("ROS environment", "gap", str(error))
        return
    ros = library("rclpy", ROS_FROM_PIP, "gap", _ros)
    yield ros
    # Without ROS nothing else of it is there: one gap, one remedy.
    for package in MESSAGES if ros.status == "ok" else ():
        message = library(f"{package}.msg", ROS_FROM_PIP, "gap")
        if message.status != "ok":
            yield message
    yield _own_messages()
    yield library("tf2_ros", "give the mount as camera_pose; TF comes only with a ROS 2 installation")
    yield library("rosbags", "pip install rosbags")
    yield library("av", f"{extra('video')}, for the demo's video")
    yield _profile()


def _ros(rclpy: Any) -> str:
    try:
        version = f"pip wheels {importlib.metadata.version('ros-rclpy')}"
    except importlib.metadata.PackageNotFoundError:
        version = f"installation {os.environ.get('ROS_DISTRO', 'without ROS_DISTRO')}"
    return f"{version}, {rclpy.get_rmw_implementation_identifier()}"


def _own_messages() -> Check:
    found = library("kyn.msg", "build with colcon, or in the source folder: pip install --no-deps --force-reinstall .")
    if found.status == "ok":
        return Check("kyn.msg", "ok", "OccupancyVolume")
    return Check("kyn.msg", "optional", f"{found.detail}: no occupancy_volume topic", found.remedy)


def _profile() -> Check:
    name = "Fast DDS profile"
    try:
        profile = shared_file("config/fastdds.xml")
    except FileNotFoundError as error:
        return Check(name, "optional", str(error))
    export = " ".join(f"{variable}={profile}" for variable in profile_variables())
    named = [variable for variable in PROFILE_VARIABLES if os.environ.get(variable)]
    if not named:
        return Check(name, "ok", f"used by kyn's own processes; for all others: export {export}")
    return Check(name, "ok", f"{named[0]}={os.environ[named[0]]}")
