"""The node's parts by themselves: pairing, mount, parameters, diagnostics, worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.parameter import Parameter
from tiny_drive import DRIVE, write_drive

from kyn_models import runtimes
from kyn_models.artifact import KITTI360_CAMERA, Artifact, TrainingCamera
from kyn_models.data.kitti360 import Kitti360
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.stamp_order import StampOrder
from kyn_ros import mount, odometry, params
from kyn_ros.diagnostics import FrameLog, model_status, mount_status
from kyn_ros.pairing import Pairing
from kyn_ros.params import PerceptionParameters
from kyn_ros.replay_params import ReplayParameters
from kyn_ros.worker import Cancelled, Worker, wait_for, wait_until

CONFIG = Path(__file__).resolve().parents[2] / "config" / "ros"
MS = 1_000_000


# -- pairing -----------------------------------------------------------------------------------------------------------


def pairing() -> tuple[Pairing, list[int | None]]:
    lost: list[int | None] = []
    return Pairing(10 * MS, lost.append), lost


def test_pairs_in_whichever_order() -> None:
    pairs, lost = pairing()
    assert pairs.add_info(100 * MS, "i1") is None
    assert pairs.add_image(100 * MS, "a1") == ("a1", "i1")
    assert pairs.add_image(200 * MS, "a2") is None
    assert pairs.add_image(300 * MS, "a3") is None
    assert pairs.add_info(209 * MS, "i2") == ("a2", "i2")
    assert pairs.add_info(300 * MS, "i3") == ("a3", "i3")
    assert not lost


def test_the_nearest_camera_info_within_the_slop() -> None:
    pairs, lost = pairing()
    pairs.add_info(95 * MS, "before")
    pairs.add_info(102 * MS, "nearest")
    assert pairs.add_image(100 * MS, "a") == ("a", "nearest")
    assert pairs.add_image(113 * MS, "b") is None and not lost


def test_images_without_camera_info_are_given_up_in_order() -> None:
    pairs, lost = pairing()
    for number in range(1, 5):
        assert pairs.add_image(number * 100 * MS, number) is None
    assert lost == [None]
    assert pairs.add_info(430 * MS, "i") is None
    assert pairs.add_info(400 * MS, "i4") == (4, "i4")
    assert lost == [None, 200 * MS, 100 * MS]


def test_a_restart_of_one_topic_leaves_the_other_alone() -> None:
    pairs, lost = pairing()
    assert pairs.add_image(900 * MS, "old") is None and pairs.add_image(950 * MS, "older") is None
    assert pairs.drop_images() == 2 and pairs.add_image(100 * MS, "new") is None
    assert pairs.add_info(900 * MS, "late") is None
    pairs.forget_infos()
    assert pairs.add_info(100 * MS, "i") == ("new", "i")
    assert pairs.drop_images() == 0 and not lost


def test_stamp_order() -> None:
    order = StampOrder()
    stamps = [5_000, 5_100, 5_100, 5_050, 5_200, 5_150, 5_050, 9_000, 15_000, 14_000]
    assert [order.check(stamp * MS) for stamp in stamps] == [
        *("next", "next", "repeated", "late", "next"),
        # The second one in a row that goes back is of a new time.
        *("late", "restart", "next", "restart", "restart"),
    ]


# -- mount -------------------------------------------------------------------------------------------------------------


def test_pose_numbers_there_and_back() -> None:
    numbers = (1.0, -0.2, 1.5, -1.67, 0.02, -1.53)
    np.testing.assert_allclose(mount.numbers_from_pose(mount.pose_from_numbers(numbers)), numbers, atol=1e-12)
    # A level camera that looks ahead: its z is the vehicle's x, its x the vehicle's right.
    level = mount.pose_from_numbers((0, 0, 1.5, -np.pi / 2, 0, -np.pi / 2))
    np.testing.assert_allclose(level[:3, :3], [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)
    assert mount.parameter_text((1, 0.25)) == "[1.000000000, 0.250000000]"


def test_quaternions_there_and_back() -> None:
    for angles in ((0.1, 0.2, 0.3), (np.pi, 0, 0), (0, np.pi - 1e-9, 0), (0, 0, np.pi), (-1.67, 0.02, -1.53)):
        pose = mount.pose_from_numbers((1, 2, 3, *angles))
        again = mount.pose_from_quaternion((1, 2, 3), odometry.quaternion_from_pose(pose))
        np.testing.assert_allclose(again, pose, atol=1e-9)
    with pytest.raises(ValueError, match="length 1"):
        mount.pose_from_quaternion((0, 0, 0), (0, 0, 0, 0))


def test_offset_from_training() -> None:
    training = TrainingCamera(KITTI360_CAMERA, height_m=1.5, pitch_deg=5.0)
    pose = mount.pose_from_numbers((0, 0, 1.9, -np.pi / 2 - np.radians(9.0), 0, -np.pi / 2))
    np.testing.assert_allclose(mount.offset_from_training(pose, training), (0.4, 4.0), atol=1e-9)
    status = mount_status("mount", pose, "TF", training)
    assert status.level == DiagnosticStatus.WARN and "+0.40 m and +4.0 degrees" in status.message
    near = mount.pose_from_numbers((0, 0, 1.7, -np.pi / 2 - np.radians(3.0), 0, -np.pi / 2))
    assert mount_status("mount", near, "TF", training).level == DiagnosticStatus.OK


def test_a_runtime_that_was_passed_over_is_a_warning(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact.load(model)
    predictor = make_predictor(artifact, PredictorOptions("onnxruntime"))
    fine = model_status("model", "active", "", predictor)
    assert fine.level == DiagnosticStatus.OK
    values = {pair.key: pair.value for pair in fine.values}
    assert values["runtime"] == "onnxruntime" and values["library"].startswith("ONNX Runtime 1.")

    def choose(name: str, artifact: Artifact, warn: Callable[[str], None], options: object) -> object:
        warn("runtime tensorrt on cuda: self-test failed; trying the next one")
        return predictor._model.runtime

    monkeypatch.setattr(runtimes, "choose", choose)
    said: list[str] = []
    status = model_status("model", "active", "", make_predictor(artifact, warn=said.append))
    assert status.level == DiagnosticStatus.WARN and "on onnxruntime, because runtime tensorrt" in status.message
    assert len(said) == 1 and {pair.key: pair.value for pair in status.values}["passed over 1"] == said[0]


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "node", "cls"),
    [
        ("perception.yaml", "/**/perception_node", PerceptionParameters),
        ("replay.yaml", "/**/replay_node", ReplayParameters),
    ],
)
def test_yaml_holds_every_parameter_with_its_default(ros, file: str, node: str, cls: type) -> None:
    values = yaml.safe_load((CONFIG / file).read_text())[node]["ros__parameters"]
    flat: dict[str, object] = {}

    def flatten(mapping: dict, prefix: str = "") -> None:
        for key, value in mapping.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    flatten(values)
    names = {name for name, _ in params.flatten(cls)}
    assert set(flat) == names - {"camera_pose"}
    # Read as a node reads it, from the file itself.
    name = node.rsplit("/", 1)[1]
    arguments = ["--ros-args", "--params-file", str(CONFIG / file)]
    for namespace in ("/", "/front"):
        reader = ros.add(Node(name, namespace=namespace, context=ros.context, cli_args=arguments))
        params.declare(reader, cls)
        assert params.read(reader, cls) == cls()


def test_parameters_are_described_with_ranges(ros) -> None:
    node = ros.node("described")
    params.declare(node, PerceptionParameters)
    for name, item in params.flatten(PerceptionParameters):
        assert node.describe_parameter(name).description, name
        assert item.metadata["text"] == node.describe_parameter(name).description
    rate = node.describe_parameter("max_rate_hz").floating_point_range[0]
    assert (rate.from_value, rate.to_value) == (0.0, 1000.0)


def test_integers_are_taken_for_numbers(ros) -> None:
    given = [Parameter("max_rate_hz", value=5), Parameter("camera_pose", value=[0, 0, 1, 0, 0, 0])]
    node = ros.add(Node("integers", context=ros.context, parameter_overrides=given))
    params.declare(node, PerceptionParameters)
    read = params.read(node, PerceptionParameters)
    assert read.max_rate_hz == 5.0 and read.camera_pose == (0, 0, 1, 0, 0, 0)


# -- diagnostics -------------------------------------------------------------------------------------------------------


class Seconds:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_frame_log_levels() -> None:
    clock = Seconds()
    log = FrameLog(clock)

    def level() -> tuple[bytes, str]:
        status = log.status("input", "/image", timeout_s=2.0)
        return status.level, status.message

    log.started()
    assert level()[0] == DiagnosticStatus.OK
    clock.now += 3
    assert level() == (DiagnosticStatus.STALE, "no image yet on /image after 3 s")
    for _ in range(3):
        clock.now += 1
        log.info_arrived()
    assert not log.lost_images(), "two seconds are over only after the third"
    clock.now += 0.5
    log.info_arrived()
    assert log.lost_images() and level()[0] == DiagnosticStatus.WARN and "FASTDDS" in level()[1]
    log.image_arrived(0.05)
    assert level()[0] == DiagnosticStatus.OK and not log.lost_images()
    assert log.dropped("encoding", "image: got x") and not log.dropped("encoding", "image: got x")
    assert level() == (DiagnosticStatus.ERROR, "image: got x")
    assert not log.dropped("newer image", "image: a newer one")
    log.answered({"total": 10.0})
    log.answered({"total": 30.0})
    assert level() == (DiagnosticStatus.OK, "images are answered")
    values = {pair.key: pair.value for pair in log.status("input", "/image", 2.0).values}
    assert values["dropped: encoding"] == "2" and values["dropped"] == "3" and values["ms: total"] == "20.0"
    clock.now += 2.5
    assert level()[0] == DiagnosticStatus.STALE and "2.5 s ago" in level()[1]


def test_rate_is_measured_on_the_steady_clock() -> None:
    clock = Seconds()
    log = FrameLog(clock)
    for _ in range(11):
        clock.now += 0.1
        log.image_arrived(0.0)
    values = {pair.key: pair.value for pair in log.status("input", "/image", 2.0).values}
    assert values["image_rate_hz"] == "10.0"


# -- worker ------------------------------------------------------------------------------------------------------------


def test_worker_works_on_the_newest() -> None:
    begun, go, seen = threading.Event(), threading.Event(), []

    def handle(item: int, cancelled: threading.Event) -> None:
        seen.append((item, cancelled.is_set()))
        begun.set()
        go.wait(5.0)
        seen.append((item, cancelled.is_set()))

    worker = Worker(handle)
    assert worker.put(1) is None and begun.wait(5.0)
    assert [worker.put(2), worker.put(3)] == [None, 2]
    assert not worker.stop(0.05), "the first item is still at work"
    go.set()
    assert worker.stop(5.0) and seen == [(1, False), (1, True)]


def test_wait_for_carries_values_and_errors() -> None:
    asked: list[float] = []
    left: list[threading.Thread] = []
    assert wait_for(lambda: time.sleep(0.1) or 7, lambda: asked.append(1.0) or True, left.append, every_s=0.02) == 7
    assert len(asked) > 2
    with pytest.raises(ValueError, match="no"):
        wait_for(lambda: (_ for _ in ()).throw(ValueError("no")), lambda: True, left.append)
    release = threading.Event()
    assert not left and wait_for(lambda: release.wait(5.0), lambda: False, left.append) is None
    assert [thread.is_alive() for thread in left] == [True]
    release.set()


def test_waiting_ends_at_once_when_cancelled() -> None:
    cancelled = threading.Event()
    assert wait_until(lambda: True, 0.0, cancelled) and not wait_until(lambda: False, 0.05, cancelled)
    threading.Timer(0.1, cancelled.set).start()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        wait_until(lambda: False, 5.0, cancelled)
    assert time.monotonic() - begin < 2.0


# -- odometry ----------------------------------------------------------------------------------------------------------


def test_twist_of_equal_stamps_is_zero(tmp_path: Path) -> None:
    folder = write_drive(tmp_path)
    assert odometry.twist(Kitti360(folder), 6)[0][0] == pytest.approx(10.0)
    lines = ["2013-05-28 08:00:00.000000000"] * 20
    (folder / f"data_2d_raw/{DRIVE}/image_00/timestamps.txt").write_text("\n".join(lines))
    drive = Kitti360(folder)
    assert drive.stamp_ns(5) == drive.stamp_ns(6)
    assert not np.any(odometry.twist(drive, 6))
