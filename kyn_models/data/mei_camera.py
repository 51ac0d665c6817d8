"""The unified omnidirectional camera of KITTI-360's fisheye images (MEI model), and how it is made a pinhole. numpy.

Model (Mei, Rives: Single View Point Omnidirectional Camera Calibration from Planar Grids, ICRA 2007, section II): a
point is put on the unit sphere, projected to a plane from a centre ``xi`` behind the sphere's own, distorted by two
radial and two tangential terms, and scaled to pixels. Camera axes are those of kyn: x right, y down, z forward; pixels
have the centre of the first one at (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from kyn_models.data.calibration import require_file
from kyn_models.types import Float32Array, Float64Array, Intrinsics

OUTSIDE = -1e4
"""Source position of a pixel of a rectified image that the fisheye camera cannot see."""
_NEWTON_STEPS = 30
_KEYS = {
    "mirror_parameters": ("xi",),
    "distortion_parameters": ("k1", "k2", "p1", "p2"),
    "projection_parameters": ("gamma1", "gamma2", "u0", "v0"),
}


@dataclass(frozen=True)
class MeiCamera:
    """xi: mirror parameter. k1, k2, p1, p2: radial and tangential distortion. gamma1, gamma2, u0, v0: pixels.

    width, height: image size in pixels. Raises ``ValueError`` on numbers that are no camera.
    """

    xi: float
    k1: float
    k2: float
    p1: float
    p2: float
    gamma1: float
    gamma2: float
    u0: float
    v0: float
    width: int
    height: int

    def __post_init__(self) -> None:
        values = [getattr(self, name) for names in _KEYS.values() for name in names]
        if not np.isfinite(values).all():
            raise ValueError(f"fisheye camera: got {values}, expected finite numbers")
        if self.xi < 0 or min(self.gamma1, self.gamma2) <= 0 or min(self.width, self.height) < 1:
            raise ValueError(
                f"fisheye camera: got xi={self.xi}, gamma1={self.gamma1}, gamma2={self.gamma2} and an image of "
                f"{self.width}x{self.height}, expected xi of at least 0 and the others above 0"
            )

    def resized(self, width: int, height: int) -> MeiCamera:
        """The camera of the same image resized to ``width`` x ``height``: c' = (c + 1/2) s - 1/2, gamma' = gamma s."""
        sx, sy = width / self.width, height / self.height
        u0, v0 = (self.u0 + 0.5) * sx - 0.5, (self.v0 + 0.5) * sy - 0.5
        lens = (self.xi, self.k1, self.k2, self.p1, self.p2)
        return MeiCamera(*lens, self.gamma1 * sx, self.gamma2 * sy, u0, v0, width, height)

    def project(self, points: np.ndarray) -> tuple[Float64Array, NDArray[np.bool_]]:
        """(..., 3) points or rays in camera axes to (..., 2) pixel positions and (...) bool: the model reaches them.

        What it does not reach (behind the cone that a sphere seen from ``xi`` hides) has position NaN.
        """
        points = np.asarray(points, dtype=np.float64)
        norm = np.linalg.norm(points, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            sphere = points / norm[..., None]
            # Further round, two directions would share one position (xi > 1), or the plane is never met (xi < 1).
            limit = -1.0 / self.xi if self.xi > 1 else -self.xi
            reached = sphere[..., 2] > limit
            plane = sphere[..., :2] / (sphere[..., 2:] + self.xi)
        plane = np.where(reached[..., None], plane, np.nan)
        return self._distorted(plane) * (self.gamma1, self.gamma2) + (self.u0, self.v0), reached

    def unproject(self, pixels: np.ndarray) -> tuple[Float64Array, NDArray[np.bool_]]:
        """(..., 2) pixel positions to (..., 3) unit rays in camera axes and (...) bool: the position has a ray.

        The inverse of ``project``; positions beyond the image of the sphere have the ray NaN.
        """
        pixels = np.asarray(pixels, dtype=np.float64)
        target = (pixels - (self.u0, self.v0)) / (self.gamma1, self.gamma2)
        plane = self._undistorted(target)
        with np.errstate(over="ignore", invalid="ignore"):
            r2 = (plane**2).sum(axis=-1)
            under_root = 1.0 + (1.0 - self.xi**2) * r2
            solved = np.abs(self._distorted(plane) - target).max(axis=-1) < 1e-9
        seen = solved & (under_root >= 0.0)
        under_root, r2 = np.where(seen, under_root, np.nan), np.where(seen, r2, np.nan)
        scale = (self.xi + np.sqrt(under_root)) / (1.0 + r2)
        return np.concatenate([scale[..., None] * plane, (scale - self.xi)[..., None]], axis=-1), seen

    def _distorted(self, plane: Float64Array) -> Float64Array:
        """(..., 2) positions on the normalised plane with the lens's distortion (Mei and Rives, equation 7)."""
        x, y = plane[..., 0], plane[..., 1]
        r2 = x * x + y * y
        radial = 1.0 + r2 * (self.k1 + self.k2 * r2)
        return np.stack(
            [
                x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
                y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y,
            ],
            axis=-1,
        )

    def _undistorted(self, target: Float64Array) -> Float64Array:
        """The inverse of ``_distorted`` by Newton's method; where there is none the answer does not fit."""
        plane = target.copy()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for _ in range(_NEWTON_STEPS):
                x, y = plane[..., 0], plane[..., 1]
                r2 = x * x + y * y
                radial, slope = 1.0 + r2 * (self.k1 + self.k2 * r2), self.k1 + 2 * self.k2 * r2
                xx = radial + 2 * x * x * slope + 2 * self.p1 * y + 6 * self.p2 * x
                yy = radial + 2 * y * y * slope + 6 * self.p1 * y + 2 * self.p2 * x
                xy = 2 * x * y * slope + 2 * self.p1 * x + 2 * self.p2 * y
                error = self._distorted(plane) - target
                step = np.stack([yy * error[..., 0] - xy * error[..., 1], xx * error[..., 1] - xy * error[..., 0]], -1)
                step /= (xx * yy - xy * xy)[..., None]
                plane = plane - step
                if not (np.abs(step) > 1e-15).any():
                    break
        return plane


