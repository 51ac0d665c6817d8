"""The stored training set: what its labels mean, that a build goes on, that it is a function of its configuration."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="synthetic streets are ray cast by numba")

from kyn_models.data import street_cache
from kyn_models.data.street_cache import CacheConfig, build

CONFIG = CacheConfig(pairs=3, per_street=2, points=600)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return build(tmp_path_factory.mktemp("streets"), CONFIG)


def test_labels_agree_with_the_depth_image(cache):
    """A point well before the visible surface of its pixel is free, one a little behind it is not."""
    k = street_cache.CanonicalCamera(street_cache.KITTI360_CAMERA).intrinsics
    for pair in range(CONFIG.pairs):
        points, occupied = cache.arrays["points"][pair, 0], cache.arrays["occupied"][pair, 0] > 0
        column = np.rint(points[:, 0] / points[:, 2] * k.fx + k.cx).astype(int)
        row = np.rint(points[:, 1] / points[:, 2] * k.fy + k.cy).astype(int)
        depth = cache.arrays["depth"][pair, 0].astype(np.float32)[row, column]
        before = points[:, 2] < 0.8 * depth
        assert occupied[before].mean() < 0.05
        behind = (points[:, 2] > 1.02 * depth + 0.05) & (points[:, 2] < 1.02 * depth + 0.3)
        assert behind.sum() > 5 and occupied[behind].mean() > 0.4


def test_stereo_pose_is_the_baseline(cache):
    np.testing.assert_allclose(cache.arrays["right_from_left"][0][:3, 3], [-0.594, 0, 0], atol=2e-3)


def test_an_interrupted_build_goes_on_and_gives_the_same(cache, tmp_path):
    class Stop(Exception):
        pass

    def stop(done):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        build(tmp_path, CONFIG, stop)
    with pytest.raises(FileNotFoundError, match="complete"):
        street_cache.StreetCache(tmp_path)
    again = build(tmp_path, CONFIG)
    for name, array in cache.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name], err_msg=name)


def test_another_configuration_is_refused(cache):
    with pytest.raises(ValueError, match="points"):
        build(cache.path, CacheConfig(pairs=3, per_street=2, points=500))


def test_near_points_come_out_of_those_in_the_volume(cache, tmp_path):
    near = build(tmp_path, CacheConfig(pairs=1, per_street=2, points=600, near_share=0.3))
    plain, more = (np.sort(found.arrays["points"][0, 0][:, 2]) for found in (cache, near))
    assert len(more) == 600 and np.mean(more < 6) > np.mean(plain < 6) + 0.1
    slab = slice(0, 240)
    np.testing.assert_array_equal(cache.arrays["points"][0, 0][slab], near.arrays["points"][0, 0][slab])
    with pytest.raises(ValueError, match=r"streets.near_share: got 0.5, expected 0 to 0.4"):
        CacheConfig(near_share=0.5)
