"""``kyn cloud``: depth to points, edges, thinning, and whole clouds of synthetic and real sequences."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from kyn_models import cli
from kyn_models.cloud import Cloud, CloudOptions, Points, depth_points, edges, seen_from
from kyn_models.data.kitti_odometry_drive import OdometryDrive
from kyn_models.data.street_scene import FRAME_S, Street
from kyn_models.data.street_sensors import base_from_camera
from kyn_models.data.streets import StreetOptions, make_street
from kyn_models.ply import write_points
from kyn_models.types import Float64Array, Intrinsics, Observation, PosedFrame, Prediction, VoxelGridSpec

K = Intrinsics(120.0, 120.0, 79.5, 31.5, 160, 64)
ALL = CloudOptions(near_m=0.0, far_m=1e6, voxel_m=0.0)


def read_ply(path: Path) -> Points:
    header, _, body = path.read_bytes().partition(b"end_header\n")
    count = int(header.split(b"element vertex ")[1].split(b"\n")[0])
    data = np.frombuffer(body, dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\n") and len(data) == count
    return Points(data["xyz"], data["rgb"])


def plane_depth(normal: tuple[float, float, float], away_m: float) -> np.ndarray:
    v, u = np.mgrid[: K.height, : K.width]
    rays = np.stack([(u - K.cx) / K.fx, (v - K.cy) / K.fy, np.ones(u.shape)], axis=-1)
    along = rays @ np.array(normal)
    return np.where(along > 0.01, away_m / np.maximum(along, 0.01), np.inf).astype(np.float32)


def test_points_lie_on_the_plane_whatever_its_slope() -> None:
    depth = plane_depth((0.1, 1.0, 0.02), 1.6)
    image = np.random.default_rng(0).integers(0, 255, (64, 160, 3), dtype=np.uint8)
    points = depth_points(depth, image, K, CloudOptions(0.0, 60.0, voxel_m=0.0))
    wanted = np.count_nonzero(depth <= 60)
    assert 0.95 * wanted < len(points.xyz) <= wanted
    np.testing.assert_allclose(points.xyz @ np.array((0.1, 1.0, 0.02)), 1.6, rtol=1e-5)
    first = points.xyz[0]
    u, v = np.rint(first[:2] / first[2] * K.fx + (K.cx, K.cy)).astype(int)
    np.testing.assert_array_equal(points.rgb[0], image[v, u])


def test_edges_of_things_and_of_nothing_are_left_out() -> None:
    depth = np.full((20, 40), 10.0, dtype=np.float32)
    depth[:, 20:] = 5.0
    depth[0, 5] = np.nan
    found = edges(depth, 0.05)
    assert found[:, 19:21].all() and not found[3:, :19].any() and not found[:, 21:].any()
    assert found[0, 4:7].all() and found[1, 5]
    smeared = np.full((3, 9), 10.0, dtype=np.float32)
    smeared[:, 3:6], smeared[:, 6:] = (9.0, 7.5, 6.0), 5.0
    assert edges(smeared, 0.05)[:, 2:7].any(axis=0).sum() >= 3


def test_range_and_step() -> None:
    depth = np.tile(np.linspace(1, 40, 160, dtype=np.float32), (64, 1))
    image = np.zeros((64, 160, 3), dtype=np.uint8)
    points = depth_points(depth, image, K, CloudOptions(10.0, 20.0, edge=1e6, step=4, voxel_m=0.0))
    assert points.xyz[:, 2].min() >= 10 and points.xyz[:, 2].max() <= 20
    assert len(points.xyz) == 16 * np.count_nonzero((depth[0, ::4] >= 10) & (depth[0, ::4] <= 20))


@pytest.mark.parametrize("together", [1, 7])
def test_one_mean_point_in_each_cube(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kyn_models.cloud.MERGE_AT", 50 * together)
    rng = np.random.default_rng(1)
    xyz = rng.uniform(-2, 2, (1000, 3)).astype(np.float32)
    rgb = rng.integers(0, 255, (1000, 3), dtype=np.uint8)
    cloud = Cloud(0.5)
    for part in np.array_split(np.arange(1000), 20):
        cloud.add(Points(xyz[part], rgb[part]))
    found, cells = cloud.points(), np.floor(xyz / 0.5).astype(int)
    assert cloud.seen == 1000 and len(found.xyz) == len(np.unique(cells, axis=0))
    cell = (cells == cells[0]).all(axis=1)
    nearest = np.abs(found.xyz - xyz[cell].mean(axis=0)).sum(axis=1).argmin()
    np.testing.assert_allclose(found.xyz[nearest], xyz[cell].mean(axis=0), atol=1e-5)
    assert np.abs(found.rgb[nearest] - rgb[cell].mean(axis=0)).max() <= 0.5
    with pytest.raises(ValueError, match="expected larger cubes"):
        Cloud(1e-6).add(Points(np.full((1 << 20, 3), 5.0, "f4"), np.zeros((1 << 20, 3), "u1")))


@pytest.mark.parametrize("together", [1, 7])
def test_only_cubes_that_several_frames_saw(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kyn_models.cloud.MERGE_AT", 20 * together)
    rng = np.random.default_rng(2)
    frames = [rng.uniform(-2, 2, (40, 3)).astype(np.float32) for _ in range(9)]
    cloud = Cloud(1.0, min_frames=4)
    for xyz in frames:
        cloud.add(Points(np.concatenate([xyz, xyz]), np.full((80, 3), 7, dtype=np.uint8)))
    cells = [{tuple(cell) for cell in np.floor(xyz).astype(int)} for xyz in frames]
    wanted = {cell for cell in set.union(*cells) if sum(cell in one for one in cells) >= 4}
    found = cloud.points()
    assert 0 < len(wanted) < len(set.union(*cells)) and len(found.xyz) == len(wanted)
    assert {tuple(cell) for cell in np.floor(found.xyz).astype(int)} == wanted and (found.rgb == 7).all()


def test_parts_of_the_image_and_unwanted_pixels_become_no_points() -> None:
    depth, image = np.full((64, 160), 10.0, dtype=np.float32), np.zeros((64, 160, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = np.arange(160), np.arange(64)[:, None]
    points = depth_points(depth, image, K, CloudOptions(voxel_m=0.0, roi=(10, 30, 20, 50)))
    assert len(points.xyz) == 20 * 30 and set(points.rgb[:, 0]) == set(range(20, 50))
    unwanted = np.zeros((64, 160), dtype=bool)
    unwanted[:, 25:] = True
    points = depth_points(depth, image, K, CloudOptions(voxel_m=0.0, roi=(10, 30, 20, 50)), unwanted)
    assert len(points.xyz) == 20 * 5 and points.rgb[:, 0].max() == 24
    with pytest.raises(ValueError, match="roi: got bottom 65, right 50, expected at most 64 and 160"):
        depth_points(depth, image, K, CloudOptions(roi=(0, 65, 0, 50)))


class StreetDrive:
    """Every frame of a street, and how often an image was asked for."""

    def __init__(self, street: Street, frames: Sequence[int]) -> None:
        self.frames, self._street = tuple(frames), street

    def posed_frame(self, frame: int) -> PosedFrame:
        pose = self.world_from_base(frame) @ self.base_from_camera()
        image = self._street.at(frame * FRAME_S).render(K, pose).image
        return PosedFrame(image, K, self.stamp_ns(frame), pose)

    def stamp_ns(self, frame: int) -> int:
        return round((frame + 1) * FRAME_S * 1e9)

    def intrinsics(self) -> Intrinsics:
        return K

    def base_from_camera(self) -> Float64Array:
        return base_from_camera("00")

    def world_from_base(self, frame: int) -> Float64Array:
        return self._street.world_from_base(frame * FRAME_S)


class TrueDepth:
    """A predictor that knows the street."""

    def __init__(self, street: Street, frames_wanted: int) -> None:
        self.frames_wanted, self._street = frames_wanted, street
        self.asked: list[tuple[int, int]] = []

    def predict(self, observation: Observation, outputs: Iterable[str]) -> Prediction:
        key = observation.key
        assert key.world_from_camera is not None
        self.asked.append((round(key.stamp_ns / 1e8) - 1, len(observation.frames)))
        seen = self._street.at(key.stamp_ns * 1e-9 - FRAME_S).render(K, key.world_from_camera)
        return Prediction(
            stamp_ns=key.stamp_ns, image=key.image, intrinsics=K, spec=VoxelGridSpec(),
            base_from_camera=observation.base_from_camera, depth_m=seen.depth_m, frames_used=len(observation.frames),
        )  # fmt: skip


@pytest.fixture(scope="module")
def street() -> Street:
    return make_street(5, StreetOptions(drive_m=40.0, step_m=(0.9, 1.2)))


def test_frames_of_a_street_agree_in_the_axes_of_the_first(street: Street) -> None:
    drive, model = StreetDrive(street, range(8)), TrueDepth(street, 1)
    options = CloudOptions(3.0, 15.0, voxel_m=0.0)
    clouds = list(seen_from(drive, drive.frames, model, options, every=7))
    assert model.asked == [(0, 1), (7, 1)]
    for seen in clouds:
        road = seen.points.xyz[(np.abs(seen.points.xyz[:, 1]) < 1.5) & (seen.points.xyz[:, 2] < 0.4)]
        assert len(road) > 100 and abs(np.median(road[:, 2])) < 0.1
    # The second frame is 7 m further on: so are the nearest points that it sees.
    assert clouds[1].points.xyz[:, 0].min() - clouds[0].points.xyz[:, 0].min() == pytest.approx(
        np.linalg.norm(drive.world_from_base(7)[:3, 3] - drive.world_from_base(0)[:3, 3]), abs=0.5
    )


def test_every_frame_is_answered_with_neighbours(street: Street) -> None:
    drive, model = StreetDrive(street, range(6)), TrueDepth(street, 3)
    used = [seen.frames_used for seen in seen_from(drive, drive.frames, model, ALL)]
    assert model.asked == [(frame, 3) for frame in range(6)] and used == [3] * 6
    every = TrueDepth(street, 3)
    list(seen_from(drive, drive.frames, every, ALL, every=2))
    assert every.asked == [(0, 3), (2, 3), (4, 3)]


def test_neighbours_may_lie_outside_the_chosen_frames(street: Street) -> None:
    drive, model = StreetDrive(street, range(6)), TrueDepth(street, 3)
    list(seen_from(drive, [3], model, ALL))
    assert model.asked == [(3, 3)]
    alone = StreetDrive(street, [3])
    list(seen_from(alone, [3], model, ALL))
    assert model.asked == [(3, 3), (3, 1)]


def test_a_damaged_frame_is_no_neighbour(street: Street) -> None:
    class Damaged(StreetDrive):
        def posed_frame(self, frame: int) -> PosedFrame:
            if frame == 2:
                raise ValueError("frame 2 is cut short")
            return super().posed_frame(frame)

    drive, model = Damaged(street, range(6)), TrueDepth(street, 3)
    said: list[Exception] = []
    list(seen_from(drive, drive.frames, model, ALL, damaged=said.append))
    assert model.asked == [(frame, 3) for frame in (0, 1, 3, 4, 5)] and [str(one) for one in said] == [
        "frame 2 is cut short"
    ]
    list(seen_from(drive, [3], model, ALL, damaged=said.append))
    assert model.asked[-1] == (3, 3) and len(said) == 1, "another neighbour serves, and no frame was left out"
    with pytest.raises(ValueError, match="frame 2 is cut short"):
        list(seen_from(drive, [3], model, ALL))


def test_what_moves_is_asked_of_the_key_frame(street: Street) -> None:
    drive, model = StreetDrive(street, range(10, 16)), TrueDepth(street, 3)
    asked: list[int] = []

    def moving(frame: int, camera: Intrinsics) -> np.ndarray:
        asked.append(frame)
        assert camera == K
        return np.ones((64, 160), dtype=bool)

    seen = list(seen_from(drive, drive.frames, model, ALL, moving=moving))
    assert asked == [frame for frame, _ in model.asked] and len(asked) == 6
    assert all(len(one.points.xyz) == 0 for one in seen)


def test_command_leaves_out_what_moves(
    tiny_artifact: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(shared_data / "kitti_odometry", tmp_path / "data", copy_function=shutil.copyfile)
    masks = data / "sequences" / "07" / "mvobj_mask"
    masks.mkdir()
    mask = np.zeros((256, 512), dtype=np.float32)
    mask[:, :256] = 1  # the left half of the crop
    np.save(masks / "000169.npy", mask)
    command = ["cloud", "--data", str(data), "--layout", "kitti_odometry", "--far", "400", "--edge", "10"]
    command += ["--model", str(tiny_artifact), "--start", "169", "--stop", "169", "--voxel", "0"]
    points = {}
    for name, options in {
        "all": (),
        "still": ("--without-moving",),
        "grown": ("--without-moving", "--mask-grow", "100"),
        "two hits": ("--without-moving", "--mask-hits", "2"),
    }.items():
        assert cli.main([*command, "--out", str(tmp_path / f"{name}.ply"), *options]) == 0
        points[name] = read_ply(tmp_path / f"{name}.ply").xyz
    assert "no mask" not in capsys.readouterr().out
    assert len(points["two hits"]) == len(points["all"]) > len(points["still"]) > len(points["grown"]) > 0
    camera = OdometryDrive(data).intrinsics()
    # To the left of the crop nothing is known to move; what it shows of its left half is gone.
    forward, left = points["still"][:, 0], points["still"][:, 1]
    place = camera.cx - left / forward * camera.fx
    edge = camera.width / 2 - camera.height
    assert np.mean((place > edge + 40) & (place < camera.width / 2 - 20)) < 0.01
    assert (
        cli.main([*command, "--out", str(tmp_path / "a.ply"), "--without-moving", "--start", "168", "--stop", "170"])
        == 0
    )
    assert "no mask of what moves: 2 of 3 frames" in capsys.readouterr().out


def test_file_is_read_back(tmp_path: Path) -> None:
    xyz = np.array([[1, 2, 3], [-4, 5, 6]], dtype=np.float32)
    rgb = np.array([[1, 2, 3], [255, 0, 9]], dtype=np.uint8)
    write_points(tmp_path / "points.ply", xyz, rgb)
    found = read_ply(tmp_path / "points.ply")
    np.testing.assert_array_equal(found.xyz, xyz)
    np.testing.assert_array_equal(found.rgb, rgb)


def test_command_on_real_frames(
    tiny_artifact: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cloud.ply"
    command = ["cloud", "--data", str(shared_data / "kitti_odometry"), "--layout", "kitti_odometry", "--far", "400"]
    command += ["--model", str(tiny_artifact), "--out", str(out), "--start", "168", "--every", "2", "--edge", "10"]
    assert cli.main([*command, "--voxel", "0.5"]) == 0
    assert "points of 2 frames" in capsys.readouterr().out
    found = read_ply(out)
    assert len(found.xyz) > 100 and np.isfinite(found.xyz).all() and found.rgb.std() > 5
    assert not list(tmp_path.glob("*.part"))


def test_command_on_kitti360(tiny_artifact: Path, shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cloud.ply"
    command = ["cloud", "--data", str(shared_data / "kitti360"), "--model", str(tiny_artifact), "--out", str(out)]
    assert cli.main([*command, "--every", "100", "--far", "400", "--edge", "10", "--step", "4", "--voxel", "0"]) == 0
    found = read_ply(out)
    assert len(found.xyz) > 10 and (np.abs(found.xyz) < 1000).all()


def test_command_with_a_model_of_several_frames(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="making an artifact needs the train extra")
    from kyn_models.models.dymultidepth import DyMultiDepthConfig
    from kyn_models.models.seeded import seeded_frames, write_seeded_frames

    model = write_seeded_frames(
        tmp_path / "tiny", seeded_frames(DyMultiDepthConfig(depth_steps=8)), False, 128, 64
    ).path
    command = ["cloud", "--data", str(shared_data / "kitti_odometry"), "--layout", "kitti_odometry", "--edge", "10"]
    command += ["--model", str(model), "--runtime", "torch", "--out", str(tmp_path / "cloud.ply"), "--start", "168"]
    assert cli.main([*command, "--near", "0", "--far", "500", "--voxel", "0"]) == 0
    out = capsys.readouterr().out
    assert "points of 3 frames" in out and "had no neighbours" not in out
    assert len(read_ply(tmp_path / "cloud.ply").xyz) > 1000


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--near", "5", "--far", "4"), "--near, --far: got 5.0 and 4.0, expected 0 <= near < far"),
        (("--voxel", "-1"), "--voxel: got -1"),
        (("--edge", "0"), "--edge: got 0"),
        (("--step", "0"), "--step: got 0"),
        (("--every", "0"), "--every: got 0"),
        (("--min-frames", "0"), "min-frames: got 0"),
        (("--min-frames", "2", "--voxel", "0"), "--min-frames: got 2 with --voxel 0.0"),
        (("--roi", "5", "5", "0", "9"), "--roi: got top 5, bottom 5"),
        (("--mask-hits", "2"), "--mask-hits: got 2, which a cloud of all pixels"),
        (("--without-moving",), "mvobj_mask: missing or empty"),
        (("--layout", "kitti360", "--without-moving"), "which kitti360 does not use"),
        (("--start", "171"), "got no frame from --start to --stop"),
        (("--drive", "08"), "got no sequence 08"),
        (("--layout", "kitti360", "--poses", "dvso"), "--poses: got dvso"),
        (("--layout", "kitti360"), "in the layout kitti_odometry, expected one of KITTI-360"),
        (("--out", "nowhere/cloud.ply"), "nowhere/cloud.ply"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    shared_data: Path, tmp_path: Path, more: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cloud", "--data", str(shared_data / "kitti_odometry"), "--layout", "kitti_odometry"]
    assert cli.main([*command, "--out", str(tmp_path / "cloud.ply"), *more]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "cloud.ply").exists()
