"""Posed frames to depth and occupancy: what the runtime is asked, what its numbers become. A stand-in answers for it,
and at the end a model whose weights follow from their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kyn_models import frames_model, predictors
from kyn_models.artifact import Artifact, Manifest, TrainingCamera, forward_mount
from kyn_models.data.depth_items import depth_item
from kyn_models.data.kitti_odometry import KittiOdometry
from kyn_models.data.neighbours import OdometryWithNeighbours
from kyn_models.frames_model import PlacedFrames
from kyn_models.models.dymultidepth_official import CAMERA
from kyn_models.occupancy import GridOptions
from kyn_models.predictor import Predictor, PredictorOptions
from kyn_models.predictors import make_predictor, require_density
from kyn_models.runtimes.frame_queries import FramesAnswer, FramesInput
from kyn_models.types import UNKNOWN, Intrinsics, Observation, PosedFrame, Sample, VoxelGridSpec

SMALL: TrainingCamera = replace(CAMERA, width=128, height=64)
K = SMALL.source.resized(128, 64)
MOUNT = forward_mount(1.65, 0.0)
SPEC = VoxelGridSpec((0.0, 30.0), (-6.0, 6.0), (-0.4, 2.8), 0.2)
FAR_AWAY = np.array([445_000.0, 5_442_000.0, 120.0])


class StandIn:
    """Answers depth by row: sky above the horizon, the road below it; remembers what it was asked."""

    name, precision, library = "stand-in", "float32", "none"

    def __init__(self) -> None:
        self.asked: list[tuple[FramesInput, frozenset[str]]] = []

    def depth(self, frames: FramesInput, wanted: frozenset[str] = frozenset({"fused"})) -> FramesAnswer:
        self.asked.append((frames, wanted))
        rows = np.arange(64, dtype=np.float32) - K.cy
        road = np.where(rows > 0, 1.65 * K.fy / np.maximum(rows, 1e-3), 400.0).astype(np.float32)
        depth = np.repeat(road[:, None], 128, axis=1)
        assert ("fused" in wanted) == (len(frames.neighbours) > 0), "fused exactly where there are neighbours"
        return FramesAnswer(
            depth if "fused" in wanted else None, 2 * depth if "mono" in wanted else None, None, {"network": 1.0}
        )


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(frames_model, "choose_frames", lambda *_: stand_in)
    return stand_in


def artifact(**fields: object) -> Artifact:
    manifest = Manifest(
        **{"family": "dymultidepth", "config": {}, "camera": SMALL, "z_near": 3.03, "z_far": 400.0, **fields}
    )  # type: ignore[arg-type]
    return Artifact(Path("nowhere"), manifest, "0")


def predictor(**options: object) -> Predictor:
    return make_predictor(artifact(), PredictorOptions(**{"spec": SPEC, **options}))  # type: ignore[arg-type]


def picture(camera: Intrinsics, value: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 that says where its rays go, so that every camera's picture of it can be compared."""
    x, y = (np.arange(camera.width) - camera.cx) / camera.fx, (np.arange(camera.height) - camera.cy) / camera.fy
    colours = np.stack(np.broadcast_arrays(128 + 180 * x[None], 128 + 180 * y[:, None], np.float64(value)), axis=-1)
    return colours.clip(0, 255).astype(np.uint8)


def frame(ahead_m: float = 0.0, camera: Intrinsics = K, value: int = 0, pose: bool = True) -> PosedFrame:
    world = MOUNT.copy()
    world[:3, 3] += FAR_AWAY + (ahead_m, 0.0, 0.0)
    return PosedFrame(picture(camera, value), camera, round(1e9 + 1e8 * ahead_m), world if pose else None)


def seen(*frames: PosedFrame, mount: np.ndarray = MOUNT) -> Observation:
    return Observation(frames, mount)


