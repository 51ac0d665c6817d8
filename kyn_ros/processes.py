"""Nodes that a command starts as processes of their own, in a graph of this machine, and ends with itself."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from kyn_models.cli import interrupt
from kyn_ros.environment import prepare_environment

STOP_SECONDS = 8.0


def private_graph() -> None:
    """A ROS graph of this machine only, apart from whatever else runs here. Before ``rclpy.init``.

    Raises ``ValueError`` for an environment in which its processes would never meet.
    """
    if os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST") == "OFF":
        raise ValueError(
            "ROS_AUTOMATIC_DISCOVERY_RANGE: got OFF, with which the processes of this command never find each other, "
            "expected LOCALHOST or SUBNET; unset it"
        )
    prepare_environment()
    if not os.environ.get("ROS_DOMAIN_ID"):
        os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, Ctrl-C, kill and the terminal that is closed end this process the same way: no node stays behind."""
    handlers = {number: signal.signal(number, interrupt) for number in _end_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end_signals() -> list[signal.Signals]:
    """Without those that are ignored (by nohup, for example)."""
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def _signals_later() -> Iterator[None]:
    """Within, no signal ends this process: it counts at the end, as Ctrl-C does."""
    asked = threading.Event()
    handlers = {number: signal.signal(number, lambda *_: asked.set()) for number in _end_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked.is_set():
        raise KeyboardInterrupt


def quoted(text: object) -> str:
    """The value of a text parameter, which stays one where it looks like a number (sequence 07)."""
    return json.dumps(str(text), ensure_ascii=False)


def start_node(module: str, parameters: Mapping[str, str], log: IO[str] | None = None) -> subprocess.Popen:
    """``python -m module`` with ROS parameters, in a session of its own: Ctrl-C reaches this process alone.

    log: file for what the node prints (else the terminal).
    """
    command = [sys.executable, "-m", module, "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    process: subprocess.Popen | None = None
    try:
        with _signals_later():  # a process that nobody knows of yet would stay behind
            process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
    except KeyboardInterrupt:
        stop([] if process is None else [process])
        raise
    return process


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask politely, wait, and only then insist. SIGINT would print a traceback where a process is still importing."""
    with _signals_later():
        running = [process for process in processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
