"""A demo that ran to its end, and what it recorded, by a reader that is not ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcap_ros2.reader import read_ros2_messages


def run_demo(out: Path, *words: object) -> Path:
    """``kyn demo`` with these arguments as a user starts it; the folder that it wrote, which is ``out``.

    What it printed lies there as ``printed.txt``.
    """
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    command = [sys.executable, "-m", "kyn_ros.cli", "demo", *map(str, words), "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (out / "printed.txt").write_text(done.stdout)
    return out


def recorded(demo: Path) -> Iterator[tuple[str, Any]]:
    """(topic without its leading slash, message) of everything in the recording, in its order."""
    for item in read_ros2_messages(str(next((demo / "recording").glob("*.mcap")))):
        yield item.channel.topic.lstrip("/"), item.ros_msg