def test_neighbours_reach_the_runtime_with_exact_relative_poses(runtime: StandIn) -> None:
    result = predictor().predict(seen(frame(), frame(-0.753, value=1), frame(0.761, value=2), frame(2.0, value=3)))
    (asked, wanted), *others = runtime.asked
    assert not others and wanted == {"fused"} and result.frames_used == 3
    assert asked.neighbours[..., 2].max(axis=(1, 2)).tolist() == [1, 2], "two neighbours, in their order"
    assert asked.neighbour_from_key.dtype == np.float32 and asked.k.dtype == np.float32
    expected = np.stack([np.eye(4), np.eye(4)])
    expected[:, 2, 3] = 0.753, -0.761  # the one behind sees the key camera ahead of it
    np.testing.assert_allclose(asked.neighbour_from_key, expected, atol=1e-6)
    np.testing.assert_allclose(asked.k, np.diag([128 / 740, 64 / 370, 1]) @ SMALL.source.matrix, rtol=1e-6)


def test_one_neighbour_is_given_as_it_is(runtime: StandIn) -> None:
    result = predictor().predict(seen(frame(), frame(-1.0)))
    assert runtime.asked[0][0].neighbours.shape == (1, 64, 128, 3) and result.frames_used == 2


def test_without_neighbours_the_mono_branch_answers(runtime: StandIn) -> None:
    alone, with_others = predictor().predict(seen(frame(pose=False))), predictor().predict(seen(frame(), frame(-1.0)))
    assert runtime.asked[0][1] == {"mono"} and runtime.asked[0][0].neighbour_from_key.shape == (0, 4, 4)
    assert alone.frames_used == 1 and alone.depth_m is not None and with_others.depth_m is not None
    near = with_others.depth_m < 30
    np.testing.assert_allclose(alone.depth_m[near], 2 * with_others.depth_m[near], rtol=1e-6)


@pytest.mark.parametrize(
    ("taught", "wanted"), [((), 3), (("fused", "mono"), 3), (("fused",), 3), (("mono",), 1)], ids=str
)
def test_a_branch_that_was_never_taught_does_not_answer(runtime: StandIn, taught: tuple[str, ...], wanted: int) -> None:
    made = make_predictor(artifact(branches=taught), PredictorOptions(spec=SPEC))
    result = made.predict(seen(frame(), frame(-1.0), frame(1.0)))
    assert made.frames_wanted == wanted == result.frames_used
    assert runtime.asked[0][1] == {"mono" if wanted == 1 else "fused"}


@pytest.mark.parametrize("frames", [(frame(pose=False), frame()), (frame(), frame(-1.0, pose=False))])
def test_neighbours_without_poses_are_refused(runtime: StandIn, frames: tuple[PosedFrame, ...]) -> None:
    with pytest.raises(ValueError, match="frame at .* ns: got no pose, expected world_from_camera of a key frame"):
        predictor().predict(seen(*frames))


def test_every_frame_is_warped_with_its_own_camera(runtime: StandIn) -> None:
    wide, whole = Intrinsics(150.0, 150.0, 160.0, 90.0, 320, 180), SMALL.source
    predictor().predict(seen(frame(camera=whole), frame(-1.0, camera=wide), frame(1.0)))
    asked = runtime.asked[0][0]
    for image in (asked.image, *asked.neighbours):
        error = np.abs(image[..., :2].astype(int) - picture(K)[..., :2].astype(int))
        assert error[2:-2, 2:-2].max() <= 2


def test_sky_padding_and_hood(runtime: StandIn) -> None:
    hood = np.zeros((64, 128), np.uint8)
    hood[60:] = 1
    asked = predictor()
    result = asked.predict(seen(frame(), frame(-1.0)), prepared=asked.build(K, MOUNT, hood))
    assert result.depth_m is not None and result.volume is not None
    assert np.isnan(result.depth_m[60:]).all() and np.isposinf(result.depth_m[:30]).all()
    finite = result.depth_m[np.isfinite(result.depth_m)]
    assert finite.max() <= 80 and finite.min() > 3
    narrow = replace(K, width=100)
    padded = predictor().predict(seen(frame(camera=narrow), frame(-1.0, camera=narrow))).depth_m
    assert padded is not None and np.isnan(padded[:, 101:]).all() and np.isfinite(padded[45, :99]).all()
    with pytest.raises(ValueError, match="hood_mask: got 128x64 pixels, expected 740x370 as the image"):
        asked.build(SMALL.source, MOUNT, hood)


