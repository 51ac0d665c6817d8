"""The compiled decoder against the same sums written plainly."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="the compiled decoder needs numba")

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.runtimes import decoder
from kyn_models.runtimes.constants import DecoderConstants, sample_depths
from kyn_models.runtimes.decoder import CompiledDecoder, corners
from kyn_models.runtimes.queries import PointQuery, RayQuery

HIDDEN, MAP = 16, (12, 40)


@pytest.fixture(scope="module")
def constants() -> DecoderConstants:
    rng = np.random.default_rng(3)
    return DecoderConstants(
        w_code=0.3 * rng.standard_normal((HIDDEN, 39), dtype=np.float32),
        bias=rng.standard_normal(HIDDEN, dtype=np.float32),
        w_out=0.4 * rng.standard_normal(HIDDEN, dtype=np.float32),
        b_out=-1.0,
        freqs=(1.5 * 2.0 ** np.arange(6)).astype(np.float32),
        k_norm=KITTI360_CAMERA.normalised(),
        z_near=3.0,
        z_far=80.0,
    )


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(4).standard_normal((*MAP, HIDDEN), dtype=np.float32)


def plain_sigma(c: DecoderConstants, features: np.ndarray, points: np.ndarray) -> np.ndarray:
    points = points.astype(np.float64)
    u = points[:, 0] / points[:, 2] * c.k_norm[0, 0] + c.k_norm[0, 2]
    v = points[:, 1] / points[:, 2] * c.k_norm[1, 1] + c.k_norm[1, 2]
    z = 2 * (1 / points[:, 2] - 1 / 80) / (1 / 3 - 1 / 80) - 1
    uvz = np.stack([u, v, z], -1)
    code = [uvz]
    for frequency in c.freqs:
        code += [np.sin(frequency * uvz), np.cos(frequency * uvz)]
    x = np.clip(((u + 1) * MAP[1] - 1) / 2, 0, MAP[1] - 1)
    y = np.clip(((v + 1) * MAP[0] - 1) / 2, 0, MAP[0] - 1)
    x0, y0 = np.minimum(x.astype(int), MAP[1] - 2), np.minimum(y.astype(int), MAP[0] - 2)
    ax, ay = (x - x0)[:, None], (y - y0)[:, None]
    top = (1 - ax) * features[y0, x0] + ax * features[y0, x0 + 1]
    bottom = (1 - ax) * features[y0 + 1, x0] + ax * features[y0 + 1, x0 + 1]
    hidden = (1 - ay) * top + ay * bottom + np.concatenate(code, 1) @ c.w_code.T + c.bias
    return np.logaddexp(0, np.maximum(hidden, 0) @ c.w_out + c.b_out)


def test_densities_equal_the_plain_sums(constants, features):
    points = np.random.default_rng(5).uniform([-12, -3, 3], [12, 3, 60], (4000, 3)).astype(np.float32)
    answer = CompiledDecoder(constants, {"p": PointQuery(points)}, MAP).decode("p", features)
    expected = plain_sigma(constants, features, points)
    assert (np.abs(answer - expected) <= 1e-4 + 1e-3 * expected).all()
    assert expected.std() > 0.05


def test_many_points_are_decoded_in_bounded_memory_with_the_same_numbers(constants, features, monkeypatch):
    points = np.random.default_rng(6).uniform([-9, -2, 3], [9, 2, 50], (3001, 3)).astype(np.float32)
    cached = CompiledDecoder(constants, {"p": PointQuery(points)}, MAP).decode("p", features)
    monkeypatch.setattr(decoder, "CACHED_POINTS", 1000)
    monkeypatch.setattr(decoder, "CHUNK", 512)
    streamed = CompiledDecoder(constants, {"p": PointQuery(points)}, MAP).decode("p", features)
    np.testing.assert_allclose(streamed, cached, rtol=1e-5, atol=1e-6)


def test_depth_follows_the_rule_for_sky_and_surface(constants, features):
    x, y = np.meshgrid(np.linspace(-1.0, 1.0, 30), np.linspace(-0.3, 0.2, 9))
    directions = np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)
    z = sample_depths(3.0, 80.0).astype(np.float64)
    for shift in (0.0, -4.0):
        c = DecoderConstants(**{**vars(constants), "b_out": constants.b_out + shift})
        answer = CompiledDecoder(c, {"d": RayQuery(directions)}, MAP).decode("d", features)
        points = (directions.reshape(-1, 1, 3) * z[None, :, None]).reshape(-1, 3)
        sigma = plain_sigma(c, features, points).reshape(-1, len(z))
        passed = np.exp(-np.cumsum(sigma[:, :-1] * np.diff(z), axis=1))
        before = np.concatenate([np.ones((len(passed), 1)), passed[:, :-1]], axis=1)
        expected = ((before - passed) @ z[:-1]) / (1 - passed[:, -1])
        expected[passed[:, -1] > 0.5] = np.inf
        clear = np.abs(passed[:, -1] - 0.5) > 1e-3
        np.testing.assert_allclose(answer.reshape(-1)[clear], expected[clear], rtol=1e-3, atol=1e-3)
    assert np.isinf(expected).any() and np.isfinite(expected).any()


def test_corners_sum_to_one_and_stay_inside():
    uv = np.random.default_rng(7).uniform(-1.3, 1.3, (500, 2)).astype(np.float32)
    index, weight = corners(uv, MAP)
    np.testing.assert_allclose(weight.sum(1), 1, atol=1e-5)
    assert index.min() >= 0 and index.max() < MAP[0] * MAP[1]


def test_a_damaged_decoder_file_is_named(tmp_path):
    file = tmp_path / "decoder.npz"
    np.savez(file, w_code=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"decoder\.npz.*kyn export"):
        DecoderConstants.load(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"decoder\.npz.*damaged.*kyn export"):
        DecoderConstants.load(file)
    arrays = dict.fromkeys(("w_code", "bias", "w_out", "b_out", "freqs", "k_norm", "z_near", "z_far"), np.zeros(2))
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r"decoder\.npz: got arrays that are not a decoder's"):
        DecoderConstants.load(file)
