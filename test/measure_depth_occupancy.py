"""How far occupancy from depth can be trusted: python test/measure_depth_occupancy.py [--streets N] [--seed S]

Synthetic streets are rendered with the camera of KITTI-360 (640x192) and that of KITTI odometry (512x256). Their exact
depth, sky and what is beyond 80 m as +Inf, is made wrong in five ways, becomes a grid of the default size, and is
compared with the exact geometry. The table in docs/depth_occupancy.md is what this prints. The seeds are fixed, so two
runs print the same table; the last line is a time, which depends on the machine. Streets need numba.

A *column* is one cell of the grid with everything over it in the band of heights that counts: the layers of the volume
whose centres are from 0.3 to 2 m above z = 0 of base_link, with the default grid 0.2 to 2 m. It *holds something* where
one of the points that lie in it 5 cm apart along x and y and 10 cm along z is inside a solid and more than 0.25 m above
the street, whose road is at height 0 exactly (the car's body, and so base_link, sways). What is lower is ground. It is
*free and seen* where it holds nothing, and the centre of each of its cells is in the image, 3 to 80 m away along the
optical axis, and in an exact line of sight from the camera. Three measures, of all pictures of a camera together:

1. of the columns that the grid calls free (0), the share that hold something;
2. of the columns that the grid calls occupied (100), the share from whose centre the centre of the next column that
   holds something is more than 0.25 m away (so it is neither this one nor one of the four that share a side with it),
   and more than 1 m; what stands up to 1 m outside the grid counts as something;
3. of the columns that are free and seen, the share that the grid calls free.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kyn_models.artifact import KITTI360_CAMERA, forward_mount
from kyn_models.data.streets import Scene, Streets, StreetsOptions, base_from_camera
from kyn_models.depth_occupancy import DepthCells, depth_to_occupancy
from kyn_models.models import dymultidepth_official
from kyn_models.occupancy import GridOptions, band_layers
from kyn_models.types import Float32Array, Float64Array, Intrinsics, VoxelGridSpec

SPEC, OPTIONS = VoxelGridSpec(), GridOptions()
REACH = (3.0, 80.0)
"""Depths in metres between which cells are looked at; beyond the second a model says sky."""
SEED = 950_000
"""The first street: no configuration of config/train, no default of a command and no other test uses these."""
MARGIN = 5
"""Columns around the grid in which something may stand: 1 m."""
GROUND_M = 0.25
OFF_M = (0.25, 1.0)

Bools = NDArray[np.bool_]
Rig = tuple[Intrinsics, Float64Array]
"""A camera and its mount, base_from_camera (4, 4)."""
Wrong = Callable[[Float32Array, np.random.Generator], np.ndarray]


class Truth(NamedTuple):
    """Of every column of a grid (ny, nx): metres to the next one that holds something, 0 in it; is it free and seen."""

    away_m: Float32Array
    seen: Bools


class Counts(NamedTuple):
    """Numbers of columns: called free, of these with something; called occupied, of these with nothing within each of
    ``OFF_M``; free and seen, of these called free."""

    free: int
    held: int
    occupied: int
    off: int
    far_off: int
    seen: int
    found: int


def pixel_noise(depth: Float32Array, rng: np.random.Generator) -> np.ndarray:
    """Every pixel wrong on its own, with a standard deviation of 5 %."""
    return depth * (1 + 0.05 * rng.standard_normal(depth.shape))


def patch_noise(depth: Float32Array, rng: np.random.Generator) -> np.ndarray:
    """Wrong by smooth patches of about 16 pixels, with a standard deviation of 5 %."""
    coarse = rng.standard_normal((depth.shape[0] // 16, depth.shape[1] // 16))
    noise = cv2.resize(coarse, depth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return depth * (1 + 0.05 * noise / noise.std())


def blurred_edges(depth: Float32Array, rng: np.random.Generator) -> np.ndarray:
    """Inverse depth, which is what networks predict, blurred by a Gaussian of 1.2 pixels."""
    with np.errstate(divide="ignore"):
        return 1 / cv2.GaussianBlur(1 / depth, (0, 0), 1.2)


KINDS: dict[str, Wrong] = {
    "exact": lambda depth, rng: depth,
    "5 % noise of single pixels": pixel_noise,
    "5 % noise of patches of 16 pixels": patch_noise,
    "edges blurred (1.2 pixels)": blurred_edges,
    "5 % too far": lambda depth, rng: depth * 1.05,
    "5 % too near": lambda depth, rng: depth * 0.95,
}


def rigs() -> tuple[Rig, Rig]:
    """KITTI-360's camera 00 where its car carries it, and KITTI odometry's, level, above the origin of base_link."""
    odometry = dymultidepth_official.CAMERA
    return (
        (KITTI360_CAMERA.resized(640, 192), base_from_camera("00")),
        (odometry.source.resized(odometry.width, odometry.height), forward_mount(odometry.height_m, 0.0)),
    )


def truth_of(holds: Bools, free: Bools, resolution_m: float) -> Truth:
    """holds: (ny + 2 MARGIN, nx + 2 MARGIN), does a column hold something. free: (layers, ny, nx) of the band, is a
    cell's centre in view and in sight."""
    inner = np.s_[MARGIN:-MARGIN, MARGIN:-MARGIN]
    cells = cv2.distanceTransform((~holds).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return Truth((cells * np.float32(resolution_m))[inner], free.all(axis=0) & ~holds[inner])


def measure(grid: np.ndarray, truth: Truth) -> Counts:
    """Compare a grid (ny, nx) int8 of 0 free, 100 occupied, -1 unknown with the truth."""
    free, occupied = grid == 0, grid == 100
    # A millimetre more, so that what is exactly that far away counts as within, whatever rounding does.
    off = [occupied & (truth.away_m > limit + 1e-3) for limit in OFF_M]
    columns = (free, free & (truth.away_m == 0), occupied, *off, truth.seen, truth.seen & free)
    return Counts(*(int(np.count_nonzero(part)) for part in columns))


def columns_that_hold(scene: Scene, world_from_base: Float64Array) -> Bools:
    """(ny + 2 MARGIN, nx + 2 MARGIN) for the default grid."""
    step = SPEC.resolution_m
    places = [
        np.arange(low - MARGIN * step + step / 8, high + MARGIN * step, step / 4) for low, high in (SPEC.y_m, SPEC.x_m)
    ]
    y, x = (axis.ravel() for axis in np.meshgrid(*places, indexing="ij"))
    found = np.zeros(len(x), dtype=bool)
    layers = band_layers(SPEC, OPTIONS)
    for centre in SPEC.axes()[0][layers.start : layers.stop]:
        for z in (centre - step / 4, centre + step / 4):
            points = np.stack([x, y, np.full_like(x, z)], axis=1) @ world_from_base[:3, :3].T + world_from_base[:3, 3]
            asked = np.flatnonzero(~found & (points[:, 2] > GROUND_M))
            found[asked] = scene.occupied(points[asked])
    return np.asarray(found.reshape(len(places[0]) // 4, 4, len(places[1]) // 4, 4).any(axis=(1, 3)))


def cells_in_sight(scene: Scene, world_from_base: Float64Array, view: DepthCells) -> Bools:
    """(layers, ny, nx) of the band: is the centre of a cell in view and in sight of the camera."""
    layers = band_layers(SPEC, OPTIONS)
    per_layer = SPEC.shape[1] * SPEC.shape[2]
    index = view.index[(view.index >= layers.start * per_layer) & (view.index < layers.stop * per_layer)]
    centres = SPEC.centres().reshape(-1, 3)[index]
    points, eye = (places @ world_from_base[:3, :3].T + world_from_base[:3, 3] for places in (centres, view.origin))
    free = np.zeros(len(layers) * per_layer, dtype=bool)
    free[index - layers.start * per_layer] = scene.line_of_sight(eye[None], points)[0]
    return free.reshape(len(layers), *SPEC.shape[1:])


def measured(streets: Streets, rig: Rig, holds: list[Bools]) -> tuple[dict[str, Counts], list[float]]:
    """Counts over all streets of every kind of depth, and the seconds of processor time of every call."""
    camera, mount = rig
    view = DepthCells.of(SPEC, mount, camera, REACH)
    counts, seconds = {kind: Counts(*[0] * len(Counts._fields)) for kind in KINDS}, []
    for number in range(len(streets)):
        scene, world_from_base = streets.scene(number), streets.world_from_base(number)
        exact = scene.render(camera, world_from_base @ mount, smooth=False).depth_m
        exact = np.where(exact > REACH[1], np.float32(np.inf), exact)
        truth = truth_of(holds[number], cells_in_sight(scene, world_from_base, view), SPEC.resolution_m)
        for kind, wrong in KINDS.items():
            depth = np.asarray(wrong(exact, np.random.default_rng(streets.street(number).seed)), dtype=np.float32)
            depth[depth > REACH[1]] = np.inf
            began = time.process_time()
            grid = depth_to_occupancy(depth, view, OPTIONS).grid
            seconds.append(time.process_time() - began)
            counts[kind] = Counts(*(a + b for a, b in zip(counts[kind], measure(grid, truth), strict=True)))
    return counts, seconds


def share(part: int, whole: int, digits: int) -> str:
    """part / whole, or a dash where there is none of which it could be a share."""
    return f"{part / whole:.{digits}f}" if whole else "-"


def row(kind: str, cameras: Iterable[Counts]) -> str:
    """One line of the table: the three measures, each of one camera after the other."""
    cameras = list(cameras)
    columns = (
        [share(c.held, c.free, 5) for c in cameras],
        [f"{share(c.off, c.occupied, 2)} / {share(c.far_off, c.occupied, 3)}" for c in cameras],
        [share(c.found, c.seen, 2) for c in cameras],
    )
    return f"| {kind} | " + " | ".join(", ".join(column) for column in columns) + " |"


def main(argv: list[str] | None = None) -> int:
    """Print the table in Markdown, KITTI-360's camera first, and the time of one depth map."""
    parser = argparse.ArgumentParser(description="Measure occupancy from depth on synthetic streets.")
    parser.add_argument("--streets", metavar="N", type=int, default=8, help="number of streets (default: 8)")
    parser.add_argument("--seed", metavar="S", type=int, default=SEED, help=f"of the first street (default: {SEED})")
    args = parser.parse_args(argv)
    if args.streets < 1:
        parser.error(f"--streets: got {args.streets}, expected at least 1")
    streets = Streets(StreetsOptions(args.streets, frames_per_street=1, first_seed=args.seed))
    holds = [columns_that_hold(streets.scene(n), streets.world_from_base(n)) for n in range(len(streets))]
    results = [measured(streets, rig, holds) for rig in rigs()]
    print("| depth | free columns that hold something | occupied columns with nothing within 0.25 m / 1 m", end="")
    print(" | columns free and seen that are found |\n|---|---|---|---|")
    for kind in KINDS:
        print(row(kind, (counts[kind] for counts, _ in results)))
    seconds = [second for _, times in results for second in times]
    median_ms = 1000 * np.median(seconds)
    print(f"\ndepth_to_occupancy: {median_ms:.0f} ms of processor time, the median of {len(seconds)} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
