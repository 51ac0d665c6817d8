"""Camera paths for flights: where a novel camera is and looks, frame by frame. numpy only.

A path is (n, 4, 4) float64 poses ``key_from_camera``, in the key frame's camera axes (x right, y down, z forward,
metres); the identity is the key camera itself. The built-in ones begin and end there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kyn_models.types import Float64Array, check_pose

PathMaker = Callable[[int], Float64Array]

LOOK_AT_M = 14.0
"""How far ahead the point lies that circling cameras keep in the middle of the image."""


def _pose(position: np.ndarray, target: np.ndarray) -> Float64Array:
    """A camera there that looks at a point and keeps the key camera's horizon."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=-1)
    pose[:3, 3] = position
    return pose


def _path(position: Callable[[float], tuple[float, float, float]], turn: Callable[[float], float | None]) -> PathMaker:
    """A path of a function of time 0..1. turn: radians to the right, or None to look at the fixed point ahead."""

    def make(count: int) -> Float64Array:
        poses = []
        for t in np.linspace(0.0, 1.0, count):
            where, angle = np.array(position(float(t))), turn(float(t))
            ahead = np.array([0.0, 0.0, LOOK_AT_M])
            if angle is not None:
                ahead = where + (np.sin(angle), 0.0, np.cos(angle))
            poses.append(_pose(where, ahead))
        return np.stack(poses)

    return make


_TURN = 2 * np.pi


def _out_and_back(t: float) -> float:
    """0 to 1 and back to 0 without a jerk."""
    return float(0.5 - 0.5 * np.cos(_TURN * t))


PATHS: dict[str, PathMaker] = {
    "sideways": _path(lambda t: (1.5 * np.sin(_TURN * t), 0.0, 0.0), lambda t: 0.0),
    "forward": _path(lambda t: (0.0, 0.0, 6.0 * _out_and_back(t)), lambda t: 0.0),
    "circle": _path(
        lambda t: (0.8 * np.sin(_TURN * t), 0.5 * (np.cos(_TURN * t) - 1.0), 0.8 * _out_and_back(t)), lambda t: None
    ),
    "rise": _path(lambda t: (0.0, -3.0 * _out_and_back(t), -1.0 * _out_and_back(t)), lambda t: None),
    "look": _path(lambda t: (0.0, 0.0, 0.0), lambda t: 0.35 * np.sin(_TURN * t)),
}
"""Name to a function of the number of frames: 1.5 m to both sides, 6 m ahead and back, a circle round the line of
sight, 3 m up with the eye on the road, 20 degrees to both sides on the spot."""


def read_path(path: str | Path) -> Float64Array:
    """A path from a file of poses ``key_from_camera``, in metres.

    ``.npy``: (n, 4, 4) or (n, 3, 4) numbers, the form of the trajectories of Behind the Scenes
    (``scripts/videos/trajectories``). Their poses mean the same as here (novel camera to input frame, x right, y down,
    z forward) and are taken as stored; the authors' own film takes every second one with 0.75 of its translation.
    Any other name is a text file: a pose per line as 12 (3x4) or 16 (4x4) numbers, row by row; blank lines and lines
    that start with # are left out.
    Raises ``ValueError`` naming the file and the line or pose, ``OSError``.
    """
    return _array_path(Path(path)) if Path(path).suffix.lower() == ".npy" else _text_path(Path(path))


def _array_path(path: Path) -> Float64Array:
    expected = "expected an array of numbers of shape (n, 4, 4) or (n, 3, 4)"
    try:
        with path.open("rb") as file:
            stored = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(f"{path}: got a file that is damaged or no .npy file, {expected}") from None
    if stored.dtype.kind not in "fiu" or stored.ndim != 3 or stored.shape[1:] not in ((4, 4), (3, 4)):
        raise ValueError(f"{path}: got {stored.dtype} of shape {stored.shape}, {expected}")
    if not len(stored):
        raise ValueError(f"{path}: got no pose, {expected} with n at least 1")
    poses = np.tile(np.eye(4), (len(stored), 1, 1))
    poses[:, : stored.shape[1]] = stored
    return np.stack([check_pose(f"{path}, pose {number}", pose) for number, pose in enumerate(poses)])


def _text_path(path: Path) -> Float64Array:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: got a file that is no text, expected lines of 12 or 16 numbers, or .npy") from None
    poses = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        try:
            values = np.array([float(word) for word in line.replace(",", " ").split()])
        except ValueError:
            raise ValueError(
                f"{where}: got {line.strip()[:40]!r}, expected 12 or 16 numbers (a 3x4 or 4x4 pose)"
            ) from None
        if values.size not in (12, 16):
            raise ValueError(f"{where}: got {values.size} numbers, expected 12 or 16 (a 3x4 or 4x4 pose, row by row)")
        pose = np.eye(4)
        pose[: values.size // 4] = values.reshape(-1, 4)
        poses.append(check_pose(where, pose))
    if not poses:
        raise ValueError(f"{path}: got no pose, expected one per line as 12 or 16 numbers")
    return np.stack(poses)
