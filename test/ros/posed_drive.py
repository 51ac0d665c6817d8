"""A vehicle that drives with a camera and odometry, seen by a perception node whose model wants several frames."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
from bench import CAMERA, FRAME, Bench, image_of, info_of, values_of
from geometry_msgs.msg import Point, Pose, Quaternion
from nav_msgs.msg import Odometry
from std_msgs.msg import Header

from kyn_models.artifact import Artifact
from kyn_models.predictor import Predictor, PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import Intrinsics, Observation, Prediction
from kyn_ros import convert, perception_node
from kyn_ros.params import PerceptionParameters

MS = 1_000_000


class ThreeFrames:
    """Asked about up to three frames, it answers from the first. asked: every observation."""

    frames_wanted = 3

    def __init__(self, inner: Predictor) -> None:
        self._inner = inner
        self.asked: list[Observation] = []
        self.hold = threading.Event()
        self.hold.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def predict(self, observation: Observation, outputs: Any, prepared: Any) -> Prediction:
        self.asked.append(observation)
        assert self.hold.wait(30.0)
        prediction = self._inner.predict(observation, outputs, prepared)
        return dataclasses.replace(prediction, frames_used=len(observation.frames))


class Drive:
    """A vehicle that drives along x, with a camera and odometry."""

    def __init__(self, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> None:
        def load(given: PerceptionParameters, *_: object) -> ThreeFrames:
            options = PredictorOptions("onnxruntime", given.grid.spec(), given.grid.options(), given.depth_rays)
            return ThreeFrames(make_predictor(Artifact.load(given.model), options))

        monkeypatch.setattr(perception_node, "load_predictor", load)
        given = {"pose_source": "odom", "qos.poses.reliability": "reliable", "tf_timeout_s": 20.0}
        self.one: Bench = bench(**(given | {name.replace("__", "."): value for name, value in parameters.items()}))
        self.odom = self.one.peer.create_publisher(Odometry, "odom", 50)
        if parameters.get("pose_source") != "none":
            assert self.one.ros.spin_until(self.odom.get_subscription_count)

    @property
    def model(self) -> ThreeFrames:
        return self.one.node._perception.predictor

    def pose(self, stamp_ms: float, x: float, w: float = 1.0, child: str = "base_link") -> None:
        header = Header(stamp=convert.time_message(round(stamp_ms * MS)), frame_id="odom")
        message = Odometry(header=header, child_frame_id=child)
        message.pose.pose = Pose(position=Point(x=float(x)), orientation=Quaternion(w=w))
        self.odom.publish(message)
        self.one.ros.spin_for(0.02)

    def image(self, stamp_ms: float, camera: Intrinsics = CAMERA, frame: str = FRAME, encoding: str = "rgb8") -> None:
        stamp_ns = round(stamp_ms * MS)
        image, info = image_of(128, stamp_ns, camera), info_of(stamp_ns, camera)
        image.header.frame_id = info.header.frame_id = frame
        image.encoding = encoding
        self.one.send(image, info)

    def seen(self) -> int | None:
        """Stamp of the newest image in the window, milliseconds."""
        newest = self.one.node._perception._frames._window._newest
        return None if newest is None else newest.stamp_ns // MS

    def step(self, stamp_ms: int, x: float, pose_first: bool = True, **image: Any) -> None:
        """A pose and an image of the same moment, and whatever the node does with them."""
        if pose_first:
            self.pose(stamp_ms, x)
        self.image(stamp_ms, **image)
        if not pose_first:
            self.one.ros.spin_for(0.1)
            self.pose(stamp_ms, x)
        assert self.one.ros.spin_until(lambda: self.seen() == stamp_ms, 30.0), self.one.drops()

    def steps(self, first: int, count: int, step_m: float = 1.0, pose_first: bool = True) -> None:
        for number in range(first, first + count):
            self.step(1000 + 100 * number, step_m * number, pose_first)

    def answers(self, count: int) -> list[int]:
        """Stamps of the grids in milliseconds, once there are ``count``."""
        self.one.ros.spin_until(lambda: len(self.one.grids) >= count, 30.0)
        self.one.ros.spin_for(0.1)
        return [convert.stamp_ns(grid.header.stamp) // MS for grid in self.one.grids]

    def questions(self) -> list[tuple[int, ...]]:
        """Stamps of key frame and neighbours in milliseconds."""
        return [tuple(frame.stamp_ns // MS for frame in observation.frames) for observation in self.model.asked]

    def frames(self) -> tuple[bytes, str, dict[str, str]]:
        status = self.one.ask_status("frames")
        return status.level, status.message, values_of(status)
