"""CameraInfo to a pinhole camera: windows, distortion, and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from sensor_msgs.msg import CameraInfo

from kyn_ros.camera_info import camera_from_info, content
from kyn_ros.convert import InputError

K = np.array([[300.0, 0, 160.0], [0, 310.0, 100.0], [0, 0, 1]])
DISTORTIONS = {
    "plumb_bob": [-0.25, 0.06, 0.001, -0.002, 0.0],
    "rational_polynomial": [0.1, 0.02, 0.001, 0.001, 0.003, 0.2, 0.01, 0.001],
    "equidistant": [0.05, -0.01, 0.002, 0.0],
}


def info(**changes: object) -> CameraInfo:
    message = CameraInfo(width=320, height=200, distortion_model="plumb_bob", d=[0.0] * 5, k=K.reshape(-1))
    message.p = np.hstack([K / 2, np.zeros((3, 1))]).reshape(-1)
    message.p[10] = 1.0
    for name, value in changes.items():
        place, _, last = name.rpartition("__")
        setattr(getattr(message, place) if place else message, last, value)
    return message


def test_without_distortion_k_is_used_and_the_image_is_left_alone() -> None:
    camera = camera_from_info(info(), input_rectified=False)
    assert (camera.intrinsics.fx, camera.intrinsics.cy, camera.size, camera.maps) == (300, 100, (320, 200), None)
    image = np.zeros((200, 320, 3), np.uint8)
    assert camera.rectify(image) is image


def test_rectified_input_uses_p_and_ignores_d() -> None:
    camera = camera_from_info(info(d=[0.5] * 5), input_rectified=True)
    assert (camera.intrinsics.fx, camera.intrinsics.cx, camera.maps) == (150, 80, None)


@pytest.mark.parametrize("model", DISTORTIONS)
def test_distortion_is_removed(model: str) -> None:
    """Dots at known directions, painted where the distorted camera sees them, are found where a pinhole does."""
    distortion = np.array(DISTORTIONS[model])
    camera = camera_from_info(info(distortion_model=model, d=list(distortion)), input_rectified=False)
    directions = np.array([[-0.3, -0.15, 1], [0.0, 0.0, 1], [0.25, 0.2, 1], [-0.2, 0.2, 1]])
    zero, points = np.zeros(3), directions.reshape(-1, 1, 3)
    if model == "equidistant":
        seen = cv2.fisheye.projectPoints(points, zero, zero, K, distortion)[0].reshape(-1, 2)
    else:
        seen = cv2.projectPoints(points, zero, zero, K, distortion)[0].reshape(-1, 2)
    for direction, (u, v) in zip(directions, seen, strict=True):
        raw = np.zeros((200, 320, 3), np.uint8)
        columns, rows = np.meshgrid(np.arange(320), np.arange(200))
        raw[:] = (255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 8))[..., None]
        rectified = camera.rectify(raw)[..., 0].astype(float)
        found = np.array([(columns * rectified).sum(), (rows * rectified).sum()]) / rectified.sum()
        k = camera.intrinsics
        np.testing.assert_allclose(found, [k.fx * direction[0] + k.cx, k.fy * direction[1] + k.cy], atol=0.15)
    # Every pixel of the rectified image was seen.
    columns, rows = camera.maps
    assert columns.min() > -0.5 and columns.max() < 319.5 and rows.min() > -0.5 and rows.max() < 199.5


def test_region_of_interest_and_binning_are_applied() -> None:
    camera = camera_from_info(
        info(roi__x_offset=40, roi__y_offset=20, roi__width=200, roi__height=100, binning_x=2, binning_y=2), False
    )
    assert camera.size == (100, 50)
    # A direction hits the middle of the same patch: pixel u of the full image is (u - 40 + 1/2) / 2 - 1/2.
    k = camera.intrinsics
    assert k.fx * 0.1 + k.cx == pytest.approx((300 * 0.1 + 160 - 40 + 0.5) / 2 - 0.5)
    assert k.fy * 0.1 + k.cy == pytest.approx((310 * 0.1 + 100 - 20 + 0.5) / 2 - 0.5)


@pytest.mark.parametrize(
    ("changes", "rectified", "reason", "text"),
    [
        ({"k": np.zeros(9)}, False, "uncalibrated", "k\\[0\\] is 0"),
        ({"p": np.zeros(12)}, True, "uncalibrated", "p\\[0\\] is 0"),
        ({"k": np.full(9, np.nan)}, False, "camera_info", "NaN"),
        ({"d": [np.inf] * 5}, False, "camera_info", "in k or d"),
        ({"k": np.array([300.0, 5, 160, 0, 300, 100, 0, 0, 1])}, False, "camera_info", "skew"),
        ({"k": np.array([300.0, 0, 160, 0, -300, 100, 0, 0, 1])}, False, "camera_info", "above 0"),
        ({"width": 0}, False, "camera_info", "image size"),
        ({"roi__width": 300, "roi__x_offset": 40}, False, "camera_info", "roi"),
        ({"distortion_model": "mei", "d": [0.1]}, False, "camera_info", "distortion_model 'mei'"),
        ({"distortion_model": "equidistant", "d": [0.1] * 5}, False, "camera_info", "5 coefficients"),
    ],
)
def test_refused_by_name(changes: dict, rectified: bool, reason: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        camera_from_info(info(**changes), rectified)
    assert error.value.reason == reason


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="got 64x48 pixels, expected 320x200"):
        camera_from_info(info(), False).rectify(np.zeros((48, 64, 3), np.uint8))


def test_content_tells_cameras_apart_and_ignores_stamps() -> None:
    later = info()
    later.header.stamp.sec = 9
    assert content(info()) == content(later) != content(info(k=K.reshape(-1) * 1.01))
    assert content(info()) != content(info(binning_x=2))
