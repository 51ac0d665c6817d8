"""The compiled decoder against the same sums written plainly."""

import threading
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba", reason="the compiled decoder needs numba")

from kyn_models.artifact import KITTI360_CAMERA
from kyn_models.runtimes import decoder, loops
from kyn_models.runtimes.constants import DecoderConstants, corners, sample_depths
from kyn_models.runtimes.decoder import CompiledDecoder, Tables
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


def decode(c: DecoderConstants, query: PointQuery | RayQuery, features: np.ndarray) -> np.ndarray:
    return CompiledDecoder(c, features.shape[:2]).prepare({"q": query}).decode("q", features)


def test_densities_equal_the_plain_sums(constants, features):
    points = np.random.default_rng(5).uniform([-12, -3, 3], [12, 3, 60], (4000, 3)).astype(np.float32)
    answer = decode(constants, PointQuery(points), features)
    expected = plain_sigma(constants, features, points)
    assert (np.abs(answer - expected) <= 1e-4 + 1e-3 * expected).all()
    assert expected.std() > 0.05


def test_points_outside_the_tables_have_their_own_codes(constants, features, monkeypatch):
    """Nearer than z_near, beyond z_far, and far outside the image, in chunks."""
    points = np.random.default_rng(6).uniform([-60, -30, 1], [60, 30, 200], (3001, 3)).astype(np.float32)
    monkeypatch.setattr(decoder, "CHUNK", 256)
    compiled = CompiledDecoder(constants, MAP)
    query = compiled.points(PointQuery(points))
    assert len(query.others) > 2 * 256 and len(query.uvz) > 2000
    answer = compiled.prepare({"q": PointQuery(points)}).decode("q", features)
    expected = plain_sigma(constants, features, points)
    assert (np.abs(answer - expected) <= 1e-4 + 1e-3 * expected).all()


def test_the_ends_of_the_tables(constants, features):
    """u, v and z' at, just inside and just outside the ends."""
    ends = np.array(decoder.TABLE_RANGES, dtype=np.float32)
    z_codes = np.concatenate([np.nextafter(ends[2], np.float32(s)) for s in (-9, 9)] + [ends[2]])
    z = 1 / ((z_codes + 1) / 2 * (1 / 3 - 1 / 80) + 1 / 80)
    u = np.concatenate([np.nextafter(ends[0], np.float32(s)) for s in (-9, 9)] + [ends[0]])
    k = constants.k_norm
    uu, vv, zz = np.meshgrid(u, u, z[z > 0], indexing="ij")
    points = np.stack([(uu - k[0, 2]) / k[0, 0] * zz, (vv - k[1, 2]) / k[1, 1] * zz, zz], -1).reshape(-1, 3)
    points = points.astype(np.float32)
    held = Tables.of(constants).hold(CompiledDecoder(constants, MAP).points(PointQuery(points)).others)
    assert not held.any()
    answer, expected = decode(constants, PointQuery(points), features), plain_sigma(constants, features, points)
    assert (np.abs(answer - expected) <= 1e-4 + 1e-3 * expected).all()


def test_tables_grow_with_the_curvature_of_the_codes(constants):
    """The bound of their error holds where the curves bend most, also for weights ten times as large."""
    for factor in (1, 10):
        steep = replace(constants, w_code=constants.w_code * np.float32(factor))
        tables = Tables.of(steep)
        assert factor == 1 or len(tables.values[0]) > 3 * len(Tables.of(constants).values[0])
        for axis, (low, high) in enumerate(decoder.TABLE_RANGES):
            values, rows = tables.values[axis], len(tables.values[axis])
            middle = low + (np.arange(rows - 1) + 0.5) * (high - low) / (rows - 1)
            exact = steep.project_codes(middle[:, None], (axis,)) + (steep.bias if axis == 0 else 0)
            error = np.abs(exact - (values[1:] + values[:-1]) / 2) @ np.abs(steep.w_out)
            assert error.max() < 1.5e-5 * max(1, factor / 2), "the bound, and rounding of large numbers"


def test_many_points_are_decoded_in_bounded_memory_with_the_same_numbers(constants, features, monkeypatch):
    points = np.random.default_rng(6).uniform([-9, -2, 1], [9, 2, 90], (3001, 3)).astype(np.float32)
    expected = decode(constants, PointQuery(points), features)
    monkeypatch.setattr(decoder, "KEPT_POINTS", 1000)
    np.testing.assert_array_equal(decode(constants, PointQuery(points), features), expected)


def test_another_thread_may_prepare_while_one_decodes(constants, features):
    rng = np.random.default_rng(8)
    compiled = CompiledDecoder(constants, MAP)
    points = rng.uniform([-9, -2, 3], [9, 2, 50], (20000, 3)).astype(np.float32)
    prepared = compiled.prepare({"q": PointQuery(points)})
    expected = prepared.decode("q", features)
    stop = threading.Event()

    def prepare() -> None:
        while not stop.is_set():
            compiled.prepare({"q": PointQuery(points[:5000])})

    thread = threading.Thread(target=prepare)
    thread.start()
    try:
        for _ in range(30):
            np.testing.assert_array_equal(prepared.decode("q", features), expected)
    finally:
        stop.set()
        thread.join()


def test_polynomials():
    x = np.linspace(-80, 80, 40001, dtype=np.float32)
    expected = np.logaddexp(0, x.astype(np.float64))
    answer = np.array([loops.softplus.py_func(value) for value in x])
    relative = 4e-6 + 1e-7 * np.abs(x)
    assert (np.abs(answer - expected) <= relative * np.minimum(1, expected) + 2e-7 * expected).all()
    negative = x[x <= 0]
    answer = np.array([loops.exp_of_negative.py_func(value) for value in negative])
    assert (np.abs(answer / np.exp(negative.astype(np.float64)) - 1) <= relative[x <= 0]).all()
    assert loops.exp_of_negative.py_func(np.float32(-1000)) < 1e-37


def test_hidden_units_need_not_be_a_multiple_of_four(constants, features):
    """Leaving out a unit is the same as a unit of weight 0."""
    without = replace(constants, w_out=constants.w_out * np.array([1] * 13 + [0] * 3, dtype=np.float32))
    shorter = replace(without, w_code=without.w_code[:13], bias=without.bias[:13], w_out=without.w_out[:13])
    x, y = np.meshgrid(np.linspace(-1.0, 1.0, 30), np.linspace(-0.3, 0.2, 9))
    rays = RayQuery(np.stack([x, y, np.ones_like(x)], -1).astype(np.float32))
    expected = decode(without, rays, features)
    answer = decode(shorter, rays, np.ascontiguousarray(features[..., :13]))
    np.testing.assert_allclose(answer, expected, rtol=1e-4)


def test_depth_follows_the_rule_for_sky_and_surface(constants, features):
    x, y = np.meshgrid(np.linspace(-1.0, 1.0, 30), np.linspace(-0.3, 0.2, 9))
    directions = np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)
    z = sample_depths(3.0, 80.0).astype(np.float64)
    for shift in (0.0, -4.0):
        c = DecoderConstants(**{**vars(constants), "b_out": constants.b_out + shift})
        answer = decode(c, RayQuery(directions), features)
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
