"""Synthetic streets against themselves: one geometry must answer every question alike."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kyn_models.data import street_compile, street_queries, street_rays
from kyn_models.data.street_scene import Rendered, Scene, Street
from kyn_models.data.street_sensors import BASE_FROM_VELO, BASELINE_M, INTRINSICS, Mount, base_from_camera
from kyn_models.data.streets import StreetOptions, Streets, StreetsOptions, make_street
from kyn_models.types import Intrinsics

CAMERA = INTRINSICS.resized(640, 192)
TIME_S = 1.3
DIGEST = """
import runpy, sys
print(runpy.run_path(sys.argv[1])["digest"](int(sys.argv[2]), int(sys.argv[3])))
"""


def digest(seed: int, threads: int) -> str:
    """SHA-256 of everything one street shows at one time."""
    street = make_street(seed, StreetOptions(threads=threads))
    scene, pose = street.at(TIME_S), street.world_from_base(TIME_S)
    picture = scene.render(INTRINSICS.resized(160, 48), pose @ base_from_camera("00"), noise_seed=3)
    scan = scene.lidar(pose @ BASE_FROM_VELO, azimuths=90, noise_m=0.02, seed=1)
    arrays = (street.rows, picture.image, picture.depth_m, picture.instances, picture.moving, scan)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module", params=[3, 16])
def street(request: pytest.FixtureRequest) -> Street:
    return make_street(request.param)


@pytest.fixture(scope="module")
def scene(street: Street) -> Scene:
    quiet = street.look.copy()
    quiet[6:8] = 0.0  # no vignette, no noise: what is left are the colours of the surfaces
    return dataclasses.replace(street.at(TIME_S), look=quiet)


@pytest.fixture(scope="module")
def left(street: Street) -> np.ndarray:
    return street.world_from_base(TIME_S) @ base_from_camera("00")


@pytest.fixture(scope="module")
def picture(scene: Scene, left: np.ndarray) -> Rendered:
    return scene.render(CAMERA, left)


def rays(camera: Intrinsics = CAMERA) -> np.ndarray:
    """(H, W, 3) points at depth 1 through the pixel centres."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(float)
    return np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], axis=-1)


