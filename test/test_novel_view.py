"""Novel views against worlds that are known: planes, true depth of streets, and a plain numpy composition."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from kyn_models import novel_view
from kyn_models.artifact import Artifact
from kyn_models.field_model import PlacedField
from kyn_models.novel_view import Rays, Scene, Source, centred, corner_rays, pixel_rays, render
from kyn_models.predictor import PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import Intrinsics, Observation, PosedFrame

CAMERA = Intrinsics(40.0, 36.0, 31.0, 12.5, 64, 24)


def picture(seed: int = 0, camera: Intrinsics = CAMERA) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (camera.height, camera.width, 3), np.uint8)


def source(image: np.ndarray, camera: Intrinsics = CAMERA, camera_from_key: np.ndarray | None = None) -> Source:
    return Source(image, centred(camera), np.eye(4) if camera_from_key is None else camera_from_key)


def wall(distance: float) -> novel_view.Field:
    """Solid from that depth on."""
    return lambda points: np.where(points[:, 2] >= distance, np.float32(1e4), np.float32(0))


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def test_the_cameras_own_view_is_its_image_whatever_the_field():
    image = picture()
    for field in (wall(7.0), lambda points: np.full(len(points), 0.1, np.float32)):
        view = render(Scene(field, (source(image),), (centred(CAMERA),)), pixel_rays(CAMERA), np.eye(4))
        # Rays through the middles of edge pixels lie half a pixel inside: all of it is seen.
        assert np.abs(view.image().astype(int) - image).max() <= 1
        assert view.unseen.max() < 1e-5


def test_a_wall_moves_by_its_disparity():
    image = picture()
    scene = Scene(wall(10.0), (source(image),), (centred(CAMERA),))
    step = 10.0 / CAMERA.fx
    view = render(scene, pixel_rays(CAMERA), moved(x=3 * step), samples=2000)
    # The wall's first sample lies up to one step of inverse depth behind its front.
    assert np.abs(view.image()[:, :-4].astype(int) - image[:, 3:-1]).max() <= 3
    assert view.unseen[:, :-4].max() < 1e-3
    np.testing.assert_allclose(view.depth_m[:, :-4], 10.0, rtol=2e-2)
    np.testing.assert_allclose(view.composite_depth_m[:, :-4], 10.0, rtol=2e-2)


def test_what_a_turned_camera_sees_beside_the_image_is_unseen_and_grey():
    image = picture()
    pose, turn = np.eye(4), 0.5
    pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    view = render(Scene(wall(10.0), (source(image),), (centred(CAMERA),)), pixel_rays(CAMERA), pose)
    rays = pixel_rays(CAMERA).directions @ pose[:3, :3].T
    uv = rays[..., :2] / rays[..., 2:] * np.diag(centred(CAMERA))[:2] + centred(CAMERA)[:2, 2]
    beside = (np.abs(uv) > 1).any(-1)
    assert 0.2 < beside.mean() < 0.8
    np.testing.assert_allclose(view.unseen, beside, atol=1e-3)
    assert (view.image()[beside] == novel_view.GREY).all() and np.isnan(view.depth_m[beside]).all()


def test_a_second_view_gives_the_colours_that_the_first_one_lacks():
    image = picture()
    step = 10.0 / CAMERA.fx
    other = np.roll(image, -3, axis=1)
    sources = (source(image), source(other, camera_from_key=moved(x=-3 * step)))
    view = render(Scene(wall(10.0), sources), pixel_rays(CAMERA), moved(x=3 * step), samples=2000)
    assert view.unseen.max() < 1e-3
    assert np.abs(view.image()[:, -3:].astype(int) - other[:, -3:]).max() <= 3


def plain(field, image, rays: Rays, pose, samples, views, nearest, continued):
    """The same with arrays and no thought of speed, written from the equations."""
    height, width = rays.directions.shape[:2]
    s = (np.arange(samples) + 0.5) / samples
    t = 1 / ((1 - s) / rays.near_m + s / rays.far_m)
    points = rays.directions[:, :, None, :] * t[:, None] @ pose[:3, :3].T + pose[:3, 3]

    def uv(k_norm, points):
        return points[..., :2] / np.maximum(points[..., 2:], 1e-3) * np.diag(k_norm)[:2] + k_norm[:2, 2]

    def shown(k_norm):
        return (np.abs(uv(k_norm, points)) <= 1).all(-1) & (points[..., 2] > 1e-3)

    known = np.logical_and.reduce([points[..., 2] > nearest, *(shown(k) for k in views)])
    sigma = np.where(known, field(points.reshape(-1, 3).astype(np.float32)).reshape(height, width, samples), 0)
    alpha = 1 - np.exp(-sigma[..., :-1] * np.diff(t))
    alpha = np.concatenate([alpha, np.ones((height, width, 1))], -1)
    weights = alpha * np.cumprod(np.concatenate([np.ones((height, width, 1)), 1 - alpha[..., :-1]], -1), -1)
    at = ((uv(centred(CAMERA), points) + 1) * (CAMERA.width, CAMERA.height) - 1) / 2
    at = np.clip(at, 0, (CAMERA.width - 1, CAMERA.height - 1))
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, (CAMERA.width - 1, CAMERA.height - 1))
    (bx, by), (ax, ay) = np.moveaxis(1 - (at - low), -1, 0)[..., None], np.moveaxis(at - low, -1, 0)[..., None]
    colours = by * (bx * image[low[..., 1], low[..., 0]] + ax * image[low[..., 1], high[..., 0]])
    colours = (colours + ay * (bx * image[high[..., 1], low[..., 0]] + ax * image[high[..., 1], high[..., 0]])) / 255
    seen = shown(centred(CAMERA))
    colour = (weights[..., None] * colours * (1 if continued else seen[..., None])).sum(2)
    share = (weights * seen).sum(2)
    depth = (weights * t).sum(2) * rays.directions[..., 2]
    return colour if continued else colour / np.maximum(share, 1e-6)[..., None], depth, 1 - share, weights[..., -1]


@pytest.mark.parametrize("outside", ["empty", "continued"])
def test_it_is_the_sum_of_the_equations(outside):
    rng = np.random.default_rng(1)
    image, frequencies = picture(3), rng.normal(size=(3,))
    field = lambda points: np.maximum(np.sin(points @ frequencies), 0).astype(np.float32) * np.float32(0.4)  # noqa: E731
    pose = moved(2.0, -0.4, -3.0)
    turn = 0.2
    pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    rays = corner_rays(CAMERA.normalised(), 20, 9, far_m=40.0)
    assert np.allclose(np.linalg.norm(rays.directions, axis=-1), 1)
    views = (centred(CAMERA), CAMERA.normalised()) if outside == "empty" else ()
    scene = Scene(field, (source(image),), views, 2.0, outside=outside)
    view = render(scene, rays, pose, samples=16)
    colour, depth, unseen, last = plain(field, image, rays, pose, 16, views, 2.0, outside == "continued")
    np.testing.assert_allclose(view.colours, colour, atol=2e-4)
    np.testing.assert_allclose(view.composite_depth_m, depth, rtol=2e-4)
    np.testing.assert_allclose(view.unseen, unseen, atol=2e-4)
    clear = np.abs(last - 0.5) > 1e-3
    np.testing.assert_array_equal(np.isfinite(view.depth_m)[clear], (last < 0.5)[clear])
    assert 0.05 < unseen.mean() < 0.9


def test_sky_is_infinite_and_where_the_field_knows_nothing_is_not():
    scene = Scene(lambda points: np.zeros(len(points), np.float32), (source(picture()),), (centred(CAMERA),))
    view = render(scene, pixel_rays(CAMERA), np.eye(4))
    assert np.isposinf(view.depth_m).all()
    turned = np.diag([-1.0, 1.0, -1.0, 1.0])
    behind = render(scene, pixel_rays(CAMERA), turned)
    assert np.isnan(behind.depth_m).all() and (behind.unseen == 1).all()


def test_pieces_change_nothing_and_a_set_is_never_split(monkeypatch):
    image = picture()
    calls: list[int] = []

    def field(points: np.ndarray) -> np.ndarray:
        calls.append(len(points))
        return np.where(points[:, 2] > 9, np.float32(2), np.float32(0))

    views = (centred(CAMERA),)
    whole = render(Scene(field, (source(image),), views, whole=True), pixel_rays(CAMERA), moved(x=1), 16)
    monkeypatch.setattr(novel_view, "POINTS_AT_ONCE", 5 * 16 * CAMERA.width)
    as_set = render(Scene(field, (source(image),), views, whole=True), pixel_rays(CAMERA), moved(x=1), 16)
    assert len(calls) == 2
    parts = render(Scene(field, (source(image),), views), pixel_rays(CAMERA), moved(x=1), 16)
    assert len(calls) == 7 and sum(calls[2:]) == calls[0]
    for view in (as_set, parts):
        np.testing.assert_array_equal(view.colours, whole.colours)
        np.testing.assert_array_equal(view.depth_m, whole.depth_m)


def test_near_and_far_may_differ_from_ray_to_ray():
    scene = Scene(wall(10.0), (source(picture()),))
    rays = pixel_rays(CAMERA)
    far = np.full((CAMERA.height, CAMERA.width), 80.0, np.float32)
    far[:, 10] = 8.0
    view = render(scene, Rays(rays.directions, 3.0, far), np.eye(4))
    assert np.isposinf(view.depth_m[:, 10]).all() and (view.composite_depth_m[:, 10] < 8).all()
    assert np.isfinite(view.depth_m[:, 11]).all()


def test_a_model_through_the_predictor(tiny_artifact):
    """Depth along the key camera's rays is the predictor's; a narrower photo bounds what is known."""
    artifact = Artifact.load(tiny_artifact)
    predictor = make_predictor(artifact, PredictorOptions(depth_rays=(24, 80)))
    image = np.random.default_rng(0).integers(0, 255, (192, 640, 3), np.uint8)
    camera = artifact.camera.intrinsics
    observation = Observation((PosedFrame(image, camera),), artifact.manifest.camera.base_from_camera())
    rays = Rays(artifact.camera.rays(24, 80))
    view = render(Scene.of(predictor, observation), rays, np.eye(4))
    placed = predictor.build(camera, observation.base_from_camera).placed
    assert isinstance(placed, PlacedField)
    expected = placed.step(image, frozenset({"depth"})).arrays["depth"]
    np.testing.assert_array_equal(np.isinf(view.depth_m), np.isinf(expected))
    finite = np.isfinite(expected)
    assert finite.any()
    np.testing.assert_allclose(view.depth_m[finite], expected[finite], rtol=1e-3)
    photo = Intrinsics(400.0, 400.0, 160.0, 90.0, 320, 180)
    narrow = Observation((PosedFrame(image[:180, :320], photo),), observation.base_from_camera)
    view = render(Scene.of(predictor, narrow), rays, np.eye(4))
    inside = artifact.camera.seen(photo)[4::8, 4::8]
    assert (np.isnan(view.depth_m) == ~inside).mean() > 0.97 and (view.unseen[~inside] > 0.9).mean() > 0.95


def test_frames_become_sources_by_their_poses():
    key = PosedFrame(picture(), CAMERA, world_from_camera=moved(x=5))
    other = PosedFrame(picture(1), CAMERA, world_from_camera=moved(x=6, z=2))
    np.testing.assert_allclose(Source.of(other, key).camera_from_key, moved(x=-1, z=-2))
    with pytest.raises(ValueError, match="got no pose"):
        Source.of(PosedFrame(picture(), CAMERA), key)
    with pytest.raises(ValueError, match="expected a 4x4 matrix"):
        render(Scene(wall(3), (Source.of(key, key),)), pixel_rays(CAMERA), np.eye(3))
