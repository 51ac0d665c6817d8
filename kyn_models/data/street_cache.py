"""Rendered streets with what is true about them, stored once, read many times: the default model's training set.

Each item is a stereo pair of the canonical camera, the depth of both images, and points in front of each with what a
lidar protocol would say about them: *free* if a scanner saw through them from enough of the places that the vehicle
passes next (or the camera itself did), else *occupied*. That is the truth the published occupancy metric uses, and
the careful answer for what nobody has seen. numpy; the generator (numba) only while building.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kyn_models import config as configuration
from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.canonical import CanonicalCamera
from kyn_models.data.lidar_occupancy import TILT
from kyn_models.data.street_scene import FRAME_S, Street
from kyn_models.data.street_sensors import BASE_FROM_VELO, Mount, base_from_camera, random_mount
from kyn_models.data.streets import StreetOptions, make_street
from kyn_models.types import Intrinsics, VoxelGridSpec


@dataclass(frozen=True)
class CacheConfig:
    """pairs: stereo pairs in all. per_street: pairs taken from one street. first_seed: of the first street.

    points: labelled points per image. scans: places along the drive that a scanner looks from. free_scans: how many of
    them must see through a point to call it free. nominal_share: share of streets with KITTI-360's own mount; the
    mounts of the others vary with ``mount_strength`` (see ``random_mount``). near_share: share of the points that lie
    evenly in inverse depth along rays, most of them near; they come out of those spread over the volume.
    """

    pairs: int = 2000
    per_street: int = 4
    first_seed: int = 10_000
    points: int = 4096
    scans: int = 12
    free_scans: int = 3
    nominal_share: float = 0.5
    mount_strength: float = 0.6
    near_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.near_share <= 0.4:
            raise ValueError(f"streets.near_share: got {self.near_share}, expected 0 to 0.4")


class StreetCache:
    """A stored training set: ``len()`` images, twice as many as pairs; arrays are memory maps.

    images (pairs, 2, H, W, 3) uint8; depth (pairs, 2, H, W) float16, +Inf sky; points (pairs, 2, P, 3) float32 camera
    axes; occupied (pairs, 2, P) uint8; right_from_left (pairs, 4, 4) float64; base_from_camera (pairs, 2, 4, 4).
    """

    NAMES = ("images", "depth", "points", "occupied", "right_from_left", "base_from_camera")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "done.json").is_file():
            raise FileNotFoundError(f"{self.path}: holds no complete street cache, expected one that `kyn train` made")
        content = json.loads((self.path / "done.json").read_text())
        self.config = configuration.from_mapping(CacheConfig, content, str(self.path / "done.json"))
        self.arrays = {name: np.load(self.path / f"{name}.npy", mmap_mode="r") for name in self.NAMES}

    def __len__(self) -> int:
        return 2 * self.config.pairs


def build(path: str | Path, config: CacheConfig, progress: Callable[[int], None] = lambda done: None) -> StreetCache:
    """Render the set into ``path``; goes on where an interrupted build stopped. ``progress`` receives pairs done.

    Raises ``ValueError`` if ``path`` holds a set of another configuration.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    state = path / "building.json"
    wanted = configuration.to_mapping(config)
    if (path / "done.json").is_file():
        _same(json.loads((path / "done.json").read_text()), wanted, path)
        return StreetCache(path)
    started = json.loads(state.read_text()) if state.is_file() else None
    if started is not None:
        _same(started["config"], wanted, path)
    arrays = _allocate(path, config, "w+" if started is None else "r+")
    first = 0 if started is None else int(started["pairs"])
    for pair, values in _pairs(config, first):
        for name, value in values.items():
            arrays[name][pair] = value
        if (pair + 1) % config.per_street == 0 or pair + 1 == config.pairs:
            for array in arrays.values():
                array.flush()
            state.write_text(json.dumps({"config": wanted, "pairs": pair + 1}))
        progress(pair + 1)
    (path / "done.json").write_text(json.dumps(wanted))
    return StreetCache(path)


def _same(found: dict, wanted: dict, path: Path) -> None:
    if found != wanted:
        names = [name for name in wanted if found.get(name) != wanted[name]]
        raise ValueError(f"{path}: holds streets of another configuration ({', '.join(names)}), choose another folder")


def _allocate(path: Path, config: CacheConfig, mode: str) -> dict[str, np.memmap]:
    camera = CanonicalCamera(KITTI360_CAMERA)
    n, size = config.pairs, (camera.height, camera.width)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "images": ((n, 2, *size, 3), np.uint8),
        "depth": ((n, 2, *size), np.float16),
        "points": ((n, 2, config.points, 3), np.float32),
        "occupied": ((n, 2, config.points), np.uint8),
        "right_from_left": ((n, 4, 4), np.float64),
        "base_from_camera": ((n, 2, 4, 4), np.float64),
    }
    return {
        name: np.lib.format.open_memmap(path / f"{name}.npy", mode=mode, dtype=dtype, shape=shape)
        for name, (shape, dtype) in shapes.items()
    }


