"""Messages to arrays and arrays to messages. Nothing here knows a node."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose
from nav_msgs.msg import MapMetaData, OccupancyGrid
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from kyn_models.types import Float32Array, Intrinsics, UInt8Array, VoxelGridSpec

NS_PER_S = 1_000_000_000


class InputError(ValueError):
    """One message that cannot be used. ``reason`` is the short name it is counted under."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def _rgb(pixels: np.ndarray) -> UInt8Array:
    return np.ascontiguousarray(pixels)


def _colour(code: int) -> Callable[[np.ndarray], UInt8Array]:
    return lambda pixels: cv2.cvtColor(np.ascontiguousarray(pixels), code)


def _grey16(pixels: np.ndarray) -> UInt8Array:
    # 65535 / 255 = 257: the full 16-bit range becomes the full 8-bit range.
    grey = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


# Encoding to (dtype, channels, pixels to RGB). OpenCV names Bayer patterns by the second row and column,
# sensor_msgs by the first: rggb is OpenCV's BayerBG.
_ENCODINGS: dict[str, tuple[type, int, Callable[[np.ndarray], UInt8Array]]] = {
    "rgb8": (np.uint8, 3, _rgb),
    "bgr8": (np.uint8, 3, _colour(cv2.COLOR_BGR2RGB)),
    "rgba8": (np.uint8, 4, _colour(cv2.COLOR_RGBA2RGB)),
    "bgra8": (np.uint8, 4, _colour(cv2.COLOR_BGRA2RGB)),
    "mono8": (np.uint8, 1, _colour(cv2.COLOR_GRAY2RGB)),
    "mono16": (np.uint16, 1, _grey16),
    "yuv422": (np.uint8, 2, _colour(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": (np.uint8, 2, _colour(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (np.uint8, 2, _colour(cv2.COLOR_YUV2RGB_YUYV)),
    "yuyv": (np.uint8, 2, _colour(cv2.COLOR_YUV2RGB_YUYV)),
    "bayer_rggb8": (np.uint8, 1, _colour(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": (np.uint8, 1, _colour(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": (np.uint8, 1, _colour(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": (np.uint8, 1, _colour(cv2.COLOR_BayerGB2RGB)),
}

ENCODINGS = tuple(_ENCODINGS)
"""Image encodings that are understood."""


def image_to_rgb(message: Image) -> UInt8Array:
    """(H, W, 3) uint8 RGB of a raw image; ``step`` and byte order are honoured.

    Raises ``InputError`` (reasons ``encoding``, ``image size``, ``image data``).
    """
    if message.encoding not in _ENCODINGS:
        raise InputError(
            "encoding", f"image: got encoding {message.encoding!r}, expected one of {', '.join(ENCODINGS)}"
        )
    dtype, channels, to_rgb = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise InputError("image size", f"image: got {width}x{height} pixels, expected both above 0")
    if message.encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv") and width % 2:
        raise InputError("image size", f"image: got width {width} in {message.encoding}, expected an even width")
    row = width * channels * np.dtype(dtype).itemsize
    if step < row:
        raise InputError(
            "image data", f"image: got step {step}, expected at least {row} for {width} {message.encoding}"
        )
    if len(message.data) != step * height:
        raise InputError(
            "image data",
            f"image: got {len(message.data)} bytes, expected step x height = {step} x {height} = {step * height}",
        )
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(height, step)[:, :row]
    pixels: np.ndarray = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    if np.dtype(dtype).itemsize > 1 and bool(message.is_bigendian) != (sys.byteorder == "big"):
        pixels = pixels.byteswap()
    return to_rgb(pixels[..., 0] if channels == 1 else pixels)


def compressed_to_rgb(message: CompressedImage) -> UInt8Array:
    """(H, W, 3) uint8 RGB of a JPEG or PNG image. Raises ``InputError`` (reasons ``encoding``, ``image data``)."""
    # image_transport writes "rgb8; jpeg compressed bgr8", drivers write "jpeg": the picture itself says what it is.
    if not any(name in message.format.lower() for name in ("jpeg", "jpg", "png")):
        raise InputError("encoding", f"image: got format {message.format!r}, expected jpeg or png")
    data = np.frombuffer(message.data, dtype=np.uint8)
    # The flag keeps a picture as the sensor had it: EXIF rotation would contradict CameraInfo.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = decoded(data, flags)
    if bgr is None:
        raise InputError("image data", f"image: got {data.size} bytes that do not decode as {message.format}")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decoded(data: UInt8Array, flags: int) -> UInt8Array | None:
    """The picture in the bytes of a file, (H, W, 3) BGR or (H, W) as OpenCV's ``flags`` say; None where it is none."""
    try:
        return cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # a header with more pixels than OpenCV takes
        return None


def stamp_ns(stamp: Time) -> int:
    """A message's stamp in integer nanoseconds."""
    return stamp.sec * NS_PER_S + stamp.nanosec


def time_message(nanoseconds: int) -> Time:
    """Integer nanoseconds as a message's stamp."""
    return Time(sec=nanoseconds // NS_PER_S, nanosec=nanoseconds % NS_PER_S)


def _bytes(values: np.ndarray, typecode: str = "B") -> array.array:
    # The only fast way into a message: the generated setters copy anything but an array element by element.
    data = array.array(typecode)
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data


def image_message(header: Header, image: np.ndarray) -> Image:
    """(h, w, 3) uint8 RGB as rgb8, or (h, w) float32 metres as 32FC1."""
    encoding = "rgb8" if image.dtype == np.uint8 else "32FC1"
    height, width = image.shape[:2]
    step = image.itemsize * image.size // height
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=step,
        data=_bytes(image),
    )


def camera_info_message(header: Header, intrinsics: Intrinsics) -> CameraInfo:
    """A camera without distortion: K and P of ``intrinsics``, R identity."""
    k = intrinsics.matrix
    p = np.hstack([k, np.zeros((3, 1))])
    return CameraInfo(
        header=header,
        height=intrinsics.height,
        width=intrinsics.width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=k.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=p.reshape(-1),
    )


def grid_message(header: Header, grid: np.ndarray, spec: VoxelGridSpec) -> OccupancyGrid:
    """(ny, nx) int8 cells; the origin is the outer corner of cell (0, 0), at height 0."""
    return map_message(header, grid, spec.resolution_m, (*spec.origin_m[:2], 0.0))


def map_message(
    header: Header, cells: np.ndarray, resolution_m: float, origin_m: tuple[float, float, float]
) -> OccupancyGrid:
    """(ny, nx) int8 cells; origin_m: x, y, z of the outer corner of cell (0, 0)."""
    x, y, z = origin_m
    info = MapMetaData(
        map_load_time=header.stamp,
        resolution=resolution_m,
        width=cells.shape[1],
        height=cells.shape[0],
        origin=Pose(position=Point(x=x, y=y, z=z)),
    )
    return OccupancyGrid(header=header, info=info, data=_bytes(cells, "b"))


def cloud_message(header: Header, points: Float32Array, colours: UInt8Array | None = None) -> PointCloud2:
    """(N, 3) float32 points, and (N, 3) uint8 RGB as the packed field ``rgb`` that RViz and PCL read."""
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate("xyz")]
    if colours is None:
        packed = points.astype("<f4", copy=False)
    else:
        fields.append(PointField(name="rgb", offset=12, datatype=PointField.FLOAT32, count=1))
        packed = np.empty((len(points), 4), dtype="<f4")
        packed[:, :3] = points
        # The number 0x00RRGGBB, low byte first.
        rgb = packed.view(np.uint8)
        rgb[:, 12:15] = colours[:, ::-1]
        rgb[:, 15] = 0
    step = 4 * len(fields)
    return PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=step,
        row_step=step * len(points),
        data=_bytes(packed),
        is_dense=True,
    )


def volume_message(
    message_type: type,
    header: Header,
    volume: UInt8Array,
    spec: VoxelGridSpec,
    labels: UInt8Array | None,
    label_names: tuple[str, ...],
) -> object:
    """``kyn/OccupancyVolume``, whose generated class is ``message_type`` (it may be missing under plain pip)."""
    nz, ny, nx = volume.shape
    x, y, z = spec.origin_m
    return message_type(
        header=header,
        origin=Pose(position=Point(x=x, y=y, z=z)),
        resolution=spec.resolution_m,
        size_x=nx,
        size_y=ny,
        size_z=nz,
        data=_bytes(volume),
        labels=array.array("B") if labels is None else _bytes(labels),
        label_names=list(label_names),
    )
