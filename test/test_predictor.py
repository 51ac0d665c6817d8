"""The one path from observation to prediction: what is unknown, what is scaled, what depends on what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="these tests run the encoder with ONNX Runtime")
pytest.importorskip("numba", reason="the compiled decoder needs numba")

from kyn_models import cells
from kyn_models.artifact import KITTI360_CAMERA, Artifact, TrainingCamera, forward_mount
from kyn_models.field_model import PlacedField, enlarge_depth
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import Predictor, PredictorOptions
from kyn_models.predictors import make_predictor
from kyn_models.types import UNKNOWN, Intrinsics, Observation, PosedFrame, VoxelGridSpec

SPEC = VoxelGridSpec((0.0, 24.0), (-6.0, 6.0), (-0.5, 3.0), 0.5)
MOUNT = TrainingCamera().base_from_camera()
SMALL = KITTI360_CAMERA.resized(640, 192)


def predictor(path: Path, **options: object) -> Predictor:
    given = {"spec": SPEC, "depth_rays": (12, 40), **options}
    return make_predictor(Artifact.load(path), PredictorOptions("onnxruntime", **given))  # type: ignore[arg-type]


def observation(seed: int = 0, camera: Intrinsics = SMALL, mount: np.ndarray = MOUNT) -> Observation:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (camera.height // 16 + 1, camera.width // 16 + 1, 3))
    image = np.kron(coarse, np.ones((16, 16, 1)))[: camera.height, : camera.width].astype(np.uint8)
    return Observation((PosedFrame(image, camera, stamp_ns=7),), mount)


def pixels(spec: VoxelGridSpec, mount: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column, row and depth of every cell centre in the canonical camera."""
    centres = spec.centres().astype(np.float64)
    x, y, z = np.moveaxis((centres - mount[:3, 3]) @ mount[:3, :3], -1, 0)
    safe = np.where(z > 0.1, z, 0.1)
    return x / safe * SMALL.fx + SMALL.cx, y / safe * SMALL.fy + SMALL.cy, z


def inside(spec: VoxelGridSpec, mount: np.ndarray, margin: float = 0.0) -> np.ndarray:
    column, row, z = pixels(spec, mount)
    seen = (column >= -0.5 + margin) & (column <= 639.5 - margin) & (row >= -0.5 + margin) & (row <= 191.5 - margin)
    return seen & (z >= 3.0 + 0.01 * margin) & (z <= 80.0)


def test_cells_outside_the_frustum_are_unknown_and_all_others_known(tiny_artifact: Path) -> None:
    result = predictor(tiny_artifact).predict(observation())
    assert result.stamp_ns == 7 and result.volume is not None and result.grid is not None
    assert result.volume.shape == SPEC.shape and result.grid.shape == SPEC.shape[1:]
    known = result.volume != UNKNOWN
    assert known[inside(SPEC, MOUNT, 0.1)].all()
    assert not known[~inside(SPEC, MOUNT, -0.1)].any()
    assert 0.2 < known.mean() < 0.9
    assert len(np.unique(result.volume[known])) > 20
    assert (result.grid[:, :6] == -1).all(), "nearer than z_near nothing is free"


def test_depth_is_at_the_models_image_size(tiny_artifact: Path) -> None:
    result = predictor(tiny_artifact).predict(observation(camera=KITTI360_CAMERA), {"depth"})
    assert result.depth_m is not None and result.depth_m.shape == (192, 640) and result.depth_m.dtype == np.float32
    assert result.image.shape == (192, 640, 3) and result.intrinsics == SMALL
    assert np.isfinite(result.depth_m).all() and (result.depth_m > 3).all()


def test_outputs_do_not_depend_on_each_other(tiny_artifact: Path) -> None:
    asked = predictor(tiny_artifact)
    everything = asked.predict(observation())
    for name, field in (("depth", "depth_m"), ("volume", "volume"), ("grid", "grid")):
        alone = asked.predict(observation(), {name})
        np.testing.assert_array_equal(getattr(alone, field), getattr(everything, field))
        others = {"depth_m", "volume", "grid"} - {field}
        assert all(getattr(alone, other) is None for other in others)
    with pytest.raises(ValueError, match=r"outputs: got \['colour'\]"):
        asked.predict(observation(), {"colour"})


def test_a_prediction_does_not_depend_on_the_one_before(tiny_artifact: Path) -> None:
    asked = predictor(tiny_artifact)
    first = asked.predict(observation(1))
    other = asked.predict(observation(2))
    again = asked.predict(observation(1))
    np.testing.assert_array_equal(again.volume, first.volume)
    np.testing.assert_array_equal(again.depth_m, first.depth_m)
    assert (other.volume != first.volume).any()