def _pairs(config: CacheConfig, first: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Index and arrays of every pair from ``first`` on; pairs of one street lie apart along its drive."""
    camera = CanonicalCamera(KITTI360_CAMERA)
    for start in range(first - first % config.per_street, config.pairs, config.per_street):
        seed = config.first_seed + start // config.per_street
        street = make_street(seed, StreetOptions(drive_m=16.0 * config.per_street))
        places = np.linspace(0, street.frames - 1, config.per_street).astype(int)
        draw = np.random.default_rng((seed, 0))
        nominal = draw.uniform() < config.nominal_share
        mount = Mount() if nominal else random_mount(draw, config.mount_strength)
        for pair in range(max(first, start), min(start + config.per_street, config.pairs)):
            rng = np.random.default_rng((seed, 1 + pair - start))
            yield pair, _pair(street, int(places[pair - start]), camera, mount, config, rng)


def _pair(
    street: Street, frame: int, camera: CanonicalCamera, mount: Mount, config: CacheConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    scene = street.at(frame * FRAME_S)
    world_from_base = street.world_from_base(frame * FRAME_S)
    scanners = [street.world_from_base((frame + ahead) * FRAME_S) @ BASE_FROM_VELO for ahead in range(config.scans)]
    mounts = [base_from_camera(name, mount) for name in ("00", "01")]
    values: dict[str, list[np.ndarray]] = {name: [] for name in ("images", "depth", "points", "occupied")}
    for side, base_from in enumerate(mounts):
        world_from_camera = world_from_base @ base_from
        rendered = scene.render(camera.intrinsics, world_from_camera, noise_seed=2 * frame + side)
        points = _points(rng, config, rendered.depth_m, camera, base_from)
        world = points @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
        sees = scene.line_of_sight(np.stack([pose[:3, 3] for pose in scanners]), world)
        free = sees.sum(axis=0) >= config.free_scans
        free |= scene.line_of_sight(world_from_camera[None, :3, 3], world)[0]
        values["images"].append(rendered.image)
        values["depth"].append(rendered.depth_m.astype(np.float16))
        values["points"].append(points.astype(np.float32))
        values["occupied"].append((~free).astype(np.uint8))
    return {
        **{name: np.stack(parts) for name, parts in values.items()},
        "right_from_left": np.linalg.inv(mounts[1]) @ mounts[0],
        "base_from_camera": np.stack(mounts),
    }


def _points(
    rng: np.random.Generator,
    config: CacheConfig,
    depth: np.ndarray,
    camera: CanonicalCamera,
    base_from_camera: np.ndarray,
) -> np.ndarray:
    """(points, 3) in view: two fifths in the metric's slab, two fifths in the volume or near, one at surfaces."""
    count, near = config.points, round(config.near_share * config.points)
    slab = rng.uniform((-4, 0, 4), (4, 0.75, 50), (8 * count, 3)) @ TILT[:3, :3]
    grid = VoxelGridSpec()
    low, high = zip(grid.x_m, grid.y_m, grid.z_m, strict=True)
    camera_from_base = np.linalg.inv(base_from_camera)
    volume = rng.uniform(low, high, (8 * count, 3)) @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]
    k = camera.intrinsics
    rows, columns = rng.integers(0, k.height, 4 * count), rng.integers(0, k.width, 4 * count)
    z = depth[rows, columns].astype(np.float64)
    z = np.where(np.isfinite(z), z, rng.uniform(3, 80, len(z))) * (1 + 0.08 * rng.standard_normal(len(z)))
    surface = _on_rays(rows, columns, z, k)
    fifths = 2 * count // 5
    shares = [(slab, fifths), (volume, fifths - near), (surface, count - 2 * fifths)]
    if near:
        rows, columns = rng.integers(0, k.height, 2 * near), rng.integers(0, k.width, 2 * near)
        shares.insert(2, (_on_rays(rows, columns, 1 / rng.uniform(1 / 50, 1 / 3, len(rows)), k), near))
    # Where little is in view (a lorry right ahead), points are asked about more than once.
    return np.concatenate([np.resize(_in_view(points, k), (share, 3)) for points, share in shares])


def _on_rays(rows: np.ndarray, columns: np.ndarray, z: np.ndarray, k: Intrinsics) -> np.ndarray:
    return np.stack([(columns - k.cx) / k.fx * z, (rows - k.cy) / k.fy * z, z], axis=-1)


def _in_view(points: np.ndarray, k: Intrinsics) -> np.ndarray:
    points = points[(points[:, 2] > 3) & (points[:, 2] < 78)]
    column, row = points[:, 0] / points[:, 2] * k.fx + k.cx, points[:, 1] / points[:, 2] * k.fy + k.cy
    return points[(column > -0.5) & (column < k.width - 0.5) & (row > -0.5) & (row < k.height - 0.5)]