def test_outputs_do_not_depend_on_each_other(runtime: StandIn) -> None:
    asked, observation = predictor(), seen(frame(), frame(-1.0))
    everything = asked.predict(observation)
    assert everything.grid is not None and (everything.grid == 0).sum() > 500 and not (everything.grid == 100).any()
    for name, field in (("depth", "depth_m"), ("volume", "volume"), ("grid", "grid")):
        alone = asked.predict(observation, {name})
        np.testing.assert_array_equal(getattr(alone, field), getattr(everything, field))
        assert all(getattr(alone, other) is None for other in {"depth_m", "volume", "grid"} - {field})
    assert all(wanted == {"fused"} for _, wanted in runtime.asked)
    with pytest.raises(ValueError, match=r"outputs: got \['colour'\]"):
        asked.predict(observation, {"colour"})


def test_metric_scale_is_one_world_of_another_size(runtime: StandIn) -> None:
    """Baselines shrink as distances do: what is matched stays where the poses say."""
    plain = predictor().predict(seen(frame(), frame(-1.0)))
    high = MOUNT.copy()
    high[:3, 3] *= 2
    spec = VoxelGridSpec((0.0, 60.0), (-12.0, 12.0), (-0.8, 5.6), 0.4)
    grid = GridOptions(min_height_m=0.6, max_height_m=4.0)
    scaled = predictor(spec=spec, grid=grid, metric_scale=2.0)
    result = scaled.predict(seen(frame(), frame(-1.0), mount=high))
    np.testing.assert_allclose(runtime.asked[1][0].neighbour_from_key[0, 2, 3], 0.5, atol=1e-6)
    np.testing.assert_allclose(result.depth_m, 2 * plain.depth_m, rtol=1e-6)
    assert result.grid is not None and plain.grid is not None
    assert (result.grid != plain.grid).mean() < 0.02
    for wrong in (0.0, float("nan")):
        with pytest.raises(ValueError, match="metric_scale: got"):
            predictor(metric_scale=wrong)


def test_another_grid_mount_or_camera(runtime: StandIn) -> None:
    first = predictor()
    before = first.predict(seen(frame(), frame(-1.0)))
    spec = VoxelGridSpec((0.0, 20.0), (-4.0, 4.0), (0.0, 2.0), 0.25)
    other = first.with_grid(spec, GridOptions(mode="probability"))
    result = other.predict(seen(frame(), frame(-1.0)))
    assert result.volume is not None and result.volume.shape == spec.shape
    np.testing.assert_array_equal(first.predict(seen(frame(), frame(-1.0))).volume, before.volume)
    old = first.build(K, MOUNT)
    assert old.fits(K, MOUNT) and not old.fits(SMALL.source, MOUNT) and not old.fits(K, forward_mount(1.0, 0.0))
    same = first.build(SMALL.source, MOUNT)
    assert isinstance(same.placed, PlacedFrames) and isinstance(old.placed, PlacedFrames)
    assert same.placed.view is old.placed.view, "a camera that changes costs no new constants"
    higher = first.predict(seen(frame(), frame(-1.0), mount=forward_mount(2.5, 0.0)))
    assert (higher.volume != before.volume).any()
    again = first.predict(seen(frame(), frame(-1.0)), prepared=old)
    np.testing.assert_array_equal(again.volume, before.volume)
    known = before.volume != UNKNOWN if before.volume is not None else None
    assert known is not None and not known[:, :, :15].any(), "nearer than z_near"
    with pytest.raises(ValueError, match="expected at most"):
        first.with_grid(VoxelGridSpec((0.0, 5000.0), (-1000.0, 1000.0), (0.0, 10.0), 0.1), GridOptions())


