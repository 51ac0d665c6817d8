"""Who imports what, seen in fresh interpreters: a robot needs numpy, OpenCV, PyYAML and one runtime, nothing else."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from kyn_models.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
NUMPY_ONLY = [
    f"kyn_models.{name}"
    for name in (
        "types",
        "occupancy",
        "config",
        "canonical",
        "image_file",
        "motion_limits",
        "relative_poses",
        "stamp_order",
        "frame_window",
        "artifact",
        "predictor",
        "predictors",
        "field_model",
        "frames_model",
        "depth_ground",
        "depth_profile",
        "depth_occupancy",
        "views",
        "ply",
        "palette",
        "labels",
        "voxel_pictures",
        "networks.clip_tokenizer",
        "runtimes",
        "cli",
    )
]
HEAVY = ("torch", "openvino", "onnxruntime", "numba", "onnx", "safetensors", "tensorrt", "scipy", "matplotlib")
ROS = ("rclpy", "sensor_msgs", "nav_msgs", "kyn_ros", "kyn")
PROGRAM = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def loaded_by(*modules: str) -> list[str]:
    """Top-level modules that a fresh interpreter has loaded after importing ``modules``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, *modules]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return list(json.loads(answer.stdout.splitlines()[-1]))


def ros_modules() -> list[str]:
    return [f"kyn_ros.{module.name}" for module in pkgutil.iter_modules([str(ROOT / "kyn_ros")])]


@pytest.mark.parametrize("module", NUMPY_ONLY)
def test_numpy_only_module_loads_no_runtime_and_no_ros(module):
    assert not set(loaded_by(module)) & {*HEAVY, *ROS}


def test_no_module_of_the_nodes_loads_torch_or_a_runtime():
    if not os.environ.get("KYN_REQUIRE_ROS"):
        pytest.importorskip("rclpy")
    modules = ros_modules()
    assert {"kyn_ros.perception_node", "kyn_ros.replay_node", "kyn_ros.cli"} <= set(modules)
    assert not set(loaded_by(*modules)) & set(HEAVY)


def test_the_command_line_loads_nothing_heavy_before_a_command_is_chosen():
    loaded = set(loaded_by("kyn_ros.cli"))
    assert not loaded & {*HEAVY, "rclpy", "cv2", "numpy", "yaml"}


def test_the_help_of_every_command_of_the_models_needs_no_library_of_training_or_of_a_runtime():
    loaded = set(loaded_by(*(module for module, _ in COMMANDS.values())))
    assert loaded & {*HEAVY, "tqdm"} <= {"numba", "scipy"}


def test_the_check_itself_can_fail():
    assert "numpy" in loaded_by("kyn_models.types")


def test_openvino_reports_nothing(tmp_path):
    pytest.importorskip("openvino", reason="whose reports are meant")
    program = (
        "import kyn_models.runtimes.openvino_runtime, kyn_models.runtimes.openvino_frames, sys;"
        "print(sys.modules['openvino'].tools.ovc.telemetry.__class__.__module__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert answer.stdout.strip() == "openvino.tools.ovc.telemetry_stub", answer.stdout + answer.stderr
    assert not (tmp_path / "intel").exists()


def test_openvino_is_imported_in_one_place():
    users = [path for path in (ROOT / "kyn_models").rglob("*.py") if "\nimport openvino" in path.read_text()]
    assert [path.name for path in users] == ["quiet_openvino.py"]
