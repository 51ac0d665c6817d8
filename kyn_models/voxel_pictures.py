"""What ``kyn image`` and ``kyn voxels`` leave of a prediction: pictures and a voxel mesh. numpy and OpenCV."""

from __future__ import annotations

from pathlib import Path

from kyn_models import views
from kyn_models.ply import write_voxel_mesh
from kyn_models.types import Prediction
from kyn_models.whole_files import write_image


def write_mesh(path: Path, prediction: Prediction, occupied_above: float) -> int:
    """Write the occupied voxels as a mesh in the colours of their classes, or of their heights.

    Returns the number of faces. Raises ``OSError``, or ``ValueError`` for a prediction without a volume.
    """
    if prediction.volume is None:
        raise ValueError("voxels: got a prediction without a volume, expected one with the output 'volume'")
    labels, names = prediction.labels, prediction.label_names
    return write_voxel_mesh(path, prediction.volume, prediction.spec, occupied_above, labels, names)


def write_voxels(out: Path, name: str, prediction: Prediction, occupied_above: float) -> int:
    """``<name>.ply`` and ``<name>.png`` (input, depth, bird's-eye view and voxels), the picture last.

    So a frame whose picture is there is done. Returns the number of faces. Raises ``OSError``.
    """
    faces = write_mesh(out / f"{name}.ply", prediction, occupied_above)
    write_image(picture_path(out, name), views.frame_picture(prediction, name))
    return faces


def picture_path(out: Path, name: str) -> Path:
    """Where the picture of a frame lies (or would)."""
    return out / f"{name}.png"
