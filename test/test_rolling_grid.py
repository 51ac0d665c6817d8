"""A world of walls, seen from a vehicle that drives, turns and comes again: what the rolling grid makes of it."""

import numpy as np
import pytest

from kyn_models.occupancy import GridOptions
from kyn_models.rolling_grid import RollingGrid, RollingOptions
from kyn_models.types import VoxelGridSpec

SPEC = VoxelGridSpec(x_m=(0, 20), y_m=(-8, 8), z_m=(-0.4, 2.8), resolution_m=0.2)
EDGE = SPEC.resolution_m
OPTIONS = RollingOptions(size_m=50.0, forget_s=0.0)
TENTH = 100_000_000


def pose(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    def turn(axis: int, angle: float) -> np.ndarray:
        a, b = [i for i in range(3) if i != axis]
        matrix = np.eye(3)
        sign = -1.0 if axis == 1 else 1.0
        matrix[a, a] = matrix[b, b] = np.cos(angle)
        matrix[a, b], matrix[b, a] = -sign * np.sin(angle), sign * np.sin(angle)
        return matrix

    made = np.eye(4)
    made[:3, :3] = turn(2, yaw) @ turn(1, pitch) @ turn(0, roll)
    made[:2, 3] = x, y
    return made


def walls(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A street along x with walls 1.2 m thick at both sides, a box in it, and a thin oblique fence."""
    sides = (np.abs(y) > 5.0) & (np.abs(y) < 6.2)
    box = (np.abs(x - 24.0) < 1.5) & (np.abs(y - 2.0) < 1.5)
    fence = (np.abs(x + y - 14.0) < 0.3) & (y < -1.0) & (y > -5.0)
    return sides | box | fence


def seen(odom_from_base: np.ndarray, world=walls) -> np.ndarray:
    """The vehicle's grid in that world: unknown behind the walls at the sides."""
    _, y, x = SPEC.axes()
    points = np.stack(np.meshgrid(x, y), axis=-1) @ odom_from_base[:2, :2].T + odom_from_base[:2, 3]
    grid = np.where(world(points[..., 0], points[..., 1]), 100, 0).astype(np.int8)
    grid[np.abs(points[..., 1]) > 6.2] = -1
    return grid


def centres(grid: RollingGrid) -> tuple[np.ndarray, np.ndarray]:
    count = grid.cells().shape[0]
    x, y = (origin + EDGE * (np.arange(count) + 0.5) for origin in grid.origin_m)
    return np.meshgrid(x, y)


def near(mask: np.ndarray, cells: int) -> np.ndarray:
    """The mask grown by this many cells."""
    grown = mask.copy()
    for _ in range(cells):
        padded = np.pad(grown, 1)
        height, width = grown.shape
        grown = np.logical_or.reduce([padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)])
    return grown


def check_world(grid: RollingGrid, world=walls) -> int:
    """No cell is off by more than one: occupied only beside true walls, free only outside them, and neither has holes.
    Returns how many cells are known."""
    cells, (x, y) = grid.cells(), centres(grid)
    true = world(x, y)
    assert near(true, 1)[cells == 100].all(), "occupied away from any wall"
    inner = ~near(~true, 1)
    assert not inner[cells == 0].any(), "free inside a wall"
    assert (np.abs(y)[cells == 0] < 6.2).all(), "free where nothing was ever seen"
    known = cells >= 0
    surrounded = np.logical_and.reduce([np.roll(known, step, axis) for step in (-1, 1) for axis in (0, 1)])
    holes = surrounded & ~known & (inner | ~near(true, 1))
    assert not holes.any(), f"{holes.sum()} holes"
    return int(known.sum())


def drive(grid: RollingGrid, path: list[np.ndarray], start_ns: int = 10**9, world=walls) -> None:
    for index, at in enumerate(path):
        grid.add(seen(at, world), SPEC, at, start_ns + index * TENTH)


def test_the_first_grid_is_taken_as_it_is():
    grid = RollingGrid(RollingOptions(size_m=50.0, miss=0.3), EDGE)
    assert grid.add(seen(pose()), SPEC, pose(), 0) is False
    assert grid.origin_m == (-25.0, -25.0)
    cells, (row, column) = grid.cells(), (85, 125)
    np.testing.assert_array_equal(cells[row : row + 80, column : column + 100], seen(pose()))
    assert (np.delete(cells, np.s_[row : row + 80], axis=0) == -1).all()
    assert (np.delete(cells, np.s_[column : column + 100], axis=1) == -1).all()


@pytest.mark.parametrize("step_m", [0.5, 0.37, 1.3])
def test_driving_straight(step_m: float):
    grid = RollingGrid(OPTIONS, EDGE)
    drive(grid, [pose(x=step_m * index) for index in range(40)])
    assert check_world(grid) > 8000
    origin = np.array(grid.origin_m) / EDGE
    np.testing.assert_allclose(origin, np.rint(origin), atol=1e-6)
    vehicle = (np.array([step_m * 39, 0.0]) - grid.origin_m) / EDGE
    assert (np.floor(vehicle + 1e-9) == 125).all(), "the vehicle stands in the middle cell"


def test_turning_on_the_spot_smears_nothing():
    grid = RollingGrid(OPTIONS, EDGE)
    drive(grid, [pose(x=3.03, y=0.11, yaw=yaw) for yaw in np.linspace(0, 4 * np.pi, 150)])
    assert check_world(grid) > 12000
    cells, (x, y) = grid.cells(), centres(grid)
    # All around, not only ahead.
    inside = (np.hypot(x - 3.03, y - 0.11) < 4.0) & ~near(walls(x, y), 1)
    assert (cells[inside] == 0).all()


def test_a_winding_drive_and_back():
    grid = RollingGrid(OPTIONS, EDGE)
    there = [pose(0.4 * k, np.sin(k / 9), 0.6 * np.cos(k / 9)) for k in range(60)]
    turn = [pose(23.6, np.sin(59 / 9), 0.6 * np.cos(59 / 9) + angle) for angle in np.linspace(0, np.pi, 20)]
    drive(grid, [*there, *turn, *(at @ pose(yaw=np.pi) for at in there[::-1])])
    assert check_world(grid) > 12000


@pytest.mark.parametrize("yaw", np.linspace(0.1, 1.5, 9))
def test_not_the_smallest_obstacle_is_missed_however_the_vehicle_is_turned(yaw: float):
    """One occupied cell becomes at least one, and at most those around it."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        at = pose(*rng.uniform(-3, 3, 2), yaw)
        cells = np.zeros(SPEC.shape[1:], np.int8)
        row, column = rng.integers(5, 75, 2)
        cells[row, column] = 100
        grid = RollingGrid(OPTIONS, EDGE)
        grid.add(cells, SPEC, at, 0)
        x, y = centres(grid)
        found = grid.cells() == 100
        true = at[:2, :2] @ (SPEC.axes()[2][column], SPEC.axes()[1][row]) + at[:2, 3]
        distance = np.maximum(np.abs(x - true[0]), np.abs(y - true[1]))[found]
        assert 1 <= found.sum() <= 6 and distance.max() <= 1.01 * EDGE


def test_unknown_never_becomes_free_and_says_nothing():
    grid = RollingGrid(OPTIONS, EDGE)
    unknown = np.full(SPEC.shape[1:], -1, np.int8)
    for index in range(30):
        grid.add(unknown, SPEC, pose(0.3 * index, yaw=0.05 * index), index * TENTH)
    assert (grid.cells() == -1).all() and (grid.cells(GridOptions(mode="probability")) == -1).all()
    drive(grid, [pose()] * 5, start_ns=30 * TENTH)
    before = grid.cells()
    grid.add(unknown, SPEC, pose(), 36 * TENTH)
    np.testing.assert_array_equal(grid.cells(), before)


def test_what_is_not_seen_again_is_forgotten_and_never_turns_free():
    grid = RollingGrid(RollingOptions(size_m=50.0, forget_s=2.0), EDGE)
    drive(grid, [pose()] * 10)
    before = grid.cells()
    unknown = np.full(SPEC.shape[1:], -1, np.int8)
    for second in range(2, 30):
        grid.add(unknown, SPEC, pose(), 10**9 * second)
        now = grid.cells()
        assert ((now == before) | (now == -1)).all()
    assert (now == -1).all() and (grid.cells(GridOptions(mode="probability")) == -1).all()


def test_forgetting_goes_by_time_not_by_frames():
    slow, fast = (RollingGrid(RollingOptions(size_m=50.0, forget_s=2.0), EDGE) for _ in range(2))
    unknown = np.full(SPEC.shape[1:], -1, np.int8)
    for grid, frames in ((slow, 3), (fast, 30)):
        grid.add(seen(pose()), SPEC, pose(), 0)
        for index in range(1, frames + 1):
            grid.add(unknown, SPEC, pose(), index * 3 * 10**9 // frames)
    options = GridOptions(mode="probability")
    np.testing.assert_allclose(slow.cells(options), fast.cells(options), atol=1)


def test_a_moving_obstacle_is_forgotten_where_it_was():
    grid = RollingGrid(RollingOptions(size_m=50.0), EDGE)

    def world(x: np.ndarray, y: np.ndarray, frame: int) -> np.ndarray:
        return (np.abs(x - 5.0 - 0.8 * frame) < 1.0) & (np.abs(y) < 1.0)

    for frame in range(15):
        grid.add(seen(pose(), lambda x, y, now=frame: world(x, y, now)), SPEC, pose(), frame * TENTH)
    cells, (x, y) = grid.cells(), centres(grid)
    assert (cells[world(x, y, 14)] != 0).all()
    assert (cells[world(x, y, 13) & world(x, y, 14)] == 100).all(), "seen twice"
    # It left these places seven frames ago at least.
    trail = (np.abs(y) < 1.0) & (x > 4.0) & (x < 5.0 + 0.8 * 7 - 1.2)
    assert trail.sum() > 100 and (cells[trail] == 0).all()


def test_a_new_obstacle_is_occupied_after_two_frames_in_free_space():
    grid = RollingGrid(RollingOptions(size_m=50.0), EDGE)
    drive(grid, [pose()] * 50)
    blocked = np.full(SPEC.shape[1:], 100, np.int8)
    for index in range(50, 52):
        grid.add(blocked, SPEC, pose(), 10**9 + index * TENTH)
    assert (grid.cells()[90:160, 126:220] == 100).all()


def test_a_bag_played_twice_gives_the_same():
    grid = RollingGrid(RollingOptions(size_m=50.0), EDGE)
    path = [pose(0.5 * k, 0.02 * k, 0.01 * k) for k in range(20)]
    rounds = []
    for _ in range(3):
        afresh = [grid.add(seen(at), SPEC, at, 10**9 + k * TENTH) for k, at in enumerate(path)]
        rounds.append((grid.cells(), grid.origin_m))
        assert afresh == [len(rounds) > 1] + [False] * 19
    for cells, origin in rounds[1:]:
        assert origin == rounds[0][1]
        np.testing.assert_array_equal(cells, rounds[0][0])


@pytest.mark.parametrize(
    ("at", "after_ns", "afresh"),
    [
        (pose(40.0), TENTH, True),
        (pose(3.0, yaw=2.5), TENTH, True),
        (pose(5.0, yaw=0.3), TENTH, False),
        (pose(40.0), 10 * TENTH, False),
        (pose(), -TENTH, True),
        (pose(), 0, False),
    ],
)
def test_a_jump_of_pose_or_time_starts_afresh(at: np.ndarray, after_ns: int, afresh: bool):
    grid = RollingGrid(OPTIONS, EDGE)
    grid.add(seen(pose()), SPEC, pose(), 10**9)
    known = (grid.cells() >= 0).sum()
    nothing = np.full(SPEC.shape[1:], -1, np.int8)
    assert grid.add(nothing, SPEC, at, 10**9 + after_ns) is afresh
    assert ((grid.cells() >= 0).sum() == 0) == afresh or known == 0


@pytest.mark.parametrize(("metres", "radians", "limit_mps"), [(8.5, 0.0, 100.0), (0.0, 0.65, 60.0), (5.5, 0.65, 60.0)])
def test_fast_motion_that_poses_allow_is_no_jump(metres: float, radians: float, limit_mps: float):
    grid = RollingGrid(RollingOptions(size_m=50.0, max_speed_mps=limit_mps), EDGE)
    afresh = [
        grid.add(seen(at), SPEC, at, index * TENTH)
        for index, at in enumerate(pose(metres * step, yaw=radians * step) for step in range(10))
    ]
    assert not any(afresh)


def test_a_lower_limit_of_speed_is_kept():
    grid = RollingGrid(RollingOptions(size_m=50.0, max_speed_mps=10.0), EDGE)
    assert [grid.add(seen(pose(x)), SPEC, pose(x), int(x * TENTH)) for x in (0.0, 1.0, 2.0)] == [False] * 3
    assert grid.add(seen(pose(4.0)), SPEC, pose(4.0), 3 * TENTH)


def test_far_from_the_origin_nothing_drifts():
    """The same drive with its start elsewhere by whole cells gives the same cells."""
    near_by, far = RollingGrid(OPTIONS, EDGE), RollingGrid(OPTIONS, EDGE)
    for index in range(30):
        here = pose(0.37 * index, 0.05, 0.02 * index)
        there = here.copy()
        there[:2, 3] += (100_000.0, -50_000.0)
        cells = seen(here)
        near_by.add(cells, SPEC, here, index * TENTH)
        far.add(cells, SPEC, there, index * TENTH)
    np.testing.assert_allclose(np.subtract(far.origin_m, near_by.origin_m), (100_000.0, -50_000.0), atol=1e-6)
    assert (near_by.cells() == far.cells()).mean() > 0.999


def test_roll_and_pitch_shorten_what_is_seen_from_above():
    tilted = pose(pitch=np.radians(20), roll=np.radians(5))
    ahead = np.full(SPEC.shape[1:], -1, np.int8)
    ahead[38:42, 90:] = 100  # 18 to 20 m ahead
    grid = RollingGrid(OPTIONS, EDGE)
    grid.add(ahead, SPEC, tilted, 0)
    x, _ = centres(grid)
    found = x[grid.cells() == 100]
    assert abs(found.min() - 18 * np.cos(np.radians(20))) < 2 * EDGE
    assert abs(found.max() - 20 * np.cos(np.radians(20))) < 2 * EDGE


def test_probabilities_are_weighed():
    grid = RollingGrid(RollingOptions(size_m=50.0, hit=0.8, miss=0.3), EDGE)
    cells = np.full(SPEC.shape[1:], -1, np.int8)
    cells[:, :10], cells[:, 10:20], cells[:, 20:30], cells[:, 30:40] = 100, 75, 50, 0
    grid.add(cells, SPEC, pose(), 0)
    row = grid.cells(GridOptions(mode="probability"))[125, 125:175]
    assert (row[0], row[10], row[20], row[30], row[45]) == (80, 67, -1, 30, -1)


def test_memory_is_flat():
    grid = RollingGrid(RollingOptions(), EDGE)
    cells = seen(pose())
    for index in range(60):
        grid.add(cells, SPEC, pose(7.0 * index), index * TENTH)
    arrays = [value for value in vars(grid).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 1.1e6


def test_a_wrong_call_is_said_in_one_sentence():
    grid = RollingGrid(OPTIONS, EDGE)
    with pytest.raises(ValueError, match="expected \\(80, 100\\)"):
        grid.add(np.zeros((3, 3), np.int8), SPEC, pose(), 0)
    with pytest.raises(ValueError, match="tilted by 90 degrees.*must point up"):
        grid.add(seen(pose()), SPEC, pose(pitch=np.pi / 2), 0)
    with pytest.raises(ValueError, match="NaN"):
        grid.add(seen(pose()), SPEC, np.full((4, 4), np.nan), 0)
    assert (grid.cells() == -1).all()
    for wrong, text in (
        ({"size_m": 0.0}, "size_m"),
        ({"hit": 0.5}, "0.5 < hit"),
        ({"miss": 0.6}, "miss < 0.5"),
        ({"limits": (0.45, 0.95)}, "least <= miss"),
        ({"limits": (0.2, 0.7)}, "hit 0.75 <= greatest"),
        ({"forget_s": -1.0}, "forget_s"),
    ):
        with pytest.raises(ValueError, match=text):
            RollingOptions(**wrong)
    with pytest.raises(ValueError, match="got 1000.0 with cells of 0.2 m, expected 0.4 to 400"):
        RollingGrid(RollingOptions(size_m=1000.0), EDGE)
    OPTIONS.check_rule(GridOptions())
    with pytest.raises(ValueError, match="above grid.occupied_above 0.96"):
        OPTIONS.check_rule(GridOptions(occupied_above=0.96))
