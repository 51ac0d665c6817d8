"""Neighbours in time for models of posed frames: the frame before and the one after, as published. numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kyn_models.data.kitti360 import Kitti360
from kyn_models.data.kitti_odometry import KittiOdometry
from kyn_models.types import Observation, PosedFrame, Sample

OFFSETS = (-1, 1)
"""Of Dynamic Multi-frame Depth's neighbours, in frames."""


def with_neighbours(
    sample: Sample, frame: int, frames_wanted: int, posed_frame: Callable[[int], PosedFrame | None]
) -> Sample:
    """The sample with its neighbours in time in its observation, as many as there are and a model wants.

    frame: number of the key frame. frames_wanted: of a predictor, 1 leaves the sample as it is. posed_frame: a frame by
    its number, None where there is no such frame or it has no pose.
    """
    wanted = OFFSETS[: max(0, frames_wanted - 1)]
    found = [neighbour for offset in wanted if (neighbour := posed_frame(frame + offset)) is not None]
    seen = sample.observation
    return replace(sample, observation=Observation((seen.key, *found), seen.base_from_camera)) if found else sample


def kitti360_sample(drive: Kitti360, frame: int, frames_wanted: int) -> Sample:
    """A frame of KITTI-360 with its neighbours. Raises as the reader does."""

    def posed_frame(number: int) -> PosedFrame | None:
        there = drive.has_pose(number) and drive.image_path(number).is_file()
        return drive.posed_frame(number) if there else None

    return with_neighbours(drive.sample(frame), frame, frames_wanted, posed_frame)


class OdometryWithNeighbours:
    """The frames of a KITTI odometry sequence with annotated depth, and their neighbours, which need none."""

    def __init__(self, frames: KittiOdometry, frames_wanted: int) -> None:
        self._frames, self._wanted = frames, frames_wanted

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        drive = self._frames.drive

        def posed_frame(number: int) -> PosedFrame | None:
            return drive.posed_frame(number) if drive.has_image(number) and drive.has_pose(number) else None

        return with_neighbours(self._frames[index], self._frames.frames[index], self._wanted, posed_frame)
