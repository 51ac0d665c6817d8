import numpy as np
import pytest

from kyn_models import occupancy
from kyn_models.occupancy import GridOptions
from kyn_models.types import Intrinsics, Prediction, VoxelGridSpec

SPEC = VoxelGridSpec(x_m=(0, 2), y_m=(-1, 1), z_m=(-0.4, 2.8), resolution_m=0.2)
BAND = np.isin(np.arange(16), np.arange(3, 12))
"""Layers 3 to 11: centres at 0.3 to 1.9 m."""


def volume(value: int) -> np.ndarray:
    return np.full(SPEC.shape, value, dtype=np.uint8)


def test_probability_is_one_half_at_the_published_threshold():
    np.testing.assert_allclose(occupancy.density_to_probability(np.array([0.0, 0.5, 50.0])), [0, 0.5, 1], atol=1e-6)
    assert occupancy.probability_to_byte(np.array([0.0, 0.5, 1.0])).tolist() == [0, 127, 254]


def test_grid_has_three_values():
    cells = volume(0)
    row = np.flatnonzero(BAND)[2]
    cells[row, 1, 1] = 200  # occupied: one cell suffices
    cells[row, 2, 2] = 255  # one unknown cell of the band forbids free
    cells[row, 3, 3] = 127  # between the thresholds
    grid = occupancy.volume_to_grid(cells, SPEC, GridOptions())
    assert (grid[1, 1], grid[2, 2], grid[3, 3], grid[4, 4]) == (100, -1, -1, 0)


def test_an_obstacle_below_the_field_of_view_never_gives_free():
    cells = volume(0)
    cells[np.flatnonzero(BAND)[0]] = 255
    assert (occupancy.volume_to_grid(cells, SPEC, GridOptions()) == -1).all()


def test_floor_and_ceiling_do_not_count():
    cells = volume(0)
    cells[~BAND] = 254
    assert (occupancy.volume_to_grid(cells, SPEC, GridOptions()) == 0).all()


def test_probability_mode_keeps_the_rule_for_unknown():
    cells = volume(100)
    cells[np.flatnonzero(BAND)[0], 0, 0] = 255
    grid = occupancy.volume_to_grid(cells, SPEC, GridOptions(mode="probability"))
    assert grid[0, 0] == -1
    assert grid[1, 1] == round(100 * 100 / 254)


def test_band_outside_the_grid_is_an_error():
    with pytest.raises(ValueError, match="no cell centre"):
        occupancy.volume_to_grid(volume(0), SPEC, GridOptions(min_height_m=5.0, max_height_m=6.0))


def test_occupied_cells_are_the_centres():
    cells = volume(0)
    cells[3, 4, 5] = 254
    cells[3, 4, 6] = 255
    centres, index = occupancy.occupied_cells(cells, SPEC, 0.65)
    np.testing.assert_allclose(centres, [[1.1, -0.1, 0.3]], atol=1e-6)
    assert np.unravel_index(index[0], SPEC.shape) == (3, 4, 5)


@pytest.mark.parametrize("layers", [None, range(2, 5), range(0)])
def test_occupied_cells_are_those_of_the_layers_in_order(layers):
    cells = np.random.default_rng(2).integers(0, 256, SPEC.shape).astype(np.uint8)
    centres, index = occupancy.occupied_cells(cells, SPEC, 0.65, layers)
    inside = np.isin(np.arange(SPEC.shape[0]), range(SPEC.shape[0]) if layers is None else layers)
    expected = np.flatnonzero((cells > 254 * 0.65) & (cells < 255) & inside[:, None, None])
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(centres, SPEC.centres().reshape(-1, 3)[expected])


def looking_forward(depth: np.ndarray) -> Prediction:
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    pose[:3, 3] = (1.0, 0.0, 1.0)
    h, w = depth.shape
    camera = Intrinsics(w / 2, w / 2, (w - 1) / 2, (h - 1) / 2, w, h)
    return Prediction(0, np.zeros((h, w, 3), np.uint8), camera, SPEC, pose, depth_m=depth)


def test_surface_points_of_a_wall_lie_on_the_wall():
    depth = np.full((8, 16), 5.0, np.float32)
    depth[0] = np.inf
    depth[1] = np.nan
    points, colours = occupancy.surface_points(looking_forward(depth), step=1)
    assert len(points) == len(colours) == 6 * 16
    np.testing.assert_allclose(points[:, 0], 6.0, atol=1e-5)
    assert points[:, 1].max() > 0 > points[:, 1].min()


def test_clearing_points_end_before_the_surface_and_reach_into_the_sky():
    depth = np.full((8, 16), 5.0, np.float32)
    depth[:, 8:] = np.inf
    points = occupancy.clearing_points(looking_forward(depth), GridOptions(), range_m=20.0, step=1)
    distance = np.linalg.norm(points - [1.0, 0.0, 1.0], axis=1)
    assert points[:, 0].min() > 1.0
    assert (points[:, 0][points[:, 1] > 0] < 6.0).all()
    assert np.allclose(distance[points[:, 1] < 0], 20.0, atol=1e-3)


@pytest.mark.parametrize("low", [-0.8, -0.6, -0.4, -0.2, 0.0])
def test_grid_and_obstacle_points_agree_on_the_band_in_spite_of_rounding(low):
    spec = VoxelGridSpec(x_m=(0, 1), y_m=(-1, 0), z_m=(low, 2.8), resolution_m=0.2)
    options = GridOptions()
    for layer, height in enumerate(spec.axes()[0]):
        cells = np.zeros(spec.shape, np.uint8)
        cells[layer, 2, 3] = 254
        inside = 0.29 < height < 2.01
        assert (occupancy.volume_to_grid(cells, spec, options)[2, 3] == 100) == inside
        assert len(occupancy.obstacle_cells(cells, spec, options)[0]) == int(inside)
