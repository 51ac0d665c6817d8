import cv2
import numpy as np
import pytest

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.canonical import CanonicalCamera
from kyn_models.types import Intrinsics

CAMERA = CanonicalCamera(KITTI360_CAMERA)


def scene(intrinsics: Intrinsics) -> np.ndarray:
    """A smooth pattern painted on the sphere of rays, as this camera sees it."""
    x = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
    y = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
    x, y = np.meshgrid(x, y)
    return np.stack([128 + 100 * np.sin(6 * x), 128 + 100 * np.cos(9 * y), 128 + 60 * x], -1).clip(0, 255).astype("u1")


def test_training_camera_is_resized_as_published():
    image = scene(KITTI360_CAMERA)
    warped, seen = CAMERA.warp(image, KITTI360_CAMERA)
    assert seen.all()
    np.testing.assert_array_equal(warped, cv2.resize(image, (640, 192), interpolation=cv2.INTER_AREA))


def test_image_at_network_size_passes_unchanged():
    image = scene(CAMERA.intrinsics)
    assert CAMERA.warp(image, CAMERA.intrinsics)[0] is image


@pytest.mark.parametrize("f, width, height", [(900.0, 1920, 1080), (400.0, 640, 480), (721.5, 1242, 375)])
def test_another_camera_sees_the_same_scene(f, width, height):
    other = Intrinsics(f, f, width / 2 + 7, height / 2 - 5, width, height)
    warped, seen = CAMERA.warp(scene(other), other)
    inner = cv2.erode(seen.astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
    difference = np.abs(warped.astype(int) - scene(CAMERA.intrinsics))
    assert seen.mean() > 0.2
    assert difference[inner].max() <= 4


def test_padding_is_not_seen():
    narrow = Intrinsics(1200.0, 1200.0, 320, 240, 640, 480)
    _, seen = CAMERA.warp(scene(narrow), narrow)
    assert not seen[:, 0].any() and not seen[:, -1].any() and seen[96, 310]


def test_mask_follows_the_camera():
    mask = np.zeros((376, 1408), np.uint8)
    mask[300:] = 1
    warped = CAMERA.warp_mask(mask, KITTI360_CAMERA)
    assert warped[-1].all() and not warped[100].any()
    assert abs(warped[:, 320].sum() - 76 * 192 / 376) < 1.5
