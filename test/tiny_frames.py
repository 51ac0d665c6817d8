"""A small model of depth from posed frames, with weights that follow from their names: torch alone runs it."""

from __future__ import annotations

from pathlib import Path

from kyn_models.artifact import Artifact
from kyn_models.models.dymultidepth import DyMultiDepthConfig
from kyn_models.models.seeded import seeded_frames, write_seeded_frames

TINY_FRAMES = DyMultiDepthConfig(
    depth_steps=8, fused_channels=8, channels_enc=(6, 8, 8, 10, 12), channels_dec=(12, 10, 8, 8, 6, 6)
)


def write_weights(path: Path, width: int = 128, height: int = 64) -> Artifact:
    """Write an artifact with weights alone, seen by the camera of KITTI odometry."""
    return write_seeded_frames(path, seeded_frames(TINY_FRAMES), width=width, height=height)