def test_metric_scale_multiplies_all_distances(tiny_artifact: Path) -> None:
    """A world twice as large, seen from twice as high, looks the same."""
    plain = predictor(tiny_artifact).predict(observation())
    high = MOUNT.copy()
    high[:3, 3] *= 2
    spec = VoxelGridSpec((0.0, 48.0), (-12.0, 12.0), (-1.0, 6.0), 1.0)
    grid = GridOptions(min_height_m=0.6, max_height_m=4.0)
    scaled = predictor(tiny_artifact, spec=spec, grid=grid, metric_scale=2.0).predict(observation(mount=high))
    np.testing.assert_allclose(scaled.depth_m, 2 * plain.depth_m, rtol=1e-5)
    assert (scaled.volume != plain.volume).mean() < 1e-3
    np.testing.assert_array_equal(scaled.grid, plain.grid)


def test_what_only_the_hood_mask_sees_is_unknown(tiny_artifact: Path) -> None:
    mask = np.zeros((192, 640), dtype=np.uint8)
    mask[120:] = 255
    asked = predictor(tiny_artifact)
    plain = asked.predict(observation())
    masked = asked.predict(observation(), prepared=asked.build(SMALL, MOUNT, mask))
    assert masked.depth_m is not None and np.isnan(masked.depth_m[120:]).all()
    np.testing.assert_array_equal(masked.depth_m[:120], plain.depth_m[:120])
    row = pixels(SPEC, MOUNT)[1]
    hidden, open_ = row > 119.6, row < 119.4
    assert (plain.volume[hidden] != UNKNOWN).any() and (masked.volume[hidden] == UNKNOWN).all()
    np.testing.assert_array_equal(masked.volume[open_], plain.volume[open_])
    with pytest.raises(ValueError, match="hood_mask: got 640x192 pixels, expected 1408x376"):
        asked.build(KITTI360_CAMERA, MOUNT, mask)


def test_padding_of_a_narrow_camera_is_unknown(tiny_artifact: Path) -> None:
    """A camera that sees half as much sideways: the canonical image is padded, and nothing is said there."""
    narrow = replace(SMALL, cx=159.5, width=320)
    result = predictor(tiny_artifact).predict(observation(camera=narrow))
    column = np.arange(640) - SMALL.cx + narrow.cx
    padding = (column < -0.5) | (column > 319.5)
    assert result.depth_m is not None
    assert np.isnan(result.depth_m[:, padding]).all() and np.isfinite(result.depth_m[:, ~padding]).all()
    in_camera = pixels(SPEC, MOUNT)[0] - SMALL.cx + narrow.cx
    assert (result.volume[(in_camera < -1) | (in_camera > 320)] == UNKNOWN).all()
    middle = inside(SPEC, MOUNT, 1) & (in_camera > 1) & (in_camera < 318)
    assert (result.volume[middle] != UNKNOWN).all()


def test_another_mount_or_camera_gives_what_a_new_predictor_gives(tiny_artifact: Path) -> None:
    asked = predictor(tiny_artifact)
    asked.predict(observation())
    lower = forward_mount(1.0, 0.0)
    for changed in (observation(mount=lower), observation(camera=replace(SMALL, fx=500.0, fy=500.0))):
        expected = predictor(tiny_artifact).predict(changed)
        result = asked.predict(changed)
        np.testing.assert_array_equal(result.volume, expected.volume)
        np.testing.assert_array_equal(result.depth_m, expected.depth_m)
        np.testing.assert_array_equal(result.base_from_camera, changed.base_from_camera)
    known = asked.predict(observation(mount=lower)).volume != UNKNOWN
    assert known[inside(SPEC, lower, 0.1)].all() and not known[~inside(SPEC, lower, -0.1)].any()


def test_density_at_points_is_that_of_the_volume(tiny_artifact: Path) -> None:
    asked = predictor(tiny_artifact)
    volume = asked.predict(observation(), {"volume"}).volume
    known = volume != UNKNOWN
    points = (SPEC.centres()[known] - MOUNT[:3, 3]) @ MOUNT[:3, :3]
    sigma = asked.density(observation(), points)
    np.testing.assert_allclose(254 * (1 - 2.0 ** (-2 * sigma)), volume[known], atol=0.51)


