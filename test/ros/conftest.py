"""Real rclpy in a domain of its own, a tiny model whose world is known, and a bench around the perception node."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kyn_ros.environment import set_fastdds_profile

# Before anything initialises rclpy, and inherited by every process that a test starts.
os.environ["ROS_DOMAIN_ID"] = os.environ.get("KYN_TEST_DOMAIN") or str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_LOCALHOST_ONLY", None)
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="kyn_ros_log_"))
set_fastdds_profile()

if importlib.util.find_spec("rclpy") is None and os.environ.get("KYN_REQUIRE_ROS") == "1":
    raise RuntimeError("KYN_REQUIRE_ROS=1, but rclpy is not installed: pip install '.[ros]'")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny artifact."""
    pytest.importorskip("onnx", reason="the tiny model's encoder is written with onnx")
    from tiny_model import write_tiny_artifact

    from kyn_models.artifact import KITTI360_CAMERA
    from kyn_models.predictor import PredictorOptions
    from kyn_models.predictors import make_predictor

    artifact = write_tiny_artifact(tmp_path_factory.mktemp("tiny") / "model")
    # Compiles the decoder where its cache is empty, so that no test waits for it.
    options = PredictorOptions("onnxruntime", depth_rays=(12, 40))
    make_predictor(artifact, options).build(KITTI360_CAMERA, np.eye(4))
    return artifact.path


class Ros:
    """A context and an executor of one test."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self.context = Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Any] = []

    def add(self, node: Any) -> Any:
        """Spin this node too, and destroy it at the end."""
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def node(self, name: str) -> Any:
        """A plain node."""
        from rclpy.node import Node

        return self.add(Node(name, context=self.context))

    def spin_until(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Spin until the condition holds; its value, also when the time is over."""
        end = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)
        return condition()

    def spin_for(self, seconds: float) -> None:
        """Spin for a while."""
        self.spin_until(lambda: False, seconds)

    def close(self) -> None:
        self.executor.shutdown()
        for node in self.nodes:
            node.destroy_node()
            # A life cycle's state machine keeps its node in the graph: the next test would meet it.
            vars(node).pop("_state_machine", None)
        self.context.try_shutdown()


@pytest.fixture
def ros() -> Iterator[Ros]:
    ros = Ros()
    yield ros
    ros.close()


@pytest.fixture
def bench(ros: Ros, model: Path) -> Iterator[Callable[..., Any]]:
    """``bench(**parameters)``: a configured and active perception node with a camera and listeners beside it."""
    from bench import MOUNT, SMALL_GRID, Bench

    made: list[Bench] = []

    def make(**parameters: Any) -> Bench:
        made.append(Bench(ros, {"model": str(model), "camera_pose": MOUNT, **SMALL_GRID, **parameters}))
        return made[-1]

    yield make
    for one in made:
        assert one.node.finish(), "the inference thread did not end"


@pytest.fixture
def drive(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``drive(**parameters)``: a vehicle before a perception node whose model wants several frames."""
    from posed_drive import Drive

    return lambda **parameters: Drive(bench, monkeypatch, **parameters)
