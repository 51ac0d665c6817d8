"""Bad messages: dropped, counted, named in one sentence, and the node keeps running."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import CAMERA, FRAME, HUGE_PNG, SECOND, image_of, info_of, values_of
from diagnostic_msgs.msg import DiagnosticStatus
from posed_drive import MS
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from kyn_models.predictor import Predictor
from kyn_ros import convert, perception_node
from kyn_ros.background import Background
from kyn_ros.perception import read_mask

WIDER = dataclasses.replace(CAMERA, fx=CAMERA.fx * 1.5, fy=CAMERA.fy * 1.5)


def damaged(**changes: object) -> Image:
    message = image_of(128, SECOND)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


BAD_IMAGES = {
    "unknown encoding": (damaged(encoding="rgb5"), "encoding", "'rgb5'"),
    "step too small": (damaged(step=352 * 3 - 1), "image data", "step 1055"),
    "data too short": (damaged(data=b"\0" * 99), "image data", "99 bytes"),
    "data too long": (damaged(data=b"\0" * (352 * 94 * 3 + 1)), "image data", "expected step x height"),
    "zero size": (damaged(width=0, height=0, step=0, data=b""), "image size", "0x0"),
    "other size": (damaged(width=176, step=528, data=b"\0" * 528 * 94), "camera_info size", "176x94"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_is_dropped_counted_and_named(bench, name: str) -> None:
    image, reason, text = BAD_IMAGES[name]
    one = bench()
    one.send(image, info_of(SECOND))
    status = one.wait_for_status("input", DiagnosticStatus.ERROR, text)
    assert values_of(status)[f"dropped: {reason}"] == "1"
    assert not one.grids
    one.ask(grey=128, stamp_ns=2 * SECOND)
    one.wait_for_status("input", DiagnosticStatus.OK)


def bad_info(stamp_ns: int, **changes: object) -> CameraInfo:
    message = info_of(stamp_ns)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_a_corrupt_picture_costs_its_own_image_only(drive) -> None:
    one = drive(image_transport="compressed")
    good = cv2.imencode(".png", np.full((CAMERA.height, CAMERA.width, 3), 128, np.uint8))[1].tobytes()

    def send(number: int, data: bytes = good) -> None:
        stamp_ms = 1000 + 100 * number
        one.pose(stamp_ms, number)
        header = Header(stamp=convert.time_message(stamp_ms * MS), frame_id=FRAME)
        one.one.send(CompressedImage(header=header, format="png", data=data), info_of(stamp_ms * MS))
        one.one.ros.spin_for(0.1)

    send(0)
    one.answers(1)
    one.model.hold.clear()
    send(1)
    # It is a neighbour of the next one, which alone is asked about.
    send(2, HUGE_PNG)
    send(3)
    one.model.hold.set()
    assert one.answers(3) == [1000, 1100, 1300] and one.questions()[-1] == (1300, 1100)
    assert one.one.drops() == {"image data": 1}


def test_a_hood_mask_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hood.png").write_bytes(HUGE_PNG)
    with pytest.raises(ValueError, match="does not decode as an image"):
        read_mask(str(tmp_path / "hood.png"))


NAN_K = np.array([math.nan, 0, 176, 0, 138, 60, 0, 0, 1.0])
BAD_INFOS = {
    "uncalibrated": (bad_info(SECOND, k=np.zeros(9)), "uncalibrated", "k[0] is 0"),
    "nan": (bad_info(SECOND, k=NAN_K), "camera_info", "NaN"),
    "unknown distortion": (bad_info(SECOND, distortion_model="mei", d=[0.1] * 5), "camera_info", "'mei'"),
}


@pytest.mark.parametrize("name", BAD_INFOS)
def test_bad_camera_info_is_an_error_and_the_node_stays_active(bench, name: str) -> None:
    info, reason, text = BAD_INFOS[name]
    one = bench()
    one.send(image_of(128, SECOND), info)
    status = one.wait_for_status("input", DiagnosticStatus.ERROR, text)
    assert values_of(status)[f"dropped: {reason}"] == "1"
    assert one.node._state_machine.current_state[1] == "active"
    one.ask(grey=128, stamp_ns=2 * SECOND)


def test_missing_camera_info_is_named(bench) -> None:
    one = bench()
    for number in range(1, 7):
        one.send(image_of(128, number * SECOND))
        one.ros.spin_for(0.05)
    status = one.wait_for_status("input", DiagnosticStatus.ERROR, "no camera_info")
    assert int(values_of(status)["dropped: no camera_info"]) == 3
    assert not one.grids


def test_camera_info_out_of_step_is_refused(bench) -> None:
    one = bench()
    for number, off in ((1, 200_000_000), (2, 200_000_000), (3, 0)):
        one.send(image_of(128, number * SECOND), info_of(number * SECOND + off))
        one.ros.spin_for(0.05)
    assert one.ros.spin_until(lambda: one.grids)
    assert one.grids[0].header.stamp.sec == 3
    assert one.drops() == {"unpaired": 2}


def test_camera_info_may_change(bench) -> None:
    one = bench()
    before = one.ask(grey=128, stamp_ns=SECOND)
    one.send(image_of(128, 2 * SECOND), info_of(2 * SECOND, WIDER))
    assert one.ros.spin_until(lambda: one.drops() == {"preparing": 1})
    one.wait_for_status("input", DiagnosticStatus.OK)
    one.ros.spin_for(0.5)
    one.send(image_of(128, 3 * SECOND), info_of(3 * SECOND, WIDER))
    assert one.ros.spin_until(lambda: len(one.grids) == 2)
    # The narrower camera sees less: more of the grid is unknown.
    assert np.sum(np.array(one.grids[1].data) == -1) > np.sum(np.array(before.data) == -1)
    again = one.ask(grey=128, stamp_ns=4 * SECOND)
    assert again.data == before.data


def test_the_first_image_is_answered_however_quickly_its_constants_are_built(
    bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Background.get

    def get_and_lose_the_core(background: Background, *arguments: Any) -> Any:
        value = get(background, *arguments)
        if (thread := background._thread) is not None:
            thread.join(10.0)
        return value

    monkeypatch.setattr(Background, "get", get_and_lose_the_core)
    one = bench()
    one.ask(grey=128, stamp_ns=SECOND)
    assert one.drops() == {}


def test_frames_of_the_old_camera_are_answered_while_constants_of_the_new_one_are_built(
    bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    before = one.ask(grey=128, stamp_ns=SECOND)
    predictor = one.node._perception.predictor
    build, begun, release = predictor.build, threading.Event(), threading.Event()

    def slow(*arguments: object) -> object:
        begun.set()
        assert release.wait(20.0)
        return build(*arguments)

    monkeypatch.setattr(predictor, "build", slow)
    for stamp in (2, 3, 4):
        one.send(image_of(128, stamp * SECOND), info_of(stamp * SECOND, WIDER))
        assert one.ros.spin_until(lambda stamp=stamp: one.drops() == {"preparing": stamp - 1})
        assert begun.is_set()
    assert one.ask(grey=128, stamp_ns=5 * SECOND).data == before.data
    with monkeypatch.context() as patch:
        patch.setattr(perception_node, "END_WITHIN_S", 0.1)
        assert one.node.finish() is False, "the end does not wait for constants, and says that they are being built"
    release.set()
    assert one.ros.spin_until(one.node.finish, 5.0)
    assert one.node.trigger_deactivate() == one.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    one.wait_for_subscriptions()
    one.send(image_of(128, 6 * SECOND), info_of(6 * SECOND, WIDER))
    assert one.ros.spin_until(lambda: len(one.grids) == 3)
    assert one.grids[2].data != before.data


def test_the_grid_may_change_while_images_are_answered(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench()
    before = one.ask(grey=128, stamp_ns=SECOND)
    refused = one.node.set_parameters([Parameter("grid.frame_id", value="map")])[0]
    assert not refused.successful and "takes effect at configure" in refused.reason
    huge = [Parameter("grid.x_m", value=[0.0, 1e6]), Parameter("grid.y_m", value=[-1e5, 1e5])]
    refused = one.node.set_parameters_atomically(huge)
    assert not refused.successful and "GB" in refused.reason
    begun, release, build = threading.Event(), threading.Event(), Predictor.build

    def slow(*arguments: object) -> object:
        begun.set()
        assert release.wait(20.0)
        return build(*arguments)

    monkeypatch.setattr(Predictor, "build", slow)
    assert one.node.set_parameters([Parameter("grid.x_m", value=[0.0, 30.0])])[0].successful
    # The old grid answers until the constants of the new one are there.
    assert one.ask(grey=128, stamp_ns=2 * SECOND).data == before.data and begun.wait(5.0)
    release.set()
    one.ros.spin_for(0.5)
    after = one.ask(grey=128, stamp_ns=3 * SECOND)
    assert (after.info.width, after.info.height) == (60, 40)
    np.testing.assert_array_equal(np.array(after.data).reshape(40, 60), np.array(before.data).reshape(40, 100)[:, :60])
    assert not one.drops()


def test_camera_info_without_images_names_the_fast_dds_profile(bench) -> None:
    one = bench()
    for number in range(30):
        one.send(info=info_of(SECOND + number * 100_000_000))
        one.ros.spin_for(0.1)
    status = one.status("input")
    assert status.level == DiagnosticStatus.WARN and "FASTRTPS_DEFAULT_PROFILES_FILE" in status.message


def test_a_failing_runtime_costs_one_image_and_not_the_node(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench()
    one.ask(grey=128, stamp_ns=SECOND)
    predictor = one.node._perception.predictor

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "predict", fail)
        one.send(image_of(128, 2 * SECOND), info_of(2 * SECOND))
        status = one.wait_for_status("input", DiagnosticStatus.ERROR, "inference failed: out of memory")
    assert values_of(status)["dropped: inference"] == "1"
    one.ask(grey=128, stamp_ns=3 * SECOND)
