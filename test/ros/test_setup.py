"""Faults of the node's own set-up: configure refuses with one sentence, and can be tried again."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import MOUNT, SECOND, SMALL_GRID, Bench, image_of, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Quaternion, TransformStamped
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from kyn_ros import perception_node
from kyn_ros.perception_node import PerceptionNode

CONFIGURED = TransitionCallbackReturn.SUCCESS


def refused(ros, parameters: dict) -> str:
    """The sentence with which configure is refused, as diagnostics say it."""
    one = Bench(ros, {"camera_pose": MOUNT, **SMALL_GRID, **parameters}, activate=False)
    assert one.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert one.node._state_machine.current_state[1] == "unconfigured"
    return one.wait_for_status("model", DiagnosticStatus.ERROR).message


def test_model_folder_missing(ros) -> None:
    assert "/nowhere: no such folder" in refused(ros, {"model": "/nowhere"})


def test_model_with_a_wrong_hash(ros, tmp_path: Path) -> None:
    from tiny_model import write_tiny_artifact

    path = write_tiny_artifact(tmp_path / "model").path
    with (path / "decoder.npz").open("ab") as stream:
        stream.write(b"!")
    assert "hash" in refused(ros, {"model": str(path)})


def test_model_of_another_family(ros, tmp_path: Path) -> None:
    from tiny_model import write_tiny_artifact

    path = write_tiny_artifact(tmp_path / "model").path
    manifest = json.loads((path / "artifact.json").read_text())
    (path / "artifact.json").write_text(json.dumps(manifest | {"family": "nsc"}))
    assert "'nsc'" in refused(ros, {"model": str(path)})


def test_truncated_onnx(ros, tmp_path: Path) -> None:
    from tiny_model import write_tiny_artifact

    from kyn_models.artifact import ENCODER, write_artifact

    artifact = write_tiny_artifact(tmp_path / "model")
    whole = (artifact.path / ENCODER).read_bytes()
    write_artifact(artifact.path, artifact.manifest, {ENCODER: whole[: len(whole) // 2]})
    assert "encoder" in refused(ros, {"model": str(artifact.path)})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("grid.resolution_m", -1.0, "grid.resolution_m"),
        ("grid.resolution_m", "fine", "grid.resolution_m: got 'fine', expected float"),
        ("grid.x_m", [0.0, 50.1], "multiple of grid.resolution_m"),
        ("grid.mode", "binary", "grid.mode: got 'binary'"),
        ("grid.free_below", 0.9, "free_below"),
        ("max_rate_hz", -2.0, "max_rate_hz: got -2.0, expected 0.0 to"),
        ("metric_scale", math.nan, "metric_scale"),
        ("camera_pose", [1.0, 2.0], "camera_pose: got 2 numbers"),
        ("image_transport", "theora", "image_transport: got 'theora'"),
        ("runtime", "abacus", "runtime: got 'abacus'"),
        ("pose_source", "gps", "pose_source: got 'gps'"),
        ("frames.neighbours", "both", "frames.neighbours: got 'both'"),
        ("frames.spacing_m", 9.0, "frames.max_baseline_m: got 8.0, expected at least spacing_m = 9.0"),
        ("poses.gap_s", 0.0, "poses.gap_s: got 0.0, expected 0.001 to"),
        ("poses.fixed_frame", "", "poses.fixed_frame: got an empty name"),
        ("hood_mask", "/nowhere.png", "/nowhere.png"),
        ("grid.resolutoin_m", 0.5, "unknown parameter grid.resolutoin_m"),
    ],
)
def test_bad_parameter_is_refused_with_one_sentence(ros, model: Path, name: str, value: object, text: str) -> None:
    sentence = refused(ros, {"model": str(model), name: value})
    assert text in sentence and "\n" not in sentence


def test_no_mount_is_refused(ros, model: Path) -> None:
    from kyn_ros import mount

    if mount.tf2_ros is not None:
        pytest.skip("tf2_ros is installed: the mount is awaited from TF")
    one = Bench(ros, {"model": str(model), **SMALL_GRID}, activate=False)
    assert one.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "camera_pose is not set" in one.wait_for_status("model", DiagnosticStatus.ERROR).message


def test_mount_from_tf(ros, model: Path) -> None:
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is part of a ROS 2 installation")
    from kyn_ros.mount import pose_from_numbers
    from kyn_ros.odometry import quaternion_from_pose

    one = Bench(ros, {"model": str(model), **SMALL_GRID, "tf_timeout_s": 1.0})
    one.send(image_of(128, SECOND), info_of(SECOND))
    one.wait_for_status("input", DiagnosticStatus.ERROR, "TF has no transform from 'camera_optical' to 'base_link'")
    transform = TransformStamped(child_frame_id="camera_optical")
    transform.header.frame_id = "base_link"
    transform.transform.translation.z = MOUNT[2]
    q = quaternion_from_pose(pose_from_numbers(MOUNT))
    transform.transform.rotation = Quaternion(x=q[0], y=q[1], z=q[2], w=q[3])
    broadcaster = tf2_ros.StaticTransformBroadcaster(one.peer)
    broadcaster.sendTransform(transform)
    one.ask(128, 2 * SECOND)
    assert values_of(one.wait_for_status("mount", DiagnosticStatus.OK))["source"] == "TF"


def test_stopping_while_the_model_loads_is_not_waited_for(ros, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()
    monkeypatch.setattr(perception_node, "load_predictor", lambda *_: loaded.wait(30.0))
    stop = threading.Event()
    stop.set()
    given = {"model": str(model), "camera_pose": MOUNT, **SMALL_GRID}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = ros.add(PerceptionNode(stop, context=ros.context, parameter_overrides=overrides))
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert node.finish() is False, "the loading thread is left to itself"
    loaded.set()
    assert ros.spin_until(node.finish, 5.0), "a thread that has ended is not left running"


def test_that_a_model_is_loading_is_said_once_and_then_how_long(ros, model: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(perception_node, "STILL_LOADING_S", 0.6)
    load = perception_node.load_predictor
    monkeypatch.setattr(perception_node, "load_predictor", lambda *given: time.sleep(1.3) or load(*given))
    one = Bench(ros, {"model": str(model), "camera_pose": MOUNT, **SMALL_GRID})
    one.ask(128, SECOND)
    said = capfd.readouterr().err
    assert said.count("]: loading the model ...") == 1 and "still loading the model, 1 s now" in said
    assert "prepared for a camera of 352x94\n" in said or "prepared for a camera of 352x94 in 0." in said
    assert "in 0.0" not in said


def test_a_refused_node_can_be_mended_and_configured(ros, model: Path) -> None:
    one = Bench(ros, {"camera_pose": MOUNT, "model": "/nowhere", **SMALL_GRID, "metric_scale": -1.0}, activate=False)
    assert one.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    for name, value in (("metric_scale", 1.0), ("model", str(model))):
        assert one.node.set_parameters([Parameter(name, value=value)])[0].successful
    bad = one.node.set_parameters([Parameter("grid.mode", value="binary")])[0]
    assert not bad.successful and "grid.mode" in bad.reason
    assert one.node.trigger_configure() == CONFIGURED
    while_in_use = one.node.set_parameters([Parameter("metric_scale", value=2.0)])[0]
    assert not while_in_use.successful and "clean up" in while_in_use.reason


def test_an_image_from_before_a_deactivation_is_not_published_and_not_overlapped(
    ros, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perception_node, "END_WITHIN_S", 0.2)
    one = Bench(ros, {"camera_pose": MOUNT, "model": str(model), **SMALL_GRID})
    one.ask(128, SECOND)
    predictor = one.node._perception.predictor
    predict, begun, release = predictor.predict, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert release.wait(20.0)
        return predict(*arguments)

    monkeypatch.setattr(predictor, "predict", slow)
    one.send(image_of(128, 2 * SECOND), info_of(2 * SECOND))
    assert one.ros.spin_until(begun.is_set)
    assert one.node.trigger_deactivate() == CONFIGURED
    assert one.node.trigger_activate() == TransitionCallbackReturn.FAILURE, "two images would be in one predictor"
    assert one.node.finish() is False
    release.set()
    assert one.ros.spin_until(one.node.finish, 5.0), "a thread that has ended still counts as running"
    assert one.node.trigger_activate() == CONFIGURED
    one.wait_for_subscriptions()
    one.ask(128, 3 * SECOND)
    assert [grid.header.stamp.sec for grid in one.grids] == [1, 3] and one.drops() == {"deactivated": 1}
    assert one.node.finish()


def test_the_life_cycle_can_be_walked_twice(ros, model: Path) -> None:
    one = Bench(ros, {"camera_pose": MOUNT, "model": str(model), **SMALL_GRID})
    for stamp in (SECOND, 2 * SECOND):
        one.ask(128, stamp)
        assert one.node.trigger_deactivate() == CONFIGURED
        one.send(image_of(128, stamp + 1), info_of(stamp + 1))
        one.ros.spin_for(0.3)
        assert one.node.trigger_cleanup() == CONFIGURED
        assert one.node.trigger_configure() == CONFIGURED and one.node.trigger_activate() == CONFIGURED
        one.wait_for_subscriptions()
    assert len(one.grids) == 2
    assert one.node.trigger_shutdown() == CONFIGURED
