"""The fisheye camera: there and back, numbers by hand, its file, and the map that makes a pinhole image of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kyn_models.data.mei_camera import OUTSIDE, MeiCamera, mei_text, read_mei, rectifying_map
from kyn_models.data.street_sensors import FISHEYES
from kyn_models.types import Intrinsics

NAMES = ("02", "03")
PLAIN = MeiCamera(1.0, 0, 0, 0, 0, 100.0, 100.0, 200.0, 200.0, 400, 400)


def rays_to(angle_deg: float, count: int = 2000) -> np.ndarray:
    """Unit rays that spread over the cone of ``angle_deg`` about the optical axis."""
    rng = np.random.default_rng(1)
    z = rng.uniform(np.cos(np.radians(angle_deg)), 1.0, count)
    turn = rng.uniform(0, 2 * np.pi, count)
    side = np.sqrt(1 - z * z)
    return np.stack([side * np.cos(turn), side * np.sin(turn), z], axis=-1)


def test_numbers_by_hand() -> None:
    # With xi = 1 this is stereographic projection: at an angle t from the axis, tan(t / 2) away from the centre.
    pixels, reached = PLAIN.project(np.array([[0, 0, 5.0], [3.0, 0, 0], [0, -2, 2], [0, 0, -1]]))
    np.testing.assert_allclose(pixels[:3], [[200, 200], [300, 200], [200, 200 - 100 * np.tan(np.pi / 8)]], atol=1e-12)
    assert reached.tolist() == [True, True, True, False] and np.isnan(pixels[3]).all()
    bent = replace(PLAIN, k1=0.1, k2=0.01, p1=0.02, p2=0.03)
    # On the plane (1, 0): radial 1.11, tangential x: 3 p2, y: p1.
    np.testing.assert_allclose(bent.project(np.array([1.0, 0, 0]))[0], [200 + 111 + 9, 200 + 2], atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_ray_to_pixel_and_back_over_the_whole_lens(name: str) -> None:
    camera, rays = FISHEYES[name], rays_to(110.0)
    pixels, reached = camera.project(7.0 * rays)
    assert reached.all()
    back, seen = camera.unproject(pixels)
    assert seen.all()
    np.testing.assert_allclose(back, rays, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_pixel_to_ray_and_back_and_corners_that_no_ray_meets(name: str) -> None:
    camera = FISHEYES[name]
    v, u = np.mgrid[0:1400:25, 0:1400:25]
    pixels = np.stack([u, v], axis=-1).astype(np.float64)
    rays, seen = camera.unproject(pixels)
    np.testing.assert_allclose(np.linalg.norm(rays[seen], axis=-1), 1.0, atol=1e-12)
    again, reached = camera.project(rays[seen])
    assert reached.all()
    np.testing.assert_allclose(again, pixels[seen], atol=1e-8)
    assert not seen[[0, 0, -1, -1], [0, -1, 0, -1]].any() and np.isnan(rays[0, 0]).all()
    radius = np.hypot(u - camera.u0, v - camera.v0)
    assert seen[radius < 640].all() and not seen[radius > 800].any()


def test_a_lens_with_xi_below_one_comes_back_too() -> None:
    camera = replace(PLAIN, xi=0.6, k1=-0.02, k2=0.003, p1=1e-3, p2=-2e-3)
    rays = rays_to(100.0)
    back, seen = camera.unproject(camera.project(rays)[0])
    assert seen.all()
    np.testing.assert_allclose(back, rays, atol=1e-11)


def test_resized_camera_sees_the_same_through_the_same_place_of_the_image() -> None:
    camera, rays = FISHEYES["02"], rays_to(80.0, 50)
    full, half = camera.project(rays)[0], camera.resized(700, 350).project(rays)[0]
    np.testing.assert_allclose((half + 0.5) * (2, 4) - 0.5, full, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_official_files_are_read_and_written_alike(shared_data: Path, tmp_path: Path, name: str) -> None:
    official = shared_data / "kitti360" / "calibration" / f"image_{name}.yaml"
    camera = read_mei(official)
    assert camera == FISHEYES[name]
    assert mei_text(camera, f"image_{name}").split() == official.read_text().split()


def test_faults_of_the_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "image_02.yaml"
    with pytest.raises(FileNotFoundError, match=r"image_02\.yaml: missing"):
        read_mei(path)
    text = mei_text(PLAIN, "image_02")
    for old, new, message in (
        ("xi:", "eta:", "mirror_parameters: got None for 'xi', expected a number"),
        ("MEI", "PINHOLE", "got PINHOLE, expected a camera with model_type MEI"),
        ("gamma1: 1.0", "gamma1: -1.0", "gamma1=-"),
        ("p1: 0.0000000000000000e+00", "p1: .nan", "expected finite numbers"),
        ("model_type: MEI", "model_type: [", "no YAML"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_mei(path)


def test_map_of_a_turned_pinhole_camera() -> None:
    target = Intrinsics(50.0, 50.0, 20.0, 10.0, 41, 21)
    ahead = rectifying_map(PLAIN, target, np.eye(3))
    np.testing.assert_allclose(ahead[10, 20], [200, 200], atol=1e-4)
    quarter = np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]])  # looks along the fisheye's x axis
    np.testing.assert_allclose(rectifying_map(PLAIN, target, quarter)[10, 20], [300, 200], atol=1e-4)
    behind = rectifying_map(PLAIN, target, np.diag((-1.0, 1.0, -1.0)))
    assert behind[10, 20].tolist() == [OUTSIDE, OUTSIDE]
