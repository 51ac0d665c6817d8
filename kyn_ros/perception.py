"""One image to messages: what the perception node's inference thread does with each frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kyn_models.artifact import Artifact, default_artifact
from kyn_models.predictor import Predictor
from kyn_models.types import Float64Array, Observation, PosedFrame, UInt8Array
from kyn_ros import convert, diagnostics
from kyn_ros.camera_info import Camera, camera_from_info, content
from kyn_ros.convert import InputError
from kyn_ros.mount import FixedMount, TfMount
from kyn_ros.outputs import Outputs
from kyn_ros.params import PerceptionParameters
from kyn_ros.worker import check


class Arrival(NamedTuple):
    """An image, the CameraInfo of the same moment, and when they were complete (steady clock, seconds)."""

    image: Image | CompressedImage
    info: CameraInfo
    complete_s: float


class _Prepared(NamedTuple):
    """What the model is prepared for."""

    info: Hashable
    camera: Camera
    mount: Float64Array


class Perception:
    """Converts, asks the model, publishes.

    mask: (H, W) uint8 in arriving images, non-zero where the vehicle itself is seen. name: of the mount's diagnostics.
    """

    def __init__(
        self,
        predictor: Predictor,
        mount: FixedMount | TfMount,
        outputs: Outputs,
        parameters: PerceptionParameters,
        mask: UInt8Array | None,
        logger: RcutilsLogger,
        name: str,
    ) -> None:
        self.predictor, self.outputs = predictor, outputs
        self.mount_status: DiagnosticStatus | None = None
        self._mount, self._parameters, self._mask = mount, parameters, mask
        self._logger, self._name = logger, name
        self._prepared: _Prepared | None = None

    def process(self, arrival: Arrival, cancelled: threading.Event) -> dict[str, float]:
        """One image in, messages out. Returns milliseconds by stage.

        Raises ``InputError``, and ``Cancelled`` where ``cancelled`` is set: nothing is published from then on.
        """
        begin = time.monotonic()
        header = arrival.image.header
        observation = self._observation(arrival, cancelled)
        check(cancelled)
        wanted = self.outputs.wanted()
        converted = time.monotonic()
        prediction = self.predictor.predict(observation, Outputs.needs(wanted))
        predicted = time.monotonic()
        self.outputs.publish(wanted, prediction, header.stamp, header.frame_id, cancelled)
        done = time.monotonic()
        return {
            "wait": (begin - arrival.complete_s) * 1e3,
            "convert": (converted - begin) * 1e3,
            **prediction.stages_ms,
            "publish": (done - predicted) * 1e3,
            "total": (done - arrival.complete_s) * 1e3,
        }

    def _observation(self, arrival: Arrival, cancelled: threading.Event) -> Observation:
        to_rgb = convert.image_to_rgb if self._parameters.image_transport == "raw" else convert.compressed_to_rgb
        image = to_rgb(arrival.image)
        header = arrival.image.header
        camera, mount = self._camera_and_mount(arrival.info, header.frame_id, cancelled)
        frame = PosedFrame(camera.rectify(image), camera.intrinsics, convert.stamp_ns(header.stamp))
        return Observation((frame,), mount)

    def _camera_and_mount(
        self, info: CameraInfo, camera_frame: str, cancelled: threading.Event
    ) -> tuple[Camera, Float64Array]:
        """The camera of a CameraInfo and its mount; the model is prepared again when either is new."""
        mount = self._mount.lookup(camera_frame, cancelled)
        old, key = self._prepared, content(info)
        if old is not None and old.info == key and np.array_equal(old.mount, mount):
            return old.camera, mount
        self._prepared = None
        camera = camera_from_info(info, self._parameters.input_rectified)
        self._prepare(camera, mount)
        self._prepared = _Prepared(key, camera, mount)
        return camera, mount

    def _prepare(self, camera: Camera, mount: Float64Array) -> None:
        if self._mask is not None:
            self.predictor.hood_mask = camera.rectify_mask(self._mask)
        begin = time.monotonic()
        try:
            self.predictor.prepare(camera.intrinsics, mount)
        except ValueError as error:
            raise InputError("camera_info", str(error)) from error
        width, height = camera.size
        self._logger.info(f"prepared for a camera of {width}x{height} in {time.monotonic() - begin:.1f} s")
        training = self.predictor.artifact.manifest.camera
        self.mount_status = diagnostics.mount_status(self._name, mount, self._mount.source, training)
        if self.mount_status.level != diagnostics.OK:
            self._logger.warning(self.mount_status.message)


def load_predictor(
    parameters: PerceptionParameters, warn: Callable[[str], None], say: Callable[[str], None]
) -> Predictor:
    """The model that the parameters name. Raises ``FileNotFoundError`` or ``ValueError`` with one sentence.

    warn: gets a sentence for each runtime that was passed over. say: gets progress.
    """
    return Predictor(
        Artifact.load(parameters.model or default_artifact()),
        runtime=parameters.runtime,
        spec=parameters.grid.spec(),
        grid=parameters.grid.options(),
        depth_rays=parameters.depth_rays,
        metric_scale=parameters.metric_scale,
        warn=warn,
        precision=parameters.precision,
        say=say,
    )


def read_mask(path: str) -> UInt8Array | None:
    """(H, W) uint8 of a mask's file, None for no path. Raises ``FileNotFoundError`` or ``ValueError``."""
    if not path:
        return None
    with open(path, "rb") as stream:
        content_bytes = np.frombuffer(stream.read(), np.uint8)
    mask = cv2.imdecode(content_bytes, cv2.IMREAD_GRAYSCALE) if content_bytes.size else None
    if mask is None:
        raise ValueError(f"hood_mask: {path} does not decode as an image, expected a PNG")
    return mask
