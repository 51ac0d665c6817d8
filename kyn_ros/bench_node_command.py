"""``kyn bench-node``: the perception node end to end, image in to grid received, reported as ros2_benchmark does.

The node is a process of its own; this one is camera and listener. Real images go in at fixed rates, and a search finds
the highest rate of which less than 5 % are missed.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kyn_models.artifact import Artifact
from kyn_models.benchmark.images import BenchmarkImages, add_image_arguments, load_images
from kyn_models.benchmark.record import check_output, hardware, in_words, write_json
from kyn_models.cli.model_options import add_model, add_runtime
from kyn_ros.node_command import add_parameters
from kyn_ros.processes import ended_by_signals, private_graph, start_node, stop

if TYPE_CHECKING:
    from kyn_ros.node_load import Camera

RATES_HZ = (10.0, 30.0, 60.0)
MOST_HZ = 1000.0
START_SECONDS = 180.0
WARM_UP_HZ, WARM_UP_SECONDS = 5.0, 2.0
SEARCH_SECONDS = 5.0
NEAR_ENOUGH = 1.05
"""The search ends when the lowest rate that is too high is this times the highest that is not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_image_arguments(parser)
    add_model(parser)
    add_runtime(parser)
    add_parameters(parser)
    parser.add_argument(
        "--outputs",
        choices=("grid", "default", "all"),
        default="default",
        help="what is subscribed to: the grid alone; with volume and depth, as Nav2 and RViz (default); all topics",
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", default=list(RATES_HZ), metavar="HZ", help="images per second (else 10 30 60)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help="how long each rate lasts (else 10)")
    parser.add_argument("--find-highest", action="store_true", help="search the highest rate with under 5 %% missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON too")


def run(args: argparse.Namespace) -> int:
    _check(args)
    images = load_images(args, Artifact.load(args.model).manifest.camera)
    private_graph()
    # Imported here: what they load reads the environment set above.
    from kyn_ros.node_load import OUTPUTS, Graph
    from kyn_ros.node_report import FORMULA

    cores = len(os.sched_getaffinity(0))
    print(f"{images.source}; {in_words(hardware(cores))}", flush=True)
    node: subprocess.Popen | None = None
    with ended_by_signals(), tempfile.TemporaryFile("w+") as log:
        try:
            with Graph(images.observations, OUTPUTS[args.outputs]) as camera:
                node = start_node("kyn_ros.perception_node", _parameters(args, images), log)
                _wait_until_active(camera, node, log)
                content = _measure(args, camera, node)
        finally:
            stop([] if node is None else [node])
    content = {"images": images.source, "outputs": args.outputs, "ros_added": FORMULA, **content}
    if args.json is not None:
        write_json(args.json, content, cores)
        print(f"wrote {args.json}")
    return 0


def _check(args: argparse.Namespace) -> None:
    for rate in args.rates:
        if not 0 < rate <= MOST_HZ:
            raise ValueError(f"--rates: got {rate:g}, expected above 0 and at most {MOST_HZ:g} images per second")
    if not (math.isfinite(args.seconds) and args.seconds > 0):
        raise ValueError(f"--seconds: got {args.seconds:g}, expected a number above 0")
    for word in args.param:
        if ":=" not in word:
            raise ValueError(f"-p: got {word!r}, expected NAME:=VALUE")
    check_output("--json", args.json)


def _parameters(args: argparse.Namespace, images: BenchmarkImages) -> dict[str, str]:
    from kyn_ros.mount import numbers_from_pose, parameter_text

    mount = numbers_from_pose(images.observations[0].base_from_camera)
    given = dict(word.split(":=", 1) for word in args.param)
    return {
        "model": str(args.model.resolve()),
        "runtime": args.runtime,
        "precision": args.precision,
        "camera_pose": parameter_text(mount),
        "input_rectified": "true",
        **given,
    }


def _wait_until_active(camera: Camera, node: subprocess.Popen, log: IO[str]) -> None:
    """Raises ``ValueError`` with the node's own sentence if it refuses to configure, ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not camera.ready():
        time.sleep(0.05)
        status = camera.status.get("model")
        if status is not None and status.level == type(status).ERROR:
            raise ValueError(f"the perception node refused: {status.message}")
        if node.poll() is not None:
            log.seek(0)
            last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"the perception node ended with exit code {node.returncode}: {last}")
        if time.monotonic() > deadline:
            raise ValueError(f"the perception node is not active after {START_SECONDS:g} s; see `kyn node`")


def _measure(args: argparse.Namespace, camera: Camera, node: subprocess.Popen) -> dict[str, Any]:
    from kyn_ros.node_load import Load, run_load
    from kyn_ros.node_report import keeps_up, measures, print_report

    def load(rate_hz: float, seconds: float) -> Load:
        done = run_load(camera, node.pid, rate_hz, seconds)
        if node.poll() is not None:
            raise ValueError(f"the perception node ended during the run with exit code {node.returncode}")
        return done

    load(WARM_UP_HZ, min(WARM_UP_SECONDS, args.seconds))
    found = []
    for rate_hz in args.rates:
        found.append(measures(load(rate_hz, args.seconds)))
        print(
            f"{rate_hz:g} images per second: {found[-1]['frames_missed']} of {found[-1]['frames_sent']} missed",
            flush=True,
        )
    model = camera.values("model")
    print(f"{model.get('model')}, {model.get('runtime')} {model.get('precision')}, {model.get('library')}")
    print_report(found)
    if camera.missing:
        print(f"not subscribed, kyn.msg is not built here: {', '.join(camera.missing)}")
    content: dict[str, Any] = {"node": dict(model), "not_subscribed": list(camera.missing), "rates": found}
    if args.find_highest:
        highest = highest_rate(lambda rate_hz: keeps_up(load(rate_hz, min(SEARCH_SECONDS, args.seconds))))
        print(f"highest rate with under 5 % missed: {highest:.1f} images per second")
        content["highest_rate_hz"] = round(highest, 2)
    return content


def highest_rate(keeps_up: Callable[[float], bool], start_hz: float = 8.0) -> float:
    """The highest rate that is kept up with, to 5 %, by doubling and bisection; 0 if none above 0.25 Hz is.

    keeps_up: tries a rate; expected to hold below some rate and not above it.
    """
    rate = start_hz
    while not keeps_up(rate):
        rate /= 2
        if rate < 0.25:
            return 0.0
    too_high = 2 * rate
    if rate >= start_hz:
        while too_high <= MOST_HZ and keeps_up(too_high):
            rate, too_high = too_high, 2 * too_high
        if too_high > MOST_HZ:
            return rate
    while too_high > NEAR_ENOUGH * rate:
        middle = math.sqrt(rate * too_high)
        if keeps_up(middle):
            rate = middle
        else:
            too_high = middle
    return rate
