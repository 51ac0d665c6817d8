import numpy as np
import pytest

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.types import Intrinsics, Observation, PosedFrame, VoxelGridSpec


def test_normalised_intrinsics_of_kitti360_are_the_published_ones():
    expected = [[0.7849, 0, -0.0312], [0, 2.9391, 0.2701], [0, 0, 1]]
    np.testing.assert_allclose(KITTI360_CAMERA.normalised(), expected, atol=1e-4)


def test_resized_intrinsics_keep_pixel_centres():
    k = KITTI360_CAMERA.resized(640, 192)
    assert k.fx == pytest.approx(552.554261 * 640 / 1408)
    assert k.cx == pytest.approx((682.049453 + 0.5) * 640 / 1408 - 0.5)
    assert k.cy == pytest.approx((238.769549 + 0.5) * 192 / 376 - 0.5)
    # The outer corner of the image, half a pixel beyond the first centre, stays the outer corner.
    ray = (-0.5 - KITTI360_CAMERA.cx) / KITTI360_CAMERA.fx
    assert ray * k.fx + k.cx == pytest.approx(-0.5)


@pytest.mark.parametrize(
    "values, word",
    [((0.0, 1.0, 0, 0, 4, 4), "uncalibrated"), ((np.nan, 1, 0, 0, 4, 4), "finite"), ((1.0, 1.0, 0, 0, 0, 4), "size")],
)
def test_intrinsics_say_what_is_wrong(values, word):
    with pytest.raises(ValueError, match=word):
        Intrinsics(*values)


def test_frame_refuses_an_image_of_another_size():
    with pytest.raises(ValueError, match="640x192"):
        PosedFrame(np.zeros((100, 640, 3), np.uint8), KITTI360_CAMERA.resized(640, 192))
    with pytest.raises(ValueError, match="uint8"):
        PosedFrame(np.zeros((192, 640, 3), np.float32), KITTI360_CAMERA.resized(640, 192))


@pytest.mark.parametrize("pose", [np.full((4, 4), np.nan), 2 * np.eye(4), np.diag([1.0, 1, -1, 1]), np.eye(3)])
def test_observation_refuses_a_mount_that_is_not_rigid(pose):
    frame = PosedFrame(np.zeros((192, 640, 3), np.uint8), KITTI360_CAMERA.resized(640, 192))
    with pytest.raises(ValueError, match="base_from_camera"):
        Observation((frame,), pose)


def test_default_grid_has_the_documented_cells():
    spec = VoxelGridSpec()
    assert spec.shape == (16, 100, 250)
    centres = spec.centres()
    np.testing.assert_allclose(centres[0, 0, 0], [0.1, -9.9, -0.3], atol=1e-6)
    np.testing.assert_allclose(centres[0, 0, 1] - centres[0, 0, 0], [0.2, 0, 0], atol=1e-6)


def test_grid_origin_must_be_a_multiple_of_the_resolution():
    with pytest.raises(ValueError, match="multiple"):
        VoxelGridSpec(x_m=(0.1, 50.1))
