"""What the demo keeps and tells: the recording, the summary, pictures and video drawn from the recorded bag."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from kyn_models import views
from kyn_models.artifact import Artifact
from kyn_models.map_picture import AXES, map_picture, no_map_picture
from kyn_models.stamp_order import JUMP_NS
from kyn_models.types import Float64Array, Intrinsics, Prediction, UInt8Array, VoxelGridSpec
from kyn_models.video import write_video
from kyn_models.whole_files import write_image
from kyn_ros import convert
from kyn_ros.mount import pose_from_quaternion
from kyn_ros.recorder import Recorder, header_stamp_ns

PER_FRAME = ("occupancy_grid", "occupancy_grid_fused", "occupancy_volume", "depth/image_rect", "points")
"""Outputs that are waited for before a recording is called complete."""

PICTURED = ("image", "camera_info", "depth/image_rect")
"""What a picture needs beside the grid."""

TITLE_ROWS = 24
MAP_PIXELS = 560
DRAIN_SECONDS = 5.0
PROGRESS_S = 2.0
START_SECONDS = 120.0


def recorded_topics() -> dict[str, type]:
    """What the demo subscribes to, and so makes the perception node compute."""
    topics: dict[str, type] = {
        "image": Image,
        "camera_info": CameraInfo,
        "odom": Odometry,
        "occupancy_grid": OccupancyGrid,
        "occupancy_grid_fused": OccupancyGrid,
        "depth/image_rect": Image,
        "depth/camera_info": CameraInfo,
        "points": PointCloud2,
        "obstacle_points": PointCloud2,
        "/diagnostics": DiagnosticArray,
    }
    try:
        from kyn.msg import OccupancyVolume
    except ImportError:
        return topics
    return {**topics, "occupancy_volume": OccupancyVolume}


@dataclass
class Recording:
    """What arrived, when: see ``Recorder``.

    status: what the node's diagnostics say by key; warnings: the faults they name; both as they said it last.
    """

    arrivals: dict[str, dict[int, float]]
    messages: dict[str, int]
    grids: int
    status: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class _Listener:
    def __init__(self, recorder: Recorder, executor: SingleThreadedExecutor) -> None:
        self._recorder, self._executor = recorder, executor
        self._status: dict[str, str] = {}
        self._warnings: dict[str, str] = {}
        self._reports = 0
        recorder.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)

    def _diagnosed(self, message: DiagnosticArray) -> None:
        self._reports += 1
        for status in message.status:
            self._status.update({pair.key: pair.value for pair in status.values})
            fault = status.level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
            self._warnings[status.name] = f"{status.name.split(': ')[-1]}: {status.message}" if fault else ""

    def keep_mount(self, frame_id: str, base_from_camera: np.ndarray, stamp_ns: int) -> None:
        """Write the mount into the bag as ``/tf_static``."""
        self._recorder.keep_mount(frame_id, base_from_camera, stamp_ns)

    def until_published(self, perception: subprocess.Popen) -> None:
        """Spin until the perception node publishes grids. Raises ``ValueError`` if it ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not self._recorder.count_publishers("occupancy_grid"):
            self._executor.spin_once(timeout_sec=0.05)
            if perception.poll() is not None or time.monotonic() > deadline:
                raise ValueError(
                    f"the perception node is not active after {START_SECONDS:.0f} s at most; its messages above say why"
                )

    def until_finished(self, replay: subprocess.Popen, perception: subprocess.Popen, frames: int) -> Recording:
        """Spin until the replay has ended, its last answers are here and a report on them; progress is printed."""
        done_at, shown, said_at, reports = None, 0, time.monotonic(), -1
        while done_at is None or time.monotonic() - done_at < DRAIN_SECONDS:
            self._executor.spin_once(timeout_sec=0.05)
            grids = len(self._recorder.arrivals["occupancy_grid"])
            if grids != shown and time.monotonic() - said_at > PROGRESS_S:
                # Whole lines: what the nodes say meanwhile stands between them.
                print(f"  answered {grids} of {frames} frames", flush=True)
                shown, said_at = grids, time.monotonic()
            if perception.poll() is not None:
                break
            if done_at is None and replay.poll() is not None:
                done_at = time.monotonic()
            if done_at is not None and self._complete(frames):
                reports = self._reports if reports < 0 else reports
                if self._reports > reports and "runtime" in self._status:
                    break
        if grids != shown:
            print(f"  answered {grids} of {frames} frames")
        arrivals, messages = dict(self._recorder.arrivals), dict(self._recorder.messages)
        warnings = list(dict.fromkeys(filter(None, self._warnings.values())))
        return Recording(arrivals, messages, grids, dict(self._status), warnings)

    def _complete(self, frames: int) -> bool:
        known = [topic for topic in PER_FRAME if topic in self._recorder.messages]
        return all(len(self._recorder.arrivals[topic]) >= frames for topic in known)