def in_world(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ pose[:3, :3].T + pose[:3, 3]


def project(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) u, v, z of world points in ``CAMERA``."""
    p = (points - pose[:3, 3]) @ pose[:3, :3]
    z = np.maximum(p[:, 2], 1e-6)
    return np.stack([p[:, 0] / z * CAMERA.fx + CAMERA.cx, p[:, 1] / z * CAMERA.fy + CAMERA.cy, p[:, 2]], axis=1)


def bilinear(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    i, j = np.floor(v).astype(int), np.floor(u).astype(int)
    a, b = (v - i).reshape(-1, *[1] * (image.ndim - 2)), (u - j).reshape(-1, *[1] * (image.ndim - 2))
    top = image[i, j] * (1 - b) + image[i, j + 1] * b
    return top * (1 - a) + (image[i + 1, j] * (1 - b) + image[i + 1, j + 1] * b) * a


def flat(picture: Rendered) -> np.ndarray:
    """(H, W) pixels around which inverse depth is affine and the instance the same: no edge within two pixels."""
    far = np.minimum(picture.depth_m.astype(float), 1e4)
    inverse = 1.0 / far
    bend = np.full(inverse.shape, np.inf)
    bend[1:-1, 1:-1] = np.maximum(
        abs(inverse[1:-1, 2:] + inverse[1:-1, :-2] - 2 * inverse[1:-1, 1:-1]),
        abs(inverse[2:, 1:-1] + inverse[:-2, 1:-1] - 2 * inverse[1:-1, 1:-1]),
    )
    same = np.isfinite(picture.depth_m) & (bend * far < 2e-4)
    for axis in (0, 1):
        for step in (1, -1):
            same &= np.roll(picture.instances, step, axis) == picture.instances
    wide = same.copy()
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            wide &= np.roll(same, (di, dj), (0, 1))
    return wide


def test_same_seed_is_byte_identical_in_another_process_and_with_other_threads() -> None:
    here = digest(5, threads=1)
    command = [sys.executable, "-c", DIGEST, __file__, "5", "3"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    other = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=240)
    assert other.stdout.strip() == here
    assert digest(6, threads=1) != here


@pytest.mark.parametrize("kind", [street_rays.BOX, street_rays.ELLIPSOID, street_rays.CONE, street_rays.WHEEL])
def test_rays_and_points_agree_about_every_kind_of_solid(kind: int) -> None:
    rng = np.random.default_rng(kind)
    boxes = np.empty((200, 12))
    for row in boxes:
        yaw = rng.uniform(-4, 4)
        taper = rng.uniform(-0.5, 1.0, 3) if kind in (street_rays.BOX, street_rays.CONE) else np.zeros(3)
        row[:] = (*rng.normal(size=3), *rng.uniform(0.1, 2, 3), np.cos(yaw), np.sin(yaw), *taper, kind)
    bounds = street_queries.solid_bounds(boxes)
    hits = 0
    for i in range(len(boxes)):
        for _ in range(20):
            origin = boxes[i, :3] + rng.normal(size=3) * 3
            aim = boxes[i, :3] + rng.uniform(-1, 1, 3) * boxes[i, 3:6] - origin
            if rng.random() < 0.2:
                aim = np.array((0.0, 0.0, -1.0)) if rng.random() < 0.5 else np.array((1e-9, 0.0, 2.0))
            t0, t1 = street_rays.span(boxes, i, *origin, *aim)
            for t in np.append(rng.uniform(-1, 3, 20), (t0 - 1e-6, t0 + 1e-6, t1 - 1e-6, t1 + 1e-6)):
                if min(abs(t - t0), abs(t - t1)) < 1e-8 or abs(t) > 100:
                    continue
                point = origin + t * aim
                assert street_rays.inside(boxes, i, *point) == (t0 <= t <= t1), (boxes[i], origin, aim, t0, t1, t)
                if t0 <= t <= t1:
                    assert (point >= bounds[i, :3] - 1e-9).all() and (point <= bounds[i, 3:] + 1e-9).all()
            hits += t0 < t1
    assert hits > 2000


def test_hierarchy_finds_the_first_solid_of_all(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    solids = scene.geometry[0]
    for _ in range(150):
        origin, aim = rng.uniform((0, -8, 0.5), (60, 8, 4)), rng.normal(size=3)
        aim /= np.linalg.norm(aim)
        spans = np.array([street_rays.span(solids, i, *origin, *aim) for i in range(len(solids))])
        first = np.where((spans[:, 0] <= spans[:, 1]) & (spans[:, 0] > 0), spans[:, 0], np.inf).min()
        ground = street_rays.ground_hit(*scene.geometry[3:], *origin, *aim, 200.0)
        t, met = street_rays.closest(*scene.geometry, *origin, *aim, 200.0)
        assert t == min(first, ground, 200.0)
        assert (met == street_rays.GROUND) == (ground < min(first, 200.0))


def test_lidar_agrees_with_the_depth_image(street: Street, scene: Scene, left: np.ndarray, picture: Rendered) -> None:
    velo = street.world_from_base(TIME_S) @ BASE_FROM_VELO
    scan = scene.lidar(velo, azimuths=3600)
    uvz = project(left, in_world(velo, scan[:, :3].astype(float)))
    inside = (uvz[:, 2] > 0.5) & (uvz[:, :2] >= 2).all(axis=1)
    inside &= (uvz[:, 0] < CAMERA.width - 3) & (uvz[:, 1] < CAMERA.height - 3)
    u, v, z = uvz[inside].T
    even = flat(picture)[np.round(v).astype(int), np.round(u).astype(int)]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 1.0 / bilinear(1.0 / picture.depth_m.astype(float), u, v)
    # The laser stands elsewhere than the camera: what it sees past the camera's edge is not in the picture.
    seen = scene.line_of_sight(left[None, :3, 3], in_world(velo, scan[inside, :3].astype(float)))[0]
    error = abs(depth - z)[even & seen]
    assert len(error) > 5000
    assert np.quantile(error, 0.999) < 0.02
    assert np.median(error) < 0.001


def test_stereo_warp_by_true_depth_agrees_in_colour(
    street: Street, scene: Scene, left: np.ndarray, picture: Rendered
) -> None:
    right_pose = street.world_from_base(TIME_S) @ base_from_camera("01")
    assert np.linalg.norm(right_pose[:3, 3] - left[:3, 3]) == pytest.approx(BASELINE_M, abs=1e-6)
    right = scene.render(CAMERA, right_pose)

    def difference(scale: float) -> np.ndarray:
        good = flat(picture) & (picture.depth_m < 60) & ~picture.moving
        uvz = project(right_pose, in_world(left, rays()[good] * picture.depth_m[good, None] * scale))
        ok = (uvz[:, :2] >= 1).all(axis=1) & (uvz[:, 0] < CAMERA.width - 2) & (uvz[:, 1] < CAMERA.height - 2)
        u, v, z = uvz[ok].T
        if scale == 1.0:
            free = abs(right.depth_m[np.round(v).astype(int), np.round(u).astype(int)] - z) < 0.05 * z
        else:
            free = np.ones(len(u), bool)
        colours = bilinear(right.image.astype(float), u[free], v[free])
        return abs(colours - picture.image[good][ok][free]).mean(axis=1)

    true, wrong = difference(1.0), difference(1.25)
    assert len(true) > 10_000
    assert np.median(true) < 4 and np.quantile(true, 0.9) < 16
    assert np.median(wrong) > 2 * np.median(true)


def test_occupancy_and_sight_agree_with_depth(scene: Scene, left: np.ndarray, picture: Rendered) -> None:
    near = picture.depth_m < 80
    directions, depth = rays()[near], picture.depth_m[near, None].astype(float)
    before, behind = (in_world(left, directions * (depth + step)) for step in (-0.01, 0.01))
    assert not scene.occupied(before).any()
    # Behind the surface is solid, but for rays that graze one and leave it within a centimetre.
    assert scene.occupied(behind).mean() > 0.985
    eye = left[None, :3, 3]
    assert scene.line_of_sight(eye, before).all()
    assert not scene.line_of_sight(eye, behind).any()
    assert (scene.line_of_sight(np.repeat(eye, len(behind), 0), before, paired=True)).all()


def test_sight_from_many_places_is_sight_from_each(scene: Scene, left: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    points = in_world(left, rng.uniform((-8, -2, 3), (8, 1.5, 30), (400, 3)))
    eyes = left[:3, 3] + np.arange(4)[:, None] * (1.0, 0.0, 0.0)
    many = scene.line_of_sight(eyes, points)
    assert many.shape == (4, 400) and 0.05 < many.mean() < 0.95
    for eye, row in zip(eyes, many, strict=True):
        assert (scene.line_of_sight(eye[None], points, threads=1)[0] == row).all()
    assert not many[:, scene.occupied(points)].any()


def test_ground_has_a_kerb_step(street: Street, scene: Scene) -> None:
    x, heights = 30.0, []
    for d in (0.0, street.road[2] + 2.0):
        at_x, at_y, _ = street.pose(x, d)
        column = np.stack([np.full(400, at_x), np.full(400, at_y), np.linspace(-0.2, 0.2, 400)], axis=1)
        edge, lateral = street_rays.road_edge(street.centre, street.road, at_x, at_y)
        assert lateral == pytest.approx(d, abs=0.02)
        full = [
            z < 0.0 or (z < street.road[4] and edge >= 0.0) or bool(scene.occupied(p[None])[0])
            for p, z in zip(column, column[:, 2], strict=True)
        ]
        assert (scene.occupied(column) == full).all()
        heights.append(column[scene.occupied(column), 2].max())
    assert heights[0] == pytest.approx(0.0, abs=0.002)


def test_moving_masks_mark_what_moves_and_nothing_else() -> None:
    street = next(s for s in map(make_street, range(40)) if any(s.kinds[m.instance] == "car" for m in s.movers))
    movers = {mover.instance for mover in street.movers}
    assert set(np.flatnonzero(street.moves)) == movers
    marked = changed = 0
    for frame in range(0, street.frames, 14):
        pose = street.world_from_base(frame / 10) @ base_from_camera("00")
        now, later = (street.at(t).render(CAMERA, pose, smooth=False) for t in (frame / 10, frame / 10 + 0.4))
        assert (now.moving == np.isin(now.instances, list(movers))).all()
        differs = now.depth_m != later.depth_m
        assert not (differs & ~now.moving & ~later.moving).any()
        marked, changed = marked + now.moving.sum(), changed + (differs & now.moving).sum()
    assert marked > 100 and changed > 0.5 * marked


def test_mount_is_kitti360s_and_moves_as_told() -> None:
    pose = base_from_camera("00")
    assert pose[2, 3] == pytest.approx(1.58, abs=1e-6)
    assert np.degrees(np.arcsin(-pose[2, 2])) == pytest.approx(5.83, abs=0.01)
    lower = base_from_camera("00", Mount(height_m=-0.2, pitch_rad=np.radians(2)))
    assert lower[2, 3] == pytest.approx(1.38, abs=1e-6)
    assert np.degrees(np.arcsin(-lower[2, 2])) == pytest.approx(7.83, abs=0.02)
    offset = np.linalg.inv(base_from_camera("00", Mount(roll_rad=0.1))) @ base_from_camera("01", Mount(roll_rad=0.1))
    assert offset[:3, 3] == pytest.approx((BASELINE_M, 0, 0), abs=1e-6)
    assert base_from_camera("left")[:3, 2] @ (0, 1, 0) > 0.95
    assert base_from_camera("right")[:3, 2] @ (0, 1, 0) < -0.95
    with pytest.raises(ValueError, match="got 'back', expected 00, 01, left or right"):
        base_from_camera("back")


def test_own_car_drives_forward_on_the_road(street: Street) -> None:
    poses = np.array([street.world_from_base(k / 10) for k in range(street.frames)])
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert steps.min() > 0.65 and steps.max() < 1.3
    forward = np.diff(poses[:, :3, 3], axis=0)
    assert (np.einsum("ni,ni->n", forward, poses[:-1, :3, 0]) > 0.98 * steps).all()
    for pose in poses[:: max(1, len(poses) // 8)]:
        for x in (-1.0, 2.0):
            point = pose[:3, 3] + x * pose[:3, 0]
            assert street_rays.road_edge(street.centre, street.road, *point[:2])[0] < -0.5
    clear = street.at(TIME_S)
    body = np.stack(np.meshgrid(np.linspace(-1, 3, 9), (-0.85, 0, 0.85), (0.3, 0.8, 1.4)), axis=-1).reshape(-1, 3)
    assert not clear.occupied(in_world(street.world_from_base(TIME_S), body)).any()


def test_items_are_samples_with_their_scene() -> None:
    data = Streets(StreetsOptions(streets=2, frames_per_street=2, width=160, height=48, views=(("01", 0), ("left", 2))))
    sample = data[3]
    assert len(data) == 4 and len(sample.views) == 2
    assert (data[3].observation.key.image == sample.observation.key.image).all()
    key = sample.observation.key
    assert key.world_from_camera is not None and sample.depth_m is not None
    expected = data.world_from_base(3) @ sample.observation.base_from_camera
    assert np.allclose(key.world_from_camera, expected)
    ray = rays(key.intrinsics)[30, 80] * (sample.depth_m[30, 80] - 0.01)
    assert not data.scene(3).occupied(in_world(key.world_from_camera, ray[None]))[0]
    assert sample.name != data[2].name and data.mount(2) == data.mount(3) != data.mount(0)
    assert sample.views[1].stamp_ns - key.stamp_ns == 200_000_000
    with pytest.raises(IndexError, match="got item 4, expected 0 to 3"):
        data[4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_street(-1), "street seed: got -1"),
        (lambda: StreetOptions(drive_m=0.0), "street.drive_m: got 0.0"),
        (lambda: StreetOptions(step_m=(1.2, 0.7)), "street.step_m"),
        (lambda: StreetOptions(style="alley"), "street.style: got 'alley'"),  # type: ignore[arg-type]
        (lambda: StreetsOptions(streets=0), "streets.streets: got 0"),
        (lambda: StreetsOptions(mount_strength=-1.0), "streets.mount_strength"),
        (lambda: StreetsOptions(views=(("02", 0),)), "camera: got '02'"),
        (lambda: make_street(0).at(0.0).occupied(np.zeros(3)), "points_world: got shape"),
        (lambda: make_street(0).at(0.0).lidar(np.eye(4), beams=0), "lidar: got beams=0"),
        (lambda: make_street(0).at(0.0).render(CAMERA, np.zeros((4, 4))), "world_from_camera"),
    ],
)
def test_wrong_options_say_what_was_wrong(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_compiled_code_is_made_anew_when_any_source_changes(tmp_path: Path) -> None:
    folder = Path(street_compile.__file__).parent
    for name in folder.glob("street_*.py"):
        (tmp_path / name.name).write_bytes(name.read_bytes())
    assert street_compile._digest(tmp_path) == street_compile.SOURCES
    compiled = {path.name for path in folder.glob("street_*.py") if "@njit(" in path.read_text().split("def entry")[0]}
    assert len(compiled) >= 6
    for name in compiled - {"street_compile.py"}:
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(before + "# changed\n")
        assert street_compile._digest(tmp_path) != street_compile.SOURCES, name
        (tmp_path / name).write_text(before)
    make_street(0).at(0.0).occupied(np.zeros((1, 3)))
    keys = street_queries.occupied._cache._cache_file._load_index()  # type: ignore[attr-defined]
    assert any(key[-1] == street_compile.SOURCES for key in keys)


def test_neighbours_are_frames_of_the_observation_and_match_the_views() -> None:
    options = StreetsOptions(streets=1, frames_per_street=2, width=64, height=32, views=(("00", -1),))
    plain, with_neighbours = Streets(options), Streets(dataclasses.replace(options, views=(), neighbours=(-1, 1)))
    sample = with_neighbours[1]
    key, before, after = sample.observation.frames
    assert before.stamp_ns < key.stamp_ns < after.stamp_ns
    assert not sample.views and sample.moving is not None and sample.depth_m is not None
    np.testing.assert_array_equal(before.image, plain[1].views[0].image)
    np.testing.assert_array_equal(before.world_from_camera, plain[1].views[0].world_from_camera)
    with pytest.raises(ValueError, match=r"streets\.neighbours: got offset 0"):
        dataclasses.replace(options, neighbours=(0,))
