"""A rolling occupancy grid in a fixed frame: what single grids of a moving vehicle say together. numpy only.

Every cell holds log-odds, as in Moravec and Elfes' occupancy grids: an occupied reading adds to them, a free one takes
away, an unknown one leaves them, and what is not seen again is forgotten by time. Cells lie at multiples of their edge
in the fixed frame, whatever the vehicle does: nothing is ever resampled twice, so nothing smears or drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kyn_models.motion_limits import MAX_SPEED_MPS, is_jump
from kyn_models.occupancy import GridOptions
from kyn_models.types import Float32Array, Float64Array, VoxelGridSpec, check_pose

MOST_CELLS = 4_000_000
NOTHING = 1e-3
"""Log-odds that say nothing any more."""
LEAST_UP = 0.7071
"""Cosine of the tilt at which a pose is refused: 45 degrees."""
SAMPLES = (-0.25, 0.25)
"""Where in a cell, in its edges from the centre, the vehicle's grid is asked, in both directions: half an edge apart,
so that no cell of that grid can lie between them, however it is turned."""


@dataclass(frozen=True)
class RollingOptions:
    """size_m: edge of the square around the vehicle. hit, miss: probability that a place is occupied after one occupied
    or one free reading of it. limits: least and greatest probability, so that a place can change its mind.
    forget_s: in this time half of what a cell holds is forgotten, seen or not; 0 never forgets. max_speed_mps: poses
    further apart than this speed allows are a jump."""

    size_m: float = 100.0
    hit: float = 0.75
    miss: float = 0.4
    limits: tuple[float, float] = (0.2, 0.95)
    forget_s: float = 5.0
    max_speed_mps: float = MAX_SPEED_MPS

    def __post_init__(self) -> None:
        if not (np.isfinite(self.size_m) and self.size_m > 0):
            raise ValueError(f"fusion.size_m: got {self.size_m}, expected a length above 0")
        if not 0.5 < self.hit < 1 or not 0 < self.miss < 0.5:
            raise ValueError(
                f"fusion.hit, fusion.miss: got {self.hit}, {self.miss}, expected 0.5 < hit < 1 and 0 < miss < 0.5"
            )
        if len(self.limits) != 2 or not 0 < self.limits[0] <= self.miss or not self.hit <= self.limits[1] < 1:
            raise ValueError(
                f"fusion.limits: got {tuple(self.limits)}, expected [least, greatest] with 0 < least <= miss "
                f"{self.miss} and hit {self.hit} <= greatest < 1"
            )
        if not (np.isfinite(self.forget_s) and self.forget_s >= 0):
            raise ValueError(f"fusion.forget_s: got {self.forget_s}, expected a time, or 0 to never forget")
        if not (np.isfinite(self.max_speed_mps) and self.max_speed_mps > 0):
            raise ValueError(f"max_speed_mps: got {self.max_speed_mps}, expected a speed above 0")

    def side(self, resolution_m: float) -> int:
        """Cells along an edge. Raises ``ValueError`` for fewer than two, or more than four million in all."""
        side, most = round(self.size_m / resolution_m), round(MOST_CELLS**0.5)
        if not 2 <= side <= most:
            raise ValueError(
                f"fusion.size_m: got {self.size_m} with cells of {resolution_m} m, expected {2 * resolution_m:g} to "
                f"{most * resolution_m:g}"
            )
        return side

    def check_rule(self, grid: GridOptions) -> None:
        """Raises ``ValueError`` if a cell could never become occupied, or free, by the rule of the grid."""
        if not (self.limits[0] < grid.free_below and grid.occupied_above < self.limits[1]):
            raise ValueError(
                f"fusion.limits: got {self.limits}, expected the least below grid.free_below {grid.free_below} and the "
                f"greatest above grid.occupied_above {grid.occupied_above}"
            )


class RollingGrid:
    """A square of cells around the vehicle, moved along by whole cells.

    resolution_m: edge of a cell. Raises ``ValueError`` as ``RollingOptions.side``.
    """

    def __init__(self, options: RollingOptions, resolution_m: float) -> None:
        self.options, self.resolution_m = options, float(resolution_m)
        self._side = options.side(resolution_m)
        self._hit, self._miss = _log_odds(options.hit), _log_odds(options.miss)
        self._least, self._most = (_log_odds(limit) for limit in options.limits)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._evidence: Float32Array = np.zeros((self._side, self._side), np.float32)
        self._corner = np.zeros(2, np.int64)
        self._last: tuple[int, Float64Array] | None = None

    @property
    def origin_m(self) -> tuple[float, float]:
        """x and y of the outer corner of cell (0, 0) in the fixed frame, multiples of the resolution."""
        x, y = self._corner * self.resolution_m
        return float(x), float(y)

    def add(self, grid: np.ndarray, spec: VoxelGridSpec, odom_from_base: np.ndarray, stamp_ns: int) -> bool:
        """Take one grid of the vehicle in.

        grid: (ny, nx) int8 of ``spec``, 0..100 from free to occupied (50 says nothing), -1 unknown. odom_from_base:
        (4, 4) float64, the vehicle's pose in a fixed frame whose z is up when the grid was seen; roll and pitch shorten
        the grid as seen from above. Returns True if it starts afresh with this one: the stamp goes back (a bag that
        loops), or the pose jumps farther than a vehicle moves in the time. The same calls give the same cells.
        Raises ``ValueError`` for another shape, and a pose that is no rigid transform or is tilted by over 45 degrees.
        """
        if grid.shape != spec.shape[1:]:
            raise ValueError(f"grid: got shape {grid.shape}, expected {spec.shape[1:]} as its spec says")
        pose = check_pose("odom_from_base", odom_from_base)
        if pose[2, 2] < LEAST_UP:
            raise ValueError(
                f"odom_from_base: got a vehicle tilted by {np.degrees(np.arccos(pose[2, 2])):.0f} degrees, expected at "
                "most 45; z of the pose's fixed frame must point up"
            )
        afresh = self._last is not None and _jumped(*self._last, stamp_ns, pose, self.options.max_speed_mps)
        if afresh:
            self.reset()
        seconds = 0.0 if self._last is None else (stamp_ns - self._last[0]) * 1e-9
        if self.options.forget_s > 0 and seconds > 0:
            self._evidence *= np.float32(0.5 ** (seconds / self.options.forget_s))
            # Numbers too small for float32's normal form take far longer to compute with.
            self._evidence[np.abs(self._evidence) < NOTHING] = 0
        self._last = (stamp_ns, pose)
        self._roll(pose)
        self._take(grid, spec, pose)
        return afresh

    def cells(self, options: GridOptions | None = None) -> np.ndarray:
        """(n, n) int8, rows along y and columns along x of the fixed frame, by the rule of the vehicle's grid: 100
        above ``occupied_above``, 0 below ``free_below``, else -1; in mode ``probability`` 0..100, and -1 where nothing
        is said."""
        options = options or GridOptions()
        if options.mode == "probability":
            percent = np.rint(100.0 / (1.0 + np.exp(-self._evidence))).astype(np.int8)
            return np.where(percent == 50, np.int8(-1), percent)
        cells = np.full(self._evidence.shape, -1, np.int8)
        cells[self._evidence > _log_odds(options.occupied_above)] = 100
        cells[self._evidence < _log_odds(options.free_below)] = 0
        return cells

    def _roll(self, pose: Float64Array) -> None:
        """Move the square by whole cells, so that the vehicle stands in its middle cell; new cells know nothing."""
        corner = np.floor(pose[:2, 3] / self.resolution_m).astype(np.int64) - self._side // 2
        shift, self._corner = corner - self._corner, corner
        if not shift.any():
            return
        moved: Float32Array = np.zeros_like(self._evidence)
        if (np.abs(shift) < self._side).all():
            (kept_y, kept_x), (from_y, from_x) = zip(
                *(_overlap(int(cells), self._side) for cells in shift[::-1]), strict=True
            )
            moved[kept_y, kept_x] = self._evidence[from_y, from_x]
        self._evidence = moved

    def _take(self, grid: np.ndarray, spec: VoxelGridSpec, pose: Float64Array) -> None:
        """Ask the vehicle's grid what it says about every cell here: no hole opens, however it is turned."""
        rows, columns = self._footprint(spec, pose)
        seen = self._evidence[rows, columns]
        # Unknown is 0 between free (-1) and occupied (1): of the places in a cell the most occupied one counts, and it
        # is free only where all of them are.
        readings = np.pad(np.where(grid < 0, 0.0, grid / 50.0 - 1.0).astype(np.float32), 1)
        edges = (
            np.arange(side.start, side.stop) + 0.5 + corner
            for side, corner in zip((rows, columns), self._corner[::-1], strict=True)
        )
        aside, ahead = (edge * self.resolution_m - at for edge, at in zip(edges, pose[1::-1, 3], strict=True))
        # In cells of the vehicle's grid, counted from the corner of the padding.
        turn = np.linalg.inv(pose[:2, :2])
        across = (turn[1, 0] * ahead + turn[1, 1] * aside[:, None] - spec.y_m[0]) / spec.resolution_m + 1
        along = (turn[0, 0] * ahead + turn[0, 1] * aside[:, None] - spec.x_m[0]) / spec.resolution_m + 1
        reading = np.full(seen.shape, -1.0, np.float32)
        for sample in np.array([(x, y) for x in SAMPLES for y in SAMPLES]) * (self.resolution_m / spec.resolution_m):
            dx, dy = turn @ sample
            asked = readings[_places(across + dy, readings.shape[0]), _places(along + dx, readings.shape[1])]
            np.maximum(reading, asked, out=reading)
        seen += np.where(reading > 0, reading * self._hit, -reading * self._miss)
        np.clip(seen, self._least, self._most, out=seen)

    def _footprint(self, spec: VoxelGridSpec, pose: Float64Array) -> tuple[slice, slice]:
        """Rows and columns of this grid that the vehicle's grid may lie over."""
        corners = np.array([(x, y) for x in spec.x_m for y in spec.y_m]) @ pose[:2, :2].T + pose[:2, 3]
        cells = corners / self.resolution_m - self._corner
        low = np.clip(np.floor(cells.min(axis=0)).astype(int), 0, self._side)
        high = np.clip(np.ceil(cells.max(axis=0)).astype(int), 0, self._side)
        return slice(low[1], high[1]), slice(low[0], high[0])


def _log_odds(probability: float) -> float:
    return float(np.log(probability / (1.0 - probability)))


def _places(cells: np.ndarray, count: int) -> np.ndarray:
    """Of ``count`` places along an axis those that these lie in; the first and the last one for all beyond."""
    return np.clip(cells, 0, count - 1).astype(np.int32)


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """Of an axis that moves on by ``shift`` cells: where what stays goes, and where it was."""
    return slice(max(0, -shift), side - max(0, shift)), slice(max(0, shift), side - max(0, -shift))


def _jumped(last_ns: int, last: Float64Array, now_ns: int, now: Float64Array, max_speed_mps: float) -> bool:
    seconds = (now_ns - last_ns) * 1e-9
    moved_m = float(np.linalg.norm(now[:3, 3] - last[:3, 3]))
    turned = float(np.arccos(np.clip((np.trace(last[:3, :3].T @ now[:3, :3]) - 1) / 2, -1, 1)))
    return seconds < 0 or is_jump(moved_m, turned, seconds, max_speed_mps)
