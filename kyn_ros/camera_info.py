"""CameraInfo to a pinhole camera, and the way its images become images of that camera."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo

from kyn_models.types import Float64Array, Intrinsics, UInt8Array
from kyn_ros.convert import InputError

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
"""Distortion models that are rectified, and how many coefficients each may have."""


@dataclass(frozen=True)
class Camera:
    """intrinsics: of the rectified image. size: (width, height) that arriving images must have.

    maps: float32 column and row to read each rectified pixel from, None where images arrive without distortion.
    """

    intrinsics: Intrinsics
    size: tuple[int, int]
    maps: tuple[np.ndarray, np.ndarray] | None = None

    def rectify(self, image: UInt8Array) -> UInt8Array:
        """(H, W, 3) uint8 without distortion. Raises ``InputError`` if the image does not have this camera's size."""
        if image.shape[1::-1] != self.size:
            raise InputError(
                "camera_info size",
                f"image: got {image.shape[1]}x{image.shape[0]} pixels, "
                f"expected {self.size[0]}x{self.size[1]} as its camera_info says (after roi and binning)",
            )
        if self.maps is None:
            return image
        return cv2.remap(image, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def rectify_mask(self, mask: UInt8Array) -> UInt8Array:
        """(H, W) mask painted on an arriving image, for the rectified image."""
        if self.maps is None or mask.shape[1::-1] != self.size:
            return mask
        return cv2.remap(mask, *self.maps, cv2.INTER_NEAREST)


def content(message: CameraInfo) -> Hashable:
    """What a camera depends on: two messages with the same content are the same camera."""
    roi = message.roi
    return (
        (message.width, message.height, message.distortion_model, message.binning_x, message.binning_y),
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
        (tuple(message.d), tuple(message.k), tuple(message.p)),
    )


def camera_from_info(message: CameraInfo, input_rectified: bool) -> Camera:
    """The pinhole camera behind a CameraInfo; roi and binning are applied.

    input_rectified: use P and ignore D. Otherwise K, and the distortion is removed where D is not zero; the optical
    frame stays that of the message (R belongs to stereo pairs), and the rectified camera is the one whose every pixel
    was seen. Raises ``InputError`` (reasons ``uncalibrated``, ``camera_info``).
    """
    matrix, name = (message.p.reshape(3, 4)[:, :3], "p") if input_rectified else (message.k.reshape(3, 3), "k")
    matrix = np.asarray(matrix, dtype=np.float64)
    if not np.isfinite(matrix).all() or not np.isfinite(message.d).all():
        raise InputError(
            "camera_info", f"camera_info: got NaN or infinite numbers in {name} or d, expected finite ones"
        )
    if matrix[0, 0] == 0:
        raise InputError(
            "uncalibrated",
            f"camera_info: {name}[0] is 0, so the camera is uncalibrated; "
            "expected a calibration (run camera_calibration or set camera_info_url of the driver)",
        )
    if matrix[0, 1] != 0 or not np.array_equal(matrix[2], (0, 0, 1)) or matrix[1, 0] != 0:
        raise InputError(
            "camera_info", f"camera_info: got skew or a third row other than 0 0 1 in {name}, expected none"
        )
    matrix, size = _windowed(message, matrix)
    try:
        intrinsics = Intrinsics.from_matrix(matrix, *size)
    except ValueError as error:
        raise InputError("camera_info", f"camera_info: {error}") from error
    if input_rectified or not np.any(message.d):
        return Camera(intrinsics, size)
    return _rectified(message, matrix, size)


def _windowed(message: CameraInfo, matrix: Float64Array) -> tuple[Float64Array, tuple[int, int]]:
    """Camera matrix and image size after region of interest and binning."""
    roi = message.roi
    width, height = roi.width or message.width, roi.height or message.height
    if roi.x_offset + width > message.width or roi.y_offset + height > message.height:
        raise InputError(
            "camera_info",
            f"camera_info: got roi {width}x{height} at ({roi.x_offset}, {roi.y_offset}), "
            f"expected it inside the full image {message.width}x{message.height}",
        )
    binning = np.array([max(1, message.binning_x), max(1, message.binning_y)])
    size = (int(width // binning[0]), int(height // binning[1]))
    matrix = matrix.copy()
    # A binned pixel is the mean of its block: its centre lies in the middle of the block.
    matrix[:2, 2] = (matrix[:2, 2] - (roi.x_offset, roi.y_offset) + 0.5) / binning - 0.5
    matrix[(0, 1), (0, 1)] /= binning
    return matrix, size


def _rectified(message: CameraInfo, matrix: Float64Array, size: tuple[int, int]) -> Camera:
    model, distortion = message.distortion_model, np.asarray(message.d, dtype=np.float64)
    if model not in COEFFICIENTS:
        raise InputError(
            "camera_info",
            f"camera_info: got distortion_model {model!r}, expected one of {', '.join(COEFFICIENTS)}; "
            "rectify with image_proc and set input_rectified",
        )
    if len(distortion) not in COEFFICIENTS[model]:
        raise InputError(
            "camera_info",
            f"camera_info: got {len(distortion)} coefficients d for {model}, "
            f"expected {' or '.join(map(str, COEFFICIENTS[model]))}",
        )
    same, to_float = np.eye(3), cv2.CV_32FC1
    if model == "equidistant":
        target = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(matrix, distortion, size, same, balance=0)
        columns, rows = cv2.fisheye.initUndistortRectifyMap(matrix, distortion, same, target, size, to_float)
    else:
        target = cv2.getOptimalNewCameraMatrix(matrix, distortion, size, 0.0)[0]
        columns, rows = cv2.initUndistortRectifyMap(matrix, distortion, same, target, size, to_float)
    try:
        intrinsics = Intrinsics.from_matrix(target, *size)
    except ValueError as error:
        raise InputError("camera_info", f"camera_info: its distortion cannot be removed ({error})") from error
    return Camera(intrinsics, size, (columns, rows))
