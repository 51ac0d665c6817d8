"""One image to messages: what the perception node's inference thread does with each frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CameraInfo

from kyn_models.artifact import Artifact, default_artifact
from kyn_models.predictor import Predictor, PredictorOptions, Prepared
from kyn_models.predictors import make_predictor
from kyn_models.types import Float64Array, Observation, PosedFrame, UInt8Array
from kyn_ros import convert, diagnostics
from kyn_ros.arrival import Arrival, Chosen, Looks, Placed
from kyn_ros.background import Background
from kyn_ros.camera_info import Camera, camera_from_info, content
from kyn_ros.convert import InputError
from kyn_ros.fates import RESTART, Fate
from kyn_ros.frames import Frames, without_poses
from kyn_ros.fusion import Place
from kyn_ros.mount import FixedMount, TfMount
from kyn_ros.outputs import Outputs
from kyn_ros.params import GridParameters, PerceptionParameters
from kyn_ros.poses import PoseSource
from kyn_ros.worker import check


class _Setup(NamedTuple):
    """What answers the frames of one camera, mount and grid. prepared: by that predictor, which alone can use it."""

    camera: Camera
    mount: Float64Array
    predictor: Predictor
    prepared: Prepared
    mount_status: DiagnosticStatus


class _Question(NamedTuple):
    """What the model is asked. chosen: None for models of one image."""

    observation: Observation
    setup: _Setup
    camera_frame: str
    chosen: Chosen | None = None


class Perception:
    """Converts, asks the model, publishes.

    Constants of a new camera, mount or grid are built beside the inference thread. Until they are there, frames that
    others fit are answered with those; the rest is dropped as "preparing", or waits if nothing is there yet.
    poses: for models of several frames, which answer from one image without them, and for the fused grid; an image
    without a pose is dropped.
    mask: (H, W) uint8 in arriving images, non-zero where the vehicle itself is seen. name: the node's. drop: called
    with reason and sentence, once for each image that arrived and is not answered.
    """

    def __init__(
        self,
        predictor: Predictor,
        mount: FixedMount | TfMount,
        poses: PoseSource | None,
        outputs: Outputs,
        parameters: PerceptionParameters,
        mask: UInt8Array | None,
        logger: RcutilsLogger,
        name: str,
        drop: Callable[[str, str], None],
    ) -> None:
        self.outputs = outputs
        self._poses, self._drop = poses, drop
        self._mount_status: DiagnosticStatus | None = None
        # The newest grid first, and the one before it: what answers while the newest is being built.
        self._predictors: tuple[Predictor, ...] = (predictor,)
        self._mount, self._parameters, self._mask = mount, parameters, mask
        self._logger, self._name = logger, name
        self._frames: Frames | None = None
        if poses is not None and predictor.frames_wanted > 1:
            self._frames = Frames(poses, parameters.frames.options(parameters.poses.max_speed_mps), drop)
        elif predictor.frames_wanted > 1:
            logger.warning(without_poses(name, predictor.frames_wanted).message)
        self._setups: Background[_Setup] = Background()

    @property
    def predictor(self) -> Predictor:
        """The model with the newest grid."""
        return self._predictors[0]

    def set_grid(self, grid: GridParameters) -> None:
        """Use another grid as soon as its constants are built. Raises ``ValueError`` for one that cannot be."""
        self._predictors = (self.predictor.with_grid(grid.spec(), grid.options()), self.predictor)

    def close(self, timeout_s: float) -> threading.Thread | None:
        """Forget all constants; the thread that still builds some after ``timeout_s``, if there is one."""
        return self._setups.close(timeout_s)

    def arrived(self, arrival: Arrival) -> None:
        """An image that may be a neighbour of another one, whether or not it is answered itself."""
        if self._frames is not None:
            self._frames.arrived(arrival)

    def passed_over(self, arrival: Arrival, fate: Fate) -> None:
        """An image that ``process`` is not asked about. It is dropped, unless it can still be of use to others."""
        if self._frames is None:
            self._drop(*fate)
        else:
            self._frames.passed_over(arrival, fate)

    def given_up(self, fate: Fate) -> None:
        """What ``process`` raised: the image it was at is dropped."""
        if self._frames is None:
            self._drop(*fate)
        else:
            self._frames.given_up(fate)

    def restart(self, cause: str, fate: Fate = RESTART) -> None:
        """Forget the images before; ``cause`` is counted. fate: of those that wait."""
        if self._frames is not None:
            self._frames.restart(cause, fate)

    def statuses(self) -> list[DiagnosticStatus]:
        """The mount, once it is known, and for models of several frames which ones they are asked about."""
        statuses: list[DiagnosticStatus] = [] if self._mount_status is None else [self._mount_status]
        name, wanted = f"{self._name}: frames", self.predictor.frames_wanted
        if wanted > 1:
            statuses.append(without_poses(name, wanted) if self._frames is None else self._frames.status(name))
        return statuses

    def process(self, arrival: Arrival, cancelled: threading.Event) -> dict[str, float] | None:
        """One image in, messages out. Returns milliseconds by stage; None where nothing is answered yet.

        Of several frames the messages belong to the key frame, and carry its stamp. What it raises is to be told to
        ``given_up``.
        Raises ``InputError``, and ``Cancelled`` where ``cancelled`` is set: nothing is published from then on.
        """
        begin = time.monotonic()
        if self._frames is not None and not self._frames.begin(arrival):
            return None
        question = self._question(arrival, cancelled)
        if question is None:
            return None
        place = self._place(question.observation.key.stamp_ns, cancelled)
        check(cancelled)
        setup, wanted = question.setup, self.outputs.wanted()
        converted = time.monotonic()
        prediction = setup.predictor.predict(question.observation, Outputs.needs(wanted), setup.prepared)
        predicted = time.monotonic()
        stamp = convert.time_message(prediction.stamp_ns)
        grid = setup.predictor.options.grid
        self.outputs.publish(wanted, prediction, grid, stamp, question.camera_frame, cancelled, place)
        if self._frames is not None and question.chosen is not None:
            self._frames.answered(question.chosen, prediction.frames_used)
        done = time.monotonic()
        pose = {} if question.chosen is None else {"pose": question.chosen.pose_ms}
        return {
            "wait": (begin - arrival.complete_s) * 1e3,
            **pose,
            "convert": (converted - begin) * 1e3 - sum(pose.values()),
            **prediction.stages_ms,
            "publish": (done - predicted) * 1e3,
            "total": (done - arrival.complete_s) * 1e3,
        }

    def _question(self, arrival: Arrival, cancelled: threading.Event) -> _Question | None:
        """The image alone, or the key frame that can be answered now that it is there."""
        camera_frame = arrival.image.header.frame_id
        setup = self._setup(arrival.info, camera_frame, cancelled)
        if self._frames is None:
            return _Question(Observation((self._frame(arrival, setup.camera),), setup.mount), setup, camera_frame)

        def place(other: Arrival, odom_from_base: Float64Array) -> Placed:
            # Each frame has the camera of its own moment.
            same = content(other.info) == content(arrival.info)
            camera = setup.camera if same else camera_from_info(other.info, self._parameters.input_rectified)
            return Placed(other, camera, odom_from_base @ setup.mount)

        def look(placed: Placed) -> PosedFrame:
            return self._frame(placed.arrival, placed.camera, placed.world_from_camera)

        chosen = self._frames.choose(arrival, Looks(place, look), cancelled)
        if chosen is None:
            return None
        camera_frame = chosen.key.image.header.frame_id
        setup = self._setup(chosen.key.info, camera_frame, cancelled)
        return _Question(Observation(chosen.frames, setup.mount), setup, camera_frame, chosen)

    def _frame(self, arrival: Arrival, camera: Camera, world_from_camera: Float64Array | None = None) -> PosedFrame:
        to_rgb = convert.image_to_rgb if self._parameters.image_transport == "raw" else convert.compressed_to_rgb
        image = camera.rectify(to_rgb(arrival.image))
        return PosedFrame(image, camera.intrinsics, arrival.stamp_ns, world_from_camera)

    def _place(self, stamp_ns: int, cancelled: threading.Event) -> Place | None:
        """Where the vehicle was, for the fused grid. Raises ``InputError`` where there is no pose."""
        if self._poses is None or not self.outputs.fuses:
            return None
        located = self._poses.locate(stamp_ns, cancelled)
        return Place(*located)

    def _setup(self, info: CameraInfo, camera_frame: str, cancelled: threading.Event) -> _Setup:
        """What answers a frame of this CameraInfo. Raises ``InputError`` while that is being built."""
        mount = self._mount.lookup(camera_frame, cancelled)
        newest, *before = self._predictors
        camera = (content(info), mount.tobytes())
        # Asked before the building begins: it may be over before the next line.
        nothing_yet = not self._setups.any()
        setup = self._setups.get((*camera, newest), lambda: self._build(info, mount, newest))
        if setup is None and nothing_yet:
            self._setups.wait(cancelled)
            setup = self._setups.get((*camera, newest), lambda: self._build(info, mount, newest))
        for predictor in before:
            setup = setup or self._setups.known((*camera, predictor))
        if setup is None:
            raise InputError("preparing", "image: the constants of its camera or mount are still being built")
        self._mount_status = setup.mount_status
        return setup

    def _build(self, info: CameraInfo, mount: Float64Array, predictor: Predictor) -> _Setup:
        begin = time.monotonic()
        camera = camera_from_info(info, self._parameters.input_rectified)
        mask = camera.rectify_mask(self._mask) if self._mask is not None else None
        try:
            prepared = predictor.build(camera.intrinsics, mount, mask)
        except ValueError as error:
            raise InputError("camera_info", str(error)) from error
        width, height = camera.size
        took_s = time.monotonic() - begin
        said = f" in {took_s:.1f} s" if took_s > 0.1 else ""
        self._logger.info(f"prepared for a camera of {width}x{height}{said}")
        training = predictor.artifact.manifest.camera
        status = diagnostics.mount_status(f"{self._name}: mount", mount, self._mount.source, training)
        if status.level != diagnostics.OK:
            self._logger.warning(status.message)
        return _Setup(camera, mount, predictor, prepared, status)


def load_predictor(
    parameters: PerceptionParameters,
    mount: FixedMount | TfMount,
    warn: Callable[[str], None],
    say: Callable[[str], None],
) -> Predictor:
    """The model that the parameters name, warm: it has answered black images, so that no frame waits for that.

    The constants of a fixed mount are there too. warn: gets a sentence for each runtime that was passed over. say: gets
    progress. Raises ``FileNotFoundError`` or ``ValueError`` with one sentence.
    """
    predictor = make_predictor(
        Artifact.load(parameters.model or default_artifact()),
        PredictorOptions(
            runtime=parameters.runtime,
            spec=parameters.grid.spec(),
            grid=parameters.grid.options(),
            depth_rays=parameters.depth_rays,
            metric_scale=parameters.metric_scale,
            precision=parameters.precision,
        ),
        warn,
        say,
    )
    training = predictor.artifact.manifest.camera
    mount_pose = mount.pose if isinstance(mount, FixedMount) else training.base_from_camera()
    source = training.source
    black = np.zeros((source.height, source.width, 3), np.uint8)
    along = [np.eye(4) + np.outer(np.eye(4)[2], np.eye(4)[3]) * step_m for step_m in range(predictor.frames_wanted)]
    frames = tuple(PosedFrame(black, source, world_from_camera=pose) for pose in along)
    for count in sorted({1, predictor.frames_wanted}):
        predictor.predict(Observation(frames[:count], mount_pose))
    return predictor


def read_mask(path: str) -> UInt8Array | None:
    """(H, W) uint8 of a mask's file, None for no path. Raises ``FileNotFoundError`` or ``ValueError``."""
    if not path:
        return None
    with open(path, "rb") as stream:
        content_bytes = np.frombuffer(stream.read(), np.uint8)
    mask = convert.decoded(content_bytes, cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError(f"hood_mask: {path} does not decode as an image, expected a PNG")
    return mask
