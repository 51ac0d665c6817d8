"""An image on its way to an answer: as it arrived, with its place, and as one of the frames that are asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kyn_models.frame_window import Choice
from kyn_models.types import Float64Array, Intrinsics, PosedFrame, check_pose
from kyn_ros import convert
from kyn_ros.camera_info import Camera


@dataclass(frozen=True, eq=False)
class Arrival:
    """An image, the CameraInfo of the same moment, and when they were complete (steady clock, seconds).

    Equal to itself alone: two images may have the same stamp.
    """

    image: Image | CompressedImage
    info: CameraInfo
    complete_s: float

    @property
    def stamp_ns(self) -> int:
        return convert.stamp_ns(self.image.header.stamp)


@dataclass(frozen=True)
class Placed:
    """An image that nobody has looked at yet: its camera, and the (4, 4) pose of that in the fixed frame.

    Raises ``ValueError`` for a pose that is none.
    """

    arrival: Arrival
    camera: Camera
    world_from_camera: Float64Array

    def __post_init__(self) -> None:
        check_pose("world_from_camera", self.world_from_camera)

    @property
    def stamp_ns(self) -> int:
        return self.arrival.stamp_ns

    @property
    def intrinsics(self) -> Intrinsics:
        return self.camera.intrinsics


class Looks(NamedTuple):
    """How images become frames; both raise ``InputError``.

    place: the camera of an image, and its pose from the (4, 4) pose of the vehicle. convert: its pixels.
    """

    place: Callable[[Arrival, Float64Array], Placed]
    convert: Callable[[Placed], PosedFrame]


class Chosen(NamedTuple):
    """choice: the frames, frames: the same with their images, the key frame first. delay_ms: from its stamp to that of
    the newest image; pose_ms: how long that one waited for its pose."""

    choice: Choice[Placed]
    frames: tuple[PosedFrame, ...]
    delay_ms: float
    pose_ms: float

    @property
    def key(self) -> Arrival:
        return self.choice.key.arrival
