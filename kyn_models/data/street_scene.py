"""A synthetic street and its state at one time: pictures, depth, occupancy, lines of sight, lidar of one geometry.

World frame: x along the road's start, y left, z up, the road at z = 0. Everything is a function of seed, options and
time: the same question gives the same bytes, in any process and with any number of threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kyn_models.data import street_lens, street_queries, street_render
from kyn_models.data.mei_camera import MeiCamera
from kyn_models.data.street_layout import KNOT_M, Mover
from kyn_models.data.street_rays import NOTHING
from kyn_models.data.street_solids import placed
from kyn_models.types import Float32Array, Float64Array, Intrinsics, UInt8Array, check_pose

FRAME_S = 0.1
"""Seconds between frames, as in KITTI-360."""
Geometry = tuple[Float64Array, Float64Array, NDArray[np.int32], Float64Array, Float64Array]


def in_bands(work: Callable[[int, int], None], rows: int, threads: int | None) -> None:
    """Call work(first, last) over bands of rows on ``threads`` threads, None for one per core."""
    count = max(1, threads if threads is not None else os.cpu_count() or 1)
    if count == 1 or rows < 2:
        work(0, rows)
        return
    edges = np.linspace(0, rows, min(rows, 6 * count) + 1).astype(int)
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]:
            done.result()


@dataclass(frozen=True)
class Rendered:
    """One picture and its truth.

    image: (H, W, 3) uint8 RGB. depth_m: (H, W) float32 at pixel centres, along the optical axis of a pinhole camera,
    along the ray of a fisheye camera; +Inf sky, and what a fisheye camera's lens does not show.
    instances: (H, W) uint16, 0 ground and sky. moving: (H, W) bool, pixels on things that move.
    """

    image: UInt8Array
    depth_m: Float32Array
    instances: NDArray[np.uint16]
    moving: NDArray[np.bool_]


@dataclass(frozen=True)
class Ego:
    """How the own car drives: speed, lateral position, and slow random motion of its body."""

    speed_mps: float
    lateral_m: float
    sway: Float64Array
    """(4, 3, 3): lateral m, heading, pitch, roll rad; three waves of amplitude, angular frequency 1/s, phase."""


@dataclass(frozen=True)
class Scene:
    """A street at one time. See the module for the frame; ``threads`` None uses every core."""

    geometry: Geometry
    surfaces: Float64Array
    paint: Float64Array
    light: Float64Array
    look: Float64Array
    moves: NDArray[np.bool_]
    time_s: float
    threads: int | None = None

    def render(
        self,
        intrinsics: Intrinsics | MeiCamera,
        world_from_camera: Float64Array,
        *,
        smooth: bool = True,
        supersample: bool = False,
        max_range_m: float = 1000.0,
        noise_seed: int = 0,
        threads: int | None = None,
    ) -> Rendered:
        """A picture of a pinhole or fisheye camera, with depth and masks.

        smooth: more rays for colour where neighbouring pixels see different things; supersample: in every pixel.
        Depth and masks are those of the ray through the pixel's centre. noise_seed: the sensor's noise pattern.
        Raises ValueError on a pose that is not rigid.
        """
        pose = np.array(check_pose("world_from_camera", world_from_camera))
        lens = street_lens.lens_of(intrinsics)
        h, w = intrinsics.height, intrinsics.width
        rgb, depth, met = np.empty((h, w, 3), np.float32), np.empty((h, w), np.float32), np.empty((h, w), np.int32)
        image, fine = np.empty((h, w, 3), np.uint8), np.empty((h, w, 3), np.float32) if smooth or supersample else rgb
        scene = (*self.geometry, self.surfaces, self.paint, self.light, pose, lens, max_range_m)
        threads = threads if threads is not None else self.threads
        in_bands(lambda a, b: street_render.render_rows(*scene, a, b, rgb, depth, met), h, threads)
        if fine is not rgb:
            in_bands(lambda a, b: street_render.smooth_rows(*scene, a, b, rgb, met, supersample, fine), h, threads)
        in_bands(lambda a, b: street_render.develop_rows(fine, self.look, noise_seed, a, b, image), h, threads)
        instances = self.instances_of(met)
        return Rendered(image, depth, instances, self.moves[instances])

    def instances_of(self, met: NDArray[np.int32]) -> NDArray[np.uint16]:
        """Instance numbers of solids by index, 0 for ground and nothing."""
        numbers = np.where(met >= 0, self.surfaces[np.maximum(met, 0), 9], 0)
        return numbers.astype(np.uint16)

    def occupied(self, points_world: np.ndarray) -> NDArray[np.bool_]:
        """(N, 3) points in metres -> (N,) bool: inside a solid or the ground. Exact."""
        points = _points("points_world", points_world)
        out = np.empty(len(points), np.bool_)
        street_queries.occupied(*self.geometry, points, out)
        return out

    def line_of_sight(
        self, origins: np.ndarray, points: np.ndarray, *, paired: bool = False, threads: int | None = None
    ) -> NDArray[np.bool_]:
        """Whether the segment from origin to point touches nothing: (M, 3), (N, 3) -> (M, N) bool, paired: (N,)."""
        origins, points = _points("origins", origins), _points("points", points)
        if paired and len(origins) != len(points):
            raise ValueError(f"origins: got {len(origins)} for {len(points)} points, expected as many when paired")
        out = np.empty((len(points), 1 if paired else len(origins)), np.bool_)
        in_bands(
            lambda a, b: street_queries.visible(*self.geometry, origins, points, paired, a, b, out),
            len(points),
            threads if threads is not None else self.threads,
        )
        return out[:, 0] if paired else out.T

    def distance(self, origin: np.ndarray, rays: np.ndarray, max_range_m: float = 1000.0) -> Float64Array:
        """(N,) metres along (N, 3) unit rays in the world from one origin (3,) to what they meet, +Inf for nothing."""
        rays = _points("rays", rays)
        t, met, cosine = np.empty(len(rays)), np.empty(len(rays), np.int32), np.empty(len(rays))
        place = tuple(float(v) for v in origin)
        in_bands(
            lambda a, b: street_queries.ranges(*self.geometry, place, rays, max_range_m, a, b, t, met, cosine),
            len(rays),
            self.threads,
        )
        return np.where(met == NOTHING, np.inf, t)

    def lidar(
        self,
        world_from_velo: Float64Array,
        *,
        beams: int = 64,
        azimuths: int = 1800,
        vertical_deg: tuple[float, float] = (-24.8, 2.0),
        range_m: tuple[float, float] = (1.8, 80.0),
        noise_m: float = 0.0,
        seed: int = 0,
        threads: int | None = None,
    ) -> Float32Array:
        """One turn of a spinning lidar (Velodyne HDL-64E unless told otherwise).

        Returns (N, 4) float32: x, y, z in metres in the sensor's frame (x forward, y left, z up) and intensity 0..1,
        beam by beam from the top; rays without a return in range are left out. noise_m: standard deviation of ranges.
        """
        if beams < 1 or azimuths < 1:
            raise ValueError(f"lidar: got beams={beams}, azimuths={azimuths}, expected both at least 1")
        pose = check_pose("world_from_velo", world_from_velo)
        up = np.radians(np.linspace(vertical_deg[1], vertical_deg[0], beams))[:, None]
        turn = np.linspace(math.pi, -math.pi, azimuths, endpoint=False)[None]
        rays = np.stack([np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up) + 0 * turn], axis=-1).reshape(
            -1, 3
        )
        world = np.ascontiguousarray(rays @ pose[:3, :3].T)
        t, met, cosine = np.empty(len(rays)), np.empty(len(rays), np.int32), np.empty(len(rays))
        origin = tuple(float(v) for v in pose[:3, 3])
        in_bands(
            lambda a, b: street_queries.ranges(*self.geometry, origin, world, range_m[1], a, b, t, met, cosine),
            len(rays),
            threads if threads is not None else self.threads,
        )
        hit = (met != NOTHING) & (t >= range_m[0])
        albedo = np.where(met >= 0, self.surfaces[np.maximum(met, 0), 0:3].mean(axis=1), self.paint[0:3].mean())
        intensity = np.clip(1.6 * np.sqrt(albedo) * (0.25 + 0.75 * cosine), 0.0, 0.99)
        if noise_m > 0:
            t = t + np.random.default_rng(seed).normal(0.0, noise_m, len(t))
        scan = np.concatenate([rays * t[:, None], intensity[:, None]], axis=1)[hit]
        return scan.astype(np.float32)


@dataclass(frozen=True)
class Street:
    """A street with everything in it and a drive through it. Made by ``make_street``.

    kinds: name of every instance by its number (0 is none). frames: number of frames of the drive, at ``FRAME_S``.
    """

    seed: int
    style: str
    frames: int
    rows: Float64Array
    movers: tuple[Mover, ...]
    kinds: tuple[str, ...]
    centre: Float64Array
    road: Float64Array
    paint: Float64Array
    light: Float64Array
    look: Float64Array
    ego: Ego
    threads: int | None = None
    moves: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        moves = np.zeros(len(self.kinds), np.bool_)
        moves[[mover.instance for mover in self.movers]] = True
        object.__setattr__(self, "moves", moves)

    def pose(self, x: float, d: float) -> tuple[float, float, float]:
        """World (x, y, heading) on the road at position x, lateral distance d (positive left)."""
        u = min(max((x - self.road[0]) / KNOT_M, 0.0), len(self.centre) - 2.001)
        i, f = int(u), u - int(u)
        step = np.diff(self.centre[i : i + 3]) / KNOT_M
        # The heading turns evenly between the centre line's straight pieces, or the car would jerk at every metre.
        heading = math.atan(step[0] + f * (step[1] - step[0]))
        y = self.centre[i] + f * KNOT_M * step[0] + d * math.hypot(1.0, step[0])
        return x, float(y), heading

    def at(self, time_s: float) -> Scene:
        """The street at a time in seconds since the drive's first frame, movers in their places."""
        parts = [self.rows]
        for mover in self.movers:
            x, y, yaw = self.pose(mover.start_m + mover.speed_mps * time_s, mover.lateral_m)
            parts.append(placed(mover.rows, x, y, mover.height_m, yaw + (math.pi if mover.speed_mps < 0 else 0.0)))
        rows = np.concatenate(parts)
        solids = np.ascontiguousarray(rows[:, :12])
        order, bounds, links = street_queries.build_hierarchy(street_queries.solid_bounds(solids))
        geometry = (solids[order], bounds, links, self.centre, self.road)
        surfaces = np.ascontiguousarray(rows[order, 12:])
        return Scene(geometry, surfaces, self.paint, self.light, self.look, self.moves, time_s, self.threads)

    def world_from_base(self, time_s: float) -> Float64Array:
        """(4, 4) pose of the own car's base_link (on the road, between the axles; sways a little) at a time."""
        lateral, heading, pitch, roll = (
            float(sum(a * math.sin(w * time_s + p) for a, w, p in waves)) for waves in self.ego.sway
        )
        x, y, yaw = self.pose(self.ego.speed_mps * time_s, self.ego.lateral_m + lateral)
        pose = np.eye(4)
        pose[:3, :3] = rotation(roll, pitch, yaw + heading)
        pose[:3, 3] = (x, y, 0.0)
        return pose


def rotation(roll: float, pitch: float, yaw: float) -> Float64Array:
    """(3, 3) Rz(yaw) Ry(pitch) Rx(roll), radians (ROS fixed-axis convention)."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(v), math.sin(v)) for v in (roll, pitch, yaw))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def _points(name: str, points: np.ndarray) -> Float64Array:
    array = np.ascontiguousarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name}: got shape {array.shape}, expected (N, 3) coordinates in metres")
    return array
