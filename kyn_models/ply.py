"""Voxels as a coloured mesh, and coloured points, in the PLY format, which every 3-D viewer opens. numpy only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kyn_models.types import UNKNOWN, VoxelGridSpec
from kyn_models.views import cell_colours
from kyn_models.voxel_faces import visible_faces
from kyn_models.whole_files import write_whole

VERTEX = [("xyz", "<f4", 3), ("rgb", "u1", 3)]


def write_voxel_mesh(
    path: str | Path,
    volume: np.ndarray,
    spec: VoxelGridSpec,
    occupied_above: float,
    labels: np.ndarray | None = None,
    label_names: tuple[str, ...] = (),
) -> int:
    """Write the outer faces of the occupied cells as a binary PLY; coordinates in ``base_link``.

    volume: (nz, ny, nx) uint8, 255 unknown. labels: the same shape, uint8 index into ``label_names``; faces are
    coloured by class, without labels by height. Returns the number of faces. Raises ``OSError``.
    """
    solid = (volume != UNKNOWN) & (volume > 254.0 * occupied_above)
    faces, shades, cells = visible_faces(solid, spec)
    vertices = np.empty(4 * len(faces), dtype=VERTEX)
    vertices["xyz"] = faces.reshape(-1, 3)
    colours = np.rint(cell_colours(cells, spec, labels, label_names) * shades[:, None]).astype(np.uint8)
    vertices["rgb"] = np.repeat(colours, 4, axis=0)
    quads = np.empty(len(faces), dtype=[("count", "u1"), ("index", "<i4", 4)])
    quads["count"] = 4
    quads["index"] = np.arange(4 * len(faces)).reshape(-1, 4)
    header = _header("voxels", len(vertices))
    header += f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    write_whole(Path(path), header.encode("ascii") + vertices.tobytes() + quads.tobytes())
    return len(faces)


def write_points(path: str | Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    """Write points as a binary PLY.

    xyz: (N, 3) metres, x forward, y left, z up. rgb: (N, 3) uint8. Raises ``OSError``.
    """
    vertices = np.empty(len(xyz), dtype=VERTEX)
    vertices["xyz"], vertices["rgb"] = xyz, rgb
    header = _header("points", len(vertices)) + "end_header\n"
    write_whole(Path(path), header.encode("ascii") + vertices.tobytes())


def _header(what: str, vertices: int) -> str:
    """Up to the properties of the vertices."""
    return (
        f"ply\nformat binary_little_endian 1.0\ncomment kyn {what}, metres, x forward, y left, z up\n"
        f"element vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    )