@contextmanager
def listen(bag: Path) -> Iterator[_Listener]:
    """A recorder in a ROS context of its own, writing into ``bag``."""
    context = rclpy.Context()
    rclpy.init(context=context)
    recorder = Recorder(bag, recorded_topics(), context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(recorder)
    try:
        yield _Listener(recorder, executor)
    except ExternalShutdownException:
        raise KeyboardInterrupt from None
    finally:
        executor.shutdown()
        recorder.close()
        recorder.destroy_node()
        context.try_shutdown()


def report(recording: Recording, bag: Path, out: Path) -> dict[str, Any]:
    """Print the table and return the content of ``summary.json`` (without the total time)."""
    sent, answered = recording.arrivals.get("image", {}), recording.arrivals.get("occupancy_grid", {})
    latency = np.array([answered[stamp] - sent[stamp] for stamp in answered if stamp in sent]) * 1e3
    stages = {key[4:]: float(value) for key, value in recording.status.items() if key.startswith("ms: ")}
    summary: dict[str, Any] = {
        "frames_in": recording.messages["image"],
        "messages": recording.messages,
        "latency_ms": {
            "median": round(float(np.median(latency)), 1) if latency.size else None,
            "p95": round(float(np.percentile(latency, 95)), 1) if latency.size else None,
        },
        "stages_ms": stages,
        "runtime": recording.status.get("runtime", "unknown"),
        "model": recording.status.get("model", "unknown"),
        "warnings": recording.warnings,
        "recording": str(bag.relative_to(out)),
    }
    print(f"  {'frames in':24s} {summary['frames_in']}")
    for topic, count in recording.messages.items():
        print(f"  {topic:24s} {count} messages")
    for stage, milliseconds in stages.items():
        print(f"  {stage:24s} {milliseconds:.1f} ms")
    if latency.size:
        print(
            f"  {'image to grid, received':24s} {np.median(latency):.1f} ms median, {summary['latency_ms']['p95']} p95"
        )
    print(f"  {'runtime':24s} {summary['runtime']}\n  {'model':24s} {summary['model']}")
    return summary


def draw(
    bag: Path, out: Path, artifact: Artifact, base_from_camera: np.ndarray, summary: dict[str, Any], view: bool
) -> None:
    """One picture per answered frame in ``out/frames``, the same as ``out/demo.mp4``.

    A frame of which the recording lacks one of ``PICTURED`` is left out, which is said.
    """
    messages = _by_stamp(bag)
    answered = set(messages["occupancy_grid"])
    stamps = sorted(answered.intersection(*(messages.get(topic, {}) for topic in PICTURED)))
    if len(stamps) < len(answered):
        print(
            f"  {len(answered) - len(stamps)} of {len(answered)} answered frames are not drawn: "
            f"their {', '.join(PICTURED)} did not all arrive here"
        )
    if not stamps:
        return
    places = {
        moment: _pose(deserialize_message(raw, Odometry)) for moment, raw in sorted(messages.get("odom", {}).items())
    }
    folder = out / "frames"
    folder.mkdir(exist_ok=True)

    def pictures() -> Iterator[UInt8Array]:
        for number, stamp in enumerate(stamps):
            prediction, seen = _prediction(messages, stamp, artifact, base_from_camera)
            picture = views.frame_picture(prediction, f"frame {number}, stamp {stamp / 1e9:.2f} s", seen)
            picture = np.hstack([picture, _fused_panel(messages, stamp, picture.shape[0], places)])
            write_image(folder / f"{number:06d}.png", picture)
            print(f"\r  drawn {number + 1} of {len(stamps)}", end="", flush=True)
            yield picture

    summary["video_frames"] = write_video(out / "demo.mp4", pictures())
    print()
    if view:
        from kyn_ros.rerun_view import show

        fused = ((stamp, _fused_map(messages, stamp, MAP_PIXELS, places)) for stamp in stamps)
        maps = {stamp: found.picture for stamp, found in fused if found is not None}
        show([_prediction(messages, stamp, artifact, base_from_camera)[0] for stamp in stamps], out, maps)


class _FusedMap(NamedTuple):
    """picture: (size, size, 3) uint8 RGB. frame_id: the frame it stands still in."""

    picture: UInt8Array
    frame_id: str


def _fused_panel(
    messages: dict[str, dict[int, bytes]], stamp: int, height: int, places: Mapping[int, Float64Array]
) -> UInt8Array:
    """The fused grid at a stamp, in a panel as high as a picture."""
    size = min(height - TITLE_ROWS, MAP_PIXELS)
    below = ((0, height - TITLE_ROWS - size), (0, 0), (0, 0))
    fused = _fused_map(messages, stamp, size, places)
    if fused is None:
        return views.titled(np.pad(no_map_picture(size), below), "occupancy of all frames")
    return views.titled(np.pad(fused.picture, below), f"occupancy of all frames, {AXES} ({fused.frame_id})")


def _fused_map(
    messages: dict[str, dict[int, bytes]], stamp: int, size: int, places: Mapping[int, Float64Array]
) -> _FusedMap | None:
    """The fused grid at a stamp with the way since the last restart, None where there is none.

    places: poses by stamp, in order.
    """
    raw = messages.get("occupancy_grid_fused", {}).get(stamp)
    if raw is None:
        return None
    grid = deserialize_message(raw, OccupancyGrid)
    cells = np.asarray(grid.data, dtype=np.int8).reshape(grid.info.height, grid.info.width)
    origin = grid.info.origin.position
    moments = [moment for moment in places if moment <= stamp]
    first = max((k for k in range(1, len(moments)) if moments[k] - moments[k - 1] > JUMP_NS), default=0)
    way = [places[moment] for moment in moments[first:]]
    picture = map_picture(cells, grid.info.resolution, (origin.x, origin.y), way, size)
    return _FusedMap(picture, grid.header.frame_id)


def _pose(message: Odometry) -> Float64Array:
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return pose_from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def _by_stamp(bag: Path) -> dict[str, dict[int, bytes]]:
    """Serialised messages of the bag by topic and stamp."""
    found: dict[str, dict[int, bytes]] = {}
    with Reader(bag) as reader:
        for connection, _, raw in reader.messages(c for c in reader.connections if c.topic != "/tf_static"):
            found.setdefault(connection.topic, {})[header_stamp_ns(bytes(raw))] = bytes(raw)
    return found


def _prediction(
    messages: dict[str, dict[int, bytes]], stamp: int, artifact: Artifact, base_from_camera: np.ndarray
) -> tuple[Prediction, np.ndarray]:
    """The prediction as a subscriber received it, and (height, width) bool: what of its image the camera saw."""
    topics = recorded_topics()
    got = {name: deserialize_message(raw[stamp], topics[name]) for name, raw in messages.items() if stamp in raw}
    grid, info = got["occupancy_grid"], got["camera_info"]
    source = Intrinsics.from_matrix(np.reshape(info.p, (3, 4)), info.width, info.height)
    image, seen = artifact.camera.warp(convert.image_to_rgb(got["image"]), source)
    depth = got["depth/image_rect"]
    cells = np.asarray(grid.data, dtype=np.int8).reshape(grid.info.height, grid.info.width)
    volume = got.get("occupancy_volume")
    spec = _spec(grid, volume)
    probabilities: UInt8Array = np.zeros(spec.shape, np.uint8)
    if volume is not None:
        probabilities = np.frombuffer(volume.data, np.uint8).reshape(spec.shape)
    prediction = Prediction(
        stamp_ns=stamp,
        image=image,
        intrinsics=artifact.camera.intrinsics,
        spec=spec,
        base_from_camera=base_from_camera,
        depth_m=np.frombuffer(depth.data, dtype=np.float32).reshape(depth.height, depth.width),
        volume=probabilities,
        labels=np.frombuffer(volume.labels, np.uint8).reshape(spec.shape)
        if volume is not None and volume.labels
        else None,
        label_names=tuple(volume.label_names) if volume is not None else (),
        grid=cells,
    )
    return prediction, seen


def _spec(grid: OccupancyGrid, volume: Any) -> VoxelGridSpec:
    edge = round(float(grid.info.resolution), 6)
    origin = grid.info.origin.position
    low = origin.z if volume is None else volume.origin.position.z
    layers = 1 if volume is None else volume.size_z
    return VoxelGridSpec(
        (origin.x, origin.x + grid.info.width * edge),
        (origin.y, origin.y + grid.info.height * edge),
        (low, low + layers * edge),
        edge,
    )
