"""``kyn node``: the perception node in this process, with the Fast DDS profile that large images need."""

from __future__ import annotations

import argparse
from pathlib import Path

from kyn_models.artifact import Artifact
from kyn_ros.environment import prepare_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, metavar="DIR", help="model artifact (else the shipped one)")
    parser.add_argument("--runtime", help="what runs the network (else auto; `kyn doctor` lists what works)")
    parser.add_argument(
        "--camera-pose",
        type=float,
        nargs=6,
        metavar=("X", "Y", "Z", "ROLL", "PITCH", "YAW"),
        help="the OPTICAL frame in base_link, metres and radians (else from TF)",
    )
    parser.add_argument("--params-file", type=Path, metavar="YAML", help="parameters, as config/ros/perception.yaml")
    add_parameters(parser)
    parser.add_argument(
        "-r",
        "--remap",
        action="append",
        default=[],
        metavar="FROM:=TO",
        help="another name for a topic; may be repeated",
    )


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """``--param``: any parameter of the perception node, by its name."""
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="a parameter of the node; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    words = ["--ros-args"]
    if args.params_file is not None:
        if not args.params_file.is_file():
            kind = "is a folder" if args.params_file.is_dir() else "there is no such file"
            raise FileNotFoundError(f"{args.params_file}: {kind}, expected parameters in YAML")
        words += ["--params-file", str(args.params_file)]
    for option, given in (("-p", args.param), ("-r", args.remap)):
        for word in given:
            if ":=" not in word:
                raise ValueError(f"{option}: got {word!r}, expected two sides with := between them")
            words += [option, word]
    if args.model is not None:
        Artifact.load(args.model)  # said here, in a sentence, before ROS starts
        words += ["-p", f"model:={args.model.resolve()}"]
    if args.runtime is not None:
        words += ["-p", f"runtime:={args.runtime}"]
    if args.camera_pose is not None:
        from kyn_ros.mount import parameter_text

        words += ["-p", f"camera_pose:={parameter_text(args.camera_pose)}"]
    prepare_environment()
    from kyn_ros import perception_node

    # Nobody on a command line would configure it again.
    return perception_node.main(words, must_start=True)
