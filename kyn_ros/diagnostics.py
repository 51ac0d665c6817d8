"""What the node says about itself once a second: input, model, mount, outputs."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo

from kyn_models.artifact import TrainingCamera
from kyn_models.predictor import Predictor
from kyn_ros.mount import MAX_HEIGHT_OFFSET_M, MAX_PITCH_OFFSET_DEG, offset_from_training

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
RECENT = 50
LOST_IMAGES_S = 2.0
SAME_CLOCK_S = 3600.0
LASTING_S = 5.0

FAST_DDS_ADVICE = (
    "camera_info arrives but no image: Fast DDS loses large best-effort images without its profile; set "
    "FASTDDS_DEFAULT_PROFILES_FILE and FASTRTPS_DEFAULT_PROFILES_FILE to share/kyn/config/fastdds.xml for the camera "
    "and for this node, or set qos.image.reliability to reliable where the camera offers it"
)

NO_FAULT = frozenset({"newer image", "neighbour only", "max_rate_hz", "restart", "deactivated", "preparing"})
"""Reasons for a dropped image that are not a fault of the input."""
LASTING = frozenset({"other camera", "other publisher"})
"""Faults beside which other images are answered: a warning, named for some seconds."""


@dataclass
class _Topic:
    count: int = 0
    first_s: float | None = None
    last_s: float | None = None
    arrivals: deque[float] | None = None

    def arrived(self, now: float) -> None:
        self.count += 1
        self.first_s = now if self.first_s is None else self.first_s
        self.last_s = now
        if self.arrivals is None:
            self.arrivals = deque(maxlen=RECENT)
        self.arrivals.append(now)

    def age_s(self, now: float) -> float | None:
        return None if self.last_s is None else now - self.last_s

    def rate_hz(self) -> float:
        if self.arrivals is None or len(self.arrivals) < 2:
            return 0.0
        return (len(self.arrivals) - 1) / max(1e-6, self.arrivals[-1] - self.arrivals[0])


class FrameLog:
    """Counts what happened to images: each that arrives is answered once, dropped once for one reason, or waits.

    Called from the executor and the inference thread.

    clock: seconds on the steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._image, self._info = _Topic(), _Topic()
        self._started_s = clock()
        self._drops: Counter[str] = Counter()
        self._fault: str | None = None
        self._lasting: tuple[str, float] | None = None
        self._answered = 0
        self._restarts = 0
        self._stages: dict[str, deque[float]] = {}
        self._input_delay_s: float | None = None

    def started(self) -> None:
        """The node became active: only now an input can be missing."""
        with self._lock:
            self._started_s = self._clock()
            self._image, self._info = _Topic(self._image.count), _Topic(self._info.count)
            self._fault = None

    def image_arrived(self, delay_s: float) -> None:
        """delay_s: from the image's stamp to now on the node's clock."""
        with self._lock:
            self._image.arrived(self._clock())
            self._input_delay_s = delay_s

    def info_arrived(self) -> None:
        with self._lock:
            self._info.arrived(self._clock())

    def dropped(self, reason: str, sentence: str) -> bool:
        """Count a dropped image; True if this fault is another than the last one (worth a line in the log)."""
        with self._lock:
            self._drops[reason] += 1
            if reason in NO_FAULT:
                return False
            if reason in LASTING:
                new = self._lasting is None or self._lasting[0] != sentence
                self._lasting = (sentence, self._clock())
                return new
            new, self._fault = sentence != self._fault, sentence
            return new

    def answered(self, stages_ms: Mapping[str, float]) -> None:
        """An image was answered with outputs; stages_ms: milliseconds by stage."""
        with self._lock:
            self._answered += 1
            self._fault = None
            for stage, milliseconds in stages_ms.items():
                self._stages.setdefault(stage, deque(maxlen=RECENT)).append(milliseconds)

    def restarted(self) -> None:
        with self._lock:
            self._restarts += 1

    def lost_images(self) -> bool:
        """True while CameraInfo arrives and no image has for 2 s."""
        with self._lock:
            return self._lost(self._clock())

    def _lost(self, now: float) -> bool:
        info_age, image_age = self._info.age_s(now), self._image.age_s(now)
        if info_age is None or info_age > LOST_IMAGES_S or self._info.first_s is None:
            return False
        waited = now - self._info.first_s if image_age is None else image_age
        return waited > LOST_IMAGES_S

    def status(self, name: str, image_topic: str, timeout_s: float) -> DiagnosticStatus:
        """Level and message about the input, and all counts."""
        with self._lock:
            now = self._clock()
            level, message = self._level(now, image_topic, timeout_s)
            age = self._image.age_s(now)
            values = {
                "image_rate_hz": f"{self._image.rate_hz():.1f}",
                "image_age_s": "none yet" if age is None else f"{age:.1f}",
                "input_delay_ms": delay_text(self._input_delay_s),
                "images": str(self._image.count),
                "camera_infos": str(self._info.count),
                "answered": str(self._answered),
                "waiting": str(self._image.count - self._answered - sum(self._drops.values())),
                "restarts": str(self._restarts),
                "dropped": str(sum(self._drops.values())),
                **{f"dropped: {reason}": str(count) for reason, count in sorted(self._drops.items())},
                **{f"ms: {stage}": f"{np.median(times):.1f}" for stage, times in self._stages.items()},
            }
        return make_status(name, level, message, values)

    def _level(self, now: float, image_topic: str, timeout_s: float) -> tuple[bytes, str]:
        if self._lost(now):
            return WARN, FAST_DDS_ADVICE
        age = self._image.age_s(now)
        if age is None:
            waited = now - self._started_s
            return (STALE if waited > timeout_s else OK), f"no image yet on {image_topic} after {waited:.0f} s"
        if age > timeout_s:
            return STALE, f"the last image on {image_topic} came {age:.1f} s ago; nothing is published"
        if self._fault is not None:
            return ERROR, self._fault
        if self._lasting is not None and now - self._lasting[1] < LASTING_S:
            return WARN, self._lasting[0]
        return OK, "images are answered" if self._answered else "images arrive"


