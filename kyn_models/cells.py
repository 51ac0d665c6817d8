"""The cells of a voxel grid as a camera sees them. numpy only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kyn_models.types import Float32Array, Intrinsics, VoxelGridSpec

BYTES_PER_CELL = 64
"""About what a cell in the view needs while its constants are built and its density is computed."""

LARGEST = 1 << 30
"""More cells than this are refused whatever the memory: their numbers would leave 32 bits."""

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def free_memory(info: Path = Path("/proc/meminfo"), limit: Path = CONTAINER_LIMIT) -> int | None:
    """Bytes that this process may still take, as the system and the limit of its container say; None if unknown."""
    try:
        text = info.read_text()
    except OSError:
        return None
    free = [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:")]
    allowed, used = _number(limit), _number(limit.with_name("memory.current"))
    if allowed is not None:
        free.append(allowed - (used or 0))
    return min(free) if free else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def require_memory(spec: VoxelGridSpec) -> None:
    """Raises ``ValueError`` with the size if the grid does not fit into the memory."""
    cells = spec.shape[0] * spec.shape[1] * spec.shape[2]
    need, free = cells * BYTES_PER_CELL, free_memory()
    if cells > LARGEST or (free is not None and need > free):
        limit = f"{free / 1e9:.1f} GB that are free" if free is not None and need > free else f"{LARGEST:,} cells"
        raise ValueError(
            f"grid: got {cells:,} cells, which need about {need / 1e9:.1f} GB, expected at most the {limit}; "
            "use a larger grid.resolution_m or smaller ranges"
        )


def cells_in_camera(
    spec: VoxelGridSpec, base_from_camera: np.ndarray, camera: Intrinsics, z_range_m: tuple[float, float], scale: float
) -> tuple[np.ndarray, Float32Array, np.ndarray]:
    """The cells whose centres fall into the image of ``camera`` and between two depths.

    base_from_camera: (4, 4) mount; scale: metres of the grid per metre in the camera. Returns (n,) int32 flat indices
    of cells, their (n, 3) float32 centres in camera axes, and the (n,) int32 numbers of the pixels they fall on. Layer
    by layer, so that little more than the answer is ever held.
    """
    index, points, pixels = [], [], []
    camera_from_base = np.linalg.inv(base_from_camera)
    z, y, x = spec.axes()
    layer = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2) @ camera_from_base[:3, :2].T + camera_from_base[:3, 3]
    for number, height in enumerate(z):
        # Rounded to what a point is given as, so that a cell's place in the view is that of its point.
        centres = ((layer + height * camera_from_base[:3, 2]) / scale).astype(np.float32)
        inside, pixel = _in_view(centres, camera, z_range_m)
        index.append((inside + number * len(layer)).astype(np.int32))
        points.append(centres[inside])
        pixels.append(pixel)
    return np.concatenate(index), np.concatenate(points), np.concatenate(pixels)


def _in_view(points: Float32Array, k: Intrinsics, z_range_m: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Which of (N, 3) points the camera sees, and on which pixels."""
    candidates = np.flatnonzero((points[:, 2] >= z_range_m[0]) & (points[:, 2] <= z_range_m[1]))
    x, y, z = points[candidates].T
    column, row = np.rint(x / z * k.fx + k.cx), np.rint(y / z * k.fy + k.cy)
    inside = (column >= 0) & (column < k.width) & (row >= 0) & (row < k.height)
    return candidates[inside], (row[inside] * k.width + column[inside]).astype(np.int32)
