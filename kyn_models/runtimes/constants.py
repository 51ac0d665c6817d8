"""Everything after the encoder that is constant for a model: the point network in numbers, and points as codes.

The first layer of the point network is linear in [feature, code(u), code(v), code(z')], so its pre-activation is a sum
of the encoder's image sampled at a pixel and of codes that depend on geometry alone. numpy only: every runtime that is
not plain torch starts from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kyn_models.npz import read_npz
from kyn_models.runtimes.queries import SAMPLES_PER_RAY
from kyn_models.types import Float32Array

EXPORT_AGAIN = "`kyn export` writes a new one"
ARRAYS = ("w_code", "bias", "w_out", "b_out", "freqs", "k_norm", "z_near", "z_far")


Constants = TypeVar("Constants")


def read_decoder(path: Path, names: Sequence[str], make: Callable[[Mapping[str, np.ndarray]], Constants]) -> Constants:
    """What ``make`` builds of the arrays ``names`` of a ``decoder.npz``.

    Raises ``FileNotFoundError``, or ``ValueError`` naming a damaged file, a missing array or one of wrong size.
    """
    arrays = read_npz(path, names, EXPORT_AGAIN)
    try:
        return make(arrays)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: got arrays that are not a decoder's ({error}); {EXPORT_AGAIN}") from error


@dataclass(frozen=True)
class PointCode:
    """Points to positional codes, and those through a linear layer of H units. F frequencies.

    w_code (H, 3 + 6 F), bias (H,), freqs (F,), k_norm (3, 3), z_near, z_far.
    """

    w_code: Float32Array
    bias: Float32Array
    freqs: Float32Array
    k_norm: np.ndarray
    z_near: float
    z_far: float

    def image_coordinates(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) float32 normalised image coordinates of (N, 3) points in camera axes."""
        k = self.k_norm
        u = points[:, 0] / points[:, 2] * k[0, 0] + k[0, 2]
        v = points[:, 1] / points[:, 2] * k[1, 1] + k[1, 2]
        return np.stack([u, v], axis=-1).astype(np.float32)

    def depth_code(self, z: np.ndarray) -> np.ndarray:
        """z' in [-1, 1], linear in inverse depth: 1 at z_near, -1 at z_far."""
        near, far = 1 / self.z_near, 1 / self.z_far
        return (2 * (1 / z - far) / (near - far) - 1).astype(np.float32)

    def codes(self, values: np.ndarray) -> Float32Array:
        """(N, A (1 + 2 F)): (N, A) values, then sine and cosine of all of them at each frequency."""
        scaled = (values * frequency for frequency in self.freqs)
        parts = [values, *(function(value) for value in scaled for function in (np.sin, np.cos))]
        return np.asarray(np.concatenate(parts, axis=1, dtype=np.float32))

    def project_codes(self, values: np.ndarray, axes: tuple[int, ...]) -> Float32Array:
        """W_code restricted to some of the axes (0 u, 1 v, 2 z'), applied to (N, len(axes)) values: (N, H)."""
        columns = [list(axes)] + [
            [3 + 6 * index + 3 * phase + axis for axis in axes] for index in range(len(self.freqs)) for phase in (0, 1)
        ]
        return np.ascontiguousarray(self.codes(values) @ self.w_code[:, np.concatenate(columns)].T)


@dataclass(frozen=True)
class DecoderConstants(PointCode):
    """Content of ``decoder.npz`` of a point network with one hidden layer: w_out (H,), b_out () come after it."""

    w_out: Float32Array
    b_out: float

    @classmethod
    def load(cls, path: Path) -> DecoderConstants:
        """Read ``decoder.npz``. Raises ``ValueError`` naming a damaged file, a missing array or one of wrong size."""
        return read_decoder(path, ARRAYS, cls.from_arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> DecoderConstants:
        """From the arrays of ``decoder.npz`` by name. Raises ``TypeError`` or ``ValueError`` for one of wrong size."""
        return cls(
            **code_arrays(arrays),
            w_out=np.ascontiguousarray(arrays["w_out"], dtype=np.float32).reshape(-1),
            b_out=float(arrays["b_out"]),
        )

    def greatest_curvature(self, axis: int) -> Float32Array:
        """(H,) bound of the second derivative of ``project_codes(x, (axis,))`` anywhere."""
        columns = [3 + 6 * index + axis for index in range(len(self.freqs))]
        sines, cosines = self.w_code[:, columns], self.w_code[:, [column + 3 for column in columns]]
        return np.hypot(sines, cosines) @ (self.freqs**2)


def code_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The fields of a ``PointCode`` from the arrays of ``decoder.npz`` by name."""
    # Arrays of another layout are another type, for which every compiled loop would be compiled again.
    return {
        "w_code": np.ascontiguousarray(arrays["w_code"], dtype=np.float32),
        "bias": np.ascontiguousarray(arrays["bias"], dtype=np.float32),
        "freqs": np.ascontiguousarray(arrays["freqs"], dtype=np.float32),
        "k_norm": np.asarray(arrays["k_norm"], dtype=np.float64),
        "z_near": float(arrays["z_near"]),
        "z_far": float(arrays["z_far"]),
    }


def sample_depths(z_near: float, z_far: float, count: int = SAMPLES_PER_RAY) -> Float32Array:
    """(count,) float32 depths at the midpoints of equal steps in inverse depth."""
    s = (np.arange(count) + 0.5) / count
    return (1 / ((1 - s) / z_near + s / z_far)).astype(np.float32)


def corners(uv: np.ndarray, map_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear sampling as constants: border padding, align_corners false.

    uv: (N, 2) float32 in [-1, 1]; map_size: (h, w). Returns (N, 4) int32 flat indices and (N, 4) float32 weights.
    """
    h, w = map_size
    x = np.clip(((uv[:, 0] + 1) * w - 1) / 2, 0, w - 1)
    y = np.clip(((uv[:, 1] + 1) * h - 1) / 2, 0, h - 1)
    x0, y0 = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    ax, ay = x - x0, y - y0
    index = np.stack([y0 * w + x0, y0 * w + x1, y1 * w + x0, y1 * w + x1], axis=-1)
    weight = np.stack([(1 - ax) * (1 - ay), ax * (1 - ay), (1 - ax) * ay, ax * ay], axis=-1)
    return np.ascontiguousarray(index, dtype=np.int32), np.ascontiguousarray(weight, dtype=np.float32)
