"""``build_only``: the process loads the model, and ends with 0 if that went well."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import MOUNT
from processes import Process, parameters

from kyn_ros.mount import parameter_text


def ended(model: object, **more: object) -> tuple[int, str]:
    """Exit code and output of a node with ``build_only``."""
    options = {"camera_pose": parameter_text(MOUNT), "runtime": "onnxruntime", "build_only": True, **more}
    with Process("kyn_ros.perception_node", *parameters(model=model, **options)) as process:
        return process.wait(30.0), process.text


def test_it_ends_when_the_model_is_ready(model: Path) -> None:
    code, text = ended(model)
    assert code == 0 and "runtime onnxruntime" in text and "build_only is set: the model is ready, ending" in text


def test_a_model_that_does_not_load_is_a_failure(model: Path) -> None:
    code, text = ended("/nowhere")
    assert code == 1 and "not configured: /nowhere: no such folder" in text
    code, text = ended(model, runtime="tensorrt")
    assert code == 1 and "no NVIDIA GPU found here" in text
