"""pip builds a wheel from the source tree: with messages where the generators are, without them elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", "build", "dist", "install", "log", "*.egg-info", "demo_out", "runs", ".*_cache"
)
PREFIX = Path(sys.prefix)
GENERATORS = PREFIX / "share/rosidl_default_generators/cmake"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("pip") / "kyn", ignore=NOT_SOURCES))


def build_wheel(sources: Path, out: Path, **environment: str) -> tuple[str, set[str], str]:
    """Name, file names and the builder's words of a wheel built in this Python's environment."""
    clean = {key: value for key, value in os.environ.items() if key not in ("ROS_DISTRO", "KYN_NO_MSGS")}
    shutil.rmtree(sources / "build", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    answer = subprocess.run(
        command, cwd=sources, env={**clean, **environment}, capture_output=True, text=True, timeout=240
    )
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    (wheel,) = out.glob("*.whl")
    return wheel.name, set(zipfile.ZipFile(wheel).namelist()), answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def plain(sources, tmp_path_factory):
    pytest.importorskip("wheel")
    return build_wheel(sources, tmp_path_factory.mktemp("plain"), KYN_NO_MSGS="1")


def test_without_messages_the_wheel_is_for_every_platform_and_the_build_says_so(plain):
    name, files, words = plain
    assert name.endswith("py3-none-any.whl")
    assert not any(file.startswith("kyn/") for file in files)
    assert "built without its messages" in words


def test_the_wheel_holds_all_modules_and_shared_files(plain):
    _, files, _ = plain
    for package in ("kyn_models", "kyn_ros"):
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert modules <= files
    shared = [path for folder in ("launch", "config") for path in (ROOT / folder).rglob("*") if path.is_file()]
    data = {file.split(".data/data/", 1)[1] for file in files if ".data/data/" in file}
    assert {f"share/kyn/{path.relative_to(ROOT)}" for path in shared} <= data
    weights = {str(path.relative_to(ROOT)) for path in (ROOT / "kyn_models/weights").rglob("*") if path.is_file()}
    assert weights <= files
    assert any(file.endswith("licenses/LICENSE") for file in files)


@pytest.mark.skipif(
    not GENERATORS.is_dir() and not os.environ.get("KYN_REQUIRE_ROS"),
    reason="no ROS 2 interface generators in this Python (pip install 'kyn[ros]')",
)
def test_with_generators_the_wheel_holds_messages_and_belongs_to_this_python(sources, tmp_path):
    name, files, _ = build_wheel(sources, tmp_path)
    assert f"cp{sys.version_info[0]}{sys.version_info[1]}" in name
    assert "kyn/msg/__init__.py" in files
    for message in (ROOT / "msg").glob("*.msg"):
        assert any(file.endswith(f"share/kyn/msg/{message.name}") for file in files)
    libraries = {Path(file).name for file in files if "/data/lib/" in file}
    assert {"libkyn__rosidl_typesupport_c.so", "libkyn__rosidl_typesupport_fastrtps_c.so"} <= libraries
