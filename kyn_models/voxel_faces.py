"""The outer faces of occupied cells, for pictures and meshes. numpy only."""

from __future__ import annotations

import numpy as np

from kyn_models.types import VoxelGridSpec

_FACES = (
    # axis, step, shade, corners of the unit cube's face (x, y, z)
    (0, 1, 0.62, ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1))),
    (0, -1, 0.74, ((0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1))),
    (1, 1, 0.54, ((0, 1, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1))),
    (1, -1, 0.54, ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1))),
    (2, 1, 1.0, ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))),
    (2, -1, 0.4, ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0))),
)


def visible_faces(
    solid: np.ndarray, spec: VoxelGridSpec, eye: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The outer faces of solid cells, all of them or only those that look towards ``eye`` (3,).

    solid: (nz, ny, nx) bool. Returns (F, 4, 3) corners in the grid's frame, (F,) shades, (F,) flat indices of cells.
    """
    corners, shades, cells = [], [], []
    padded = np.pad(solid, 1)
    inner = (slice(1, -1),) * 3
    for axis, step, shade, unit in _FACES:
        neighbour = np.roll(padded, -step, axis=2 - axis)[inner]
        index = np.flatnonzero(solid & ~neighbour)
        z, y, x = np.unravel_index(index, solid.shape)
        lower = np.stack([x, y, z], axis=-1) * spec.resolution_m + np.array(spec.origin_m)
        if eye is not None:
            plane = lower[:, axis] + (spec.resolution_m if step > 0 else 0.0)
            towards = (eye[axis] - plane) * step > 0
            lower, index = lower[towards], index[towards]
        corners.append(lower[:, None] + np.array(unit) * spec.resolution_m)
        shades.append(np.full(len(lower), shade))
        cells.append(index)
    return np.concatenate(corners), np.concatenate(shades), np.concatenate(cells)


def exposed(solid: np.ndarray) -> np.ndarray:
    """(nz, ny, nx) bool: the solid cells of which at least one face looks into the open."""
    padded = np.pad(solid, 1)
    inner = (slice(1, -1),) * 3
    buried = np.logical_and.reduce([np.roll(padded, step, axis)[inner] for axis in range(3) for step in (1, -1)])
    return solid & ~buried