def read_mei(path: Path) -> MeiCamera:
    """The camera of ``calibration/image_02.yaml`` or ``image_03.yaml``.

    Raises ``FileNotFoundError``, or ``ValueError`` that names the entry.
    """
    text = require_file(path, "the fisheye camera of KITTI-360").read_text(encoding="utf-8", errors="replace")
    # OpenCV writes "%YAML:1.0", which is no directive of YAML.
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    try:
        content = yaml.safe_load(body)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{path}: got a file that is no YAML ({str(error).splitlines()[0]}), expected a camera"
        ) from None
    if not isinstance(content, dict) or content.get("model_type", "MEI") != "MEI":
        got = content.get("model_type") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: got {got}, expected a camera with model_type MEI")
    xi, k1, k2, p1, p2, gamma1, gamma2, u0, v0 = (
        _number(content.get(group), name, f"{path}: {group}") for group, names in _KEYS.items() for name in names
    )
    width, height = (int(_number(content, name, str(path))) for name in ("image_width", "image_height"))
    return MeiCamera(xi, k1, k2, p1, p2, gamma1, gamma2, u0, v0, width, height)


def mei_text(camera: MeiCamera, name: str) -> str:
    """What KITTI-360's file of the camera ``name`` ("image_02") says, for ``read_mei``."""
    lines = ["%YAML:1.0", "model_type: MEI", f"camera_name: {name}"]
    lines += [f"image_width: {camera.width}", f"image_height: {camera.height}"]
    for group, names in _KEYS.items():
        lines += [f"{group}:", *(f"   {key}: {getattr(camera, key):.16e}" for key in names)]
    return "\n".join(lines) + "\n"


def rectifying_map(source: MeiCamera, target: Intrinsics, source_from_target: np.ndarray) -> Float32Array:
    """Where each pixel of a pinhole image lies in the fisheye image: (H, W, 2) float32 x, y for ``cv2.remap``.

    source_from_target: (3, 3) rotation of the pinhole's axes into the fisheye's, both at one place. Pixels that the
    fisheye camera does not see have the position ``OUTSIDE``.
    """
    v, u = np.mgrid[: target.height, : target.width]
    rays = np.stack([(u - target.cx) / target.fx, (v - target.cy) / target.fy, np.ones(u.shape)], axis=-1)
    pixels, reached = source.project(rays @ np.asarray(source_from_target).T)
    return np.where(reached[..., None], pixels, OUTSIDE).astype(np.float32)


def _number(table: object, name: str, where: str) -> float:
    value = table.get(name) if isinstance(table, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: got {value!r} for {name!r}, expected a number")
    return float(value)
