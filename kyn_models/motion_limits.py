"""What no vehicle does between two poses: farther apart, they are a jump and belong to different drives."""

from __future__ import annotations

import math

MAX_SPEED_MPS = 60.0
"""Unless a user says otherwise."""
MAX_TURN_RAD_S = 2 * math.pi
SLACK_M, SLACK_RAD = 0.1, 0.1
"""Poses are rounded and filtered: so much more is no jump."""


def is_jump(moved_m: float, turned_rad: float, seconds: float, max_speed_mps: float = MAX_SPEED_MPS) -> bool:
    """True where a pose is farther from the one ``seconds`` before it than a vehicle gets."""
    return moved_m > max_speed_mps * seconds + SLACK_M or turned_rad > MAX_TURN_RAD_S * seconds + SLACK_RAD