def test_the_predictor_of_a_family(runtime: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    options = PredictorOptions("torch", SPEC, depth_rays=(10, 20), metric_scale=1.5, precision="float32")
    made = make_predictor(artifact(), options)
    assert made.frames_wanted == 3 and made.options is options
    assert (made.runtime_name, made.precision, made.library) == ("stand-in", "float32", "none")
    given: list[object] = []
    monkeypatch.setattr(predictors.FieldModel, "__init__", lambda self, *args: given.extend(args))
    assert make_predictor(artifact(family="bts"), options).frames_wanted == 1 and given[1] is options
    with pytest.raises(ValueError, match="got a model of family 'nsc', expected one of bts, kyn, dymultidepth"):
        make_predictor(artifact(family="nsc"))
    with pytest.raises(ValueError, match=r"density: got nowhere \(dymultidepth\), which says the depth of what"):
        made.density(seen(frame()), np.ones((1, 3)))
    require_density(artifact(family="bts"), "kyn eval nvs")
    with pytest.raises(ValueError, match=r"kyn eval nvs: got nowhere \(dymultidepth\), which says the depth of what"):
        require_density(artifact(), "kyn eval nvs")


def test_the_answers_are_those_of_the_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the plain model needs torch")
    from artifacts import TINY_FRAMES

    from kyn_models.models.dymultidepth import input_of
    from kyn_models.models.loading import load_model
    from kyn_models.models.seeded import seeded_frames, write_seeded_frames

    known = write_seeded_frames(tmp_path / "tiny", seeded_frames(TINY_FRAMES), width=128, height=64)
    camera = known.camera.intrinsics
    rng = np.random.default_rng(3)

    def textured(ahead_m: float) -> PosedFrame:
        noise = rng.integers(0, 255, (camera.height, camera.width, 3), np.uint8)
        return replace(frame(ahead_m, camera), image=noise)

    frames = (textured(0.0), textured(-0.5), textured(0.5))
    made = make_predictor(known, PredictorOptions("torch", SPEC))
    result, alone = made.predict(seen(*frames)), made.predict(seen(frames[0]))
    # The published matrix belongs to the images, which here are those of the network already.
    k = SMALL.source
    published = Intrinsics(
        k.fx * camera.width / k.width, k.fy * camera.height / k.height,
        k.cx * camera.width / k.width, k.cy * camera.height / k.height, camera.width, camera.height,
    )  # fmt: skip
    question = input_of(seen(*(replace(item, intrinsics=published) for item in frames)))
    with torch.inference_mode():
        model = load_model(known)
        expected = model(*question)
        mono = 1 / model.mono_inverse_depths(question.image)[0][0, 0]
    for depth, truth in ((result.depth_m, expected.fused[0]), (alone.depth_m, mono)):
        truth = truth.numpy()
        assert depth is not None and np.isfinite(truth).all()
        near = (truth < 79) & np.isfinite(depth)
        np.testing.assert_allclose(depth[near], truth[near], rtol=1e-4)
        assert np.isposinf(depth[truth > 81]).all()
    assert result.frames_used == 3 and alone.frames_used == 1
    assert not np.allclose(np.nan_to_num(result.depth_m, posinf=80), np.nan_to_num(alone.depth_m, posinf=80))


def test_neighbours_of_kitti_odometry_need_no_annotated_depth(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "kitti_odometry"
    for path in source.rglob("*"):
        if path.is_file() and path.name not in ("000168.png", "000170.png"):
            link = tmp_path / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    images = "sequences/07/image_2"
    for name in ("000168.png", "000170.png"):
        (tmp_path / images / name).symlink_to(source / images / name)
    frames = KittiOdometry(tmp_path)
    assert frames.frames == (169,)
    observation = OdometryWithNeighbours(frames, 3)[0].observation
    expected = [frames.drive.stamp_ns(number) for number in (169, 168, 170)]
    assert [item.stamp_ns for item in observation.frames] == expected
    assert len(OdometryWithNeighbours(frames, 1)[0].observation.frames) == 1


def test_a_training_item_without_a_pose_is_refused_by_its_frame() -> None:
    sample = Sample("one", seen(frame(), frame(-1.0, pose=False)), depth_m=np.ones((64, 128), np.float32))
    with pytest.raises(ValueError, match="frame at 900000000 ns: got no pose"):
        depth_item(sample)
