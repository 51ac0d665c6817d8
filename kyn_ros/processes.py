"""Nodes that a command starts as processes of their own, in a graph of this machine, and ends with itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from kyn_ros.environment import set_fastdds_profile

STOP_SECONDS = 8.0


def private_graph() -> None:
    """A ROS graph of this machine only, apart from whatever else runs here. Before ``rclpy.init``."""
    set_fastdds_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if "ROS_DOMAIN_ID" not in os.environ:
        os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))


def end_on_sigterm() -> None:
    """Make SIGTERM end this process as Ctrl-C does, so that no node stays behind."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def start_node(module: str, parameters: Mapping[str, str], log: IO[str] | None = None) -> subprocess.Popen:
    """``python -m module`` with ROS parameters, in a session of its own: Ctrl-C reaches this process alone.

    log: file for what the node prints (else the terminal).
    """
    command = [sys.executable, "-m", module, "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    return subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask politely, wait, and only then insist. SIGINT would print a traceback where a process is still importing."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
