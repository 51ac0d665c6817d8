"""Parameters of the replay node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kyn_ros.params import check_ranges, parameter


@dataclass(frozen=True)
class ReplayParameters:
    """Parameters of the replay node."""

    data: str = parameter("", "KITTI-360 or KITTI odometry folder in its official layout")
    drive: str = parameter("", "name of the drive, or of the sequence; empty: the only one there")
    camera: Literal["left", "right"] = parameter(
        "left", "rectified camera, left or right: image_00 and image_01, or image_2 and image_3"
    )
    pace: Literal["clock", "lockstep"] = parameter(
        "clock", "clock: real time; lockstep: next image once the grid of the last one has arrived"
    )
    rate: float = parameter(1.0, "times real time (pace clock)", 0.01, 100.0)
    rate_hz: float = parameter(10.0, "images per second where the drive has no file of stamps", 0.1, 1000.0)
    loop: bool = parameter(False, "start again at the end; stamps jump back, as in a looped bag")
    start: int = parameter(-1, "first frame number; -1: the first there is", -1, 2**31 - 1)
    stop: int = parameter(-1, "last frame number; -1: the last there is", -1, 2**31 - 1)
    lidar: bool = parameter(True, "publish the lidar scans too")
    listeners: int = parameter(
        1, "how many subscribers of image and camera_info to wait for at start (pace clock: 5 s at most)", 1, 100
    )
    wait_s: float = parameter(60.0, "how long to wait for the perception node at start (pace lockstep)", 0.0, 3600.0)
    answer_timeout_s: float = parameter(10.0, "a grid later than this counts as missing (pace lockstep)", 0.1, 600.0)

    def __post_init__(self) -> None:
        check_ranges(self)
        if 0 <= self.stop < self.start:
            raise ValueError(f"stop: got frame {self.stop} before start {self.start}, expected a later one")
