import numpy as np
import pytest

from kyn_models.map_picture import map_picture, no_map_picture
from kyn_models.views import FREE_COLOUR, OCCUPIED_COLOUR, UNKNOWN_COLOUR, VEHICLE_COLOUR


def test_the_map_stands_still_with_x_up_and_y_to_the_left():
    cells = np.full((100, 100), -1, np.int8)
    cells[60:, :] = 0
    cells[60:, 80:] = 100
    vehicle = np.eye(4)
    vehicle[:2, 3] = 1000.0, -20.0
    picture = map_picture(cells, 0.5, (975.0, -45.0), [vehicle], height=400)
    assert picture.shape == (400, 400, 3) and picture.dtype == np.uint8

    def colour(x: float, y: float) -> tuple[int, ...]:
        return tuple(int(value) for value in picture[round(400 - (x - 975.0) * 8), round(400 - (y + 45.0) * 8)])

    assert colour(1000.0, -20.0) == VEHICLE_COLOUR
    assert colour(1000.4, -20.0) == VEHICLE_COLOUR and colour(998.9, -20.0) == UNKNOWN_COLOUR, "it looks along x"
    assert colour(1000.0, -17.0) == UNKNOWN_COLOUR
    assert colour(990.0, -10.0) == FREE_COLOUR
    assert colour(1020.0, -10.0) == OCCUPIED_COLOUR
    assert colour(1020.0, -30.0) == UNKNOWN_COLOUR
    vehicle[:2, :2] = [[0, -1], [1, 0]]
    picture = map_picture(cells, 0.5, (975.0, -45.0), [vehicle], height=400)
    assert colour(1000.0, -19.6) == VEHICLE_COLOUR and colour(1000.0, -21.1) == UNKNOWN_COLOUR, "it looks along y"


def test_the_way_is_drawn_and_may_be_empty():
    cells = np.full((50, 50), -1, np.int8)
    way = [np.eye(4) for _ in range(3)]
    for index, pose in enumerate(way):
        pose[0, 3] = -5.0 * (2 - index)
    empty, drawn = (map_picture(cells, 0.5, (-12.5, -12.5), poses, 200) for poses in ([], way))
    different = (empty != drawn).any(axis=-1)
    assert different[100:180, 99:102].any(axis=1).mean() > 0.9 and not different[:, :80].any()


@pytest.mark.parametrize("height", [100, 420])
def test_a_missing_map_has_the_same_size(height: int):
    cells = np.zeros((10, 10), np.int8)
    assert no_map_picture(height).shape == map_picture(cells, 0.2, (0.0, 0.0), [np.eye(4)], height).shape
