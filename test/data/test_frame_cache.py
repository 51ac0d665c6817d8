"""Views at the network's size: what is stored, and a build that goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kyn_models.data.frame_cache import FrameCache, LiveViews, build, views_of
from kyn_models.types import Intrinsics, Observation, PosedFrame, Sample

CAMERA = Intrinsics(30.0, 31.0, 19.0, 9.0, 40, 20)
SIZE = (10, 20)


class Drive:
    """Six samples of two frames; ``broken`` items raise."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.read: list[int] = []

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise OSError("disk went away")
        self.read.append(index)
        frames = []
        for number in range(2):
            pose = np.eye(4)
            pose[:3, 3] = (index, 0.5 * number, 2.0)
            image = np.full((20, 40, 3), 10 * index + number, dtype=np.uint8)
            frames.append(PosedFrame(image, CAMERA, world_from_camera=pose))
        return Sample(f"drive_{index:010d}", Observation((frames[0],), np.eye(4)), views=(frames[1],))


def test_views_are_relative_to_the_key_frame_and_resized() -> None:
    views = views_of(Drive()[3], SIZE)
    assert views.images.shape == (2, 10, 20, 3) and views.images[1, 0, 0, 0] == 31
    assert np.array_equal(views.key_from_camera[0], np.eye(4, dtype=np.float32))
    assert views.key_from_camera[1, :3, 3].tolist() == [0.0, 0.5, 0.0]
    assert np.allclose(views.k_norm[0], CAMERA.normalised())


def test_a_frame_without_pose_is_an_error_with_the_sample_s_name() -> None:
    frame = PosedFrame(np.zeros((20, 40, 3), np.uint8), CAMERA)
    sample = Sample("drive_0000000007", Observation((frame,), np.eye(4)))
    with pytest.raises(ValueError, match="drive_0000000007: got a frame without a pose"):
        views_of(sample, SIZE)


def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="went away"):
        build(tmp_path, Drive(broken=4), SIZE, {"drive": 1}, save_every=2)
    with pytest.raises(FileNotFoundError, match="no complete cache"):
        FrameCache(tmp_path)
    again = Drive()
    cache = build(tmp_path, again, SIZE, {"drive": 1}, save_every=2)
    assert again.read == [4, 5]
    live = LiveViews(Drive(), SIZE)
    assert len(cache) == len(live) == 6
    for index in range(6):
        assert all(np.array_equal(a, b) for a, b in zip(cache[index], live[index], strict=True))


def test_other_settings_are_refused(tmp_path: Path) -> None:
    build(tmp_path, Drive(), SIZE, {"drive": 1})
    assert len(build(tmp_path, Drive(), SIZE, {"drive": 1})) == 6
    with pytest.raises(ValueError, match=r"views of other settings \(drive\)"):
        build(tmp_path, Drive(), SIZE, {"drive": 2})
