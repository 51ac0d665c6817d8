"""What the package says about itself in several files agrees, and agrees with the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import kyn_models

ROOT = Path(__file__).resolve().parents[1]
ROSDEP_KEYS = {"numpy": "python3-numpy", "cv2": "python3-opencv", "yaml": "python3-yaml"}
DISTRIBUTIONS = {"llvmlite": "numba", "cv2": "opencv-python-headless", "yaml": "pyyaml", "rerun": "rerun-sdk"}
OPTIONAL = {"kyn", "tf2_py", "rosbags", "av", "rerun", "rcl_interfaces", "rcutils", "numba"}
WITH_TORCH = {"triton"}
"""Comes with torch where torch is built for GPUs."""
"""Imported where installed, or part of what is listed (rcl_interfaces comes with rclpy, kyn is this package)."""
REQUIRED_EXTRAS = {"ros", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx", "train", "viz", "dev"}


def imported(folder: Path) -> dict[str, Path]:
    """Top-level names imported anywhere in the folder's modules, and one file that does."""
    names: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            else:
                continue
            names.update((module.split(".")[0], path) for module in modules)
    return {name: path for name, path in names.items() if name not in sys.stdlib_module_names}


def metadata(tmp_path: Path, **environment: str) -> dict[str, list[str]]:
    """Requirements by extra ("" for the base) as setup.py states them in this environment."""
    clean = {key: value for key, value in os.environ.items() if key not in ("ROS_DISTRO", "KYN_NO_MSGS")}
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**clean, **environment}, check=True, capture_output=True, timeout=60)
    extras: dict[str, list[str]] = {}
    extra = ""
    for line in (tmp_path / "kyn.egg-info/requires.txt").read_text().splitlines():
        if line.startswith("["):
            extra = line.strip("[]")
        elif line:
            extras.setdefault(extra, []).append(line)
    return extras


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def dependencies() -> Iterator[str]:
    for tag in ("depend", "exec_depend"):
        yield from (element.text or "" for element in package_xml().iter(tag))


def test_one_version_everywhere():
    version = kyn_models.__version__
    assert package_xml().findtext("version") == version
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_package_xml_names_every_ros_package_and_library_that_nodes_import():
    keys = set(dependencies())
    names = {
        ROSDEP_KEYS.get(name, name): path
        for name, path in imported(ROOT / "kyn_ros").items()
        if name not in OPTIONAL and not name.startswith("kyn_")
    }
    missing = {name: path.name for name, path in names.items() if name not in keys}
    assert not missing, f"package.xml lacks {missing}"


def test_package_xml_names_nothing_unused():
    used = {ROSDEP_KEYS.get(name, name) for folder in ("kyn_ros", "kyn_models") for name in imported(ROOT / folder)}
    launched = " ".join(path.read_text() for path in (ROOT / "launch").iterdir())
    used |= {"ros2launch", "launch_xml", *re.findall(r'pkg="(\w+)"', launched)}
    if "ros2 bag play" in launched:
        used |= {"ros2bag", "rosbag2_storage_mcap"}
    generated = (ROOT / "CMakeLists.txt").read_text()
    for key in dependencies():
        assert key in used or key in generated, f"package.xml: nobody needs {key}"


def test_cmake_generates_every_message_and_installs_every_script():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for message in (ROOT / "msg").glob("*.msg"):
        assert f'"msg/{message.name}"' in cmake
    for script in (ROOT / "scripts").iterdir():
        assert f"scripts/{script.name}" in cmake
        assert os.access(script, os.X_OK), f"{script} is not executable"
        target = re.search(r"from (\S+) import main", script.read_text())
        assert target and (ROOT / (target[1].replace(".", "/") + ".py")).is_file()


def test_every_package_of_a_message_field_is_a_build_dependency():
    cmake, build = (ROOT / "CMakeLists.txt").read_text(), {element.text for element in package_xml().iter("depend")}
    for message in (ROOT / "msg").glob("*.msg"):
        for package in re.findall(r"^(\w+)/\w+ ", message.read_text(), re.MULTILINE):
            assert package in build and f"find_package({package} REQUIRED)" in cmake


def test_base_needs_three_libraries_and_all_extras_exist(tmp_path):
    extras = metadata(tmp_path)
    assert sorted(re.split(r"[<>=]", line)[0] for line in extras[""]) == ["numpy", "opencv-python-headless", "pyyaml"]
    assert set(extras) >= REQUIRED_EXTRAS
    assert any(line.startswith("ros-rclpy==") for line in extras["ros"])


def test_every_library_comes_with_the_base_or_an_extra(tmp_path):
    listed = {re.split(r"[<>=\[; ]", line)[0] for lines in metadata(tmp_path).values() for line in lines}
    ros_packages = {name for name in imported(ROOT / "kyn_ros") if name in set(dependencies()) or name in OPTIONAL}
    for folder in ("kyn_models", "kyn_ros"):
        for name, path in imported(ROOT / folder).items():
            if name not in {"kyn_models", "kyn_ros"} | WITH_TORCH | ros_packages - {"numba", "rosbags"}:
                assert DISTRIBUTIONS.get(name, name.replace("_", "-")) in listed, f"{path.name} imports {name}"


def test_ros_extra_cannot_be_installed_inside_a_ros_installation(tmp_path):
    (requirement,) = metadata(tmp_path, ROS_DISTRO="jazzy")["ros"]
    assert requirement.startswith("kyn==0+") and "ros.distro.is.set.to.jazzy" in requirement.lower()


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "SECURITY.md", "CHANGELOG.md", "MANIFEST.in"])
def test_file_is_there(name):
    assert (ROOT / name).stat().st_size > 100


def test_make_refuses_inside_a_ros_installation(tmp_path):
    command = ["make", "setup", f"VENV={tmp_path / 'venv'}"]
    answer = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "ROS_DISTRO": "jazzy"}, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode != 0
    assert "colcon build" in answer.stderr
    assert not (tmp_path / "venv").exists()


def test_make_says_that_messages_need_a_path_of_ascii_letters(tmp_path):
    command = ["make", "setup", f"VENV={tmp_path / 'venv-ü'}"]
    clean = {key: value for key, value in os.environ.items() if key != "ROS_DISTRO"}
    answer = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60)
    assert answer.returncode != 0
    assert "expected ASCII letters alone" in answer.stderr
    assert not (tmp_path / "venv-ü").exists()
