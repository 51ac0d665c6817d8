"""Messages to arrays and back: every encoding against a picture whose colours are known."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from bench import HUGE_PNG
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from kyn_models.types import Intrinsics, VoxelGridSpec
from kyn_ros import convert
from kyn_ros.convert import InputError

# Left half red, right half a bluish green: a swapped channel or Bayer row shows.
LEFT, RIGHT = (200, 30, 60), (20, 120, 220)
WIDTH, HEIGHT = 16, 8


def picture() -> np.ndarray:
    rgb = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    rgb[:, : WIDTH // 2], rgb[:, WIDTH // 2 :] = LEFT, RIGHT
    return rgb


def bayer(pattern: str) -> np.ndarray:
    """A mosaic as sensor_msgs names it: the letters are the first two rows, two by two."""
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for place, letter in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = picture()[place // 2 :: 2, place % 2 :: 2, "rgb".index(letter)]
    return mosaic


def yuv(first: str) -> np.ndarray:
    """4:2:2 with Y first (yuyv) or U first (uyvy), BT.601 video range."""
    r, g, b = np.moveaxis(picture().astype(float), -1, 0)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    chroma = np.where(np.arange(WIDTH) % 2 == 0, u, v)
    return np.rint(np.stack([y, chroma] if first == "y" else [chroma, y], axis=-1)).astype(np.uint8)


def grey() -> np.ndarray:
    return cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)


def with_alpha(rgb: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 7, np.uint8)], axis=-1)


RAW = {
    "rgb8": (picture(), 0),
    "bgr8": (picture()[..., ::-1], 0),
    "rgba8": (with_alpha(picture()), 0),
    "bgra8": (with_alpha(picture()[..., ::-1]), 0),
    "yuv422": (yuv("u"), 3),
    "uyvy": (yuv("u"), 3),
    "yuv422_yuy2": (yuv("y"), 3),
    "yuyv": (yuv("y"), 3),
    "bayer_rggb8": (bayer("rggb"), 0),
    "bayer_bggr8": (bayer("bggr"), 0),
    "bayer_gbrg8": (bayer("gbrg"), 0),
    "bayer_grbg8": (bayer("grbg"), 0),
    "mono8": (grey(), 0),
    "mono16": (grey().astype("<u2") * 257, 0),
}


def message(encoding: str, pixels: np.ndarray, padding: int = 0, bigendian: bool = False) -> Image:
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(HEIGHT, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return Image(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(bigendian),
        data=rows.tobytes(),
    )


@pytest.mark.parametrize("encoding", convert.ENCODINGS)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_encoding(encoding: str, padding: int) -> None:
    pixels, tolerance = RAW[encoding]
    rgb = convert.image_to_rgb(message(encoding, pixels, padding))
    expected = np.repeat(grey()[..., None], 3, axis=-1) if encoding.startswith("mono") else picture()
    assert rgb.dtype == np.uint8 and rgb.shape == (HEIGHT, WIDTH, 3) and rgb.flags["C_CONTIGUOUS"]
    # Demosaicing blurs the edge in the middle and copies the border.
    inner = np.s_[2:-2, [2, 3, 4, 5, 10, 11, 12, 13]]
    np.testing.assert_allclose(rgb[inner].astype(int), expected[inner].astype(int), atol=tolerance)


def test_mono16_in_the_other_byte_order() -> None:
    rgb = convert.image_to_rgb(message("mono16", RAW["mono16"][0].astype(">u2"), bigendian=True))
    np.testing.assert_array_equal(rgb[..., 0], grey())


def test_against_cv_bridge() -> None:
    bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is part of a ROS 2 installation").CvBridge()
    for encoding in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "bayer_rggb8", "bayer_gbrg8"):
        theirs = bridge.imgmsg_to_cv2(message(encoding, RAW[encoding][0]), "rgb8")
        np.testing.assert_array_equal(convert.image_to_rgb(message(encoding, RAW[encoding][0])), theirs)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "32FC1"}, "encoding"),
        ({"height": 0}, "image size"),
        ({"encoding": "yuyv", "width": WIDTH - 1}, "image size"),
        ({"step": 3 * WIDTH - 1}, "image data"),
        ({"data": b"123"}, "image data"),
    ],
)
def test_bad_images_have_a_reason(changes: dict, reason: str) -> None:
    bad = message("rgb8", picture())
    for name, value in changes.items():
        setattr(bad, name, value)
    with pytest.raises(InputError, match="expected") as error:
        convert.image_to_rgb(bad)
    assert error.value.reason == reason


def test_compressed() -> None:
    rgb = np.repeat(np.repeat(picture(), 8, axis=0), 8, axis=1)
    for name, tolerance in (("png", 0), ("jpeg", 8)):
        data = cv2.imencode("." + name, rgb[..., ::-1])[1].tobytes()
        decoded = convert.compressed_to_rgb(CompressedImage(format=f"rgb8; {name} compressed bgr8", data=data))
        np.testing.assert_allclose(decoded[:, :48].astype(int), rgb[:, :48].astype(int), atol=tolerance)
    for format_name, data, reason in (
        ("png", b"", "image data"),
        ("png", b"123", "image data"),
        ("png", HUGE_PNG, "image data"),
        ("h264", b"123", "encoding"),
    ):
        with pytest.raises(InputError) as error:
            convert.compressed_to_rgb(CompressedImage(format=format_name, data=data))
        assert error.value.reason == reason


def test_stamps_are_exact() -> None:
    for nanoseconds in (0, 1, 1_700_000_000_123_456_789):
        assert convert.stamp_ns(convert.time_message(nanoseconds)) == nanoseconds


def test_images_come_back() -> None:
    again = convert.image_to_rgb(convert.image_message(Header(), picture()))
    np.testing.assert_array_equal(again, picture())
    depth = np.array([[1.5, np.inf], [np.nan, 80.0]], np.float32)
    image = convert.image_message(Header(frame_id="camera"), depth)
    assert (image.encoding, image.step, image.width, image.height) == ("32FC1", 8, 2, 2)
    np.testing.assert_array_equal(np.frombuffer(image.data, np.float32).reshape(2, 2), depth)


def test_camera_info_has_no_distortion_and_p_equals_k() -> None:
    info = convert.camera_info_message(Header(), Intrinsics(100, 110, 31.5, 11.5, 64, 24))
    assert list(info.k) == [100, 0, 31.5, 0, 110, 11.5, 0, 0, 1]
    assert list(info.p) == [100, 0, 31.5, 0, 0, 110, 11.5, 0, 0, 0, 1, 0]
    assert not any(info.d) and (info.width, info.height) == (64, 24)


def test_grid_and_volume_layout() -> None:
    spec = VoxelGridSpec((0, 3), (-1, 1), (0, 1), 0.5)
    nz, ny, nx = spec.shape
    grid = np.full((ny, nx), -1, np.int8)
    grid[1, 4] = 100
    flat = convert.grid_message(Header(frame_id="base_link"), grid, spec)
    assert flat.data[1 * nx + 4] == 100 and (flat.info.width, flat.info.height) == (6, 4)
    assert (flat.info.origin.position.x, flat.info.origin.position.y) == (0.0, -1.0)
    assert flat.info.origin.orientation.w == 1.0

    kyn = pytest.importorskip("kyn.msg", reason="the messages of kyn are not built for this Python")
    volume = np.zeros((nz, ny, nx), np.uint8)
    volume[1, 2, 3] = 254
    solid = convert.volume_message(kyn.OccupancyVolume, Header(), volume, spec, None, ())
    assert solid.data[(1 * ny + 2) * nx + 3] == 254 and not solid.labels
    assert (solid.size_x, solid.size_y, solid.size_z) == (nx, ny, nz)
    assert kyn.OccupancyVolume.UNKNOWN == 255


def test_cloud_layout() -> None:
    points = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    plain = convert.cloud_message(Header(), points)
    assert (plain.width, plain.height, plain.point_step, plain.row_step) == (2, 1, 12, 24)
    coloured = convert.cloud_message(Header(), points, np.array([[255, 0, 1], [2, 3, 4]], np.uint8))
    assert [field.name for field in coloured.fields] == ["x", "y", "z", "rgb"]
    assert struct.unpack("<fffI", coloured.data.tobytes()[:16]) == (1, 2, 3, 0x00FF0001)
    empty = convert.cloud_message(Header(), np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
    assert empty.width == 0 and len(empty.data) == 0