def test_enlarging_never_mixes_infinite_or_invalid_into_finite_pixels() -> None:
    depth = np.full((4, 6), 10.0, dtype=np.float32)
    depth[0, 2], depth[2, 4], depth[3, 0] = np.inf, np.nan, 20.0
    large = enlarge_depth(depth, 60, 40)
    nearest = np.repeat(np.repeat(depth, 10, axis=0), 10, axis=1)
    np.testing.assert_array_equal(np.isinf(large), np.isinf(nearest))
    np.testing.assert_array_equal(np.isnan(large), np.isnan(nearest))
    finite = np.isfinite(large)
    assert large[finite].min() >= 10 - 1e-5 and large[finite].max() <= 20 + 1e-5
    np.testing.assert_allclose(large[0:25, 0:10], 10, atol=1e-5)
    assert 10 < large[33, 9] < 20, "finite neighbours are mixed"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metric_scale": 0.0}, "metric_scale: got 0.0"),
        ({"metric_scale": float("nan")}, "metric_scale: got nan"),
        ({"depth_rays": (0, 320)}, "depth_rays: got"),
        (
            {"spec": VoxelGridSpec((0.0, 5000.0), (-1000.0, 1000.0), (0.0, 10.0), 0.2)},
            r"got 12,500,000,000 cells, which need about 800\.0 GB, expected at most .*; use a larger grid.resol",
        ),
        ({"grid": GridOptions(min_height_m=5.0, max_height_m=6.0)}, "no cell centre between"),
    ],
)
def test_options_out_of_range(tiny_artifact: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor(tiny_artifact, **options)


def test_another_grid_of_the_same_model(tiny_artifact: Path) -> None:
    first = predictor(tiny_artifact)
    before = first.predict(observation())
    spec, options = VoxelGridSpec((0.0, 20.0), (-4.0, 4.0), (0.0, 2.0), 0.25), GridOptions(mode="probability")
    other = first.with_grid(spec, options)
    result, expected = (
        other.predict(observation()),
        predictor(tiny_artifact, spec=spec, grid=options).predict(observation()),
    )
    np.testing.assert_array_equal(result.volume, expected.volume)
    np.testing.assert_array_equal(result.grid, expected.grid)
    np.testing.assert_array_equal(first.predict(observation()).volume, before.volume)
    with pytest.raises(ValueError, match="expected at most"):
        first.with_grid(VoxelGridSpec((0.0, 5000.0), (-1000.0, 1000.0), (0.0, 10.0), 0.1), options)


def placed(asked: Predictor, camera: Intrinsics, mount: np.ndarray) -> PlacedField:
    found = asked.build(camera, mount).placed
    assert isinstance(found, PlacedField)
    return found


def test_a_camera_that_changes_costs_no_new_constants(tiny_artifact: Path) -> None:
    asked = predictor(tiny_artifact)
    steps = {id(placed(asked, camera, MOUNT).step) for camera in (SMALL, KITTI360_CAMERA, replace(SMALL, fx=500.0))}
    assert len(steps) == 1
    assert placed(asked, SMALL, forward_mount(1.0, 0.0)).step is not placed(asked, SMALL, MOUNT).step


def test_what_was_built_before_stays_usable(tiny_artifact: Path) -> None:
    """Frames of the old camera are answered with its constants while others are built."""
    asked, lower = predictor(tiny_artifact), forward_mount(1.0, 0.0)
    old, expected = asked.build(SMALL, MOUNT), predictor(tiny_artifact).predict(observation())
    for height in (1.0, 1.1, 1.2):
        asked.build(SMALL, forward_mount(height, 0.0))
    np.testing.assert_array_equal(asked.predict(observation(), prepared=old).volume, expected.volume)
    assert old.fits(SMALL, MOUNT) and not old.fits(SMALL, lower)


def test_free_memory_is_the_least_of_system_and_container(tmp_path: Path) -> None:
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    info.write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    assert cells.free_memory(info, limit) == 51200
    limit.write_text("max\n")
    assert cells.free_memory(info, limit) == 51200
    limit.write_text("20480\n")
    assert cells.free_memory(info, limit) == 20480
    (tmp_path / "memory.current").write_text("480\n")
    assert cells.free_memory(info, limit) == 20000
    assert cells.free_memory(tmp_path / "none", limit) is None


def test_a_model_of_another_family(tiny_artifact: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    other = replace(artifact, manifest=replace(artifact.manifest, family="nsc"))
    with pytest.raises(ValueError, match="got a model of family 'nsc', expected one of bts"):
        make_predictor(other)
