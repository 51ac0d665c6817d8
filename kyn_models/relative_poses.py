"""From poses in a world to poses between frames, as models of several frames are told them. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kyn_models.types import Float64Array, PosedFrame


def neighbours_from_key(frames: Sequence[PosedFrame]) -> Float64Array:
    """(N, 4, 4) float64 neighbour_from_key of a key frame and its N neighbours, metres.

    float64 throughout: in float32 a map whose origin is far away has no centimetres. A key frame alone needs no pose.
    Raises ``ValueError`` naming a frame without one.
    """
    worlds = np.empty((len(frames), 4, 4))
    if len(frames) == 1:
        return worlds[1:]
    for world, frame in zip(worlds, frames, strict=True):
        if frame.world_from_camera is None:
            raise ValueError(
                f"frame at {frame.stamp_ns} ns: got no pose, expected world_from_camera of a key frame and its "
                "neighbours; leave the neighbours out to ask about one image"
            )
        world[:] = frame.world_from_camera
    return np.linalg.inv(worlds[1:]) @ worlds[0]
