"""Every command block of the README and of docs/training.md: run by a test, or checked and listed as not run."""

import argparse
import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from kyn_models import cli
from kyn_ros.cli import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
WITH_COMMANDS = ("README.md", "docs/training.md")

RUN = {
    "make demo": "the demo runs in CI and in test/ros/test_demo.py",
    "make test": "this is it",
    "kyn image street.jpg --fov 70": "test/test_image_command.py",
    "kyn video transition --data KITTI-360 --frame 250 --out rise.mp4": "test/test_video_command.py",
    "kyn video flight --images photos --fov 70 --path sideways circle own_path.txt --out flight.mp4": (
        "test/test_video_command.py"
    ),
    "kyn video sequence --data KITTI-360 --start 250 --stop 400 --out drive.mp4": "test/test_video_command.py",
    "kyn bag /data/KITTI-360 drive_0000 --drive 2013_05_28_drive_0000_sync": "test/ros/test_kitti360_bag.py",
    "kyn node --camera-pose 1.575 -0.004 1.58 -1.6726 0.0019 -1.533 -p use_sim_time:=true": "test/ros/test_play.py",
    'kyn import kyn kyn.pt my-street --lseg demo_e200.ckpt --labels "road,sidewalk,car,person,traffic cone,tree"': (
        "test/test_import_kyn.py"
    ),
    "kyn node --camera-pose 1.575 -0.004 1.58 -1.6726 0.0019 -1.533 -p model:=my-street": "test/ros/test_kyn_node.py",
    "kyn play drive_0000 --loop": "test/ros/test_play.py",
    "make demo MODEL=/models/my-multiframe DATA=/data/kitti_odometry": "test/ros/test_demo_frames.py",
    "make demo MODEL=runs/dymultidepth-streets/artifact DATA=/data/KITTI-360": "test/ros/test_demo_frames.py",
    "kyn eval multiframe --layout streets --frames 40 --model runs/dymultidepth-streets/artifact": (
        "test/test_eval_multiframe.py"
    ),
    "kyn node --camera-pose 0.327 0.056 1.654 -1.5773 0.008 -1.5727 -p model:=/models/my-multiframe "
    "-p pose_source:=odom -p input_rectified:=true -p use_sim_time:=true": "test/ros/test_odometry_replay.py",
    "kyn play /data/kitti_odometry --drive 07": "test/ros/test_odometry_replay.py",
    "kyn prepare kitti360 --data KITTI-360": "test/test_prepare.py",
    "kyn prepare kitti-raw --data KITTI-raw --out KITTI-small --splits train_files.txt val_files.txt": (
        "test/test_prepare_kitti_raw.py"
    ),
    "kyn prepare kitti-odometry --data KITTI-odometry --depth data_depth_annotated": (
        "test/test_prepare_kitti_odometry.py"
    ),
    "kyn prepare realestate10k --cameras RealEstate10K/train --videos videos --out RE10K-train": (
        "test/test_prepare_realestate10k.py"
    ),
    "colcon build --packages-select kyn && source install/setup.bash": "test/test_build_colcon.py",
}
"""Command to the test that runs it (with other paths)."""

NOT_RUN = {
    "cd ~/ws": "a ROS 2 workspace",
    "rosdep install --from-paths src --ignore-src -y": "needs a ROS 2 installation",
    "pip install openvino numba rosbags": "needs a ROS 2 installation; the same libraries are installed by make setup",
    "ros2 launch": "needs a ROS 2 installation; arguments are checked here, launch files in test_launch_files.py",
    "pip install '.[train]'": "make test installs the same extra",
    "torchrun --nproc_per_node=4": "needs GPUs and KITTI-360; two processes train in test/test_train_ranks.py",
    "kyn train": "takes an hour; the loop is tested in test/test_train.py, options are checked here",
}
"""Beginning of a command to the reason why no test runs it."""


def commands() -> list[str]:
    texts = "".join((ROOT / name).read_text() for name in WITH_COMMANDS)
    lines = [line for block in re.findall(r"```bash\n(.*?)```", texts, re.S) for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


def test_there_are_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_command_is_run_by_a_test_or_listed(command):
    assert command in RUN or any(command.startswith(start) for start in NOT_RUN)


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("kyn ")])
def test_kyn_commands_have_these_options(command):
    words = shlex.split(command)[1:]
    arguments = cli._parser(COMMANDS, words[0]).parse_args(words)
    assert isinstance(arguments, argparse.Namespace)


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("ros2 launch kyn ")])
def test_launch_arguments_exist(command):
    file, *given = shlex.split(command)[3:]
    known = {item.get("name") for item in ElementTree.parse(ROOT / "launch" / file).getroot().findall("arg")}
    assert {word.split(":=")[0] for word in given} <= known


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make ")])
def test_make_targets_exist(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_linked_files_exist(name):
    document = ROOT / name
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    assert not [path for path in links if "://" not in path and not (document.parent / path).exists()]