def delay_text(delay_s: float | None) -> str:
    """Milliseconds between a stamp and the node's clock, for diagnostics."""
    if delay_s is None:
        return ""
    # A replay without use_sim_time: the difference to today says nothing.
    return f"{delay_s * 1e3:.0f}" if abs(delay_s) < SAME_CLOCK_S else "stamps are of another clock"


def second_publisher(node: Node, topic: str, what: str) -> str:
    """A sentence that names the publishers of a topic where there are several; empty where there are not."""
    if node.count_publishers(topic) < 2:
        return ""
    names = sorted(node_name(info) for info in node.get_publishers_info_by_topic(topic))
    return f"{what}: got {len(names)} publishers on {topic} ({', '.join(names)}), expected one"


def node_name(info: TopicEndpointInfo) -> str:
    """The full name of an endpoint's node; which node it is, discovery may learn later than that there is one."""
    if info.node_name == "_NODE_NAME_UNKNOWN_":
        return "a node whose name is not known yet"
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def make_status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    """One status; ``values`` in their order."""
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)


def mount_status(name: str, base_from_camera: np.ndarray, source: str, training: TrainingCamera) -> DiagnosticStatus:
    """The mount against the one the model was trained with."""
    height_m, pitch_deg = offset_from_training(base_from_camera, training)
    values = {
        "source": source,
        "height_m": f"{training.height_m + height_m:.2f}",
        "pitch_deg": f"{training.pitch_deg + pitch_deg:.1f}",
        "trained_height_m": f"{training.height_m:.2f}",
        "trained_pitch_deg": f"{training.pitch_deg:.1f}",
    }
    if abs(height_m) > MAX_HEIGHT_OFFSET_M or abs(pitch_deg) > MAX_PITCH_OFFSET_DEG:
        message = (
            f"the camera is {height_m:+.2f} m and {pitch_deg:+.1f} degrees off the mount the model was trained with "
            f"(height {training.height_m:.2f} m, {training.pitch_deg:.1f} degrees down); expect wrong distances"
        )
        return make_status(name, WARN, message, values)
    return make_status(name, OK, "the mount is like the one the model was trained with", values)


def model_status(name: str, activity: str, refusal: str, predictor: Predictor | None) -> DiagnosticStatus:
    """What runs, or why nothing does. refusal: the sentence with which configure was refused."""
    if predictor is None:
        return make_status(name, ERROR if refusal else OK, refusal or activity, {})
    manifest = predictor.artifact.manifest
    values = {
        "state": activity,
        "model": str(predictor.artifact.path),
        "family": manifest.family,
        "hash": predictor.artifact.hash[:12],
        "licence_weights": manifest.licences.weights,
        "runtime": predictor.runtime_name,
        "library": predictor.library,
        "precision": predictor.precision,
        "metric_scale": f"{predictor.options.metric_scale:g}",
    }
    message = f"{activity}: {predictor.artifact.name} on {predictor.runtime_name}"
    if predictor.passed_over:
        values |= {f"passed over {number}": text for number, text in enumerate(predictor.passed_over, 1)}
        return make_status(name, WARN, f"{message}, because {'; '.join(predictor.passed_over)}", values)
    return make_status(name, OK, message, values)


def outputs_status(name: str, topics: Sequence[str], rivalry: str, note: str) -> DiagnosticStatus:
    """Which outputs are made (topics with a subscriber, and the grid).

    rivalry: who else publishes them, empty if nobody does. note: what cannot be published here.
    """
    message = rivalry or note or "all outputs can be published"
    return make_status(name, WARN if rivalry else OK, message, {"made": ", ".join(topics)})


def array_message(stamp: Time, statuses: list[DiagnosticStatus]) -> DiagnosticArray:
    """The message for /diagnostics."""
    message = DiagnosticArray(status=statuses)
    message.header.stamp = stamp
    return message
