"""A drive of KITTI-360 or KITTI odometry as a rosbag2: MCAP or sqlite3, Humble to Kilted. Needs no ROS.

Topics of one camera: ``/image`` (or ``/image/compressed``: the PNG files as they are), ``/camera_info``, ``/odom``,
``/lidar/points``, ``/tf`` (odom to base_link), ``/tf_static`` (base_link to camera and scanner, transient local). Two
cameras stand below ``/left`` and ``/right``. Names of topics and frames are those of the replay node.

Every message carries the frame's stamp, in its header and as log time; messages are written in order of time, frame by
frame, so memory does not grow with the drive. ``odom`` is the data set's own world (z up). Scans are the data set's raw
ones: they turn during 0.1 s while the car drives, and no motion is taken out.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from kyn_models import __version__
from kyn_models.data.drives import Drive, image_frame
from kyn_models.data.kitti360 import Kitti360
from kyn_models.types import Float64Array
from kyn_ros.odometry import quaternion_from_pose, twist

METADATA_VERSION = 8
"""Version 9 writes QoS in a form that Humble cannot read; Iron to Kilted read version 8 as well."""
ODOM_FRAME, BASE_FRAME, LIDAR_FRAME = "odom", "base_link", "velodyne"
SIDES = {"00": "left", "01": "right"}

Progress = Callable[[int, int, int], None]
"""Called with (frames done, frames in all, frame number)."""


@dataclass(frozen=True)
class BagOptions:
    """cameras: names of the drive's cameras, left first; two of KITTI-360 only; none: the one it was opened with.
    compressed: the PNG files as CompressedImage instead of raw rgb8. lidar: scans too. start, stop: first and last
    frame number, None for the ends of the drive."""

    storage: Literal["mcap", "sqlite3"] = "mcap"
    cameras: tuple[str, ...] = ()
    compressed: bool = False
    lidar: bool = True
    start: int | None = None
    stop: int | None = None


@dataclass
class BagSummary:
    """What became of the frames. messages: count by topic. broken: a sentence for each unreadable frame or scan, which
    is not in the bag. without_scan: frames for which the data set has no scan. stopped: ended early on request."""

    frames: int = 0
    messages: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    without_scan: int = 0
    stopped: bool = False


def write_bag(
    drive: Drive,
    out: Path,
    options: BagOptions | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> BagSummary:
    """Write the drive's frames into the new folder ``out``.

    drive: for two cameras opened with ``views=(("01", 0),)``, so that its frames have both images. stop: asked before
    every frame; when it says yes the bag ends there, complete and readable (no frame yet: no bag). A frame whose files
    are broken is left out and named. Raises ``FileExistsError`` if ``out`` exists, ``ValueError`` for a range without
    frames or without a readable one, ``OSError`` where the disk is too small; then nothing is left behind.
    """
    options = options or BagOptions()
    if not options.cameras:
        options = replace(options, cameras=(drive.camera,))
    frames = tuple(
        frame
        for frame in drive.frames
        if (options.start is None or frame >= options.start) and (options.stop is None or frame <= options.stop)
    )
    if not frames:
        raise ValueError(
            f"--start, --stop: got {options.start} to {options.stop}, expected a range that holds some of the frames "
            f"{drive.frames[0]} to {drive.frames[-1]}"
        )
    out = Path(out).absolute()
    if out.exists():
        raise FileExistsError(f"{out}: exists already, expected the name of a new folder")
    _check_space(drive, out, frames, options)
    plugin = StoragePlugin.MCAP if options.storage == "mcap" else StoragePlugin.SQLITE3
    writer = Writer(out, version=METADATA_VERSION, storage_plugin=plugin)
    try:
        with writer:
            summary = _Bag(drive, writer, options).write(frames, stop, progress)
        if not summary.frames and not summary.stopped:
            raise ValueError(f"{drive.drive}: got no readable frame of {len(frames)}; the first: {summary.broken[0]}")
    except sqlite3.Error as error:
        shutil.rmtree(out, ignore_errors=True)
        raise OSError(f"{out}: could not be written ({error}); nothing was kept") from error
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    if not summary.frames:
        shutil.rmtree(out)
    return summary


class _Bag:
    """The open bag: connections, message types, counts."""

    def __init__(self, drive: Drive, writer: Writer, options: BagOptions) -> None:
        self._drive = drive
        self._writer = writer
        self._options = options
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._types = SimpleNamespace(**{name.split("/")[-1]: made for name, made in self._store.types.items()})
        self._connections: dict[str, Any] = {}
        self.summary = BagSummary()
        stamps = f"{drive.rate_hz:g} Hz, assumed" if drive.stamps_assumed else "of the data set"
        for key, text in (("drive", drive.drive), ("stamps", stamps), ("written_by", f"kyn {__version__}")):
            writer.set_custom_data(key, text)
        for topic, name in self._topics():
            self._connections[topic] = writer.add_connection(
                topic, name, typestore=self._store, offered_qos_profiles=[qos(latched=topic == "/tf_static")]
            )
            self.summary.messages[topic] = 0

    def write(self, frames: tuple[int, ...], stop: Callable[[], bool], progress: Progress | None) -> BagSummary:
        for index, frame in enumerate(frames):
            if stop():
                self.summary.stopped = True
                break
            try:
                self._write_frame(frame)
            except (ValueError, FileNotFoundError) as error:
                self.summary.broken.append(str(error))
            if progress:
                progress(index + 1, len(frames), frame)
        return self.summary

    def _topics(self) -> Iterator[tuple[str, str]]:
        yield "/tf_static", "tf2_msgs/msg/TFMessage"
        yield "/tf", "tf2_msgs/msg/TFMessage"
        yield "/odom", "nav_msgs/msg/Odometry"
        for camera in self._options.cameras:
            prefix = self._prefix(camera)
            yield f"{prefix}/camera_info", "sensor_msgs/msg/CameraInfo"
            if self._options.compressed:
                yield f"{prefix}/image/compressed", "sensor_msgs/msg/CompressedImage"
            else:
                yield f"{prefix}/image", "sensor_msgs/msg/Image"
        if self._options.lidar:
            yield "/lidar/points", "sensor_msgs/msg/PointCloud2"

    def _prefix(self, camera: str) -> str:
        return f"/{SIDES[camera]}" if len(self._options.cameras) > 1 else ""

    def _write_frame(self, frame: int) -> None:
        """All messages of a frame, none of them if an image is broken."""
        stamp_ns = self._drive.stamp_ns(frame)
        pose, motion = self._drive.world_from_base(frame), twist(self._drive, frame)
        images = [message for camera in self._options.cameras for message in self._camera_messages(frame, camera)]
        if not self.summary.frames:
            self._put("/tf_static", self._static_transforms(stamp_ns), stamp_ns)
        moving = self._transform(ODOM_FRAME, BASE_FRAME, pose, stamp_ns)
        self._put("/tf", self._types.TFMessage(transforms=[moving]), stamp_ns)
        self._put("/odom", self._odometry(pose, motion, stamp_ns), stamp_ns)
        for topic, message in images:
            self._put(topic, message, stamp_ns)
        self.summary.frames += 1
        if self._options.lidar:
            if self._drive.has_scan(frame):
                self._put("/lidar/points", self._cloud(frame, stamp_ns), stamp_ns)
            else:
                self.summary.without_scan += 1

    def _put(self, topic: str, message: Any, stamp_ns: int) -> None:
        connection = self._connections[topic]
        self._writer.write(connection, stamp_ns, self._store.serialize_cdr(message, connection.msgtype))
        self.summary.messages[topic] += 1

    def _header(self, frame_id: str, stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        return self._types.Header(stamp=self._types.Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)

    def _camera_messages(self, frame: int, camera: str) -> Iterator[tuple[str, Any]]:
        view = self._drive.posed_frame(frame, camera)
        k, prefix = view.intrinsics, self._prefix(camera)
        header = self._header(image_frame(camera), view.stamp_ns)
        projection = np.column_stack([k.matrix, np.zeros(3)])
        if isinstance(self._drive, Kitti360) and len(self._options.cameras) > 1:
            projection[0, 3] = self._drive.stereo_offset(camera)
        yield (
            f"{prefix}/camera_info",
            self._types.CameraInfo(
                header=header,
                height=k.height,
                width=k.width,
                distortion_model="plumb_bob",
                d=np.zeros(5),
                k=k.matrix.ravel(),
                r=np.eye(3).ravel(),
                p=projection.ravel(),
                binning_x=0,
                binning_y=0,
                roi=self._types.RegionOfInterest(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
            ),
        )
        if self._options.compressed:
            stored = np.fromfile(self._drive.image_path(frame, camera), dtype=np.uint8)
            compressed = self._types.CompressedImage(header=header, format="bgr8; png compressed bgr8", data=stored)
            yield f"{prefix}/image/compressed", compressed
            return
        raw = self._types.Image(
            header=header,
            height=k.height,
            width=k.width,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * k.width,
            data=view.image.reshape(-1),
        )
        yield f"{prefix}/image", raw

    def _cloud(self, frame: int, stamp_ns: int) -> Any:
        points = self._drive.scan(frame)
        number = self._types.PointField.FLOAT32
        fields = [
            self._types.PointField(name=name, offset=4 * index, datatype=number, count=1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ]
        return self._types.PointCloud2(
            header=self._header(LIDAR_FRAME, stamp_ns),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=16,
            row_step=16 * len(points),
            data=np.ascontiguousarray(points, dtype="<f4").view(np.uint8).reshape(-1),
            is_dense=bool(np.isfinite(points).all()),
        )

    def _static_transforms(self, stamp_ns: int) -> Any:
        mounts = {image_frame(camera): self._drive.base_from_camera(camera) for camera in self._options.cameras}
        mounts[LIDAR_FRAME] = self._drive.base_from_velo()
        transforms = [self._transform(BASE_FRAME, child, mount, stamp_ns) for child, mount in mounts.items()]
        return self._types.TFMessage(transforms=transforms)

    def _transform(self, parent: str, child: str, parent_from_child: Float64Array, stamp_ns: int) -> Any:
        x, y, z = map(float, parent_from_child[:3, 3])
        transform = self._types.Transform(
            translation=self._types.Vector3(x=x, y=y, z=z), rotation=self._quaternion(parent_from_child)
        )
        return self._types.TransformStamped(
            header=self._header(parent, stamp_ns), child_frame_id=child, transform=transform
        )

    def _quaternion(self, pose: Float64Array) -> Any:
        x, y, z, w = quaternion_from_pose(pose)
        return self._types.Quaternion(x=x, y=y, z=z, w=w)

    def _odometry(self, pose: Float64Array, motion: tuple[np.ndarray, np.ndarray], stamp_ns: int) -> Any:
        make = self._types
        x, y, z = map(float, pose[:3, 3])
        linear, angular = (make.Vector3(*map(float, vector)) for vector in motion)
        return make.Odometry(
            header=self._header(ODOM_FRAME, stamp_ns),
            child_frame_id=BASE_FRAME,
            pose=make.PoseWithCovariance(
                pose=make.Pose(position=make.Point(x=x, y=y, z=z), orientation=self._quaternion(pose)),
                covariance=np.zeros(36),
            ),
            twist=make.TwistWithCovariance(twist=make.Twist(linear=linear, angular=angular), covariance=np.zeros(36)),
        )


def qos(latched: bool) -> Qos:
    never = QosTime(0, 0)  # zero means "not set" to every middleware; infinite ones differ between them
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        durability,
        never,
        never,
        QosLiveliness.AUTOMATIC,
        never,
        False,
    )


def in_bytes(count: int) -> str:
    """``1.4 GB``, below that ``93 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _check_space(drive: Drive, out: Path, frames: tuple[int, ...], options: BagOptions) -> None:
    """Refuse before hours of work what cannot be written or cannot fit, judged by the first frame."""
    parent = next(path for path in out.parents if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{out}: {parent} cannot be written to by this user, expected a folder that can; name another"
        )
    size = 0
    for camera in options.cameras:
        k, path = drive.intrinsics(camera), drive.image_path(frames[0], camera)
        size += path.stat().st_size if options.compressed and path.is_file() else 3 * k.width * k.height
    if options.lidar and drive.has_scan(frames[0]):
        size += drive.scan_path(frames[0]).stat().st_size
    free = shutil.disk_usage(parent).free
    if size * len(frames) > free:
        raise OSError(
            f"{out}: needs about {in_bytes(size * len(frames))} for {len(frames)} frames, {in_bytes(free)} are free; "
            "use --compressed, --no-lidar, --start and --stop, or another disk"
        )
