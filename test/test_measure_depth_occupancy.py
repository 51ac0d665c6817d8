"""The measures of occupancy from depth, on columns that are counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba", reason="streets are rendered by compiled loops")

import measure_depth_occupancy as measuring

from kyn_models.occupancy import volume_to_grid
from kyn_models.types import UNKNOWN, VoxelGridSpec


def test_the_measures_of_a_volume() -> None:
    """10 x 10 columns of 0.2 m; something stands in one of them, and outside the grid."""
    spec = VoxelGridSpec(x_m=(0.0, 2.0), y_m=(-1.0, 1.0), z_m=(0.0, 2.0))
    volume = np.full(spec.shape, UNKNOWN, np.uint8)
    volume[:, :, :5] = 0
    volume[:, 5, 6] = 0  # there it stands
    volume[0, 1, 1] = 254  # below the band
    beside, diagonal, by_the_one_outside, one_metre, farther = (5, 5), (4, 5), (0, 9), (9, 9), (0, 5)
    for y, x in (beside, diagonal, by_the_one_outside, one_metre, farther):
        volume[4, y, x] = 254
    holds = np.zeros((20, 20), bool)
    holds[5 + 5, 5 + 6] = holds[5 + 0, 5 + 11] = True
    in_sight = np.zeros((9, 10, 10), bool)
    in_sight[:, :, :7] = True
    in_sight[3, 2, 2] = False
    truth = measuring.truth_of(holds, in_sight, spec.resolution_m)
    counts = measuring.measure(volume_to_grid(volume, spec, measuring.OPTIONS), truth)
    # 70 columns are in sight, but a cell of one of them is not, and something stands in another.
    assert counts == measuring.Counts(free=51, held=1, occupied=5, off=4, far_off=1, seen=68, found=49)
    empty = measuring.Counts(*[0] * 7)
    assert measuring.row("exact", (counts, empty)) == "| exact | 0.01961, - | 0.80 / 0.200, - / - | 0.72, - |"


def test_a_thin_pole_holds_and_the_ground_does_not() -> None:
    """A pole of 8 cm, a kerb beside the road, and a pole half a metre beside the grid, of a car that stands askew."""

    def occupied(points: np.ndarray) -> np.ndarray:
        x, y, z = points.T
        poles = [np.hypot(x - 10.1, y - side) < 0.04 for side in (1.05, 10.5)]
        return np.any(poles, axis=0) | (z < 0.12)

    lowered = np.eye(4)
    lowered[2, 3] = -0.4
    holds = measuring.columns_that_hold(SimpleNamespace(occupied=occupied), lowered)
    ny, nx = measuring.SPEC.shape[1:]
    assert holds.shape == (ny + 10, nx + 10)
    assert np.argwhere(holds).tolist() == [[5 + 55, 5 + 50], [5 + 102, 5 + 50]]


def test_depth_is_wrong_as_said() -> None:
    exact = np.full((192, 640), 20.0, np.float32)
    exact[:, 320:] = 40.0
    exact[:64] = np.inf
    wrong = {kind: change(exact, np.random.default_rng(0)) for kind, change in measuring.KINDS.items()}
    for kind, depth in wrong.items():
        assert depth.shape == exact.shape and not np.isnan(depth).any(), kind
        assert np.isinf(depth[:50]).all() and np.isfinite(depth[70:]).all(), kind
    error = {kind: depth[80:] / exact[80:] - 1 for kind, depth in wrong.items()}
    exactly, pixels, patches, blurred, far, near = error.values()
    assert (exactly == 0).all() and np.allclose(far, 0.05) and np.allclose(near, -0.05)
    assert abs(pixels.std() - 0.05) < 0.002 and abs(patches.std() - 0.05) < 0.01
    neighbours = [np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1] for noise in (pixels, patches)]
    assert abs(neighbours[0]) < 0.02 and neighbours[1] > 0.95
    assert np.abs(blurred[:, 315:325]).max() > 0.1 and np.abs(blurred[:, :310]).max() < 1e-4
